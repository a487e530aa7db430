//! The header of a token (RFC 7515 section 4).

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny};
use serde_json::Value;

use crate::json;

/// The members that count. Any other is skipped, above all a key or a place of one, which the sender may have made.
#[derive(serde::Deserialize)]
pub struct TokenHeader {
    #[serde(deserialize_with = "algorithm")]
    pub alg: Algorithm,
    pub kid: Option<String>,
    /// The names of extensions that a reader must understand.
    pub crit: Option<IgnoredAny>,
}

/// Returns the algorithm of a name, if it is supported. `Ed25519`, the name in RFC 9864, is `EdDSA`, the only one that the crate knows.
pub fn algorithm_named(name: &str) -> Option<Algorithm> {
    match name {
        "Ed25519" => Some(Algorithm::EdDSA),
        _ => name.parse().ok(),
    }
}

fn algorithm<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Algorithm, D::Error> {
    let name = Cow::<str>::deserialize(deserializer)?;
    algorithm_named(&name).ok_or_else(|| D::Error::custom("unknown"))
}

/// Reads the header of a token of three parts.
///
/// # Errors
/// A fixed sentence that shows nothing of the token.
pub fn read_header(token: &str) -> Result<TokenHeader, &'static str> {
    let first = token.split('.').next().unwrap_or_default();
    match token.split('.').count() {
        _ if token.is_empty() => return Err("the token is empty"),
        _ if token.starts_with(['"', '\'']) => {
            return Err("the token stands in quotes: take them off");
        }
        _ if token.get(..7).is_some_and(|word| word.eq_ignore_ascii_case("bearer ")) => {
            return Err("the word Bearer belongs into the header alone");
        }
        5 => return Err("it is encrypted (JWE): a signed token has three parts"),
        3 => {}
        _ => return Err("not a signed token: that has three parts, with dots"),
    }
    let bytes = BASE64URL_NOPAD.decode(first.as_bytes());
    let bytes = bytes.map_err(|_| "its header is not in base64url without padding")?;
    json::members(&bytes).map_err(|_| problem(&bytes))
}

/// Says what is wrong with a header.
fn problem(header: &[u8]) -> &'static str {
    let Ok(header @ Value::Object(_)) = serde_json::from_slice(header) else {
        return "its header is not a JSON object";
    };
    if !matches!(header["kid"], Value::Null | Value::String(_)) {
        return "kid in its header must be a string";
    }
    match header["alg"].as_str() {
        None => "its header names no alg",
        Some(name) if name.eq_ignore_ascii_case("none") => {
            "its alg is none: unsigned tokens are never accepted"
        }
        Some("ES512") => "its alg is ES512: not supported, ES256 and ES384 are",
        Some("ES256K") => "its alg is ES256K: not supported, ES256 and ES384 are",
        Some("Ed448") => "its alg is Ed448: not supported, Ed25519 is",
        Some(name) if algorithm_named(name).is_some() => "a member of its header is there twice",
        Some(_) => "its alg is unknown: HS, RS, PS, ES256, ES384 and EdDSA are known",
    }
}
