//! The server's frames, read for a terminal.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// A frame of the server.
pub(super) enum ProtocolFrame<'a> {
    Welcome {
        sub: Option<String>,
        topics: Vec<String>,
        /// Seconds between pings; 0 if there are none.
        ping: u64,
        id: Option<String>,
        resumed: bool,
    },
    Message {
        topic: String,
        id: Option<String>,
        /// The JSON as written.
        data: &'a str,
    },
    Gap,
    Error {
        code: String,
        topic: Option<String>,
    },
    /// The answer to a command.
    Other,
    /// Anything else: a message of a route without envelopes.
    Raw,
}

impl ProtocolFrame<'_> {
    pub(super) fn read(text: &str) -> ProtocolFrame<'_> {
        let Ok(members) = serde_json::from_str::<HashMap<&str, &RawValue>>(text) else {
            return ProtocolFrame::Raw;
        };
        let value = |name: &str| -> Value {
            let raw = members.get(name).map(|raw| serde_json::from_str(raw.get()));
            raw.and_then(Result::ok).unwrap_or_default()
        };
        let string = |name: &str| value(name).as_str().map(str::to_owned);
        match string("op").as_deref() {
            Some("welcome") => ProtocolFrame::Welcome {
                sub: string("sub"),
                topics: value("topics")
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|topic| topic.as_str().map(str::to_owned))
                    .collect(),
                ping: value("ping").as_u64().unwrap_or_default(),
                id: string("id"),
                resumed: value("resumed") == true,
            },
            Some("gap") => ProtocolFrame::Gap,
            Some("error") => ProtocolFrame::Error {
                code: string("code").unwrap_or_default(),
                topic: string("topic"),
            },
            Some(_) => ProtocolFrame::Other,
            None => match (string("topic"), members.get("data").or(members.get("data64"))) {
                (Some(topic), Some(data)) => {
                    ProtocolFrame::Message { topic, id: string("id"), data: data.get() }
                }
                _ => ProtocolFrame::Raw,
            },
        }
    }

    /// A message in one line: its topic and data.
    pub(super) fn line(&self) -> String {
        match self {
            ProtocolFrame::Message { topic, data, .. } => format!("{topic} {data}"),
            _ => String::new(),
        }
    }
}

/// The command that subscribes to these topics.
pub(super) fn subscribe(topics: &[String]) -> String {
    serde_json::json!({ "op": "subscribe", "topics": topics }).to_string()
}

/// Makes text safe for a terminal, in one line: control characters and those that change the direction of writing are escaped as in
/// JSON. Line breaks between the parts of a JSON text become spaces.
pub(super) fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '\n' | '\r' | '\t' => shown.push(' '),
            letter if is_harmful(letter) => shown.push_str(&format!("\\u{:04x}", letter as u32)),
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// Percent-encodes text for a query (RFC 3986 section 2.3).
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_a_message() {
        let title = "\u{1b}]0;owned\u{7}\u{9b}2J\u{7f}\u{202e}";
        let shown = harmless(title);
        assert_eq!(shown, "\\u001b]0;owned\\u0007\\u009b2J\\u007f\\u202e");
        assert!(!shown.contains(char::is_control));
        let text = "{\"topic\":\"a\",\"id\":\"1\",\n\t\"data\":\"x\u{7f}y\"}";
        let again: Value = serde_json::from_str(&harmless(text)).expect("it is JSON still");
        assert_eq!(again["data"], "x\u{7f}y");
        assert!(matches!(harmless("Grüße"), Cow::Borrowed(_)));
    }

    #[test]
    fn frames_are_told_apart() {
        let line = |text: &str| ProtocolFrame::read(text).line();
        assert_eq!(
            line(r#"{"topic":"user.42","id":"5","data":{"b":1.0, "a":2}}"#),
            r#"user.42 {"b":1.0, "a":2}"#
        );
        assert_eq!(line(r#"{"topic":"a","id":"5","data64":"/w=="}"#), r#"a "/w==""#);
        assert_eq!(line(r#"{"topic":"a","id":"5","data":null}"#), "a null");
        assert!(matches!(ProtocolFrame::read("plain"), ProtocolFrame::Raw));
        assert!(matches!(ProtocolFrame::read("[1]"), ProtocolFrame::Raw));
        assert!(matches!(ProtocolFrame::read(r#"{"op":"pong"}"#), ProtocolFrame::Other));
        let welcome =
            r#"{"op":"welcome","sub":null,"topics":["a"],"ping":25,"id":"7","resumed":true}"#;
        let ProtocolFrame::Welcome { sub: None, topics, ping: 25, id, resumed: true } =
            ProtocolFrame::read(welcome)
        else {
            panic!("a welcome");
        };
        assert_eq!((topics, id), (vec!["a".to_owned()], Some("7".to_owned())));
    }

    #[test]
    fn what_stands_in_a_query_is_encoded() {
        assert_eq!(encoded("room.7"), "room.7");
        assert_eq!(encoded("a b&c=ü*"), "a%20b%26c%3D%C3%BC%2A");
    }
}
