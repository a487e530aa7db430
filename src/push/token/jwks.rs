//! A JSON Web Key Set (RFC 7517 section 5): the public keys of an issuer.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::header::algorithm_named;
use super::key::{KEYS_TRIED_MAX, VerificationKey, without_mark};
use super::signature::SignatureKey;

const MALFORMED: &str = "lacks a member, or one is of the wrong type";

/// Reads the keys of a set that check signatures. Keys for encryption and of unsupported kinds are skipped, as the RFC asks;
/// unusable ones too, with a line in the log: the issuer's other keys remain in use.
///
/// # Errors
/// The set contains a secret or a private key, or no key is left.
pub fn read(jwks: &[u8], named: &[Algorithm]) -> Result<Vec<VerificationKey>, String> {
    let set: Value = serde_json::from_slice(without_mark(jwks))
        .map_err(|error| format!("the JWKS file is not JSON (line {})", error.line()))?;
    let Some(entries) = set["keys"].as_array() else {
        return Err("the JWKS file has no `keys`, expected {\"keys\":[…]}".to_owned());
    };
    let (mut keys, mut problems) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        let name = format!("key {} of the JWKS file", index + 1);
        refuse_secret(&name, entry)?;
        match read_key(entry, named) {
            Ok(key) => keys.extend(key),
            Err(problem) => problems.push(format!("{name} {problem}")),
        }
    }
    if keys.is_empty() && !problems.is_empty() {
        return Err(problems.swap_remove(0));
    }
    problems.iter().for_each(|problem| log::warn!("passed over: {problem}"));
    if let Some(problem) = too_many(&keys) {
        log::warn!("{problem}");
    }
    if keys.is_empty() {
        let message = "the JWKS file holds no key that checks signatures with a permitted \
                       algorithm, expected RSA, EC on P-256 or P-384, or Ed25519";
        return Err(message.to_owned());
    }
    Ok(keys)
}

/// Reads one key; `None` if it is to be skipped.
fn read_key(entry: &Value, named: &[Algorithm]) -> Result<Option<VerificationKey>, String> {
    let for_signatures = entry["use"].as_str().is_none_or(|purpose| purpose == "sig")
        && entry["key_ops"].as_array().is_none_or(|uses| uses.iter().any(|each| each == "verify"));
    let is_known = matches!(
        (entry["kty"].as_str(), entry["crv"].as_str()),
        (Some("RSA"), _) | (Some("EC"), Some("P-256" | "P-384")) | (Some("OKP"), Some("Ed25519"))
    );
    if !for_signatures || !is_known {
        return Ok(None);
    }
    let alg = match text(entry, "alg")?.map(algorithm_named) {
        Some(None) => return Ok(None),
        alg => alg.flatten(),
    };
    let id = text(entry, "kid")?.map(str::to_owned);
    let number = |name| text(entry, name)?.ok_or(MALFORMED);
    let key = match entry["kty"].as_str() {
        Some("RSA") => DecodingKey::from_rsa_components(number("n")?, number("e")?),
        Some("EC") => DecodingKey::from_ec_components(number("x")?, number("y")?),
        _ => DecodingKey::from_ed_components(number("x")?),
    };
    let key = key.map_err(|_| "is not in base64url")?;
    let (key, mut usual) = SignatureKey::from_public(&key)?;
    if let Some(alg) = alg {
        let at = usual.iter().position(|each| *each == alg);
        let at =
            at.ok_or_else(|| format!("is for {alg:?} (`alg`), which does not fit its `kty`"))?;
        usual = &usual[at..=at];
    }
    Ok(VerificationKey::new(id, key, usual, named))
}

/// Returns the text of a member, if it is there.
fn text<'a>(entry: &'a Value, name: &str) -> Result<Option<&'a str>, &'static str> {
    match &entry[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(MALFORMED),
    }
}

/// A warning if a set has more keys of one algorithm than are tried.
fn too_many(keys: &[VerificationKey]) -> Option<String> {
    let algorithms = keys.iter().map(|key| key.algorithms[0]);
    let counts = algorithms
        .map(|algorithm| (keys.iter().filter(|key| key.permits(algorithm)).count(), algorithm));
    let (count, algorithm) = counts.max_by_key(|(count, _)| *count)?;
    (count > KEYS_TRIED_MAX).then(|| {
        format!(
            "the JWKS file has {count} keys for {algorithm:?}: tokens without `kid` are tried with \
             the first {KEYS_TRIED_MAX} alone"
        )
    })
}

/// Refuses secrets and private keys: they do not belong in a file that others may read.
fn refuse_secret(name: &str, entry: &Value) -> Result<(), String> {
    if entry["kty"] == "oct" {
        return Err(format!(
            "{name} is a secret (`oct`), expected public keys: a secret belongs in a file of its own"
        ));
    }
    if !entry["d"].is_null() {
        return Err(format!(
            "{name} is a private key, expected the public one: leave out `d` and the rest"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::header::TokenHeader;
    use super::*;
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::json;

    const RSA: &[u8] = include_bytes!("../../../tests/keys/rsa.public.pem");
    const P256: &[u8] = include_bytes!("../../../tests/keys/p256.public.pem");
    const P384: &[u8] = include_bytes!("../../../tests/keys/p384.public.pem");
    const ED25519: &[u8] = include_bytes!("../../../tests/keys/ed25519.public.pem");

    /// The public key as a JWK, with `more` members (each with a comma before it).
    fn jwk(pem: &[u8], more: &str) -> String {
        let key = VerificationKey::from_pem("it", pem, &[]).unwrap().signature;
        let number = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
        let mut value = match key {
            SignatureKey::Rsa { modulus, exponent } => {
                json!({"kty": "RSA", "n": number(&modulus), "e": number(&exponent)})
            }
            SignatureKey::Point(point) if point.len() == 32 => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": number(&point)})
            }
            SignatureKey::Point(point) => {
                let (x, y) = point[1..].split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": number(x), "y": number(y)})
            }
            SignatureKey::Secret(_) => panic!("a public key"),
        };
        let more: Value = serde_json::from_str(&format!("{{\"unknown\":1{more}}}")).unwrap();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value.to_string()
    }

    fn set(keys: &[String]) -> Result<Vec<VerificationKey>, String> {
        super::read(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes(), &[])
    }

    #[test]
    fn a_jwks_gives_the_keys_that_check_signatures() {
        let keys = set(&[
            jwk(RSA, r#","kid":"a","alg":"RS256","use":"sig""#),
            jwk(RSA, r#","kid":"b","use":"enc""#),
            jwk(RSA, r#","kid":"c","alg":"RSA-OAEP""#),
            jwk(P384, r#","kid":"d","key_ops":["verify"]"#),
            jwk(P384, r#","kid":"e","key_ops":["encrypt"]"#),
            r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(),
            r#"{"kty":"AKP"}"#.to_owned(),
            jwk(ED25519, ""),
            // The name of RFC 9864.
            jwk(ED25519, r#","kid":"f","alg":"Ed25519""#),
        ])
        .unwrap();
        let algorithms: Vec<_> = keys.iter().map(|key| key.algorithms.clone()).collect();
        use Algorithm::{ES384, EdDSA, RS256};
        assert_eq!(algorithms, [[RS256], [ES384], [EdDSA], [EdDSA]]);
        let ids: Vec<_> = keys.iter().map(|key| key.id.as_deref()).collect();
        assert_eq!(ids, [Some("a"), Some("d"), None, Some("f")]);
    }

    #[test]
    fn a_token_that_names_a_key_is_checked_with_no_other() {
        let keys = set(&[jwk(P256, r#","kid":"a""#), jwk(P256, r#","kid":"b""#), jwk(P256, "")]);
        let keys = keys.unwrap();
        let fitting = |algorithm, kid: Option<&str>| {
            let header = TokenHeader { alg: algorithm, kid: kid.map(str::to_owned), crit: None };
            keys.iter().map(|key| key.fits(&header)).collect::<Vec<_>>()
        };
        assert_eq!(fitting(Algorithm::ES256, Some("b")), [false, true, true]);
        assert_eq!(fitting(Algorithm::ES256, Some("c")), [false, false, true]);
        assert_eq!(fitting(Algorithm::ES256, None), [true; 3]);
        assert_eq!(fitting(Algorithm::ES384, Some("b")), [false; 3]);
    }

    #[test]
    fn a_set_with_more_keys_than_are_tried_is_told() {
        let of = |count| set(&vec![jwk(P256, ""); count]).unwrap();
        assert_eq!(too_many(&of(KEYS_TRIED_MAX)), None);
        let message = "the JWKS file has 5 keys for ES256: tokens without `kid` are tried with the \
                       first 4 alone";
        assert_eq!(too_many(&of(KEYS_TRIED_MAX + 1)).as_deref(), Some(message));
        let mixed = [jwk(P256, ""), jwk(P384, ""), jwk(ED25519, ""), jwk(RSA, "")];
        assert_eq!(too_many(&set(&[&mixed[..], &mixed[..]].concat()).unwrap()), None);
    }

    #[test]
    fn a_jwks_with_a_key_that_does_not_belong_there_is_refused() {
        for (keys, expected) in [
            (vec![], "holds no key"),
            (vec![jwk(RSA, r#","use":"enc""#)], "holds no key"),
            (vec![r#"{"kty":"oct","k":"AAAA"}"#.to_owned()], "key 1 of the JWKS file is a secret"),
            (vec![jwk(P256, r#","d":"AAAA""#)], "is a private key"),
            (vec![jwk(P256, r#","alg":"ES384""#)], "key 1 of the JWKS file is for ES384"),
            (vec![jwk(RSA, r#","alg":"HS256""#)], "which does not fit"),
            (vec![jwk(RSA, r#","n":"AAAA""#)], "is not an RSA key"),
            (vec![jwk(RSA, r#","n":5"#)], "lacks a member"),
            (vec![jwk(ED25519, r#","x":"AAAA""#)], "is not a point"),
            (vec![jwk(ED25519, r#","x":"?""#)], "is not in base64url"),
            (vec![jwk(P256, r#","x":"AAAA""#)], "is not a point"),
        ] {
            let message = set(&keys).err().expect("refused");
            assert!(message.contains(expected), "{message}");
        }
        for jwks in ["", "[]", "{}", r#"{"keys":{}}"#, "5"] {
            assert!(
                super::read(jwks.as_bytes(), &[]).err().expect("refused").contains("the JWKS file")
            );
        }
    }

    /// RFC 7517 section 5: what is not understood is passed over, or a reload would never learn the issuer's next key.
    #[test]
    fn an_odd_key_of_a_jwks_leaves_the_others() {
        for odd in [
            jwk(P256, r#","alg":"ES384""#),
            jwk(RSA, r#","n":"AAAA""#),
            jwk(RSA, r#","e":5"#),
            jwk(ED25519, r#","x":"?""#),
            r#"{"kty":"RSA","n":"AQAB"}"#.to_owned(),
            r#"{"kty":"XYZ"}"#.to_owned(),
        ] {
            let keys = [jwk(P256, ""), odd.clone(), jwk(ED25519, "")];
            assert_eq!(set(&keys).map(|keys| keys.len()), Ok(2), "{odd}");
        }
        // With a byte order mark.
        let marked = [b"\xef\xbb\xbf", P256].concat();
        assert!(VerificationKey::from_pem("it", &marked, &[]).is_ok());
        let set = format!("\u{feff}{{\"keys\":[{}]}}", jwk(P256, ""));
        assert!(super::read(set.as_bytes(), &[]).is_ok());
    }
}
