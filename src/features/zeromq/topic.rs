//! The topic of a message that is one JSON object: the value of one of its members.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

/// Returns the value of the member `field`: a text, or an integer as its decimal digits, since PHP writes `'category' => 42`.
///
/// # Errors
/// A fixed sentence that shows nothing of the object.
pub fn topic_of<'a>(object: &'a [u8], field: &str) -> Result<Cow<'a, str>, &'static str> {
    let mut json = serde_json::Deserializer::from_slice(object);
    let topic = json.deserialize_map(TopicVisitor { field }).and_then(|topic| {
        json.end()?;
        Ok(topic)
    });
    match topic {
        Ok(Some(topic)) => Ok(topic),
        Ok(None) => Err("it has no topic: a member with the name of zeromq_topic_field"),
        Err(_) => Err("its one part is no JSON object whose zeromq_topic_field is a text"),
    }
}

struct TopicVisitor<'field> {
    field: &'field str,
}

impl<'de> Visitor<'de> for TopicVisitor<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut topic = None;
        while let Some(Word(name)) = members.next_key()? {
            if name != self.field {
                members.next_value::<IgnoredAny>()?;
            } else if topic.replace(members.next_value::<Word>()?.0).is_some() {
                return Err(A::Error::custom("a topic twice"));
            }
        }
        Ok(topic)
    }
}

/// A text, borrowed if nothing in it is escaped, or an integer.
struct Word<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Word<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or an integer")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Owned(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Word<'de>, E> {
        Ok(Word(Cow::Owned(number.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_is_a_member_of_the_object_itself() {
        let json = br#"{"title":"x","deep":{"topic":"no"},"topic":"room.7","list":["topic"]}"#;
        assert!(matches!(topic_of(json, "topic"), Ok(Cow::Borrowed("room.7"))));
        assert_eq!(topic_of(json, "title").as_deref(), Ok("x"));
        for (json, topic) in [
            (r#" {"topic" : "a" } "#, "a"),
            (r#"{"t\u006fpic":"room\u002e7"}"#, "room.7"),
            (r#"{"topic":42}"#, "42"),
            (r#"{"topic":-1}"#, "-1"),
            (r#"{"topic":""}"#, ""),
        ] {
            assert_eq!(topic_of(json.as_bytes(), "topic").as_deref(), Ok(topic), "{json}");
        }
    }

    #[test]
    fn anything_else_is_malformed() {
        for json in [
            "",
            "x",
            "{}",
            "[]",
            r#"["topic","a"]"#,
            r#""topic""#,
            r#"{"topic":"a""#,
            r#"{"topic":"a"}}"#,
            r#"{"topic":"a"}{"topic":"a"}"#,
            r#"{"topic":null}"#,
            r#"{"topic":1.5}"#,
            r#"{"topic":["a"]}"#,
            r#"{"topic":{}}"#,
            r#"{"topic":true}"#,
            r#"{"topic":"a","topic":"b"}"#,
            r#"{"Topic":"a"}"#,
            "{\"topic\":\"a\n\"}",
        ] {
            assert!(topic_of(json.as_bytes(), "topic").is_err(), "{json}");
        }
        assert!(topic_of(b"{\"topic\":\"\xff\"}", "topic").is_err());
        let deep = ["{\"a\":", &"[".repeat(100_000), "\"topic\""].concat();
        assert!(topic_of(deep.as_bytes(), "topic").is_err());
    }
}
