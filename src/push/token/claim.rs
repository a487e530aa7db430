//! One claim of a token, as it came: of what type it must be is said where it is used.

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::engine::pubsub::topic::{Grant, is_user_id};

/// A claim as it came. `null` is a value, and never the right one.
#[derive(Default)]
pub enum Claim {
    Text(String),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Flag(bool),
    List(Vec<String>),
    Other,
    #[default]
    Absent,
}

impl Claim {
    /// An integer counts as its decimal digits: PHP libraries write `'sub' => 42`.
    pub fn user_id(self) -> Option<String> {
        match self {
            Claim::Text(text) if is_user_id(&text) => Some(text),
            Claim::Unsigned(number) => Some(number.to_string()),
            Claim::Signed(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// A NumericDate (RFC 7519 section 2) in whole seconds, rounded down; beyond `u64::MAX` it is
    /// that.
    pub fn seconds(&self) -> Option<u64> {
        match *self {
            Claim::Unsigned(seconds) => Some(seconds),
            Claim::Float(seconds) if seconds >= 0.0 => Some(seconds as u64),
            _ => None,
        }
    }

    pub fn grants(&self) -> Option<Vec<Grant>> {
        match self {
            Claim::Absent => Some(Vec::new()),
            Claim::List(texts) => texts.iter().map(|text| Grant::parse(text)).collect(),
            _ => None,
        }
    }
}

/// Reads the claim `name` of a payload.
///
/// # Errors
/// The payload is no JSON object, or has the claim twice.
pub fn named(payload: &[u8], name: &str) -> serde_json::Result<Claim> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let claim = json.deserialize_map(Named(name))?;
    json.end()?;
    Ok(claim)
}

struct Named<'a>(&'a str);

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Claim;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claim, A::Error> {
        let mut found = Claim::Absent;
        while let Some(name) = members.next_key::<String>()? {
            if name != self.0 {
                members.next_value::<IgnoredAny>()?;
            } else if matches!(found, Claim::Absent) {
                found = members.next_value()?;
            } else {
                return Err(A::Error::custom("a claim twice"));
            }
        }
        Ok(found)
    }
}

/// Not derived as `untagged`: that tries one variant after the other, and each failure is an error
/// with a text of its own, six of them for the usual token.
impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claim, D::Error> {
        deserializer.deserialize_any(AnyClaim)
    }
}

struct AnyClaim;

impl<'de> Visitor<'de> for AnyClaim {
    type Value = Claim;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
        Ok(Claim::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
        Ok(Claim::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Claim, E> {
        Ok(Claim::Float(number))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Claim, E> {
        Ok(Claim::Flag(flag))
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Claim, A::Error> {
        let mut texts = Some(Vec::new());
        while let Some(element) = elements.next_element()? {
            match (element, &mut texts) {
                (Claim::Text(text), Some(texts)) => texts.push(text),
                _ => texts = None,
            }
        }
        Ok(texts.map_or(Claim::Other, Claim::List))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claim, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Claim::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_found_by_its_name_alone() {
        let user = |payload: &str| {
            named(payload.as_bytes(), "user_id").ok().and_then(|claim| claim.user_id())
        };
        for (payload, expected) in [
            (r#"{"user_id":42,"sub":"7"}"#, Some("42")),
            (r#"{"sub":"7","user\u005fid":"a"}"#, Some("a")),
            (r#"{"sub":"7"}"#, None),
            (r#"{"in":{"user_id":1},"User_id":2}"#, None),
            (r#"{"user_id":null}"#, None),
            (r#"{"user_id":4.2}"#, None),
            (r#"{"user_id":1,"user_id":1}"#, None),
            (r#"{"user_id":null,"user_id":1}"#, None),
            (r#"{"user_id":1}}"#, None),
            (r#"["user_id",1]"#, None),
            ("", None),
        ] {
            assert_eq!(user(payload).as_deref(), expected, "{payload}");
        }
    }
}
