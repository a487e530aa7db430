//! The JSON frames and close reasons for clients (`oneloop.v1`), encoded but not sent.

use std::ops::Range;

use data_encoding::BASE64;
use serde::Serialize;
use serde::de::IgnoredAny;

use super::command::RawJson;
use crate::engine::client::frame::{Frame, fit_reason};
use crate::engine::pubsub::topic::Subject;
use crate::json::encode;

/// A payload nested deeper than this travels as a string: with the frame around it, it would exceed the 127 levels at which many
/// parsers stop (serde_json for one), and a client that cannot read a frame loses its `id` as well.
const NESTING_MAX: usize = 126;

/// The frame of a message.
pub fn message_frame(subject: Subject<'_>, id: &str, payload: &[u8]) -> Frame {
    // Exact for a JSON payload and a topic without escapes.
    let around = r#"{"topic":"","id":"","data":}"#.len();
    let key = subject.key.map_or(0, |key| r#","key":"""#.len() + key.len());
    let length = around + subject.topic.len() + key + id.len() + payload.len();
    let mut place = 0..0;
    Frame::json(length, |out| place = message(subject, id, payload, out)).with_cursor_at(place)
}

/// Appends the JSON of a message. Returns the place of its cursor in it. `data` is the payload itself if it is JSON, or a string of it if it is UTF-8; any other payload
/// becomes `data64` (base64 with padding, RFC 4648 section 4).
fn message(subject: Subject<'_>, id: &str, payload: &[u8], out: &mut Vec<u8>) -> Range<usize> {
    let start = out.len();
    out.extend_from_slice(b"{\"topic\":");
    append(subject.topic, out);
    if let Some(key) = subject.key {
        out.extend_from_slice(b",\"key\":");
        append(key, out);
    }
    out.extend_from_slice(b",\"id\":");
    append(id, out);
    // A cursor has no character that is escaped.
    let end = out.len() - start - 1;
    match std::str::from_utf8(payload) {
        Ok(text) => {
            out.extend_from_slice(b",\"data\":");
            if is_embeddable(text) { out.extend_from_slice(payload) } else { append(text, out) }
        }
        Err(_) => {
            out.extend_from_slice(b",\"data64\":\"");
            let start = out.len();
            out.resize(start + BASE64.encode_len(payload.len()), 0);
            BASE64.encode_mut(payload, &mut out[start..]);
            out.push(b'"');
        }
    }
    out.push(b'}');
    end - id.len()..end
}

/// The first frame.
#[derive(Serialize)]
#[serde(tag = "op", rename = "welcome")]
pub struct Welcome<'a> {
    /// The connection's name.
    pub conn: &'a str,
    /// Its user; `None` for an anonymous client.
    pub sub: Option<&'a str>,
    /// Its topics, sorted.
    pub topics: &'a [String],
    /// `ping_seconds`.
    pub ping: u64,
    /// Its cursor.
    pub id: &'a str,
    /// The messages that it missed follow.
    pub resumed: bool,
    /// The cursor after which all messages are held, if they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<&'a str>,
}

/// The members of all other frames, of which each has some, in this order.
#[derive(Default, Serialize)]
struct AnswerFrame<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<RawJson<'a>>,
}

/// The answer to `subscribe`.
pub fn subscribed(topic: &str, reference: Option<RawJson<'_>>) -> String {
    let topic = Some(topic);
    encode(&AnswerFrame { op: "subscribed", topic, reference, ..AnswerFrame::default() })
}

/// The answer to `subscribe` with `since`; `id` is the latest message that the client may have missed. `from`: its messages are not
/// held, but all after this cursor are.
pub fn subscribed_since(
    topic: &str,
    id: &str,
    from: Option<&str>,
    reference: Option<RawJson<'_>>,
) -> String {
    let (topic, id, resumed) = (Some(topic), Some(id), Some(from.is_none()));
    let answer = AnswerFrame { topic, resumed, from, id, reference, ..AnswerFrame::default() };
    encode(&AnswerFrame { op: "subscribed", ..answer })
}

/// The answer to `subscribe` with `last`, which says whether the newest message follows.
pub fn subscribed_last(topic: &str, last: bool, reference: Option<RawJson<'_>>) -> String {
    let (topic, last) = (Some(topic), Some(last));
    encode(&AnswerFrame { op: "subscribed", topic, last, reference, ..AnswerFrame::default() })
}

/// The answer to `unsubscribe`.
pub fn unsubscribed(topic: &str, reference: Option<RawJson<'_>>) -> String {
    let topic = Some(topic);
    encode(&AnswerFrame { op: "unsubscribed", topic, reference, ..AnswerFrame::default() })
}

/// The answer to `topics`; `topics` are the client's own, sorted.
pub fn topics(topics: &[String], reference: Option<RawJson<'_>>) -> String {
    let topics = Some(topics);
    encode(&AnswerFrame { op: "topics", topics, reference, ..AnswerFrame::default() })
}

/// The answer to `ping`; `id` is a cursor that covers everything the client was sent so far.
pub fn pong(id: Option<&str>, reference: Option<RawJson<'_>>) -> String {
    encode(&AnswerFrame { op: "pong", id, reference, ..AnswerFrame::default() })
}

/// The answer to an accepted `auth`; `topics` are the client's topics from now on, sorted.
pub fn authed(sub: &str, topics: &[String], reference: Option<RawJson<'_>>) -> String {
    let (sub, topics) = (Some(sub), Some(topics));
    encode(&AnswerFrame { op: "authed", sub, topics, reference, ..AnswerFrame::default() })
}

/// The answer to a `send` that Redis has accepted; `id` is that of its entry if it went to a stream.
pub fn sent(id: Option<&str>, reference: Option<RawJson<'_>>) -> String {
    encode(&AnswerFrame { op: "sent", id, reference, ..AnswerFrame::default() })
}

/// The answer to a command that was understood but not executed, for instance `forbidden`.
pub fn error(code: &str, topic: Option<&str>, reference: Option<RawJson<'_>>) -> String {
    let code = Some(code);
    encode(&AnswerFrame { op: "error", code, topic, reference, ..AnswerFrame::default() })
}

/// The notice that messages after the one with the id `from` may be missing.
pub fn gap(from: &str) -> Frame {
    let text = encode(&AnswerFrame { op: "gap", from: Some(from), ..AnswerFrame::default() });
    Frame::text(&text)
}

/// The reason of a close, or the body of a refused handshake: a word for programs and a sentence for people, which is cut to fit
/// a close frame, and left out if empty. After `retry_seconds` the client may try again.
pub fn refusal(reason: &str, detail: &str, retry_seconds: Option<u64>) -> String {
    #[derive(Serialize)]
    struct RefusalReason<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        retry: Option<u64>,
        reason: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        detail: &'a str,
    }
    let retry = retry_seconds.map(|seconds| seconds * 1000);
    fit_reason(detail, |detail| encode(&RefusalReason { retry, reason, detail }))
}

fn append(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text always serialises, and memory takes it");
}

/// Returns whether the text is JSON that a client's parser accepts as well.
fn is_embeddable(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok() && !is_nested_too_deeply(text)
}

/// Returns whether every back end's parser accepts this JSON: some refuse deep nesting, and some half of a surrogate pair (RFC 8259
/// section 8.2), which is not a character.
pub fn is_portable(json: &str) -> bool {
    !is_nested_too_deeply(json) && !has_lone_surrogate(json)
}

/// Returns whether a string of the JSON has half of a surrogate pair.
fn has_lone_surrogate(json: &str) -> bool {
    let mut rest = json;
    let mut awaits_low = false;
    while let Some(at) = rest.find('\\') {
        let escape = &rest[at + 1..];
        let unit = escape.strip_prefix('u').and_then(|hex| hex.get(..4));
        let unit = unit.and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let is_low = matches!(unit, Some(0xdc00..=0xdfff));
        if is_low != (awaits_low && at == 0) {
            return true;
        }
        awaits_low = matches!(unit, Some(0xd800..=0xdbff));
        // The escaped character may be a backslash itself.
        rest = &escape[if unit.is_some() { 5 } else { 1 }..];
        if awaits_low && !rest.starts_with('\\') {
            return true;
        }
    }
    false
}

/// Measures the depth by hand: serde_json bounds it for values that it builds, not for those that it ignores.
fn is_nested_too_deeply(json: &str) -> bool {
    // Two brackets to a level.
    if json.len() <= 2 * NESTING_MAX {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        if depth > NESTING_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::frame::CLOSE_REASON_BYTES_MAX;
    use crate::engine::random::Random;
    use crate::push::command::ClientCommand;
    use serde_json::{Value, json};

    fn framed(payload: &[u8]) -> String {
        let mut out = b"before".to_vec();
        message("user.\"ü".into(), "i", payload, &mut out);
        let text = String::from_utf8(out).expect("a frame is UTF-8 whatever the payload");
        text.strip_prefix("before").expect("appended").to_owned()
    }

    #[test]
    fn json_with_half_a_surrogate_pair_is_not_portable() {
        for json in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#"["\uD83D", "\uDE00"]"#,
            r#""\ud83d\n\ude00""#,
            r#""\ud83d\ud83d\ude00""#,
            r#"{"\ud800":1}"#,
            r#""\ud83d\\ude00""#,
        ] {
            assert!(serde_json::from_str::<IgnoredAny>(json).is_ok(), "{json} is JSON");
            assert!(!is_portable(json), "{json}");
        }
        for json in [
            r#""\ud83d\ude00""#,
            r#""\\ud800""#,
            r#""\u00e9\u0000\"""#,
            r#""\\\ud83d\ude00""#,
            "1",
            "\"\u{1f600}\"",
        ] {
            assert!(is_portable(json), "{json}");
        }
    }

    /// Against serde_json, which refuses the same where it builds the text.
    #[test]
    fn surrogates_are_paired_as_a_parser_pairs_them() {
        let pieces = ["\\ud83d", "\\ude00", "\\\\", "\\n", "u", "d83d", "\\u0041", "\\\"", "é"];
        let mut random = Random::new(0x5u64 << 20);
        for _ in 0..20_000 {
            let count = random.below(6);
            let text: String = (0..count).map(|_| random.choose(&pieces)).collect();
            let json = format!("\"{text}\"");
            let is_text = serde_json::from_str::<String>(&json).is_ok();
            assert_eq!(is_portable(&json), is_text, "{json}");
        }
    }

    #[test]
    fn a_message_carries_its_payload_as_it_is() {
        for (payload, member) in [
            (&b"{\"a\" : [1.0, 2e3]}\n"[..], "\"data\":{\"a\" : [1.0, 2e3]}\n"),
            (b"12345678901234567890123", "\"data\":12345678901234567890123"),
            (b"\"\\u00e9\"", "\"data\":\"\\u00e9\""),
            (b"null", "\"data\":null"),
            (b"", "\"data\":\"\""),
            (b"hello", "\"data\":\"hello\""),
            (b"{\"a\":1}}", "\"data\":\"{\\\"a\\\":1}}\""),
            (b"\"\n\"", "\"data\":\"\\\"\\n\\\"\""),
            ("\u{feff}1\0".as_bytes(), "\"data\":\"\u{feff}1\\u0000\""),
            (b"\xff\x00\x01\x02", "\"data64\":\"/wABAg==\""),
            (b"\"\xff\"", "\"data64\":\"Iv8i\""),
        ] {
            assert_eq!(
                framed(payload),
                format!("{{\"topic\":\"user.\\\"ü\",\"id\":\"i\",{member}}}")
            );
        }
    }

    #[test]
    fn a_message_is_never_too_deep_to_be_read() {
        let nested =
            |depth, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
        let brackets = format!("{:?}", "[{\"\\".repeat(200));
        for (payload, is_itself) in [
            (nested(NESTING_MAX, "1"), true),
            (nested(NESTING_MAX, &brackets), true),
            (nested(NESTING_MAX + 1, ""), false),
            (nested(200_000, ""), false),
            (format!("[{}1]", "[],{},".repeat(500)), true),
        ] {
            let frame: Value = serde_json::from_str(&framed(payload.as_bytes())).unwrap();
            assert_eq!(frame["data"].is_array(), is_itself);
            assert!(is_itself || frame["data"] == payload);
        }
    }

    #[test]
    fn any_payload_comes_back_from_its_frame() {
        let pieces: [&[u8]; 18] = [
            b"{",
            b"}",
            b"[",
            b"]",
            b"\"",
            b":",
            b",",
            b"12",
            b"-0.5",
            b"true",
            b"null",
            b"\"a\"",
            b"\"b\":",
            b" ",
            b"\\",
            b"\n",
            "é".as_bytes(),
            b"\xc3",
        ];
        let seed = 0x7769_7265;
        let mut random = Random::new(seed);
        let mut embedded = 0;
        for round in 0..50_000 {
            let payload = random.bytes(&pieces);
            let frame: Value = serde_json::from_str(&framed(&payload)).expect("a frame is JSON");
            let expected =
                match (serde_json::from_slice::<Value>(&payload), std::str::from_utf8(&payload)) {
                    (Ok(value), _) => {
                        embedded += 1;
                        json!({"topic": "user.\"ü", "id": "i", "data": value})
                    }
                    (_, Ok(text)) => json!({"topic": "user.\"ü", "id": "i", "data": text}),
                    _ => json!({"topic": "user.\"ü", "id": "i", "data64": BASE64.encode(&payload)}),
                };
            assert_eq!(frame, expected, "seed {seed} round {round}");
        }
        assert!(embedded > 500, "the generator makes JSON at times");
    }

    #[test]
    fn frames_are_written_as_documented() {
        let topics = ["news".to_owned(), "user.42".to_owned()];
        let one = ClientCommand::parse(r#"{"op":"ping","ref":1}"#).unwrap().reference;
        let of_user = Welcome {
            conn: "c",
            sub: Some("42"),
            topics: &topics,
            ping: 25,
            id: "i",
            resumed: false,
            from: None,
        };
        for (frame, expected) in [
            (
                encode(&of_user),
                r#"{"op":"welcome","conn":"c","sub":"42","topics":["news","user.42"],"ping":25,"id":"i","resumed":false}"#,
            ),
            (
                encode(&Welcome { sub: None, topics: &[], ..of_user }),
                r#"{"op":"welcome","conn":"c","sub":null,"topics":[],"ping":25,"id":"i","resumed":false}"#,
            ),
            (
                encode(&Welcome { sub: None, topics: &[], from: Some("f"), ..of_user }),
                r#"{"op":"welcome","conn":"c","sub":null,"topics":[],"ping":25,"id":"i","resumed":false,"from":"f"}"#,
            ),
            (subscribed("room.7", one), r#"{"op":"subscribed","topic":"room.7","ref":1}"#),
            (
                subscribed_since("room.7", "i", None, one),
                r#"{"op":"subscribed","topic":"room.7","resumed":true,"id":"i","ref":1}"#,
            ),
            (
                subscribed_since("room.7", "i", Some("f"), None),
                r#"{"op":"subscribed","topic":"room.7","resumed":false,"from":"f","id":"i"}"#,
            ),
            (
                subscribed_last("room.7", false, one),
                r#"{"op":"subscribed","topic":"room.7","last":false,"ref":1}"#,
            ),
            (unsubscribed("room.7", None), r#"{"op":"unsubscribed","topic":"room.7"}"#),
            (super::topics(&topics, one), r#"{"op":"topics","topics":["news","user.42"],"ref":1}"#),
            (super::topics(&[], None), r#"{"op":"topics","topics":[]}"#),
            (pong(None, None), r#"{"op":"pong"}"#),
            (pong(Some("i"), one), r#"{"op":"pong","id":"i","ref":1}"#),
            (
                authed("42", &topics, one),
                r#"{"op":"authed","sub":"42","topics":["news","user.42"],"ref":1}"#,
            ),
            (
                error("forbidden", Some("room.8"), one),
                r#"{"op":"error","code":"forbidden","topic":"room.8","ref":1}"#,
            ),
            (error("busy", None, None), r#"{"op":"error","code":"busy"}"#),
            (sent(Some("1-0"), one), r#"{"op":"sent","id":"1-0","ref":1}"#),
            (sent(None, None), r#"{"op":"sent"}"#),
            (
                refusal("claims", "not \"good\"", None),
                r#"{"reason":"claims","detail":"not \"good\""}"#,
            ),
            (refusal("expired", "", None), r#"{"reason":"expired"}"#),
            (
                refusal("early", "a clock", Some(6)),
                r#"{"retry":6000,"reason":"early","detail":"a clock"}"#,
            ),
        ] {
            assert_eq!(frame, expected);
        }
    }

    #[test]
    fn a_reason_always_fits_a_close_frame() {
        for detail in ["x", "é", "\"", "\0", "日本", "x\u{10ffff}"] {
            for count in [0, 1, 15, 30, 60, 87, 88, 89, 90, 123, 124, 1000] {
                let detail = detail.repeat(count);
                let reason = refusal("signature", &detail, None);
                assert!(reason.len() <= CLOSE_REASON_BYTES_MAX);
                let value: Value = serde_json::from_str(&reason).unwrap();
                let kept = value["detail"].as_str().unwrap_or_default();
                assert!(detail.starts_with(kept));
                assert!(kept.len() == detail.len() || reason.len() + 12 > CLOSE_REASON_BYTES_MAX);
            }
        }
    }
}
