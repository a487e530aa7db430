//! Judges whether the far end of a subscription can carry what publishers send, by its own word.
//!
//! A Sentinel acknowledges every subscription and carries no messages of others; a replica without its primary carries those alone
//! that are published at itself. Both look like any Redis to one who asks for no more than an acknowledgement.

use redis::Value;

use crate::engine::redis::advice;
use crate::engine::redis::config::{RedisConfig, ServerKind};
use crate::engine::redis::failure::RedisFailure;

/// The state of the far end, by its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FarEnd {
    /// Nothing speaks against it.
    Sound,
    Sentinel,
    /// A replica in sync with its primary.
    InSync,
    /// A replica that is not connected to its primary; the state in Redis' word.
    CutOff(String),
}

impl FarEnd {
    /// Turns a far end that carries no messages, or is not the primary that it must be, into a failure.
    pub fn check(self, config: &RedisConfig) -> Result<(), RedisFailure> {
        let must_be_primary = config.server.kind == ServerKind::Primary;
        Err(RedisFailure::Deaf(match self {
            FarEnd::Sound => return Ok(()),
            FarEnd::Sentinel => advice::sentinel(config),
            FarEnd::InSync | FarEnd::CutOff(_) if must_be_primary => advice::demoted(config),
            FarEnd::InSync => return Ok(()),
            FarEnd::CutOff(state) => advice::cut_off(config, &state),
        }))
    }
}

/// Reads `mode` from the answer to HELLO; `None`: it has none.
pub fn mode(hello: &Value) -> Option<&str> {
    hello_field(hello, "mode")
}

/// Judges by `role` in the answer to HELLO.
pub fn by_hello(hello: &Value) -> FarEnd {
    match hello_field(hello, "role") {
        Some("slave" | "replica") => FarEnd::InSync,
        _ => FarEnd::Sound,
    }
}

fn hello_field<'a>(hello: &'a Value, name: &str) -> Option<&'a str> {
    let Value::Map(pairs) = hello else { return None };
    pairs.iter().find(|(key, _)| text(key) == Some(name)).and_then(|(_, value)| text(value))
}

/// Judges by the answer to ROLE: `["master", …]`, `["slave", host, port, state, offset]` or `["sentinel", …]`.
pub fn by_role(answer: &Value) -> FarEnd {
    let Value::Array(words) = answer else { return FarEnd::Sound };
    match words.first().and_then(text) {
        Some("sentinel") => FarEnd::Sentinel,
        Some("slave" | "replica") => match words.get(3).and_then(text) {
            Some("connected") | None => FarEnd::InSync,
            Some(state) => FarEnd::CutOff(state.to_owned()),
        },
        _ => FarEnd::Sound,
    }
}

/// Judges by the answer to `INFO replication`.
pub fn by_info(answer: &Value) -> FarEnd {
    let Some(info) = info_text(answer) else { return FarEnd::Sound };
    let field =
        |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match (field("role"), field("master_link_status")) {
        (Some("slave" | "replica"), Some(status)) if status != "up" => {
            FarEnd::CutOff(format!("master_link_status:{status}"))
        }
        (Some("slave" | "replica"), _) => FarEnd::InSync,
        _ => FarEnd::Sound,
    }
}

/// The text of an answer to INFO or CLUSTER INFO.
pub fn info_text(answer: &Value) -> Option<&str> {
    match answer {
        Value::VerbatimString { text, .. } => Some(text),
        other => text(other),
    }
}

/// The text of a string.
pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(resp: &str) -> Value {
        redis::parse_redis_value(resp.as_bytes()).expect("the test speaks RESP")
    }

    #[test]
    fn a_mode_is_told_by_hello_alone() {
        assert_eq!(
            mode(&value("%2\r\n+proto\r\n:3\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n")),
            Some("sentinel")
        );
        for none in ["%1\r\n+proto\r\n:3\r\n", "+OK\r\n", "%1\r\n+mode\r\n:3\r\n"] {
            assert_eq!(mode(&value(none)), None, "{none}");
        }
    }

    #[test]
    fn each_role_is_judged() {
        let cut_off = |state: &str| FarEnd::CutOff(state.to_owned());
        for (resp, expected) in [
            ("*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n", FarEnd::Sound),
            ("*2\r\n$8\r\nsentinel\r\n*0\r\n", FarEnd::Sentinel),
            ("*5\r\n+slave\r\n+h\r\n:1\r\n+connected\r\n:1\r\n", FarEnd::InSync),
            ("*5\r\n+slave\r\n+h\r\n:1\r\n+connect\r\n:-1\r\n", cut_off("connect")),
            ("*5\r\n+slave\r\n+h\r\n:1\r\n+sync\r\n:-1\r\n", cut_off("sync")),
            ("*0\r\n", FarEnd::Sound),
            ("+OK\r\n", FarEnd::Sound),
        ] {
            assert_eq!(by_role(&value(resp)), expected, "{resp}");
        }
        for (info, expected) in [
            ("role:master\r\nconnected_slaves:0\r\n", FarEnd::Sound),
            ("role:slave\r\nmaster_link_status:up\r\n", FarEnd::InSync),
            ("role:slave\r\nmaster_link_status:down\r\n", cut_off("master_link_status:down")),
            ("", FarEnd::Sound),
        ] {
            assert_eq!(by_info(&Value::BulkString(info.into())), expected, "{info}");
            let format = redis::VerbatimFormat::Text;
            let text = info.to_owned();
            assert_eq!(by_info(&Value::VerbatimString { format, text }), expected, "{info}");
        }
    }
}
