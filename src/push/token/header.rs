//! The header of a token, with a piece of advice for each mistake that makes a text something else than a signed token.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, Header, decode_header};
use serde_json::Value;

/// Strips the blanks, line ends and byte order mark that people leave around a token; none is part of it (RFC 7515 section 7.1).
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}')
}

/// Reads the header of a token of three parts. `Ed25519`, the name in RFC 9864, is read as `EdDSA`, the only one that the crate
/// knows.
///
/// # Errors
/// A fixed sentence that shows nothing of the token.
pub fn read_header(token: &str) -> Result<Header, &'static str> {
    if let Ok(header) = decode_header(token) {
        return Ok(header);
    }
    let mut header = parse_header(token)?;
    let kid = &header["kid"];
    if !kid.is_null() && !kid.is_string() {
        return Err("kid in its header must be a string");
    }
    if header["alg"] != "Ed25519" {
        return Err(unknown_algorithm(&header["alg"]));
    }
    header["alg"] = Value::from("EdDSA");
    serde_json::from_value(header).map_err(|_| "a member of its header is malformed")
}

fn parse_header(token: &str) -> Result<Value, &'static str> {
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
    let header: Value =
        serde_json::from_slice(&bytes).map_err(|_| "its header is not a JSON object")?;
    if header.is_object() { Ok(header) } else { Err("its header is not a JSON object") }
}

fn unknown_algorithm(alg: &Value) -> &'static str {
    match alg.as_str() {
        None => "its header names no alg",
        Some(name) if name.eq_ignore_ascii_case("none") => {
            "its alg is none: unsigned tokens are never accepted"
        }
        Some("ES512") => "its alg is ES512: not supported, ES256 and ES384 are",
        Some("ES256K") => "its alg is ES256K: not supported, ES256 and ES384 are",
        Some("Ed448") => "its alg is Ed448: not supported, Ed25519 is",
        Some(_) => "its alg is unknown: HS, RS, PS, ES256, ES384 and EdDSA are known",
    }
}

/// The detail of a refusal for lack of a key for this algorithm; short enough for the reason of a close frame.
pub fn unaccepted(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "its alg is HS256, not accepted here: see jwt.algorithms",
        Algorithm::HS384 => "its alg is HS384: sign with HS256, or see jwt.algorithms",
        Algorithm::HS512 => "its alg is HS512: sign with HS256, or see jwt.algorithms",
        Algorithm::ES256 => "its alg is ES256, and no key here is for that",
        Algorithm::ES384 => "its alg is ES384, and no key here is for that",
        Algorithm::EdDSA => "its alg is EdDSA, and no key here is for that",
        _ => "its alg is one of RSA, and no key here is for that",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(header: &str, rest: &str) -> &'static str {
        let token = format!("{}{rest}", BASE64URL_NOPAD.encode(header.as_bytes()));
        read_header(&token).expect_err("it is no token")
    }

    #[test]
    fn each_mistake_is_told_by_its_own_words() {
        for (header, rest, words) in [
            (r#"{"alg":"dir","enc":"A128GCM"}"#, ".a.b.c.d", "JWE"),
            (r#"{"alg":"none"}"#, ".a.", "never accepted"),
            (r#"{"alg":"ES512"}"#, ".a.b", "ES512"),
            (r#"{"alg":"XY1"}"#, ".a.b", "unknown"),
            (r#"{"typ":"JWT"}"#, ".a.b", "names no alg"),
            (r#"{"alg":"HS256","kid":7}"#, ".a.b", "kid"),
            ("[]", ".a.b", "not a JSON object"),
            ("{", ".a.b", "not a JSON object"),
            ("{}", ".a", "three parts"),
        ] {
            assert!(told(header, rest).contains(words), "{header}: {}", told(header, rest));
        }
        for (token, words) in [
            ("", "empty"),
            ("\"a.b.c\"", "quotes"),
            ("'a.b.c'", "quotes"),
            ("Bearer a.b.c", "Bearer"),
            ("bearer a.b.c", "Bearer"),
            ("!.b.c", "base64url"),
            ("garbage", "three parts"),
        ] {
            let found = read_header(token).expect_err("it is no token");
            assert!(found.contains(words), "{token}: {found}");
        }
    }

    #[test]
    fn what_stands_around_a_token_is_passed_over() {
        for text in ["a.b.c", "a.b.c\n", " a.b.c\r\n\r\n", "\u{feff}a.b.c\t"] {
            assert_eq!(trimmed(text), "a.b.c");
        }
    }
}
