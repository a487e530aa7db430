//! `oneloop publish`: publishes one message, as a back end does.

use std::io::Read;

use crate::app;
use crate::cli::redis_client::RedisReply;
use crate::cli::redis_servers;
use crate::config::{Config, reachable};
use crate::engine::pubsub::topic;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::glob;
use crate::engine::redis::url::Address;

/// The result of a publish.
pub struct Published {
    /// The receivers: clients if a oneloop took the message, subscribers if a Redis did.
    pub count: u64,
    /// A sentence if there are none.
    pub explanation: Option<String>,
}

/// Publishes to the Redis of the settings, or else to the publishers' port. Without `data`, the message is read from `input`, and
/// loses one line break at its end.
///
/// # Errors
/// A sentence; nothing was published.
pub fn publish(
    config: &Config,
    channel: &str,
    data: Option<&[u8]>,
    input: impl Read,
) -> Result<Published, String> {
    check_channel(config, channel)?;
    let data = match data {
        Some(data) => data.to_vec(),
        None => read(input, config.bounds.payload_bytes_max)?,
    };
    if data.len() > config.bounds.payload_bytes_max {
        return Err(format!(
            "the message has {} bytes, and payload_bytes_max is {}",
            data.len(),
            config.bounds.payload_bytes_max
        ));
    }
    let redis = app::link(config)?;
    let is_redis = redis.is_some();
    let target = match redis {
        Some(link) => link,
        None => publishers(config)?,
    };
    let mut session = redis_servers::open(&target)?;
    let place = session.config.server.address.to_string();
    let words = match session.ask(&[&b"PUBLISH"[..], channel.as_bytes(), &data])? {
        RedisReply::Words(words) => words,
        RedisReply::Refused(code, details) => {
            return Err(format!("{place}: {code} {details}").escape_debug().to_string());
        }
    };
    let count = words.first().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
    let count = count.ok_or_else(|| format!("{place} answers PUBLISH with something else"))?;
    let explanation = (count == 0).then(|| match is_redis {
        true => format!(
            "nobody subscribes to {channel} in the Redis at {place}: is oneloop up, \
             and does it use this Redis?"
        ),
        false => format!("no connected client has subscribed to {channel}"),
    });
    Ok(Published { count, explanation })
}

/// Refuses a channel that oneloop ignores.
fn check_channel(config: &Config, channel: &str) -> Result<(), String> {
    if config.control.as_deref() == Some(channel) {
        return Ok(());
    }
    let (prefix, shown) = (&config.prefix, channel.escape_debug());
    let Some(topic) = channel.strip_prefix(prefix.as_str()) else {
        return Err(format!(
            "the channel {shown} does not begin with the prefix {prefix}, so no client would receive it: \
             write {prefix}{shown}"
        ));
    };
    if topic::Subject::of_channel(topic.as_bytes()).is_none() {
        return Err(format!(
            "{shown} names no topic: the prefix is followed by 1 to 260 bytes of `A-Z a-z 0-9 _ - . : @ /`, \
             perhaps with # and a key"
        ));
    }
    let is_taken = |one: &String| glob::matches(one.as_bytes(), channel.as_bytes());
    if config.redis.is_some() && !config.patterns.iter().any(is_taken) {
        return Err(format!(
            "no pattern of the setting patterns takes {shown}: {:?}",
            config.patterns
        ));
    }
    Ok(())
}

fn read(input: impl Read, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut data = Vec::new();
    // Room for a line break, and for one byte that shows that it is too long.
    let taken = input.take(bytes_max as u64 + 3).read_to_end(&mut data);
    taken.map_err(|error| format!("stdin: {error}"))?;
    if data.ends_with(b"\n") {
        data.pop();
    }
    if data.ends_with(b"\r") {
        data.pop();
    }
    Ok(data)
}

/// The publishers' port as a Redis.
fn publishers(config: &Config) -> Result<RedisConfig, String> {
    let address = config.publishers.ok_or("there is neither a Redis nor a publishers' port")?;
    let address = reachable(address);
    let password = config.publishers_password.as_ref();
    let password = password.map(|secret| String::from_utf8_lossy(secret.as_bytes()).into_owned());
    let mut redis = RedisConfig::from_url("redis://127.0.0.1")?;
    let server = &mut redis.servers[0];
    server.address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
    server.password = password;
    redis.choose(0);
    Ok(redis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_that_nobody_could_hear_is_refused_with_advice() {
        let config = Config { control: Some("orders".to_owned()), ..Config::default() };
        for (channel, advice) in [
            ("pub.user.42", None),
            ("orders", None),
            ("user.42", Some("write pub.user.42")),
            ("pub.room 7", Some("names no topic")),
            ("pub.", Some("names no topic")),
            ("\u{1b}[2J", Some("\\u{1b}[2J")),
        ] {
            let refusal = check_channel(&config, channel).err();
            assert_eq!(refusal.is_some(), advice.is_some(), "{channel}");
            assert!(refusal.unwrap_or_default().contains(advice.unwrap_or_default()), "{channel}");
        }
        let redis = Some("redis://h".to_owned());
        let config = Config { redis, patterns: vec!["pub.news".to_owned()], ..config };
        assert!(check_channel(&config, "pub.news").is_ok());
        assert!(check_channel(&config, "pub.other").is_err_and(|why| why.contains("no pattern")));
    }

    #[test]
    fn what_comes_by_stdin_loses_one_line_break() {
        for (input, data) in [("a", "a"), ("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), ("", "")]
        {
            assert_eq!(read(input.as_bytes(), 10), Ok(data.as_bytes().to_vec()), "{input:?}");
        }
        assert_eq!(read(&[b'x'; 100][..], 10).map(|data| data.len()), Ok(13), "too long, and seen");
    }
}
