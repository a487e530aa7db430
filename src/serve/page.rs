//! The page at `/` for a first try, and the commands on it.

use std::net::SocketAddr;

use super::CLIENT;
use super::page_publisher::PATH;
use super::trial::{CommandContext, channel, command};
use crate::config::Config;
use crate::embedded::{EmbeddedText, embedded_text};
use crate::engine::reactor::Addresses;
use crate::engine::router::files::Page;
use crate::features::publisher::PublisherPort;

static PAGE: EmbeddedText = embedded_text!("page.html");

/// The secrets in the page of this machine.
pub struct Pass {
    /// The ready token.
    pub token: String,
    /// Lets the page publish: see [`super::page_publisher`].
    pub nonce: String,
}

/// Renders the page: with a pass for this machine only, without one for all. It loads nothing: the client is inlined.
pub fn page(
    config: &Config,
    pass: Option<&Pass>,
    addresses: &Addresses,
    shell: &CommandContext,
) -> Page {
    let (token, nonce) = pass.map_or(("", ""), |pass| (&pass.token, &pass.nonce));
    let channel = channel(config).unwrap_or_default();
    let route = config.routes.first();
    let topics = route.map(|route| route.topics.join(",")).unwrap_or_default();
    let is_anonymous = route.is_some_and(|route| !route.anonymous.is_empty());
    let publishers = addresses.port(PublisherPort::NAME);
    let shell = command(config, publishers, shell);
    let html = PAGE
        .inflate()
        .replace("{{client}}", &CLIENT.inflate())
        .replace("{{path}}", &escape(route.map_or("/ws", |route| &route.path)))
        .replace("{{token}}", &escape(token))
        .replace("{{publish}}", PATH)
        .replace("{{nonce}}", nonce)
        .replace("{{channel}}", &escape(&channel))
        .replace("{{topics}}", &escape(&topics))
        .replace("{{anonymous}}", if is_anonymous { "true" } else { "false" })
        .replace("{{shell}}", &escape(&shell))
        .replace("{{php}}", &escape(&php(publishers, &channel)))
        .replace("{{python}}", &escape(&python(publishers, &channel)))
        .into_bytes();
    Page { html, is_public: pass.is_none() }
}

/// The publish command in PHP.
fn php(publishers: Option<SocketAddr>, channel: &str) -> String {
    let place = match publishers {
        Some(address) => format!("'tcp://{address}'"),
        None => "getenv('REDIS_URL')".to_owned(),
    };
    format!(
        "// composer require predis/predis\n$redis = new Predis\\Client({place});\n\
         $redis->publish('{channel}', json_encode(['hello' => 'world']));"
    )
}

/// The publish command in Python.
fn python(publishers: Option<SocketAddr>, channel: &str) -> String {
    let (module, place) = match publishers {
        Some(address) => ("", format!("redis.Redis(\"{}\", {})", address.ip(), address.port())),
        None => (", os", "redis.Redis.from_url(os.environ[\"REDIS_URL\"])".to_owned()),
    };
    format!(
        "# pip install redis\nimport json, redis{module}\n\
         {place}.publish(\"{channel}\", json.dumps({{\"hello\": \"world\"}}))"
    )
}

/// Escapes HTML text and attribute values.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_carries_its_commands_and_no_open_end() {
        let ports = vec![(PublisherPort::NAME, ([127, 0, 0, 1], 6380).into())];
        let addresses = Addresses { clients: Config::default().listen, ports, admin: None };
        let shell = CommandContext { has_redis_cli: true, ..CommandContext::default() };
        let pass = Pass { token: "T".to_owned(), nonce: "N".to_owned() };
        let html = page(&Config::default(), Some(&pass), &addresses, &shell);
        assert!(!html.is_public);
        let html = String::from_utf8(html.html).unwrap();
        for command in [
            "redis-cli -p 6380 PUBLISH pub.news '{&quot;hello&quot;",
            "new Predis\\Client('tcp://127.0.0.1:6380');",
            "redis.Redis(&quot;127.0.0.1&quot;, 6380).publish(&quot;pub.news&quot;,",
        ] {
            assert!(html.contains(command), "{command}");
        }
        assert!(!html.contains("{{"));
        let client = CLIENT.inflate();
        assert!(
            html.contains(&client) && !client.contains("</script"),
            "the client is in it, whole"
        );
    }

    #[test]
    fn where_there_is_a_redis_no_command_shows_its_url() {
        for command in [php, python].map(|command| command(None, "pub.news")) {
            assert!(command.contains("REDIS_URL"), "{command}");
        }
    }
}
