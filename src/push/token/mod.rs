//! JSON Web Tokens (RFC 7519) in their signed form (RFC 7515), checked and issued.
//!
//! The signature is checked first, so that a forger learns nothing from the claims. Time is an argument.

mod claims;
mod header;
mod jwks;
mod key;
pub(super) mod place;
#[cfg(test)]
mod private_key;
mod public_key;
mod signature;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use serde::Serialize;
use serde_json::json;

use crate::config::{Jwt, Secret};
use crate::engine::pubsub::topic::{Grant, is_user_id};
use claims::Claims;
pub use claims::{Identity, TokenRefusal};
use header::read_header;
use key::{KEYS_TRIED_MAX, VerificationKey, named_algorithms};

/// The longest token; a longer one is refused before any work. The place that carries it has a bound of its own: `head_bytes_max`
/// (by default a quarter of this) or `message_bytes_max`.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// The keys that tokens are checked with, in the order in which they are tried.
pub struct Keys {
    keys: Vec<VerificationKey>,
    /// The rest of the settings, without any key.
    required: Jwt,
}

impl Keys {
    /// Reads every key. At least one of `secret`, `key` and `jwks` is needed.
    ///
    /// # Errors
    /// A sentence for the operator: no key, an unusable key (and how to get a usable one), or an unknown algorithm.
    pub fn new(settings: &Jwt) -> Result<Keys, String> {
        let named = named_algorithms(&settings.algorithms)?;
        let secret = |name, secret: &Option<Secret>| {
            let secret = secret.as_ref().map(Secret::as_bytes);
            secret.map(|secret| VerificationKey::from_secret(name, secret, &named)).transpose()
        };
        let pem = |name, pem: &Option<Vec<u8>>| {
            pem.as_ref().map(|pem| VerificationKey::from_pem(name, pem, &named)).transpose()
        };
        let current_secret = secret("the JWT secret", &settings.secret)?;
        let mut keys: Vec<VerificationKey> = current_secret.into_iter().collect();
        keys.extend(pem("the JWT key", &settings.key)?);
        if let Some(jwks) = &settings.jwks {
            keys.extend(jwks::read(jwks, &named)?);
        }
        if keys.is_empty() {
            return Err("no key for tokens: give a JWT secret, a public key or a JWKS".to_owned());
        }
        keys.extend(secret("the previous JWT secret", &settings.previous_secret)?);
        keys.extend(pem("the previous JWT key", &settings.previous_key)?);
        let required = Jwt {
            secret: None,
            previous_secret: None,
            key: None,
            previous_key: None,
            jwks: None,
            ..settings.clone()
        };
        Ok(Keys { keys, required })
    }

    /// Builds the keys for one shared secret of at least 32 bytes.
    ///
    /// # Errors
    /// A sentence for the operator: the secret is too short.
    pub fn from_secret(secret: &[u8]) -> Result<Keys, String> {
        Keys::new(&Jwt { secret: Some(Secret::new(secret.to_vec())), ..Jwt::default() })
    }

    /// Checks a token at the second `unix` and returns its identity.
    pub fn check(&self, token: &str, unix: u64) -> Result<Identity, TokenRefusal> {
        self.check_at_a_price(token, unix).0
    }

    /// Checks a token, and returns about how many microseconds that took, whatever the result: the caller bounds their sum.
    pub fn check_at_a_price(
        &self,
        token: &str,
        unix: u64,
    ) -> (Result<Identity, TokenRefusal>, u32) {
        let mut microseconds = 0;
        let claims = self.claims(token, &mut microseconds);
        (claims.and_then(|claims| claims.check(&self.required, unix)), microseconds)
    }

    /// The user and the dates of a token as lines for a person, at the second `unix`; empty unless one of the keys has signed it.
    pub fn shown(&self, token: &str, unix: u64) -> String {
        self.claims(token, &mut 0)
            .map_or(String::new(), |claims| claims.shown(self.user_claim(), unix))
    }

    /// The lifetime nearest to this one that tokens may have.
    pub fn lifetime_seconds(&self, wanted: u64) -> u64 {
        match self.required.lifetime_seconds_max {
            0 => wanted,
            most => wanted.min(most),
        }
    }

    /// The cookie that may carry a token.
    pub fn cookie(&self) -> Option<&str> {
        self.required.cookie.as_deref()
    }

    /// The claim that names the user.
    pub fn user_claim(&self) -> &str {
        &self.required.user_claim
    }

    /// The claims of a token that one of the keys has signed. A token may name its key, never its algorithm: each key permits
    /// those of its own family, so a public key is never used as a secret. `microseconds` grows by the price of each key that is
    /// tried.
    fn claims(&self, token: &str, microseconds: &mut u32) -> Result<Claims, TokenRefusal> {
        let refused = |detail| Err(TokenRefusal::Signature(detail));
        let token = trimmed(token);
        if token.len() > TOKEN_BYTES_MAX {
            return refused("longer than 32768 bytes");
        }
        let header = read_header(token).map_err(TokenRefusal::Signature)?;
        // RFC 7515 section 4.1.11: refuse extensions that are not understood.
        if header.crit.is_some() {
            return refused("its header has crit, which is not supported");
        }
        if !self.keys.iter().any(|key| key.permits(header.alg)) {
            return refused(unaccepted(header.alg));
        }
        let (message, signature) = token.rsplit_once('.').expect("read_header counts the parts");
        let Ok(signature) = BASE64URL_NOPAD.decode(signature.as_bytes()) else {
            return refused("its signature is not in base64url without padding");
        };
        let fitting = self.keys.iter().filter(|key| key.fits(&header));
        let (named, others) = (fitting.clone(), fitting);
        let named = named.filter(|key| key.is_named_by(&header));
        let others = others.filter(|key| !key.is_named_by(&header));
        let mut detail = "no key here has its kid";
        for (number, key) in named.chain(others).enumerate() {
            if number == KEYS_TRIED_MAX {
                return refused("it needs a kid: more keys here fit it than are tried");
            }
            *microseconds += key.microseconds;
            if key.signature.verifies(header.alg, message.as_bytes(), &signature)
                && let Some((_, payload)) = message.split_once('.')
                && let Ok(payload) = BASE64URL_NOPAD.decode(payload.as_bytes())
            {
                let claims = Claims::parse(&payload, self.user_claim());
                return claims.map_err(|_| TokenRefusal::UNREADABLE);
            }
            detail = "signed with another key, or changed since";
        }
        refused(detail)
    }

    /// Issues a token that [`check`](Keys::check) accepts from `unix` on for `ttl_seconds`, with the first audience and the first
    /// issuer of the settings.
    ///
    /// # Errors
    /// A sentence for the operator: no secret to sign with, a malformed `sub` or grant, or a token that would be too long or live too
    /// long.
    pub fn issue(
        &self,
        sub: &str,
        topics: &[String],
        may: &[String],
        admin: bool,
        unix: u64,
        ttl_seconds: u64,
    ) -> Result<String, String> {
        // The current secret comes first; without one, the first key is public, and signs nothing.
        let key = &self.keys[0];
        let algorithm = key.algorithms[0];
        if !is_user_id(sub) {
            return Err("sub: expected 1 to 255 bytes without control characters".to_owned());
        }
        if let Some(bad) = topics.iter().chain(may).find(|text| Grant::parse(text).is_none()) {
            return Err(format!("{bad:?} is no grant, expected a topic, `room.*` or `*`"));
        }
        if ttl_seconds > self.lifetime_seconds(ttl_seconds) {
            let most = self.required.lifetime_seconds_max;
            return Err(format!(
                "a token of {ttl_seconds} s lives longer than jwt.lifetime_seconds_max ({most})"
            ));
        }
        let claims = Issued {
            user: BTreeMap::from([(self.user_claim(), sub)]),
            iat: unix,
            exp: unix.saturating_add(ttl_seconds),
            iss: self.required.issuer.first().map(String::as_str),
            aud: self.required.audience.first().map(String::as_str),
            topics,
            may,
            admin,
        };
        let [header, claims] =
            [encoded(&json!({"alg": algorithm, "typ": "JWT"}))?, encoded(&claims)?];
        let message = format!("{header}.{claims}");
        let signature = key.signature.sign(algorithm, message.as_bytes());
        let signature = signature.ok_or("no JWT secret to sign with")?;
        let token = format!("{message}.{}", BASE64URL_NOPAD.encode(signature.as_ref()));
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!(
                "the token would be {} bytes long, at most {TOKEN_BYTES_MAX} are accepted",
                token.len()
            ));
        }
        Ok(token)
    }
}

/// The claims of a token of our own, in the order of writing; empty ones are left out.
#[derive(Serialize)]
struct Issued<'a> {
    /// The one claim that names the user, and that user.
    #[serde(flatten)]
    user: BTreeMap<&'a str, &'a str>,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    topics: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    may: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    admin: bool,
}

/// A part of a token: JSON in base64url.
fn encoded(part: &impl Serialize) -> Result<String, String> {
    let json = serde_json::to_vec(part);
    let json = json.map_err(|error| format!("the token cannot be written: {error}"))?;
    Ok(BASE64URL_NOPAD.encode(&json))
}

/// Strips the blanks, line ends and byte order mark that people leave around a token; none is part of it (RFC 7515 section 7.1).
fn trimmed(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}')
}

/// The detail of a refusal for lack of a key for this algorithm; short enough for the reason of a close frame.
fn unaccepted(algorithm: Algorithm) -> &'static str {
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
