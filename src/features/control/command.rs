//! Control commands, parsed once into a type that cannot be wrong.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use crate::engine::pubsub::topic::{self, Grant, user_of, user_topic};
use crate::json;

/// A back end's command, executed by every node that receives it.
#[derive(Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// Closes connections with 4504, and this reason.
    Kick { target: Target, reason: Option<String> },
    /// Closes a user's connections whose tokens were issued before this unix second, and refuses such tokens.
    Revoke { sub: String, before: u64 },
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

/// The members that are read, each at most once.
#[derive(Deserialize)]
struct ControlMembers<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    sub: Option<Value>,
    before: Option<u64>,
    conn: Option<String>,
    topic: Option<String>,
    reason: Option<String>,
    reply: Option<String>,
}

impl ControlCommand {
    /// Reads `{"op":"kick","sub":"42"}` and the like.
    ///
    /// # Errors
    /// A sentence for the log, which repeats nothing of the payload.
    pub fn parse(payload: &[u8]) -> Result<ControlCommand, &'static str> {
        let members: ControlMembers = json::members(payload)?;
        match &*members.op {
            "kick" => {
                Ok(ControlCommand::Kick { target: members.target()?, reason: members.reason })
            }
            "revoke" => Ok(ControlCommand::Revoke {
                sub: members.user()?,
                before: members.before.ok_or("before is missing: a unix time in seconds")?,
            }),
            "join" => {
                Ok(ControlCommand::Join { topic: members.grant()?, target: members.target()? })
            }
            "leave" => {
                Ok(ControlCommand::Leave { topic: members.grant()?, target: members.target()? })
            }
            "count" => {
                let topic = members.topic.filter(|it| topic::published(it.as_bytes()).is_some());
                let reply = members.reply.filter(|channel| !channel.is_empty());
                Ok(ControlCommand::Count {
                    topic: topic.ok_or("topic is missing or malformed")?,
                    reply: reply.ok_or("reply is missing: the channel of the answer")?,
                })
            }
            _ => Err("op is not kick, revoke, join, leave or count"),
        }
    }
}

impl ControlMembers<'_> {
    fn target(&self) -> Result<Target, &'static str> {
        match (&self.sub, &self.conn) {
            (None, Some(conn)) => Ok(Target::Connection(conn.clone())),
            (Some(sub), None) => Ok(Target::User(own_topic(sub)?)),
            _ => Err("expected sub or conn, one of them"),
        }
    }

    /// The user, where a connection is no target.
    fn user(&self) -> Result<String, &'static str> {
        match (&self.sub, &self.conn) {
            (Some(sub), None) => {
                own_topic(sub).map(|own| user_of(&own).expect("the topic of a user").to_owned())
            }
            _ => Err("expected sub, and no conn"),
        }
    }

    fn grant(&self) -> Result<Grant, &'static str> {
        let grant = self.topic.as_deref().and_then(Grant::parse);
        grant.ok_or("topic is missing, or neither a topic nor like room.*")
    }
}

/// The own topic of a user.
fn own_topic(sub: &Value) -> Result<String, &'static str> {
    let own = user_topic(&json::text_or_integer(sub).ok_or(json::WRONG_MEMBER)?);
    own.ok_or("sub must be 1 to 255 bytes without control characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn user(sub: &str) -> Target {
        Target::User(format!("user.{sub}"))
    }

    #[test]
    fn commands_are_read() {
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
                r#"{"op":"revoke","sub":42,"before":1718000000}"#,
                ControlCommand::Revoke { sub: "42".to_owned(), before: 1_718_000_000 },
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
    fn a_text_that_is_no_command_is_refused() {
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
            r#"{"op":"revoke","sub":"42"}"#,
            r#"{"op":"revoke","before":1718000000}"#,
            r#"{"op":"revoke","conn":"n-1-2","before":1718000000}"#,
            r#"{"op":"revoke","sub":"","before":1718000000}"#,
            r#"{"op":"revoke","sub":"42","before":"1718000000"}"#,
            r#"{"op":"revoke","sub":"42","before":1718000000.5}"#,
            r#"{"op":"revoke","sub":"42","before":-1}"#,
            r#"{"op":"revoke","sub":"42","before":1,"before":2}"#,
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
    fn any_payload_is_the_command_that_it_says_or_refused() {
        let members: [&[u8]; 12] = [
            b"\"op\":\"kick\"",
            b"\"op\":\"revoke\"",
            b"\"before\":1718000000",
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
        let mut commands = 0;
        for seed in 1..5_000 {
            let mut random = Random::new(seed);
            let some: Vec<&[u8]> =
                (0..1 + random.below(4)).map(|_| random.choose(&members)).collect();
            let mut payload = [b"{", &some.join(&b","[..])[..], b"}"].concat();
            if random.below(4) == 0 {
                let at = random.below(payload.len());
                payload[at] = random.choose(b"{}[]\",: \\0");
            }
            let Ok(command) = ControlCommand::parse(&payload) else { continue };
            commands += 1;
            let value: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            let op = match command {
                ControlCommand::Kick { .. } => "kick",
                ControlCommand::Revoke { .. } => "revoke",
                ControlCommand::Join { .. } => "join",
                ControlCommand::Leave { .. } => "leave",
                ControlCommand::Count { .. } => "count",
            };
            assert_eq!(value["op"], op, "seed {seed}");
        }
        assert!(commands > 100, "the generator makes commands at times: {commands}");
    }
}
