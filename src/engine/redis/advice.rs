//! The reasons for a broken connection to Redis, said so that an operator can act on them.
//!
//! These texts go into the log, so none shows a user name or a password. Redis puts both into some of its errors
//! (`-NOPERM User bob has no permissions`, and before version 6 an unknown `HELLO` is echoed with all its arguments):
//! what Redis said is quoted only where it cannot hold them.

pub mod of_sentinel;

use redis::ServerError;

use crate::clock::{Millis, RateLimit};
use crate::engine::redis::config::{RedisConfig, ServerKind};
use crate::engine::redis::printable::printable;
use crate::engine::redis::request::Answer;

/// Redis answered `command` with an error that ends the attempt.
pub fn refused(config: &RedisConfig, command: &str, error: &ServerError) -> String {
    let (who, code) = (who(config), printable(error.code()));
    let is_sentinel = config.server.kind == ServerKind::Sentinel;
    let advice = match error.code() {
        "NOPERM" if command == "PSUBSCRIBE" => no_permission(&config.patterns),
        "NOPERM" => no_permission_for_keys(&config.streams),
        "NOAUTH" | "WRONGPASS" if is_sentinel => SENTINEL_PASSWORD.to_owned(),
        "NOAUTH" => NO_PASSWORD.to_owned(),
        "WRONGPASS" => WRONG_PASSWORD.to_owned(),
        "DENIED" => PROTECTED.to_owned(),
        "LOADING" => "it is reading its data set into memory: wait".to_owned(),
        "MISCONF" => "it cannot save to its disk and refuses commands: see its log".to_owned(),
        "ERR" if is_full(error) => FULL.to_owned(),
        "ERR" if has_no_password(error) => NEEDLESS_PASSWORD.to_owned(),
        "ERR" if says(error, "invalid password") => WRONG_PASSWORD.to_owned(),
        _ => format!("expected it to be accepted{}", quote(config, command, error)),
    };
    format!("{who} answered -{code} to {command}: {advice}")
}

/// Returns the server of the attempt as the subject of a sentence.
fn who(config: &RedisConfig) -> String {
    let address = &config.server.address;
    match config.server.kind {
        ServerKind::Sentinel => format!("the Sentinel at {address}"),
        ServerKind::Any | ServerKind::Primary | ServerKind::ClusterNode => {
            format!("Redis at {address}")
        }
    }
}

/// Redis refused to read a stream.
pub fn of_stream(config: &RedisConfig, command: &str, stream: &str, error: &ServerError) -> String {
    if error.code() != "WRONGTYPE" {
        return refused(config, command, error);
    }
    format!(
        "Redis at {} has no stream under the key {stream}, but something else: \
         DEL it, or take it out of the setting streams",
        config.server.address
    )
}

/// Redis refused a command that somebody asked for.
pub fn of_command(config: &RedisConfig, error: &ServerError) -> String {
    match error.code() {
        "NOPERM" => format!("NOPERM {}", no_permission_for_keys(&config.streams)),
        code => {
            let details = error.details().unwrap_or_default();
            let details = if names_secret(config, details) { "" } else { details };
            format!("{} {}", printable(code), printable(details)).trim_end().to_owned()
        }
    }
}

/// Logs that Redis refused a report to a back end, once a second at most.
pub fn log_unsent_report(answer: &Answer, limit: &mut RateLimit, now: Millis) {
    if let Answer::Refused(why) = answer
        && limit.allow(now)
    {
        let code = why.split_whitespace().next().unwrap_or_default();
        log::warn!(
            "Redis refuses receipts or answers to a count ({code}): the user in the URL needs +publish, and \
             &NAME for each of their channels"
        );
    }
}

/// The input is not RESP.
pub fn not_redis(config: &RedisConfig, why: &str) -> String {
    let address = &config.server.address;
    format!(
        "something that is not Redis answers at {address} ({why}): \
         check the host and the port; a port that wants TLS answers like this, too: write rediss:// then"
    )
}

/// No connection in time.
pub fn unreachable(config: &RedisConfig) -> String {
    let (who, timeout) = (who(config), config.timeout);
    format!(
        "no connection to {who} within {timeout} ms: \
         is it running, is the address right, does a firewall swallow packets?"
    )
}

/// Connected, but TLS did not come about in time.
pub fn unsecured(config: &RedisConfig) -> String {
    let (address, timeout) = (&config.server.address, config.timeout);
    format!(
        "connected to {address}, but its handshake of TLS did not end within {timeout} ms: is it the port without TLS? \
         then write redis:// in place of rediss://, or name the port with TLS (tls-port)"
    )
}

/// It took the connection, and ended it without an answer to anything.
pub fn hung_up(config: &RedisConfig) -> String {
    format!(
        "{} closed the connection without an answer: is it the port with TLS? \
         then write rediss:// in place of redis://, or name the one without; or does it take no connections from here?",
        config.server.address
    )
}

/// Connected, but `waiting_for` did not come in time.
pub fn unanswered(config: &RedisConfig, waiting_for: &str) -> String {
    let (address, timeout) = (&config.server.address, config.timeout);
    format!(
        "connected to {address}, but no answer to {waiting_for} within {timeout} ms: \
         is it Redis, and is it busy (SLOWLOG GET) or stopped?"
    )
}

/// It was up, and then nothing came, not even an answer to this command.
pub fn silent(config: &RedisConfig, command: &str) -> String {
    let (who, timeout) = (who(config), config.timeout);
    format!("{who} did not answer {command} within {timeout} ms: the connection is given up")
}

/// It is a Sentinel.
pub fn sentinel(config: &RedisConfig) -> String {
    let address = &config.server.address;
    format!(
        "{address} is a Sentinel, which takes subscriptions and carries no messages: ask it where the Redis is \
         (SENTINEL GET-MASTER-ADDR-BY-NAME <name>) and name that in the setting redis"
    )
}

/// It is a replica without its primary.
pub fn cut_off(config: &RedisConfig, state: &str) -> String {
    let (address, state) = (&config.server.address, printable(state));
    format!(
        "Redis at {address} is a replica that is cut off from its primary ({state}), so nothing comes that is published \
         there: name the primary in the setting redis, or mend the replication (INFO replication)"
    )
}

/// A Sentinel has named it the primary, and it is a replica.
pub fn demoted(config: &RedisConfig) -> String {
    format!(
        "Redis at {} is a replica, and a Sentinel has named it the primary: asking again (a failover may be under way; if this \
         stays so, compare SENTINEL MASTER there with ROLE here)",
        config.server.address
    )
}

/// A message that we published did not come back to us.
pub fn deaf(config: &RedisConfig) -> String {
    let (address, timeout) = (&config.server.address, config.timeout);
    format!(
        "{address} took our subscription, but a message published there did not come back within {timeout} ms: \
         does a proxy or a cluster stand in between? name the Redis that publishers use in the setting redis"
    )
}

/// A subscription that was acknowledged is no more.
pub fn lost(config: &RedisConfig, why: &str) -> String {
    format!("Redis at {} ended our subscription ({why}): subscribing again", config.server.address)
}

/// `-ERR max number of clients reached`, which comes before any command was sent.
pub fn is_full(error: &ServerError) -> bool {
    says(error, "max number of clients")
}

fn has_no_password(error: &ServerError) -> bool {
    says(error, "without any password configured") || says(error, "no password is set")
}

fn says(error: &ServerError, words: &str) -> bool {
    error.details().is_some_and(|details| details.contains(words))
}

const NO_PASSWORD: &str = "it wants a password: write the one it has into the URL, \
    redis://[user]:PASSWORD@host";

const WRONG_PASSWORD: &str = "the user or the password in the URL is wrong: \
    try both with redis-cli; in a URL, % : / ? # @ must be written as %25 %3A %2F %3F %23 %40";

const SENTINEL_PASSWORD: &str = "the Sentinels have a login of their own: write it behind the URL, \
    redis+sentinel://…/NAME?sentinel_username=USER&sentinel_password=PASSWORD (the user only if there is one)";

const NEEDLESS_PASSWORD: &str = "it has no password set, and the URL has one: \
    take it out of the URL, or set requirepass there";

const PROTECTED: &str = "it is in protected mode, which takes connections only \
    from its own machine: give it a password (requirepass) and put that into the URL, or connect by loopback";

const FULL: &str = "it has no room for another client: raise maxclients there, \
    or find out with CLIENT LIST who holds its connections";

/// Redis wants the very same pattern in the rule: `&pub.*` allows `pub.*`, and not `pub.a*`.
fn no_permission(patterns: &[String]) -> String {
    let channels: Vec<String> = patterns.iter().map(|pattern| format!("&{pattern}")).collect();
    let channels = channels.join(" ");
    format!(
        "the user in the URL may not do it: run there \
         ACL SETUSER <user> {channels} +psubscribe +ping +client|setname (the patterns exactly so)"
    )
}

/// For what is no subscription.
fn no_permission_for_keys(streams: &[String]) -> String {
    let mut rules: Vec<String> = streams.iter().map(|stream| format!("~{stream}")).collect();
    if !streams.is_empty() {
        rules.push("+xinfo +xread +xrange +xrevrange".to_owned());
    }
    let rules = [&rules.join(" "), "+select +ping +client|setname"].join(" ");
    format!("the user in the URL may not do it: run there ACL SETUSER <user> {}", rules.trim())
}

fn quote(config: &RedisConfig, command: &str, error: &ServerError) -> String {
    let details = error.details().unwrap_or_default();
    match names_secret(config, details) || matches!(command, "HELLO" | "AUTH") {
        true => String::new(),
        false => format!(", it said: {}", printable(details)),
    }
}

fn names_secret(config: &RedisConfig, text: &str) -> bool {
    let secrets = [&config.server.username, &config.server.password];
    secrets.into_iter().flatten().any(|one| !one.is_empty() && text.contains(one.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_what_to_do_and_no_secret() {
        let config = RedisConfig::from_url("redis://bob:hunter2@h").expect("the URL is right");
        for (command, error, expected) in [
            ("HELLO", "-NOAUTH HELLO must be called with", "it wants a password"),
            ("HELLO", "-WRONGPASS invalid pair", "the password in the URL is wrong"),
            ("AUTH", "-ERR invalid password", "the password in the URL is wrong"),
            ("HELLO", "-DENIED Redis is running in protected mode", "or connect by loopback"),
            ("HELLO", "-ERR max number of clients reached", "raise maxclients"),
            ("HELLO", "-LOADING Redis is loading the dataset in memory", "memory: wait"),
            ("HELLO", "-MISCONF Redis is configured to save RDB", "see its log"),
            ("AUTH", "-ERR Client sent AUTH, but no password is set", "take it out of the URL"),
            ("AUTH", "-ERR AUTH <password> called without any password configured", "take it out"),
            ("PSUBSCRIBE", "-NOPERM User bob has no permissions", "ACL SETUSER <user> &pub.* +ps"),
            ("PSUBSCRIBE", "-ERR takes PUBLISH", "accepted, it said: takes PUBLISH"),
            ("PSUBSCRIBE", "-ERR not for bob", "-ERR to PSUBSCRIBE: expected it to be accepted"),
            ("AUTH", "-ERR unknown `hunt", "-ERR to AUTH: expected it to be accepted"),
        ] {
            let line = format!("{error}\r\n");
            let Ok(redis::Value::ServerError(error)) = redis::parse_redis_value(line.as_bytes())
            else {
                panic!("{error} is an error");
            };
            let text = refused(&config, command, &error);
            assert!(text.contains(expected), "{line}: {text}");
            assert!(text.starts_with("Redis at h:6379 answered -"), "{text}");
            let is_discreet = ["bob", "hunt"].iter().all(|secret| !text.contains(secret));
            assert!(is_discreet, "{line}: {text}");
        }
    }
}
