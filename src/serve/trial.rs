//! The printed command that publishes a first message, which works as it is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::READY_TOKEN_SUB;
use crate::app::redis_place;
use crate::config::{Config, reachable};
use crate::engine::pubsub::topic::user_topic;
use crate::engine::redis::glob;
use crate::engine::redis::place::RedisPlace;
use crate::engine::redis::url::{Address, RedisUrl, Security};

/// The context of the command, beside the settings.
#[derive(Clone, Debug, Default)]
pub struct CommandContext {
    /// The program as it was called.
    pub program: String,
    /// Its process id.
    pub pid: u32,
    /// `redis-cli` is installed.
    pub has_redis_cli: bool,
}

/// A channel whose messages a client receives; `None` if the patterns match none.
pub fn channel(config: &Config) -> Option<String> {
    let topics = config.routes.iter().flat_map(|route| &route.topics);
    let plain = topics.filter(|topic| !topic.contains('*')).cloned();
    let own = user_topic(READY_TOKEN_SUB);
    let channels = plain.chain(own).map(|topic| format!("{}{topic}", config.prefix));
    let is_taken = |channel: &String| {
        let mut patterns = config.patterns.iter();
        let takes = |one: &String| glob::matches(one.as_bytes(), channel.as_bytes());
        config.redis.is_none() || patterns.any(takes)
    };
    channels.into_iter().find(is_taken)
}

/// A shell command that publishes a message: by `redis-cli` if it is installed and needs no password, or by the program itself.
pub fn command(config: &Config, publishers: Option<SocketAddr>, shell: &CommandContext) -> String {
    let Some(channel) = channel(config) else {
        return format!(
            "nothing: patterns {:?} take no channel that this client hears; --topics with one that they take",
            config.patterns
        );
    };
    let channel = quoted(&channel);
    let message = "'{\"hello\":\"world\"}'";
    match (shell.has_redis_cli, redis_cli(config, publishers)) {
        (true, Some(place)) => format!("redis-cli {place}PUBLISH {channel} {message}"),
        _ => {
            let (program, place) = (quoted(&shell.program), own(config, publishers, shell.pid));
            format!("{program} publish {place} {channel} {message}")
        }
    }
}

/// The address arguments of `redis-cli`; `None` if it would need a password or TLS, or would have to choose among servers.
fn redis_cli(config: &Config, publishers: Option<SocketAddr>) -> Option<String> {
    if let Some(address) = publishers {
        let (address, has_password) = (reachable(address), config.publishers_password.is_some());
        let host = match address.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => String::new(),
            ip => format!("-h {ip} "),
        };
        return (!has_password).then(|| format!("{host}-p {} ", address.port()));
    }
    let place = redis_place(config).ok()??;
    let [url] = &place.urls[..] else { return None };
    (is_open(&place) && place.primary.is_none()).then(|| match &url.address {
        Address::Tcp { host, port } => format!("-h {} -p {port} ", quoted(host)),
        Address::Unix(path) => format!("-s {} ", quoted(&path.display().to_string())),
    })
}

/// Returns whether the addresses are all that a client needs to know: no password, and no files for TLS.
fn is_open(place: &RedisPlace) -> bool {
    let has_login = |url: &RedisUrl| url.password.is_some() || url.username.is_some();
    let mut urls = place.urls.iter().chain(place.primary.iter().map(|(_, url)| url));
    place.security() == Security::Plain && !urls.any(has_login)
}

/// The address arguments of the program. Secrets are not printed, but taken from the running server.
fn own(config: &Config, publishers: Option<SocketAddr>, pid: u32) -> String {
    let place = redis_place(config).ok().flatten();
    let is_open = place.as_ref().map_or(config.publishers_password.is_none(), is_open);
    let port = match publishers {
        Some(address) if place.is_none() => format!("--publishers {}", reachable(address)),
        _ => String::new(),
    };
    match (is_open, place) {
        (true, None) => [port, prefix(config)].concat(),
        (true, Some(place)) => {
            format!("--redis {}{}{}", quoted(&place.to_string()), prefix(config), patterns(config))
        }
        // The system may have chosen the port.
        (false, _) => format!("--pid {pid} {port}").trim_end().to_owned(),
    }
}

fn prefix(config: &Config) -> String {
    match config.prefix.as_str() {
        "pub." => String::new(),
        prefix => format!(" --prefix={}", quoted(prefix)),
    }
}

fn patterns(config: &Config) -> String {
    match &config.patterns[..] {
        [one] if *one == format!("{}*", config.prefix) => String::new(),
        patterns => format!(" --patterns {}", quoted(&patterns.join(","))),
    }
}

/// Quotes a word for a POSIX shell.
fn quoted(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+,".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn shell(has_redis_cli: bool) -> CommandContext {
        CommandContext { program: "target/release/oneloop".to_owned(), pid: 7, has_redis_cli }
    }

    fn at(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn each_configuration_has_a_command_of_its_own() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config
        };
        let local = "127.0.0.1:6380";
        for (config, publishers, has_redis_cli, expected) in [
            (with(|_| {}), at(local), true, "redis-cli -p 6380 PUBLISH pub.news "),
            (with(|_| {}), at("[::1]:1"), true, "redis-cli -h ::1 -p 1 PUBLISH pub.news "),
            (with(|_| {}), at("0.0.0.0:1"), true, "redis-cli -p 1 PUBLISH pub.news "),
            (with(|_| {}), at(local), false, "publish --publishers 127.0.0.1:6380 pub.news "),
            (
                with(|config| config.prefix = "a'b".to_owned()),
                at(local),
                false,
                "publish --publishers 127.0.0.1:6380 --prefix='a'\\''b' 'a'\\''bnews' ",
            ),
            (
                with(|config| config.publishers_password = Some(Secret::new(b"hush".to_vec()))),
                at(local),
                true,
                "publish --pid 7 --publishers 127.0.0.1:6380 pub.news ",
            ),
            (
                with(|config| config.redis = Some("redis://:hush@h:1".to_owned())),
                None,
                true,
                "publish --pid 7 pub.news ",
            ),
            (
                with(|config| config.redis = Some("rediss://h:1".to_owned())),
                None,
                true,
                "publish --pid 7 pub.news ",
            ),
            (
                with(|config| config.redis = Some("h:1".to_owned())),
                None,
                true,
                "redis-cli -h h -p 1 PUBLISH pub.news ",
            ),
            (
                with(|config| config.redis = Some("/run/my redis".to_owned())),
                None,
                false,
                "publish --redis 'unix:/run/my redis' pub.news ",
            ),
            (
                with(|config| {
                    config.redis = Some("h:1".to_owned());
                    config.patterns = vec!["pub.user.*".to_owned()];
                }),
                None,
                false,
                "publish --redis redis://h:1 --patterns 'pub.user.*' pub.user.42 ",
            ),
            (
                with(|config| {
                    config.redis = Some("h:1".to_owned());
                    config.patterns = vec!["news.*".to_owned()];
                }),
                None,
                true,
                "nothing: patterns",
            ),
        ] {
            let command = command(&config, publishers, &shell(has_redis_cli));
            assert!(command.contains(expected), "{expected} in {command}");
            assert!(!command.contains("hush"), "{command}");
        }
    }
}
