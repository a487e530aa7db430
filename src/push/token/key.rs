//! The keys that tokens are checked with, read once at start; whatever could not check a token is
//! refused here.

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation, crypto};
use serde_json::Value;

/// A shorter secret can be guessed: RFC 7518 section 3.2 asks for the length of the hash.
const SECRET_BYTES_MIN: usize = 32;

/// RFC 7518 section 3.3. Above 4096 bits the crate behind jsonwebtoken accepts no key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Keys that one token is tried with at most. A token without `kid` fits every key of its algorithm, and a forged one costs its
/// maker nothing.
pub const KEYS_TRIED_MAX: usize = 4;

/// One key, and the algorithms that it may be used with, all of one family: the token has no say in
/// it.
pub struct VerificationKey {
    /// The `kid` of a key from a JWKS.
    id: Option<String>,
    pub decoding: DecodingKey,
    /// For the signature alone; the claims are checked by `auth`, with a clock that it is given.
    pub validation: Validation,
    /// About how long it takes to check a signature.
    pub microseconds: u32,
}

impl VerificationKey {
    /// Whether a token with this header can have been signed for this key: its algorithm is
    /// permitted, and the two do not bear different ids (`kid`, RFC 7515 section 4.1.4).
    pub fn fits(&self, header: &Header) -> bool {
        let is_other =
            matches!((&self.id, &header.kid), (Some(ours), Some(theirs)) if ours != theirs);
        !is_other && self.permits(header.alg)
    }

    /// Whether the header bears its id.
    pub fn is_named_by(&self, header: &Header) -> bool {
        self.id.is_some() && self.id == header.kid
    }

    /// Whether it may be used with this algorithm.
    pub fn permits(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }

    /// A shared secret: HS256, or the HS algorithms among the `named` ones. `what` is its name in
    /// an error.
    pub fn from_secret(
        what: &str,
        secret: &[u8],
        named: &[Algorithm],
    ) -> Result<VerificationKey, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "{what} is {} bytes long, expected {SECRET_BYTES_MIN} at least: \
                 `openssl rand -base64 32` makes one",
                secret.len()
            ));
        }
        let family = AlgorithmFamily::Hmac;
        let usual = if named.is_empty() { &[Algorithm::HS256] } else { family.algorithms() };
        let key = DecodingKey::from_secret(secret);
        VerificationKey::new(None, key, usual, named).ok_or_else(|| not_named(what, usual))
    }

    /// A public key in PEM: RSA, EC on P-256 or P-384, or Ed25519.
    pub fn from_pem(
        what: &str,
        pem: &[u8],
        named: &[Algorithm],
    ) -> Result<VerificationKey, String> {
        let pem = without_mark(pem);
        let text = String::from_utf8_lossy(pem);
        if text.contains("PRIVATE KEY-----") {
            return Err(format!(
                "{what} is a private key, expected the public one: `openssl pkey -in FILE -pubout` \
                 prints it"
            ));
        }
        if text.contains("-----BEGIN CERTIFICATE") {
            return Err(format!(
                "{what} is a certificate, expected the key in it: `openssl x509 -in FILE -pubkey \
                 -noout` prints it"
            ));
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| {
                format!(
                    "{what} cannot be read, expected `-----BEGIN PUBLIC KEY-----` (PEM): RSA, EC on \
                     P-256 or P-384, or Ed25519"
                )
            })?;
        let usual = algorithms_of(&key).map_err(|problem| format!("{what} {problem}"))?;
        VerificationKey::new(None, key, usual, named).ok_or_else(|| not_named(what, usual))
    }

    /// The keys of a JWKS (RFC 7517 section 5) that check signatures; those for encryption and
    /// those of a kind that is not supported are passed over, as the RFC asks; those that cannot be used are too, with a line in
    /// the log: the issuer's other keys count as before. A secret or a private key in it is an error, and so is having none left.
    pub fn from_jwks(jwks: &[u8], named: &[Algorithm]) -> Result<Vec<VerificationKey>, String> {
        let set: Value = serde_json::from_slice(without_mark(jwks))
            .map_err(|error| format!("the JWKS file is not JSON (line {})", error.line()))?;
        let Some(entries) = set["keys"].as_array() else {
            return Err("the JWKS file has no `keys`, expected {\"keys\":[…]}".to_owned());
        };
        let (mut keys, mut problems) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            let what = format!("key {} of the JWKS file", index + 1);
            refuse_secret(&what, entry)?;
            match VerificationKey::from_jwk(&what, entry, named) {
                Ok(key) => keys.extend(key),
                Err(problem) => problems.push(problem),
            }
        }
        if keys.is_empty() && !problems.is_empty() {
            return Err(problems.swap_remove(0));
        }
        problems.iter().for_each(|problem| log::warn!("passed over: {problem}"));
        if let Some(problem) = crowd(&keys) {
            log::warn!("{problem}");
        }
        if keys.is_empty() {
            let message = "the JWKS file holds no key that checks signatures with a permitted \
                           algorithm, expected RSA, EC on P-256 or P-384, or Ed25519";
            return Err(message.to_owned());
        }
        Ok(keys)
    }

    fn from_jwk(
        what: &str,
        entry: &Value,
        named: &[Algorithm],
    ) -> Result<Option<VerificationKey>, String> {
        let for_signatures = entry["use"].as_str().is_none_or(|purpose| purpose == "sig")
            && entry["key_ops"]
                .as_array()
                .is_none_or(|uses| uses.iter().any(|each| each == "verify"));
        let kind = (entry["kty"].as_str(), entry["crv"].as_str());
        let is_known = matches!(
            kind,
            (Some("RSA"), _)
                | (Some("EC"), Some("P-256" | "P-384"))
                | (Some("OKP"), Some("Ed25519"))
        );
        if !for_signatures || !is_known {
            return Ok(None);
        }
        let jwk: Jwk = serde_json::from_value(entry.clone())
            .map_err(|_| format!("{what} lacks a member, or one is of the wrong type"))?;
        if matches!(jwk.algorithm, AlgorithmParameters::Other(_)) {
            return Err(format!("{what} lacks a member, or one is of the wrong type"));
        }
        let Ok(alg) = jwk.common.key_algorithm.map(Algorithm::try_from).transpose() else {
            return Ok(None);
        };
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| format!("{what} is not in base64url"))?;
        let mut usual = algorithms_of(&key).map_err(|problem| format!("{what} {problem}"))?;
        if let Some(alg) = alg {
            usual =
                usual.iter().position(|each| *each == alg).map(|at| &usual[at..=at]).ok_or_else(
                    || format!("{what} is for {alg:?} (`alg`), which does not fit its `kty`"),
                )?;
        }
        Ok(VerificationKey::new(jwk.common.key_id, key, usual, named))
    }

    /// `None` if the `named` algorithms, where there are any, leave the key nothing to do.
    fn new(
        id: Option<String>,
        decoding: DecodingKey,
        usual: &[Algorithm],
        named: &[Algorithm],
    ) -> Option<VerificationKey> {
        let mut algorithms = usual.to_vec();
        algorithms.retain(|each| named.is_empty() || named.contains(each));
        // The crate reads the clock by itself, and lets `aud` and `iss` of a wrong type pass: none
        // of its checks of claims is used.
        let mut validation = Validation::new(*algorithms.first()?);
        validation.algorithms = algorithms;
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let microseconds = microseconds(usual[0], &decoding);
        Some(VerificationKey { id, decoding, validation, microseconds })
    }
}

/// A warning if a set has more keys of one algorithm than are tried.
fn crowd(keys: &[VerificationKey]) -> Option<String> {
    let algorithms = keys.iter().flat_map(|key| key.validation.algorithms.first());
    let counts = algorithms
        .map(|algorithm| (keys.iter().filter(|key| key.permits(*algorithm)).count(), *algorithm));
    let (count, algorithm) = counts.max_by_key(|(count, _)| *count)?;
    (count > KEYS_TRIED_MAX).then(|| {
        format!(
            "the JWKS file has {count} keys for {algorithm:?}: tokens without `kid` are tried with \
             the first {KEYS_TRIED_MAX} alone"
        )
    })
}

/// What is not for others to see does not stand in a file that is.
fn refuse_secret(what: &str, entry: &Value) -> Result<(), String> {
    if entry["kty"] == "oct" {
        return Err(format!(
            "{what} is a secret (`oct`), expected public keys: a secret belongs into its own file"
        ));
    }
    if !entry["d"].is_null() {
        return Err(format!(
            "{what} is a private key, expected the public one: leave out `d` and the rest"
        ));
    }
    Ok(())
}

/// A file without the byte order mark that some editors put before it.
fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file)
}

fn not_named(what: &str, usual: &[Algorithm]) -> String {
    format!("{what} works with {usual:?}, none of which is among the algorithms of the settings")
}

/// Reads the names of algorithms; `none` is not one of them.
pub fn named_algorithms(names: &[String]) -> Result<Vec<Algorithm>, String> {
    let read = |name: &String| {
        name.parse().map_err(|_| {
            format!(
                "{name:?} is no algorithm, expected HS256 HS384 HS512 RS256 RS384 RS512 PS256 PS384 \
                 PS512 ES256 ES384 or EdDSA"
            )
        })
    };
    names.iter().map(read).collect()
}

/// What a public key can check, after a trial: `jsonwebtoken` takes any bytes for a key, says so
/// only when a token comes, and panics over an Ed25519 key of fewer than 32 bytes.
fn algorithms_of(key: &DecodingKey) -> Result<&'static [Algorithm], String> {
    let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    let algorithms: &[Algorithm] = match key.family() {
        AlgorithmFamily::Rsa => {
            let bits = rsa_bits(key).ok_or("is not an RSA key")?;
            if !RSA_BITS.contains(&bits) {
                return Err(format!(
                    "has {bits} bits, expected {} to {} (RFC 7518 section 3.3)",
                    RSA_BITS.start(),
                    RSA_BITS.end()
                ));
            }
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            return Ok(&[RS256, RS384, RS512, PS256, PS384, PS512]);
        }
        // A point of a curve (SEC 1 section 2.3.3), whole or compressed.
        AlgorithmFamily::Ec if matches!(length, 33 | 65) => &[Algorithm::ES256],
        AlgorithmFamily::Ec if matches!(length, 49 | 97) => &[Algorithm::ES384],
        AlgorithmFamily::Ed if length == 32 => &[Algorithm::EdDSA],
        _ => &[],
    };
    let works = |algorithm: &Algorithm| crypto::verify("", b"", key, *algorithm).is_ok();
    if !algorithms.first().is_some_and(works) {
        return Err(
            "is not a point of its curve, expected EC on P-256 or P-384, or Ed25519".to_owned()
        );
    }
    Ok(algorithms)
}

/// About how long a signature takes to be checked, as `cargo bench --bench attack -- --only signatures` measures it. What counts
/// are the ratios: on another machine all of them change together. ES256 alone depends on the build, 180 to 370 µs.
fn microseconds(algorithm: Algorithm, key: &DecodingKey) -> u32 {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => 5,
        Algorithm::EdDSA => 50,
        Algorithm::ES256 => 250,
        Algorithm::ES384 => 1500,
        // RSA, by the square of its length: 256 with 2048 bits, 1024 with 4096.
        _ => rsa_bits(key).map_or(0, |bits| ((bits * bits) >> 14) as u32),
    }
}

fn rsa_bits(key: &DecodingKey) -> Option<usize> {
    let Ok(Jwk { algorithm: AlgorithmParameters::RSA(parts), .. }) =
        Jwk::from_decoding_key(key, None)
    else {
        return None;
    };
    let modulus = data_encoding::BASE64URL_NOPAD.decode(parts.n.as_bytes()).ok()?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    Some((modulus.len() - first) * 8 - modulus[first].leading_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &[u8] = include_bytes!("../../../tests/keys/rsa.public.pem");
    const P256: &[u8] = include_bytes!("../../../tests/keys/p256.public.pem");
    const P384: &[u8] = include_bytes!("../../../tests/keys/p384.public.pem");
    const ED25519: &[u8] = include_bytes!("../../../tests/keys/ed25519.public.pem");

    fn refusal<T>(result: Result<T, String>) -> String {
        result.err().expect("refused")
    }

    #[test]
    fn the_key_fixes_the_algorithms() {
        use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, RS256};
        let of = |key: Result<VerificationKey, String>| key.unwrap().validation.algorithms;
        assert_eq!(
            of(VerificationKey::from_pem("it", RSA, &[])),
            AlgorithmFamily::Rsa.algorithms()
        );
        assert_eq!(
            of(VerificationKey::from_pem("it", RSA, &[HS256, PS256, RS256])),
            [RS256, PS256]
        );
        assert_eq!(of(VerificationKey::from_pem("it", P256, &[])), [ES256]);
        assert_eq!(of(VerificationKey::from_pem("it", P384, &[])), [ES384]);
        assert_eq!(of(VerificationKey::from_pem("it", ED25519, &[])), [EdDSA]);
        assert_eq!(of(VerificationKey::from_secret("it", &[7; 32], &[])), [HS256]);
        assert_eq!(
            of(VerificationKey::from_secret("it", &[7; 32], &[HS384, HS512])),
            [HS384, HS512]
        );
        let message = refusal(VerificationKey::from_pem("it", P256, &[ES384]));
        assert_eq!(
            message,
            "it works with [ES256], none of which is among the algorithms of the settings"
        );
        assert!(
            refusal(named_algorithms(&["none".to_owned()])).starts_with("\"none\" is no algorithm")
        );
    }

    #[test]
    fn what_cannot_check_a_token_is_refused_at_start() {
        let private: &[u8] = include_bytes!("../../../tests/keys/p256.private.pem");
        let certificate: &[u8] = include_bytes!("../../../tests/keys/certificate.pem");
        let other_curve: &[u8] = include_bytes!("../../../tests/keys/k1.public.pem");
        let small: &[u8] = include_bytes!("../../../tests/keys/rsa1024.public.pem");
        // An Ed25519 key of no bytes: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING }.
        let empty: &[u8] =
            b"-----BEGIN PUBLIC KEY-----\nMAowBQYDK2VwAwEA\n-----END PUBLIC KEY-----\n";
        for (pem, expected) in [
            (private, "is a private key"),
            (certificate, "is a certificate"),
            (other_curve, "is not a point of its curve"),
            (empty, "is not a point of its curve"),
            (small, "has 1024 bits"),
            (b"", "cannot be read"),
            (b"\xff\xff", "cannot be read"),
            (&RSA[..200], "cannot be read"),
        ] {
            let message = refusal(VerificationKey::from_pem("the JWT key", pem, &[]));
            assert!(message.contains(expected), "{message}");
        }
        let message = refusal(VerificationKey::from_secret("the JWT secret", &[7; 31], &[]));
        assert!(message.starts_with("the JWT secret is 31 bytes long"), "{message}");
    }

    /// The public key as a JWK, with `more` members (each with a comma before it).
    fn jwk(pem: &[u8], more: &str) -> String {
        let key = VerificationKey::from_pem("it", pem, &[]).unwrap().decoding;
        let mut value = serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap();
        let more: Value = serde_json::from_str(&format!("{{\"unknown\":1{more}}}")).unwrap();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        value.to_string()
    }

    fn read(keys: &[String]) -> Result<Vec<VerificationKey>, String> {
        VerificationKey::from_jwks(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes(), &[])
    }

    #[test]
    fn a_jwks_gives_the_keys_that_check_signatures() {
        let keys = read(&[
            jwk(RSA, r#","kid":"a","alg":"RS256","use":"sig""#),
            jwk(RSA, r#","kid":"b","use":"enc""#),
            jwk(RSA, r#","kid":"c","alg":"RSA-OAEP""#),
            jwk(P384, r#","kid":"d","key_ops":["verify"]"#),
            jwk(P384, r#","kid":"e","key_ops":["encrypt"]"#),
            r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(),
            r#"{"kty":"AKP"}"#.to_owned(),
            jwk(ED25519, ""),
        ])
        .unwrap();
        let algorithms: Vec<_> = keys.iter().map(|key| key.validation.algorithms.clone()).collect();
        assert_eq!(algorithms, [[Algorithm::RS256], [Algorithm::ES384], [Algorithm::EdDSA]]);
        let ids: Vec<_> = keys.iter().map(|key| key.id.as_deref()).collect();
        assert_eq!(ids, [Some("a"), Some("d"), None]);
    }

    #[test]
    fn a_token_that_names_a_key_is_checked_with_no_other() {
        let keys = read(&[jwk(P256, r#","kid":"a""#), jwk(P256, r#","kid":"b""#), jwk(P256, "")]);
        let keys = keys.unwrap();
        let fitting = |algorithm, kid: Option<&str>| {
            let mut header = Header::new(algorithm);
            header.kid = kid.map(str::to_owned);
            keys.iter().map(|key| key.fits(&header)).collect::<Vec<_>>()
        };
        assert_eq!(fitting(Algorithm::ES256, Some("b")), [false, true, true]);
        assert_eq!(fitting(Algorithm::ES256, Some("c")), [false, false, true]);
        assert_eq!(fitting(Algorithm::ES256, None), [true; 3]);
        assert_eq!(fitting(Algorithm::ES384, Some("b")), [false; 3]);
    }

    #[test]
    fn a_set_with_more_keys_than_are_tried_is_told() {
        let of = |count| read(&vec![jwk(P256, ""); count]).unwrap();
        assert_eq!(crowd(&of(KEYS_TRIED_MAX)), None);
        let message = "the JWKS file has 5 keys for ES256: tokens without `kid` are tried with the \
                       first 4 alone";
        assert_eq!(crowd(&of(KEYS_TRIED_MAX + 1)).as_deref(), Some(message));
        let mixed = [jwk(P256, ""), jwk(P384, ""), jwk(ED25519, ""), jwk(RSA, "")];
        assert_eq!(crowd(&read(&[&mixed[..], &mixed[..]].concat()).unwrap()), None);
    }

    #[test]
    fn a_key_has_the_price_of_its_algorithm() {
        let price = |pem| VerificationKey::from_pem("it", pem, &[]).unwrap().microseconds;
        assert_eq!([RSA, P256, P384, ED25519].map(price), [256, 250, 1500, 50]);
        assert_eq!(VerificationKey::from_secret("it", &[7; 32], &[]).unwrap().microseconds, 5);
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
            let message = refusal(read(&keys));
            assert!(message.contains(expected), "{message}");
        }
        for jwks in ["", "[]", "{}", r#"{"keys":{}}"#, "5"] {
            assert!(
                refusal(VerificationKey::from_jwks(jwks.as_bytes(), &[])).contains("the JWKS file")
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
            assert_eq!(read(&keys).map(|keys| keys.len()), Ok(2), "{odd}");
        }
        // With a byte order mark.
        let marked = [b"\xef\xbb\xbf", P256].concat();
        assert!(VerificationKey::from_pem("it", &marked, &[]).is_ok());
        let set = format!("\u{feff}{{\"keys\":[{}]}}", jwk(P256, ""));
        assert!(VerificationKey::from_jwks(set.as_bytes(), &[]).is_ok());
    }

    #[test]
    fn no_file_makes_it_panic() {
        let seed = 0x6b65_7973_u64;
        let mut state = seed;
        for round in 0..2_000 {
            let pem = [RSA, P256, P384, ED25519][round % 4];
            let lines: Vec<&str> = std::str::from_utf8(pem).unwrap().lines().collect();
            let mut body = lines[1..lines.len() - 1].concat().into_bytes();
            for _ in 0..1 + round % 5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // The head of the structure matters more than the numbers in it.
                let at = state as usize % body.len().min(60);
                body[at] = b"ABMIgDw0_=/+ehkQ"[(state >> 40) as usize % 16];
            }
            let body = String::from_utf8(body).unwrap();
            let changed = format!("{}\n{body}\n{}\n", lines[0], lines[lines.len() - 1]);
            let outcome = std::panic::catch_unwind(|| {
                VerificationKey::from_pem("it", changed.as_bytes(), &[])
            });
            assert!(outcome.is_ok(), "seed {seed} round {round}: {changed}");
        }
    }
}
