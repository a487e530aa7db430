//! Control commands, parsed once into a type that cannot be wrong.

use std::borrow::Cow;

use serde::Deserialize;

use crate::engine::pubsub::topic::{self, Grant, user_topic};

/// A back end's command, executed by every node that receives it.
#[derive(Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// Closes connections with 4504, and this reason.
    Kick { target: Target, reason: Option<String> },
    /// Subscribes connections until they disconnect.
    Join { target: Target, topic: Grant },
    /// Unsubscribes connections.
    Leave { target: Target, topic: Grant },
    /// Publishes the number of a topic's subscribers on the channel `reply`.
    Count { topic: String, reply: String },
}

/// The connections that a command is for.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// All connections of a user, named by the user's own topic.
    User(String),
    /// The connection with this name, as its `welcome` says; at most one node has it.
    Connection(String),
}

/// The reason why a payload is no command: a fixed sentence that repeats nothing of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedControl(pub &'static str);

/// The members that are read, each at most once.
#[derive(Deserialize)]
struct ControlMembers<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    sub: Option<Sub>,
    conn: Option<String>,
    topic: Option<String>,
    reason: Option<String>,
    reply: Option<String>,
}

/// An integer counts as its decimal digits, as in a token.
#[derive(Deserialize)]
#[serde(untagged)]
enum Sub {
    Text(String),
    Natural(u64),
    Negative(i64),
}

impl ControlCommand {
    /// Reads `{"op":"kick","sub":"42"}` and the like; unknown members are passed over, and a `null` counts as absent.
    ///
    /// # Errors
    /// A sentence for the log.
    pub fn parse(payload: &[u8]) -> Result<ControlCommand, MalformedControl> {
        // serde takes an array of the values for a struct as well.
        if !payload.trim_ascii_start().starts_with(b"{") {
            return Err(MalformedControl("expected a JSON object"));
        }
        let members: ControlMembers = serde_json::from_slice(payload).map_err(|_| {
            MalformedControl("not JSON, no op, a member twice or one of a wrong type")
        })?;
        match &*members.op {
            "kick" => Ok(ControlCommand::Kick {
                reason: members.reason.clone(),
                target: members.target()?,
            }),
            "join" => {
                Ok(ControlCommand::Join { topic: members.grant()?, target: members.target()? })
            }
            "leave" => {
                Ok(ControlCommand::Leave { topic: members.grant()?, target: members.target()? })
            }
            "count" => members.count(),
            _ => Err(MalformedControl("op is not kick, join, leave or count")),
        }
    }
}

impl ControlMembers<'_> {
    fn target(self) -> Result<Target, MalformedControl> {
        let sub = match (self.sub, self.conn) {
            (None, Some(conn)) => return Ok(Target::Connection(conn)),
            (Some(Sub::Text(text)), None) => text,
            (Some(Sub::Natural(number)), None) => number.to_string(),
            (Some(Sub::Negative(number)), None) => number.to_string(),
            _ => return Err(MalformedControl("expected sub or conn, one of them")),
        };
        user_topic(&sub)
            .map(Target::User)
            .ok_or(MalformedControl("sub must be 1 to 255 bytes without control characters"))
    }

    fn grant(&self) -> Result<Grant, MalformedControl> {
        let grant = self.topic.as_deref().and_then(Grant::parse);
        grant.ok_or(MalformedControl("topic is missing, or neither a topic nor like room.*"))
    }

    fn count(self) -> Result<ControlCommand, MalformedControl> {
        let topic = self.topic.filter(|text| topic::published(text.as_bytes()).is_some());
        let reply = self.reply.filter(|channel| !channel.is_empty());
        match (topic, reply) {
            (Some(topic), Some(reply)) => Ok(ControlCommand::Count { topic, reply }),
            (None, _) => Err(MalformedControl("topic is missing or malformed")),
            (_, None) => Err(MalformedControl("reply is missing: the channel of the answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn user(sub: &str) -> Target {
        Target::User(format!("user.{sub}"))
    }

    #[test]
    fn orders_are_read() {
        let grant = |text| Grant::parse(text).unwrap();
        let connection = || Target::Connection("n-1-2".to_owned());
        for (text, expected) in [
            (
                r#"{"op":"kick","sub":"42"}"#,
                ControlCommand::Kick { target: user("42"), reason: None },
            ),
            (
                r#" {"sub":42,"op":"kick","x":[]}"#,
                ControlCommand::Kick { target: user("42"), reason: None },
            ),
            (
                r#"{"op":"kick","sub":-7}"#,
                ControlCommand::Kick { target: user("-7"), reason: None },
            ),
            (
                r#"{"op":"kick","conn":"n-1-2","sub":null,"reason":"b\u0061n"}"#,
                ControlCommand::Kick { target: connection(), reason: Some("ban".to_owned()) },
            ),
            (
                r#"{"op":"join","sub":"a.b","topic":"room.*"}"#,
                ControlCommand::Join { target: user("a.b"), topic: grant("room.*") },
            ),
            (
                r#"{"op":"leave","conn":"n-1-2","topic":"room.7"}"#,
                ControlCommand::Leave { target: connection(), topic: grant("room.7") },
            ),
            (
                r#"{"op":"count","topic":"user.42","reply":"answers"}"#,
                ControlCommand::Count { topic: "user.42".to_owned(), reply: "answers".to_owned() },
            ),
        ] {
            assert_eq!(ControlCommand::parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        let deep = format!(r#"{{"op":"kick","sub":{}"#, "[".repeat(60_000));
        for text in [
            "",
            "kick",
            "[]",
            r#"["kick","42"]"#,
            "{}",
            r#"{"op":1}"#,
            r#"{"op":"ban","sub":"42"}"#,
            r#"{"op":"kick"}"#,
            r#"{"op":"kick","sub":"42","conn":"n-1-2"}"#,
            r#"{"op":"kick","sub":4.5}"#,
            r#"{"op":"kick","sub":""}"#,
            r#"{"op":"kick","sub":"\n"}"#,
            r#"{"op":"kick","sub":true}"#,
            r#"{"op":"kick","sub":"1","sub":"2"}"#,
            r#"{"op":"kick","sub":"42","reason":5}"#,
            r#"{"op":"join","sub":"42"}"#,
            r#"{"op":"join","sub":"42","topic":"a..b"}"#,
            r#"{"op":"join","topic":"room.7"}"#,
            r#"{"op":"count","topic":"room.7"}"#,
            r#"{"op":"count","topic":"room.7","reply":""}"#,
            r#"{"op":"count","topic":"room.*","reply":"r"}"#,
            r#"{"op":"count","reply":"r"}"#,
            &deep,
        ] {
            assert!(ControlCommand::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(ControlCommand::parse(b"{\"op\":\"kick\",\"sub\":\"\xff\"}").is_err());
    }

    #[test]
    fn whatever_comes_is_an_order_of_what_it_says_or_refused() {
        let members: [&[u8]; 10] = [
            b"\"op\":\"kick\"",
            b"\"op\":\"join\"",
            b"\"op\":\"count\"",
            b"\"sub\":42",
            b"\"conn\":\"n-1-2\"",
            b"\"topic\":\"a\"",
            b"\"reply\":\"r\"",
            b"\"reason\":null",
            b"\"topic\":[",
            b"\xc3",
        ];
        let mut orders = 0;
        for seed in 1..5_000 {
            let mut random = Random::new(seed);
            let some: Vec<&[u8]> =
                (0..1 + random.below(4)).map(|_| random.choose(&members)).collect();
            let mut payload = [b"{", &some.join(&b","[..])[..], b"}"].concat();
            if random.below(4) == 0 {
                let at = random.below(payload.len());
                payload[at] = random.choose(b"{}[]\",: \\0");
            }
            let Ok(order) = ControlCommand::parse(&payload) else { continue };
            orders += 1;
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            let op = match order {
                ControlCommand::Kick { .. } => "kick",
                ControlCommand::Join { .. } => "join",
                ControlCommand::Leave { .. } => "leave",
                ControlCommand::Count { .. } => "count",
            };
            assert_eq!(value["op"], op, "seed {seed}");
        }
        assert!(orders > 100, "the generator makes orders at times: {orders}");
    }
}
