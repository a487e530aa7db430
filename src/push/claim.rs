//! One claim of a token, as it came: of what type it must be is said where it is used.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::topic::{Grant, is_user_id};

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
