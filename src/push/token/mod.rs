//! Token in, claims out: JSON Web Tokens (RFC 7519) in their signed form (RFC 7515).
//!
//! The signature comes first, so that a forger learns nothing from the claims. Time is an argument.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, decode, encode};

mod claim;
mod claims;
pub(super) mod cookie;
mod dates;
mod header;
mod key;
pub(super) mod place;

use crate::config::Jwt;
use crate::engine::pubsub::topic::{Grant, is_user_id};
use claims::{Claims, Expected, Issued};
pub use claims::{Identity, TokenRefusal};
use header::{read_header, trimmed, unaccepted};
use key::{KEYS_TRIED_MAX, VerificationKey, named_algorithms};

/// A longer token is refused before any work. The place that it comes in has bounds of its own: `head_bytes_max`, which is a
/// quarter of this by default, or `message_bytes_max`.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// What [`Keys`] are made from. At least one of `secret`, `key` and `jwks` is needed.
#[derive(Clone, Copy, Default)]
pub struct KeySettings<'a> {
    /// A shared secret, 32 bytes at least; the only key that can also issue tokens.
    pub secret: Option<&'a [u8]>,
    pub previous_secret: Option<&'a [u8]>,
    /// A public key in PEM.
    pub key: Option<&'a [u8]>,
    pub previous_key: Option<&'a [u8]>,
    /// A JSON Web VerificationKey Set (RFC 7517) of public keys.
    pub jwks: Option<&'a [u8]>,
    /// The claim that names the user; `None`: `sub`.
    pub user_claim: Option<&'a str>,
    /// One of these is required in `aud`, alone or among others; none: it is not checked.
    pub audience: &'a [String],
    /// One of these is required as `iss`; none: it is not checked.
    pub issuer: &'a [String],
    /// The cookie of a handshake that a token may stand in; `None`: cookies are not read.
    pub cookie: Option<&'a str>,
    /// By how many seconds the issuer's clock may differ from ours, either way.
    pub leeway_seconds: u64,
    /// Permits these of what the keys can do. Empty: HS256 with a secret, all that fits with a
    /// public key.
    pub algorithms: &'a [String],
}

impl KeySettings<'_> {
    /// What the settings say.
    pub fn of(jwt: &Jwt) -> KeySettings<'_> {
        KeySettings {
            secret: jwt.secret.as_ref().map(|secret| secret.as_bytes()),
            previous_secret: jwt.previous_secret.as_ref().map(|secret| secret.as_bytes()),
            key: jwt.key.as_deref(),
            previous_key: jwt.previous_key.as_deref(),
            jwks: jwt.jwks.as_deref(),
            user_claim: Some(&jwt.user_claim),
            audience: &jwt.audience,
            issuer: &jwt.issuer,
            cookie: jwt.cookie.as_deref(),
            leeway_seconds: jwt.leeway_seconds,
            algorithms: &jwt.algorithms,
        }
    }
}

/// The keys in the order in which they are tried, what tokens must say, and the cookie that they may come in.
pub struct Keys {
    keys: Vec<VerificationKey>,
    signer: Option<(EncodingKey, Algorithm)>,
    expected: Expected,
    cookie: Option<String>,
}

impl Keys {
    /// Reads every key.
    ///
    /// # Errors
    /// A sentence for the operator: no key, one that cannot be used (and how to get one that can),
    /// an unknown algorithm.
    pub fn new(settings: &KeySettings<'_>) -> Result<Keys, String> {
        let named = named_algorithms(settings.algorithms)?;
        let secret = |what, secret: Option<&[u8]>| {
            secret.map(|secret| VerificationKey::from_secret(what, secret, &named)).transpose()
        };
        let pem = |what, pem: Option<&[u8]>| {
            pem.map(|pem| VerificationKey::from_pem(what, pem, &named)).transpose()
        };
        let current_secret = secret("the JWT secret", settings.secret)?;
        let signer = settings
            .secret
            .zip(current_secret.as_ref())
            .map(|(secret, key)| (EncodingKey::from_secret(secret), key.validation.algorithms[0]));
        let mut keys: Vec<VerificationKey> = current_secret.into_iter().collect();
        keys.extend(pem("the JWT key", settings.key)?);
        if let Some(jwks) = settings.jwks {
            keys.extend(VerificationKey::from_jwks(jwks, &named)?);
        }
        if keys.is_empty() {
            return Err("no key for tokens: give a JWT secret, a public key or a JWKS".to_owned());
        }
        keys.extend(secret("the previous JWT secret", settings.previous_secret)?);
        keys.extend(pem("the previous JWT key", settings.previous_key)?);
        let expected = Expected {
            user_claim: settings.user_claim.unwrap_or(Jwt::USER_CLAIM).to_owned(),
            audience: settings.audience.to_vec(),
            issuer: settings.issuer.to_vec(),
            leeway_seconds: settings.leeway_seconds,
        };
        Ok(Keys { keys, signer, expected, cookie: settings.cookie.map(str::to_owned) })
    }

    /// Whom the token speaks for, at the second `unix`.
    pub fn check(&self, token: &str, unix: u64) -> Result<Identity, TokenRefusal> {
        self.check_at_a_price(token, unix).0
    }

    /// Checks a token, and says about how many microseconds that took, whatever came of it: the caller bounds their sum. See
    /// 4.
    pub fn check_at_a_price(
        &self,
        token: &str,
        unix: u64,
    ) -> (Result<Identity, TokenRefusal>, u32) {
        let mut microseconds = 0;
        let claims = self.claims(token, &mut microseconds);
        (claims.and_then(|claims| claims.check(&self.expected, unix)), microseconds)
    }

    /// The user and the dates of a token as lines for a person, at the second `unix`; nothing of one that no key here has signed.
    pub fn shown(&self, token: &str, unix: u64) -> String {
        self.claims(token, &mut 0)
            .map_or(String::new(), |claims| claims.shown(self.user_claim(), unix))
    }

    /// The cookie that tokens may come in.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    /// The claim that names the user.
    pub fn user_claim(&self) -> &str {
        &self.expected.user_claim
    }

    /// The claims of a token that one of the keys has signed, with the user from the claim that names it here. Another name than
    /// `sub` costs a second look at the payload, and `sub` none.
    fn claims(&self, token: &str, microseconds: &mut u32) -> Result<Claims, TokenRefusal> {
        let claims = self.signed(token, microseconds)?;
        match self.user_claim() {
            Jwt::USER_CLAIM => Ok(claims),
            name => claims.of_user(&payload(trimmed(token)).ok_or(TokenRefusal::UNREADABLE)?, name),
        }
    }

    /// The claims of a token that one of the keys has signed. A token may name its key, never its
    /// algorithm: each key permits those of its own family, so a public key is never taken for a
    /// secret. `microseconds` grows by the price of each key that is tried.
    fn signed(&self, token: &str, microseconds: &mut u32) -> Result<Claims, TokenRefusal> {
        let token = trimmed(token);
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefusal::Signature("longer than 32768 bytes"));
        }
        let (header, is_renamed) = read_header(token).map_err(TokenRefusal::Signature)?;
        // RFC 7515 section 4.1.11: refuse what one does not understand. The crate does not look.
        if header.crit.is_some() {
            return Err(TokenRefusal::Signature("its header has crit, which is not supported"));
        }
        let is_accepted = self.keys.iter().any(|key| key.permits(header.alg));
        let mut refusal = TokenRefusal::Signature(match is_accepted {
            true => "no key here has its kid",
            false => unaccepted(header.alg),
        });
        let fitting = self.keys.iter().filter(|key| key.fits(&header));
        let (named, others) = (fitting.clone(), fitting);
        let named = named.filter(|key| key.is_named_by(&header));
        let others = others.filter(|key| !key.is_named_by(&header));
        for (number, key) in named.chain(others).enumerate() {
            if number == KEYS_TRIED_MAX {
                return Err(TokenRefusal::Signature(
                    "it needs a kid: more keys here fit it than are tried",
                ));
            }
            *microseconds += key.microseconds;
            let found = match is_renamed {
                true => decode_renamed(token, key, header.alg),
                false => decode(token, &key.decoding, &key.validation).map(|data| data.claims),
            };
            match found {
                Ok(claims) => return Ok(claims),
                // The claims are read only after the signature was found good.
                Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                    return Err(TokenRefusal::UNREADABLE);
                }
                Err(_) => {
                    refusal = TokenRefusal::Signature("signed with another key, or changed since")
                }
            }
        }
        Err(refusal)
    }

    /// A token that [`check`](Keys::check) accepts from `unix` on for `ttl_seconds`, with the first
    /// audience and the first issuer of the settings.
    ///
    /// # Errors
    /// A sentence for the operator: no secret to sign with, a malformed `sub` or grant, a token
    /// that would be too long.
    pub fn issue(
        &self,
        sub: &str,
        topics: &[String],
        may: &[String],
        admin: bool,
        unix: u64,
        ttl_seconds: u64,
    ) -> Result<String, String> {
        let Some((key, algorithm)) = &self.signer else {
            return Err("no JWT secret to sign with".to_owned());
        };
        if !is_user_id(sub) {
            return Err("sub: expected 1 to 255 bytes without control characters".to_owned());
        }
        if let Some(bad) = topics.iter().chain(may).find(|text| Grant::parse(text).is_none()) {
            return Err(format!("{bad:?} is no grant, expected a topic, `room.*` or `*`"));
        }
        let claims = Issued {
            user: BTreeMap::from([(self.user_claim(), sub)]),
            iat: unix,
            exp: unix.saturating_add(ttl_seconds),
            iss: self.expected.issuer.first().map(String::as_str),
            aud: self.expected.audience.first().map(String::as_str),
            topics,
            may,
            admin,
        };
        let token = encode(&Header::new(*algorithm), &claims, key)
            .map_err(|error| format!("the token cannot be signed: {error}"))?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!(
                "the token would be {} bytes long, at most {TOKEN_BYTES_MAX} are accepted",
                token.len()
            ));
        }
        Ok(token)
    }
}

/// Does what [`decode`] does for a token whose algorithm has a name that the crate does not know.
fn decode_renamed(
    token: &str,
    key: &VerificationKey,
    algorithm: Algorithm,
) -> Result<Claims, Error> {
    let malformed = || Error::from(ErrorKind::InvalidToken);
    let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    if !crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm)? {
        return Err(ErrorKind::InvalidSignature.into());
    }
    Ok(serde_json::from_slice(&payload(message).ok_or_else(malformed)?)?)
}

/// The second part of a token, decoded.
fn payload(token: &str) -> Option<Vec<u8>> {
    BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Algorithm::{ES256, ES384, EdDSA, HS256, PS384, RS256};

    const NOW: u64 = 1_700_000_000;
    const SECRET: &[u8] = b"an example secret of 32 bytes...";
    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
    const PAYLOAD: &str = r#"{"sub":"42","exp":1700000060}"#;
    const RSA: &[u8] = include_bytes!("../../../tests/keys/rsa.public.pem");
    const P256_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/p256.private.pem");

    fn settings() -> KeySettings<'static> {
        KeySettings { secret: Some(SECRET), leeway_seconds: 5, ..KeySettings::default() }
    }

    fn public(pem: &[u8]) -> KeySettings<'_> {
        KeySettings { key: Some(pem), ..KeySettings::default() }
    }

    fn keys(settings: &KeySettings<'_>) -> Keys {
        Keys::new(settings).expect("good settings")
    }

    /// A token of just these texts, signed whatever they say.
    fn sign(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
        let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
        let message = format!("{}.{}", encode(header), encode(payload));
        let signature = crypto::sign(message.as_bytes(), key, algorithm).expect("a key of it");
        format!("{message}.{signature}")
    }

    fn sign_with(secret: &[u8], header: &str, payload: &str) -> String {
        sign(header, payload, &EncodingKey::from_secret(secret), HS256)
    }

    fn assert_refused(keys: &Keys, token: &str, name: &str, case: &str) {
        let refusal = keys.check(token, NOW).expect_err(case);
        assert_eq!(refusal.name(), name, "{case}: {}", refusal.detail());
    }

    #[test]
    fn what_is_issued_is_accepted_until_it_expires() {
        let [audience, issuer] =
            [["push", "mail"], ["shop", "cellar"]].map(|all| all.map(str::to_owned));
        let settings = KeySettings { audience: &audience, issuer: &issuer, ..settings() };
        let keys = keys(&settings);
        let (topics, may) = (["room.*".to_owned(), "news".to_owned()], ["*".to_owned()]);
        let token = keys.issue("ü 42", &topics, &may, true, NOW, 60).unwrap();
        let grant = |text| Grant::parse(text).unwrap();
        let mut identity = Identity {
            sub: "ü 42".to_owned(),
            expires: NOW + 60,
            topics: vec![grant("room.*"), grant("news")],
            may: vec![grant("*")],
            admin: true,
        };
        assert_eq!(keys.check(&token, NOW), Ok(identity.clone()));
        assert_eq!(keys.check(&token, NOW + 59), Ok(identity.clone()));
        identity.expires = NOW + 65;
        assert_eq!(keys.check(&token, NOW + 60), Ok(identity.clone()));
        assert_eq!(keys.check(&token, NOW + 64), Ok(identity));
        assert_eq!(keys.check(&token, NOW + 65), Err(TokenRefusal::Expired));
        let keys = self::keys(&KeySettings { issuer: &issuer[1..], ..settings });
        assert_refused(&keys, &token, "claims", "another issuer");
    }

    #[test]
    fn the_user_is_named_by_the_claim_that_is_set() {
        let settings = KeySettings { user_claim: Some("user_id"), ..settings() };
        let keys = keys(&settings);
        let issued = keys.issue("42", &[], &[], false, NOW, 60).unwrap();
        assert_eq!(keys.check(&format!(" {issued}\n"), NOW).unwrap().sub, "42");
        let refused = self::keys(&self::settings()).check(&issued, NOW).unwrap_err();
        assert_eq!(refused.detail(), "sub is missing: it names the user");
        let by = |payload| keys.check(&sign_with(SECRET, HEADER, payload), NOW);
        // As Django's simplejwt writes it.
        let django = r#"{"token_type":"access","exp":1700000060,"sub":"7","user_id":42}"#;
        assert_eq!(by(django).unwrap().sub, "42");
        for (payload, words) in [
            (r#"{"sub":"7","exp":1700000060}"#, "user_id is missing"),
            (r#"{"user_id":4.2,"exp":1700000060}"#, "user_id must be a string of"),
            (r#"{"user_id":1,"user_id":2,"exp":1700000060}"#, "a claim twice"),
            (r#"{"user_id":1,"sub":1,"sub":2,"exp":1700000060}"#, "a claim twice"),
        ] {
            let refusal = by(payload).unwrap_err();
            assert!(refusal.detail().contains(words), "{payload}: {}", refusal.detail());
        }
        let ed = include_bytes!("../../../tests/keys/ed25519.private.pem");
        let key = EncodingKey::from_ed_pem(ed).unwrap();
        let renamed = sign(r#"{"alg":"Ed25519"}"#, django, &key, EdDSA);
        let public = include_bytes!("../../../tests/keys/ed25519.public.pem");
        let public = KeySettings { user_claim: Some("user_id"), ..self::public(public) };
        assert_eq!(self::keys(&public).check(&renamed, NOW).unwrap().sub, "42");
    }

    #[test]
    fn only_tokens_that_would_be_accepted_are_issued() {
        let keys = keys(&settings());
        let issue = |sub, grant: &str| keys.issue(sub, &[grant.to_owned()], &[], false, NOW, 60);
        assert!(issue("42", "news").is_ok());
        assert!(issue("", "news").is_err());
        assert!(issue("42", "a..b").is_err());
        let many = vec!["a".repeat(100); 400];
        assert!(keys.issue("42", &many, &[], false, NOW, 60).is_err());
        let public = self::keys(&public(RSA));
        assert!(public.issue("42", &[], &[], false, NOW, 60).is_err());
    }

    #[test]
    fn claims_are_told_apart_from_signatures() {
        let keys = keys(&settings());
        let by = |payload| sign_with(SECRET, HEADER, payload);
        assert!(keys.check(&by(PAYLOAD), NOW).is_ok());
        let unasked = by(r#"{"sub":-42,"exp":1700000060.5,"aud":5,"iss":[1,{}],"x":[{}]}"#);
        assert_eq!(keys.check(&unasked, NOW).unwrap().sub, "-42", "not the crate's own claims");
        assert_refused(&keys, &by(r#"{"sub":"42","exp":0}"#), "expired", "long ago");
        let cases = r#"{"sub":[1],"exp":1700000060} {"sub":"42","sub":"42","exp":1700000060} [] 5
            {"sub":"42","exp":1700000060,"nbf":1700000306} {"sub":"42"} {"exp":1700000060} {"#;
        for payload in cases.split_whitespace().chain([""]) {
            assert_refused(&keys, &by(payload), "claims", payload);
            let forged = sign_with(&[7; 32], HEADER, payload);
            assert_refused(&keys, &forged, "signature", payload);
        }
    }

    #[test]
    fn a_header_cannot_talk_its_way_in() {
        let keys = keys(&settings());
        let cases = r#"{"alg":"none"} {"alg":"None"} {"alg":"NONE"} {"alg":""} {"alg":null} {} 5
            {"typ":"JWT"} {"alg":"HS384"} {"alg":"RS256"} {"alg":"hs256"} {"alg":["HS256"]}
            {"alg":"HS256","alg":"HS256"} {"alg":"none","alg":"HS256"} {"alg":"HS256","crit":[]}
            {"alg":"HS256","crit":["exp"],"exp":1} {"alg":"HS256","crit":"b64"}
            {"alg":"HS256","b64":false,"crit":["b64"]} {"alg":"dir","enc":"A128GCM"}"#;
        for header in cases.split_whitespace().chain([""]) {
            let token = sign_with(SECRET, header, PAYLOAD);
            assert_refused(&keys, &token, "signature", header);
            let (unsigned, _) = token.rsplit_once('.').unwrap();
            assert_refused(&keys, &format!("{unsigned}."), "signature", header);
        }
    }

    #[test]
    fn what_is_not_a_signed_token_is_refused() {
        let keys = keys(&settings());
        let good = sign_with(SECRET, HEADER, PAYLOAD);
        let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
            panic!("three parts");
        };
        let other = BASE64URL_NOPAD.encode(PAYLOAD.replace("42", "43").as_bytes());
        let encrypted = BASE64URL_NOPAD.encode(br#"{"alg":"dir","enc":"A128GCM"}"#);
        for token in [
            String::new(),
            "garbage".to_owned(),
            "a.b.c".to_owned(),
            "..".to_owned(),
            format!("{header}.{payload}"),
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{signature}="),
            format!("{header}.{payload}.{signature}.{signature}"),
            format!("{header}..{payload}.{signature}"),
            format!("{header}.{other}.{signature}"),
            format!("{encrypted}..{payload}.{payload}.{signature}"),
            format!("é{good}"),
        ] {
            assert_refused(&keys, &token, "signature", &token);
        }
    }

    #[test]
    fn an_over_long_token_is_refused_before_any_work() {
        let keys = keys(&settings());
        let padded = |length| {
            let payload = PAYLOAD.replace('}', &format!(",\"pad\":{:?}}}", "x".repeat(length)));
            sign_with(SECRET, HEADER, &payload)
        };
        assert!(keys.check(&padded(20_000), NOW).is_ok());
        let refusal = TokenRefusal::Signature("longer than 32768 bytes");
        assert_eq!(keys.check(&padded(100_000), NOW), Err(refusal));
    }

    #[test]
    fn each_public_key_checks_its_own_signatures_only() {
        let rsa = include_bytes!("../../../tests/keys/rsa.private.pem");
        let p384 = include_bytes!("../../../tests/keys/p384.private.pem");
        let ed = include_bytes!("../../../tests/keys/ed25519.private.pem");
        let privates = [
            (0, RS256, EncodingKey::from_rsa_pem(rsa)),
            (0, PS384, EncodingKey::from_rsa_pem(rsa)),
            (1, ES256, EncodingKey::from_ec_pem(P256_PRIVATE)),
            (2, ES384, EncodingKey::from_ec_pem(p384)),
            (3, EdDSA, EncodingKey::from_ed_pem(ed)),
        ];
        let publics: [&[u8]; 4] = [
            RSA,
            include_bytes!("../../../tests/keys/p256.public.pem"),
            include_bytes!("../../../tests/keys/p384.public.pem"),
            include_bytes!("../../../tests/keys/ed25519.public.pem"),
        ];
        // The old confusion: the public key, which anybody may know, taken for a secret.
        let mut tokens: Vec<_> = publics.map(|pem| (9, sign_with(pem, HEADER, PAYLOAD))).into();
        for (owner, algorithm, key) in privates {
            let header = format!(r#"{{"alg":"{algorithm:?}"}}"#);
            let key = key.unwrap();
            tokens.push((owner, sign(&header, PAYLOAD, &key, algorithm)));
            if algorithm == EdDSA {
                let header = r#"{"alg":"Ed25519"}"#;
                tokens.push((owner, sign(header, PAYLOAD, &key, algorithm)));
                let other = BASE64URL_NOPAD.encode(PAYLOAD.replace("42", "43").as_bytes());
                let signed = tokens.last().expect("it was just pushed").1.clone();
                let parts: Vec<&str> = signed.split('.').collect();
                tokens.push((9, format!("{}.{other}.{}", parts[0], parts[2])));
            }
        }
        for (index, pem) in publics.into_iter().enumerate() {
            let keys = keys(&public(pem));
            for (owner, token) in &tokens {
                let accepted = keys.check(token, NOW).is_ok();
                assert_eq!(accepted, *owner == index, "key {index}, token of {owner}");
            }
        }
    }

    /// A set of as many keys for ES256, of which the last one is ours.
    fn key_set(count: usize) -> String {
        let key = |x: &str, y: &str, kid: usize| {
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{y}","kid":"{kid}"}}"#)
        };
        // The base point of the curve (SEC 2 section 2.4.2).
        let theirs = [
            "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY",
            "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU",
        ];
        let pem = include_bytes!("../../../tests/keys/p256.public.pem");
        let ours = VerificationKey::from_pem("it", pem, &[]).unwrap().decoding;
        let point = ours.try_get_as_bytes().unwrap();
        let part = |at: usize| BASE64URL_NOPAD.encode(&point[at..at + 32]);
        let mut keys: Vec<String> = (1..count).map(|kid| key(theirs[0], theirs[1], kid)).collect();
        keys.push(key(&part(1), &part(33), count));
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    #[test]
    fn few_keys_are_tried_with_a_token_that_names_none() {
        let private = EncodingKey::from_ec_pem(P256_PRIVATE).unwrap();
        let check = |keys: usize, header: &str| {
            let set = key_set(keys);
            let settings = KeySettings { jwks: Some(set.as_bytes()), ..KeySettings::default() };
            let token = sign(header, PAYLOAD, &private, ES256);
            let (checked, microseconds) = self::keys(&settings).check_at_a_price(&token, NOW);
            (checked.map(|identity| identity.sub), microseconds)
        };
        let (bare, named) = (r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":"20"}"#);
        assert_eq!(check(4, bare), (Ok("42".to_owned()), 4 * 250));
        let refusal =
            TokenRefusal::Signature("it needs a kid: more keys here fit it than are tried");
        assert_eq!(check(5, bare), (Err(refusal.clone()), 4 * 250));
        assert_eq!(check(20, bare), (Err(refusal), 4 * 250));
        assert_eq!(check(20, named), (Ok("42".to_owned()), 250));
        let unknown = TokenRefusal::Signature("no key here has its kid");
        assert_eq!(check(20, r#"{"alg":"ES256","kid":"21"}"#), (Err(unknown), 0));
    }

    #[test]
    fn a_named_key_is_tried_before_those_without_a_name() {
        let (pem, set) = (include_bytes!("../../../tests/keys/p256.public.pem"), key_set(5));
        let (previous_key, jwks) = (Some(&pem[..]), Some(set.as_bytes()));
        let keys = keys(&KeySettings { jwks, previous_key, ..KeySettings::default() });
        let private = EncodingKey::from_ec_pem(P256_PRIVATE).unwrap();
        for (kid, price) in [("5", 250), ("1", 2 * 250), ("another", 250)] {
            let header = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
            let token = sign(&header, PAYLOAD, &private, ES256);
            let (checked, microseconds) = keys.check_at_a_price(&token, NOW);
            assert_eq!((checked.is_ok(), microseconds), (true, price), "{kid}");
        }
    }

    #[test]
    fn a_previous_key_still_counts_and_a_third_one_does_not() {
        let old = Some(&[7; 40][..]);
        let keys = keys(&KeySettings { previous_secret: old, key: Some(RSA), ..settings() });
        assert!(keys.check(&sign_with(SECRET, HEADER, PAYLOAD), NOW).is_ok());
        assert!(keys.check(&sign_with(&[7; 40], HEADER, PAYLOAD), NOW).is_ok());
        let third = sign_with(&[8; 40], HEADER, PAYLOAD);
        assert_refused(&keys, &third, "signature", "a third secret");
        let expired = sign_with(&[7; 40], HEADER, r#"{"sub":1,"exp":1}"#);
        assert_refused(&keys, &expired, "expired", "by the previous secret");
    }

    #[test]
    fn settings_that_could_not_work_are_refused() {
        let refuse = |change: fn(&mut KeySettings<'static>)| {
            let mut settings = settings();
            change(&mut settings);
            assert!(Keys::new(&settings).is_err());
        };
        refuse(|settings| settings.secret = None);
        refuse(|settings| settings.secret = Some(b""));
        refuse(|settings| settings.secret = Some(b"short"));
        refuse(|settings| settings.secret = settings.previous_secret.replace(SECRET));
        refuse(|settings| settings.previous_secret = Some(b"short"));
        refuse(|settings| settings.key = Some(P256_PRIVATE));
        refuse(|settings| settings.jwks = Some(b"{}"));
        let algorithms = &["RS256".to_owned()];
        assert!(Keys::new(&KeySettings { algorithms, ..settings() }).is_err());
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (keys, good) = (keys(&settings()), sign_with(SECRET, HEADER, PAYLOAD));
        let (seed, mut state) = (0x6a77_7421_u64, 0x6a77_7421_u64);
        for round in 0..20_000 {
            let mut bytes = good.clone().into_bytes();
            for _ in 0..1 + round % 3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = state as usize % bytes.len();
                bytes[at] = b"Aa0._-=\n"[(state >> 40) as usize % 8];
            }
            let token = String::from_utf8(bytes).expect("ASCII");
            let accepted = keys.check(&token, NOW).is_ok();
            assert_eq!(accepted, token == good, "seed {seed} round {round}");
        }
    }
}
