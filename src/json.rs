//! JSON, read and written in one way.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Reads the members of a command, which are named by the fields of `T`. Unknown members are skipped, a `null` counts as absent.
///
/// # Errors
/// A fixed sentence that shows nothing of the text.
pub fn members<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, &'static str> {
    // serde takes an array of the values for a struct as well.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("expected a JSON object");
    }
    serde_json::from_slice(text).map_err(|_| WRONG_MEMBER)
}

/// The error for a text that is no command.
pub const WRONG_MEMBER: &str = "not JSON, no op, a member twice or one of a wrong type";

/// Returns a text, or an integer as its decimal digits: PHP libraries write `'sub' => 42`.
pub fn text_or_integer(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => None,
    }
}

/// Returns whether a text is one JSON value.
pub fn is_whole(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Encodes a value of texts, numbers and lists of them.
pub fn encode(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers always serialise")
}
