//! The JSON commands of clients (`oneloop.v1`).

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::json;

/// The longest `ref`, in bytes of the string, or of the number as written.
pub const REFERENCE_BYTES_MAX: usize = 64;

/// A client's command. (Printable in tests alone: it holds tokens, which no log may show.)
#[cfg_attr(test, derive(Debug, PartialEq))]
pub struct ClientCommand<'a> {
    pub action: Action<'a>,
    /// `ref`: a string or a number, which the answer repeats as written. `1.0` stays `1.0`.
    pub reference: Option<RawJson<'a>>,
}

#[cfg_attr(test, derive(Debug, PartialEq))]
pub enum Action<'a> {
    /// Texts of grants, not checked yet.
    Subscribe(Vec<Cow<'a, str>>, Start<'a>),
    Unsubscribe(Vec<Cow<'a, str>>),
    /// Lists the client's own subscriptions.
    Topics,
    /// Lists the users who subscribe to a topic, which is not checked yet.
    Members(Cow<'a, str>),
    /// The answer holds the client's cursor if it `wants_cursor`.
    Ping {
        wants_cursor: bool,
    },
    Auth(Auth<'a>),
    /// Data for the back end, on a topic that is not checked yet.
    Send {
        data: RawJson<'a>,
        topic: Option<Cow<'a, str>>,
    },
}

/// The first message that a subscription brings.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub enum Start<'a> {
    /// The next one that is published.
    Live,
    /// The first one after this cursor, which is not checked yet.
    Since(Cow<'a, str>),
    /// The newest one that there is.
    Newest,
}

/// The members of `auth`: the token and, if it is the connection's first, what its handshake would have carried.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub struct Auth<'a> {
    /// Not checked yet.
    pub token: Cow<'a, str>,
    /// The cursor of a client that comes back.
    pub since: Option<Cow<'a, str>>,
    /// Texts of grants, not checked yet.
    pub topics: Vec<Cow<'a, str>>,
}

/// Any JSON, as written.
#[derive(Clone, Copy, Serialize)]
#[serde(transparent)]
#[cfg_attr(test, derive(Debug))]
pub struct RawJson<'a>(&'a RawValue);

impl<'a> RawJson<'a> {
    /// Reads a text that [`RawJson::text`] returned.
    pub fn parse(text: &'a str) -> Option<RawJson<'a>> {
        serde_json::from_str(text).ok().map(RawJson)
    }

    pub fn text(&self) -> &'a str {
        self.0.get()
    }
}

/// The known members, each at most once: the derived code refuses a second one.
#[derive(Deserialize)]
struct CommandMembers<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    topic: Option<Text<'a>>,
    #[serde(borrow)]
    token: Option<Text<'a>>,
    #[serde(borrow)]
    since: Option<Text<'a>>,
    #[serde(borrow)]
    topics: Option<Vec<Text<'a>>>,
    last: Option<bool>,
    cursor: Option<bool>,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

/// Borrowed unless it holds an escape. (serde borrows a `Cow` only outside an `Option`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A `null` is data like any other.
fn present<'a, D: Deserializer<'a>>(value: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl<'a> ClientCommand<'a> {
    /// Reads `{"op":"subscribe","topic":"room.7","ref":1}` and the like.
    ///
    /// # Errors
    /// A fixed sentence that shows nothing of the text.
    pub fn parse(text: &'a str) -> Result<ClientCommand<'a>, &'static str> {
        let members: CommandMembers<'a> = json::members(text.as_bytes())?;
        let topic = members.topic.map(|text| text.0);
        let topics = members.topics.map(|texts| texts.into_iter().map(|text| text.0).collect());
        let since = members.since.map(|text| text.0);
        let action = match &*members.op {
            "subscribe" => {
                let start = match (since, members.last == Some(true)) {
                    (None, false) => Start::Live,
                    (Some(since), false) => Start::Since(since),
                    (None, true) => Start::Newest,
                    (Some(_), true) => return Err("since and last are both there"),
                };
                Action::Subscribe(one_or_several(topic, topics)?, start)
            }
            "unsubscribe" => Action::Unsubscribe(one_or_several(topic, topics)?),
            "topics" => Action::Topics,
            "members" => Action::Members(topic.ok_or("topic is missing")?),
            "send" => Action::Send { data: RawJson(members.data.ok_or("data is missing")?), topic },
            "ping" => Action::Ping { wants_cursor: members.cursor == Some(true) },
            "auth" => Action::Auth(Auth {
                token: members.token.ok_or("token is missing")?.0,
                since,
                topics: topics.unwrap_or_default(),
            }),
            _ => {
                return Err(
                    "op is not subscribe, unsubscribe, topics, members, send, ping or auth",
                );
            }
        };
        let reference = members.reference.map(reference).transpose()?;
        Ok(ClientCommand { action, reference })
    }
}

/// Checks a `ref`.
fn reference(raw: &RawValue) -> Result<RawJson<'_>, &'static str> {
    let text = raw.get();
    let length = match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => Some(text.len()),
        [b'"', ..] => serde_json::from_str::<String>(text).ok().map(|content| content.len()),
        _ => None,
    };
    match length {
        Some(0..=REFERENCE_BYTES_MAX) => Ok(RawJson(raw)),
        _ => Err("ref must be a string or a number of at most 64 bytes"),
    }
}

/// The topics of a command that names one, or a list of them.
fn one_or_several<'a>(
    topic: Option<Cow<'a, str>>,
    topics: Option<Vec<Cow<'a, str>>>,
) -> Result<Vec<Cow<'a, str>>, &'static str> {
    match (topic, topics) {
        (Some(topic), None) => Ok(vec![topic]),
        (None, Some(topics)) => Ok(topics),
        (None, None) => Err("topic is missing"),
        (Some(_), Some(_)) => Err("topic and topics are both there"),
    }
}

/// Returns whether a text is a command about topics, if it is a command at all, without parsing it. The answer decides on the price,
/// so no other command may pass for one: `{"x":{"op":"subscribe"},"op":"ping"}` would be free. A text with a second `"op":`, or with
/// an escape that could hide one, has the price of other commands. So has one with `since` or `last`, which looks through the history.
pub fn asks_for_topics(text: &str) -> bool {
    let rests = text.split("\"op\"").skip(1);
    let mut values = rests.filter_map(|rest| rest.trim_start().strip_prefix(':'));
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let value = value.trim_start();
    let is_for_topics = value.starts_with("\"subscribe\"") || value.starts_with("\"unsubscribe\"");
    let is_costly = ["\"since\"", "\"last\""].iter().any(|member| text.contains(member));
    let is_hidden = ["\\u006", "\\u007"].iter().any(|letter| text.contains(letter));
    is_for_topics && !is_costly && !is_hidden
}

#[cfg(test)]
impl PartialEq for RawJson<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn parse(text: &str) -> ClientCommand<'_> {
        ClientCommand::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn commands_are_read() {
        let subscribe = parse(r#" {"op":"subscribe","topic":"room.7","ref":1.0,"x":[{"op":1}]} "#);
        let Action::Subscribe(topics, Start::Live) = subscribe.action else {
            panic!("a subscription")
        };
        assert!(matches!(topics[..], [Cow::Borrowed("room.7")]), "not copied");
        let several = parse(r#"{"op":"subscribe","topics":["a","b"]}"#);
        let list = || vec!["a".into(), "b".into()];
        assert_eq!(several.action, Action::Subscribe(list(), Start::Live));
        let since = parse(r#"{"op":"subscribe","topics":["a","b"],"since":"c","last":false}"#);
        assert_eq!(since.action, Action::Subscribe(list(), Start::Since("c".into())));
        let last = parse(r#"{"op":"subscribe","topics":["a","b"],"last":true,"since":null}"#);
        assert_eq!(last.action, Action::Subscribe(list(), Start::Newest));
        let unsubscribe = parse(r#"{"ref":null,"topic":"a\u002e*","op":"unsubscribe"}"#);
        assert_eq!(unsubscribe.action, Action::Unsubscribe(vec!["a.*".into()]));
        assert_eq!(unsubscribe.reference, None);
        let auth = parse(r#"{"op":"auth","token":"t","since":"5","ref":"a"}"#);
        let (token, since) = (Cow::Borrowed("t"), Some(Cow::Borrowed("5")));
        assert_eq!(auth.action, Action::Auth(Auth { token, since, topics: vec![] }));
        let auth = parse(r#"{"op":"auth","token":"t","topics":["a","b\u002e*"]}"#);
        let topics = vec![Cow::Borrowed("a"), Cow::Borrowed("b.*")];
        let token = Cow::Borrowed("t");
        assert_eq!(auth.action, Action::Auth(Auth { token, since: None, topics }));
        let topics = parse(r#"{"op":"topics","topics":["a"],"ref":7}"#);
        assert_eq!(topics.action, Action::Topics);
        assert_eq!(topics.reference.unwrap().text(), "7");
        let members = parse(r#"{"op":"members","topic":"room.7","topics":["a"]}"#);
        assert_eq!(members.action, Action::Members("room.7".into()));
        let ping = |text| parse(text).action;
        assert_eq!(ping(r#"{"op":"ping","topic":null}"#), Action::Ping { wants_cursor: false });
        assert_eq!(ping(r#"{"op":"ping","cursor":true}"#), Action::Ping { wants_cursor: true });
        for data in ["null", "[1.0, 2e400]", r#""\ud800""#, r#"{"a":1,"a":2}"#] {
            let text = format!(r#"{{"op":"send","data": {data} ,"ref":"\u0061"}}"#);
            let command = parse(&text);
            let Action::Send { data: read, topic: None } = command.action else { panic!("{data}") };
            assert_eq!(read.text(), data);
            let kept = command.reference.unwrap().text().to_owned();
            assert_eq!(RawJson::parse(&kept), command.reference);
        }
        assert!(ClientCommand::parse(r#"{"op":"send","topic":"a"}"#).is_err());
    }

    #[test]
    fn a_reference_comes_back_as_it_was_written() {
        let (long, escapes) = ("x".repeat(64), "\\u00e9".repeat(32));
        let digits = "9".repeat(64);
        let strings =
            [format!("\"{long}\""), format!("\"{escapes}\""), "\"\\/\"".into(), "\"\"".into()];
        let numbers = ["1.0".into(), "-0".into(), "1E+400".into(), digits.clone()];
        for reference in strings.into_iter().chain(numbers) {
            let command = format!("{{\"op\":\"ping\",\"ref\": {reference} }}");
            let written = serde_json::to_string(&parse(&command).reference).unwrap();
            assert_eq!(written, reference);
        }
        let malformed = [format!("\"{long}x\""), format!("\"{escapes}e\""), format!("{digits}9")];
        let wrong =
            ["true", "[1]", "{}", "\"\\ud800\"", "\"\n\"", "01", "+1", "NaN"].map(str::to_owned);
        for reference in malformed.into_iter().chain(wrong) {
            let command = format!("{{\"op\":\"ping\",\"ref\":{reference}}}");
            assert!(ClientCommand::parse(&command).is_err(), "{reference}");
        }
    }

    #[test]
    fn commands_about_topics_are_told_from_others() {
        for (text, expected) in [
            (r#"{"op":"subscribe","topic":"a"}"#, true),
            (r#"{"topics":["a"], "op" : "unsubscribe"}"#, true),
            (r#"{"op":"subscribe","topics":["op","\u00e9"]}"#, true),
            (r#"{"op":"subscribe","topics":["op"],"s\u0069nce":"c"}"#, false),
            (r#"{"op":"subscribe","topic":"a","since":"c"}"#, false),
            (r#"{"op":"subscribe","topic":"a","last":true}"#, false),
            (r#"{"op":"topics"}"#, false),
            (r#"{"op":"send","data":"subscribe"}"#, false),
            (r#"{"data":{"op":"subscribe"},"op":"send"}"#, false),
            (r#"{"x":{"op":"subscribe"},"o\u0070":"ping"}"#, false),
            (r#"{"op":"auth","token":"t"}"#, false),
            ("ping", false),
            ("", false),
        ] {
            assert_eq!(asks_for_topics(text), expected, "{text}");
        }
    }

    #[test]
    fn no_other_command_passes_for_one_about_topics() {
        let members = [
            r#""op":"subscribe""#,
            r#""op" : "ping""#,
            r#""o\u0070":"ping""#,
            r#""\u006Fp":"unsubscribe""#,
            r#""x":{"op":"subscribe"}"#,
            r#""x":"\"op\":\"subscribe\"""#,
            r#""topics":["op","a"]"#,
            r#""ref":"subscribe""#,
        ];
        let seed = 0x7072_6963;
        let mut random = Random::new(seed);
        let mut found = 0;
        for round in 0..20_000 {
            let count = random.below(5);
            let some: Vec<&str> = (0..count).map(|_| random.choose(&members)).collect();
            let text = format!("{{{}}}", some.join(","));
            let Ok(command) = ClientCommand::parse(&text) else { continue };
            if asks_for_topics(&text) {
                let is_one =
                    matches!(command.action, Action::Subscribe(..) | Action::Unsubscribe(_));
                assert!(is_one, "seed {seed} round {round}: {text}");
                found += 1;
            }
        }
        assert!(found > 100, "the generator makes commands about topics: {found}");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        let cases = r#"ping {} [] ["ping"] "ping" null 5 { {"op":"ping"}} {"op":"ping"}{} {"op":"ping",}
            {"op":"Ping"} {"op":""} {"op":null} {"op":1} {"op":["ping"]} {"OP":"ping"} {'op':'ping'}
            {"op":"members"} {"op":"members","topic":null} {"op":"members","topics":["a"]}
            {"op":"topic"} {"op":"topics","topics":"a"} {"op":"topics","ref":[7]}
            {"op":"subscribe","topic":"a","since":5} {"op":"subscribe","topic":"a","last":1}
            {"op":"subscribe","topic":"a","since":"c","last":true}
            {"op":"subscribe"} {"op":"subscribe","topic":null} {"op":"subscribe","topic":7}
            {"op":"subscribe","topic":["a"]} {"op":"subscribe","topics":"a"} {"op":"subscribe","topics":["a",1]}
            {"op":"subscribe","topic":"a","topics":["b"]} {"op":"unsubscribe","token":"a"} {"op":"auth"}
            {"op":"auth","token":1} {"op":"auth","token":"t","since":5} {"op":"ping","topic":5}
            {"op":"auth","token":"t","topics":"a"} {"op":"auth","token":"t","topics":[5]}
            {"op":"ping","op":"ping"} {"op":"ping","ref":1,"ref":1} {"op":"ping","\u006fp":"ping"}"#;
        for text in cases.split_whitespace().chain([""]) {
            assert!(ClientCommand::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let pieces: [&[u8]; 16] = [
            b"{",
            b"}",
            b"[",
            b"\"op\"",
            b":",
            b",",
            b"\"subscribe\"",
            b"\"topic\"",
            b"\"ref\"",
            b"\"ping\"",
            b"1",
            b"null",
            b"\"",
            b"\\u",
            "\u{10ffff}".as_bytes(),
            b"\"op\":\"ping\"",
        ];
        let seed = 0x6261_6421;
        let mut random = Random::new(seed);
        for round in 0..50_000 {
            let text = String::from_utf8(random.bytes(&pieces)).expect("pieces of UTF-8");
            let is_object = serde_json::from_str::<serde_json::Value>(&text)
                .is_ok_and(|value| value.is_object());
            assert!(
                is_object || ClientCommand::parse(&text).is_err(),
                "seed {seed} round {round}: {text}"
            );
        }
        let deep = format!("{{\"op\":\"ping\",\"x\":{}", "[".repeat(60_000));
        assert!(ClientCommand::parse(&deep).is_err());
    }
}
