//! JSON Web Tokens (RFC 7519) in their signed form (RFC 7515), checked and issued.
//!
//! The signature is checked first, so that a forger learns nothing from the claims. Time is an argument.

mod claims;
pub(super) mod cookie;
mod dates;
mod header;
mod jwks;
mod key;
pub(super) mod place;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto, encode};

use crate::config::Jwt;
use crate::engine::pubsub::topic::{Grant, is_user_id};
use claims::{Claims, Expected, Issued};
pub use claims::{Identity, TokenRefusal};
use header::{read_header, trimmed, unaccepted};
use key::{KEYS_TRIED_MAX, VerificationKey, named_algorithms};

/// The longest token; a longer one is refused before any work. The place that carries it has a bound of its own: `head_bytes_max`
/// (by default a quarter of this) or `message_bytes_max`.
pub const TOKEN_BYTES_MAX: usize = 32 * 1024;

/// The settings of [`Keys`]. At least one of `secret`, `key` and `jwks` is needed.
#[derive(Clone, Copy, Default)]
pub struct KeySettings<'a> {
    /// A shared secret of at least 32 bytes; the only key that can also issue tokens.
    pub secret: Option<&'a [u8]>,
    pub previous_secret: Option<&'a [u8]>,
    /// A public key in PEM.
    pub key: Option<&'a [u8]>,
    pub previous_key: Option<&'a [u8]>,
    /// A JSON Web Key Set (RFC 7517) of public keys.
    pub jwks: Option<&'a [u8]>,
    /// The claim that names the user; `sub` if `None`.
    pub user_claim: Option<&'a str>,
    /// Accepted audiences, one of which `aud` must name; if empty, `aud` is not checked.
    pub audience: &'a [String],
    /// Accepted issuers, one of which `iss` must be; if empty, `iss` is not checked.
    pub issuer: &'a [String],
    /// The cookie of a handshake that may carry a token; if `None`, cookies are not read.
    pub cookie: Option<&'a str>,
    /// Seconds by which the issuer's clock may differ from ours, either way.
    pub leeway_seconds: u64,
    /// Restricts the keys to these algorithms. If empty: HS256 with a secret, everything that fits with a public key.
    pub algorithms: &'a [String],
}

impl KeySettings<'_> {
    /// The settings of the section `jwt`.
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

/// The keys in the order in which they are tried, the claims that they require, and the cookie that may carry a token.
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
    /// A sentence for the operator: no key, an unusable key (and how to get a usable one), or an unknown algorithm.
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
            .map(|(secret, key)| (EncodingKey::from_secret(secret), key.algorithms[0]));
        let mut keys: Vec<VerificationKey> = current_secret.into_iter().collect();
        keys.extend(pem("the JWT key", settings.key)?);
        if let Some(jwks) = settings.jwks {
            keys.extend(jwks::read(jwks, &named)?);
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
        (claims.and_then(|claims| claims.check(&self.expected, unix)), microseconds)
    }

    /// The user and the dates of a token as lines for a person, at the second `unix`; empty unless one of the keys has signed it.
    pub fn shown(&self, token: &str, unix: u64) -> String {
        self.claims(token, &mut 0)
            .map_or(String::new(), |claims| claims.shown(self.user_claim(), unix))
    }

    /// The cookie that may carry a token.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    /// The claim that names the user.
    pub fn user_claim(&self) -> &str {
        &self.expected.user_claim
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
        // RFC 7515 section 4.1.11: refuse what one does not understand. The crate does not look.
        if header.crit.is_some() {
            return refused("its header has crit, which is not supported");
        }
        if !self.keys.iter().any(|key| key.permits(header.alg)) {
            return refused(unaccepted(header.alg));
        }
        let (message, signature) = token.rsplit_once('.').expect("read_header counts the parts");
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
            let verified = crypto::verify(signature, message.as_bytes(), &key.decoding, header.alg);
            if matches!(verified, Ok(true))
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
    /// A sentence for the operator: no secret to sign with, a malformed `sub` or grant, or a token that would be too long.
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
