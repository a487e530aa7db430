//! The claims of a token (RFC 7519 section 4), checked strictly: an identity, or the reason for a refusal.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::clock::utc;
use crate::config::Jwt;
use crate::engine::pubsub::topic::{Grant, is_user_id};
use crate::json;

/// Seconds by which `nbf` may be ahead for the same token to be worth another try: clocks that are set at all do not differ by more.
const EARLY_SECONDS_MAX: u64 = 240;

/// The user of a token, and the rights that it grants. (Printable in tests alone: no log may show a user.)
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Identity {
    /// The user's id: 1 to 255 bytes without control characters.
    pub sub: String,
    /// The unix second at which an open connection ends: `exp`, or `exp` and the leeway if `exp` has already passed. Always in the
    /// future, and at most `u64::MAX`: compare, do not add.
    pub expires: u64,
    /// The unix second at which it was issued (`iat`); `None`: it does not say, or says one to come.
    pub issued: Option<u64>,
    /// Topics subscribed to from the start.
    pub topics: Vec<Grant>,
    /// Topics that the client may ask for.
    pub may: Vec<Grant>,
    /// The grants cover the topics of users.
    pub admin: bool,
}

impl Identity {
    /// The user that a trusted proxy names at the second `unix`. Nothing but the route grants it topics, and its connection has no end
    /// of its own.
    pub fn named_by_proxy(sub: &str, unix: u64) -> Identity {
        let (topics, may) = (Vec::new(), Vec::new());
        let (expires, issued) = (u64::MAX, Some(unix));
        Identity { sub: sub.to_owned(), expires, issued, topics, may, admin: false }
    }
}

/// The reason for which a token is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefusal {
    /// In order but for `exp`: come back with a fresh token.
    Expired,
    /// In order but for `nbf`, which is `seconds` ahead: the same token is accepted after `retry_seconds`.
    Early { seconds: u64, retry_seconds: u64 },
    /// Not a token, or not signed with one of the keys and one of its algorithms.
    Signature(&'static str),
    /// Well signed, but its claims are malformed or meant for another server.
    Claims(Cow<'static, str>),
    /// In order, but a back end has revoked the user's tokens of its time.
    Revoked,
}

impl TokenRefusal {
    /// The refusal of a well signed payload that is not a set of claims.
    pub const UNREADABLE: TokenRefusal =
        TokenRefusal::claims("not a JSON object, or one with a claim twice");

    const fn claims(detail: &'static str) -> TokenRefusal {
        TokenRefusal::Claims(Cow::Borrowed(detail))
    }

    /// The word that clients see.
    pub fn name(&self) -> &'static str {
        match self {
            TokenRefusal::Expired => "expired",
            TokenRefusal::Early { .. } => "early",
            TokenRefusal::Signature(_) => "signature",
            TokenRefusal::Claims(_) => "claims",
            TokenRefusal::Revoked => "revoked",
        }
    }

    /// A sentence for people. It shows nothing of the token but by how much its clock is ahead.
    pub fn detail(&self) -> Cow<'_, str> {
        match self {
            TokenRefusal::Expired => "exp has passed".into(),
            TokenRefusal::Early { seconds, .. } => {
                format!("nbf is {seconds} s ahead of this server's clock").into()
            }
            TokenRefusal::Signature(detail) => (*detail).into(),
            TokenRefusal::Claims(detail) => Cow::Borrowed(detail),
            TokenRefusal::Revoked => "a back end has revoked the token: sign in again".into(),
        }
    }

    /// Seconds after which the same token will be accepted.
    pub fn retry_seconds(&self) -> Option<u64> {
        match self {
            TokenRefusal::Early { retry_seconds, .. } => Some(*retry_seconds),
            _ => None,
        }
    }
}

/// The claims that are read, beside the one that names the user. `iat` is checked where lifetimes are limited; otherwise it is shown,
/// and compared with revocations.
const CLAIMS: [&str; 9] = ["sub", "exp", "nbf", "iat", "aud", "iss", "topics", "may", "admin"];

/// The claims that matter, as they came. `null` is a value, and never an accepted one.
pub struct Claims(BTreeMap<String, Value>);

impl Claims {
    /// Reads a payload, whose user is named by `user_claim`. Unknown claims are skipped.
    ///
    /// # Errors
    /// The payload is not a JSON object, or has a known claim twice.
    pub fn parse(payload: &[u8], user_claim: &str) -> serde_json::Result<Claims> {
        let mut json = serde_json::Deserializer::from_slice(payload);
        let claims = ClaimsSeed { user_claim }.deserialize(&mut json)?;
        json.end()?;
        Ok(claims)
    }

    /// The user and the dates as lines for a person, at the second `unix`; absent claims have no line.
    pub fn shown(&self, user_claim: &str, unix: u64) -> String {
        let width = user_claim.len().max(3);
        let user = self.0.get(user_claim).and_then(user_id);
        let user = user.map(|id| format!("{user_claim:width$}  {id}\n"));
        let lines = ["iat", "nbf", "exp"].into_iter().filter_map(|name| {
            Some(format!("{name:width$}  {}\n", shown(self.0.get(name)?, unix)))
        });
        user.into_iter().chain(lines).collect()
    }

    /// Checks the claims at the second `unix`, by the settings in `required`.
    ///
    /// `exp` is checked last, so that `expired` means that the same claims would be accepted if they were fresh.
    pub fn check(&self, required: &Jwt, unix: u64) -> Result<Identity, TokenRefusal> {
        self.check_audience(required)?;
        let refused = |detail: String| TokenRefusal::Claims(detail.into());
        let name = &required.user_claim;
        let user = self.0.get(name);
        let user = user.ok_or_else(|| refused(format!("{name} is missing: it names the user")))?;
        let exp = self.0.get("exp");
        let exp = exp.ok_or(TokenRefusal::claims("exp is missing: every token has an end"))?;
        let sub = user_id(user).ok_or_else(|| {
            let expected = "a string of 1 to 255 bytes without control characters, or an integer";
            refused(format!("{name} must be {expected}"))
        })?;
        let exp = date("exp", exp).map_err(refused)?;
        let issued = self.issued(required.lifetime_seconds_max, exp, unix)?;
        let nbf = self.0.get("nbf").map_or(Ok(0), |nbf| date("nbf", nbf)).map_err(refused)?;
        let admin = self.0.get("admin").map_or(Some(false), Value::as_bool);
        let admin = admin.ok_or(TokenRefusal::claims("admin must be true or false"))?;
        let topics = self.grants("topics");
        let topics = topics.ok_or(TokenRefusal::claims("topics must be a list of grants"))?;
        let may = self.grants("may");
        let may = may.ok_or(TokenRefusal::claims("may must be a list of grants"))?;
        let begins = nbf.saturating_sub(required.leeway_seconds);
        if begins > unix {
            return Err(match nbf - unix {
                _ if exp <= nbf => TokenRefusal::claims("exp is not behind nbf: it is never valid"),
                seconds @ ..=EARLY_SECONDS_MAX => {
                    TokenRefusal::Early { seconds, retry_seconds: begins - unix }
                }
                _ => TokenRefusal::claims("nbf is more than 240 s ahead of this server's clock"),
            });
        }
        let latest = exp.saturating_add(required.leeway_seconds);
        if unix >= latest {
            return Err(TokenRefusal::Expired);
        }
        let expires = if unix < exp { exp } else { latest };
        Ok(Identity { sub, expires, issued, topics, may, admin })
    }

    /// Returns when the token was issued. Without a limit on lifetimes, an `iat` that proves nothing counts as missing.
    fn issued(
        &self,
        lifetime_seconds_max: u64,
        exp: u64,
        unix: u64,
    ) -> Result<Option<u64>, TokenRefusal> {
        let iat = self.0.get("iat").map(|iat| date("iat", iat));
        let latest = unix.saturating_add(EARLY_SECONDS_MAX);
        if lifetime_seconds_max == 0 {
            return Ok(iat.and_then(Result::ok).filter(|iat| *iat <= latest));
        }
        let missing = TokenRefusal::claims("iat is missing: see jwt.lifetime_seconds_max");
        let iat = iat.ok_or(missing)?.map_err(|detail| TokenRefusal::Claims(detail.into()))?;
        if iat > latest {
            Err(TokenRefusal::claims("iat is more than 240 s ahead of this server's clock"))
        } else if exp.saturating_sub(iat) > lifetime_seconds_max {
            Err(TokenRefusal::claims("it lives longer than jwt.lifetime_seconds_max"))
        } else {
            Ok(Some(iat))
        }
    }

    /// Requires `aud` and `iss` where they are configured (RFC 7519 sections 4.1.1 and 4.1.3).
    fn check_audience(&self, required: &Jwt) -> Result<(), TokenRefusal> {
        let is_one_of = |claim: &Value, accepted: &[String]| {
            claim.as_str().is_some_and(|text| accepted.iter().any(|one| one == text))
        };
        let is_audience = |aud: &Value| match aud {
            // A list that holds anything but strings is no list of audiences.
            Value::Array(all) => {
                all.iter().all(Value::is_string)
                    && all.iter().any(|aud| is_one_of(aud, &required.audience))
            }
            aud => is_one_of(aud, &required.audience),
        };
        let is_issuer = |iss: &Value| is_one_of(iss, &required.issuer);
        if !required.audience.is_empty() && !self.0.get("aud").is_some_and(is_audience) {
            Err(TokenRefusal::claims("aud does not name this server: see jwt.audience"))
        } else if !required.issuer.is_empty() && !self.0.get("iss").is_some_and(is_issuer) {
            Err(TokenRefusal::claims("iss is not the issuer that is expected here: see jwt.issuer"))
        } else {
            Ok(())
        }
    }

    fn grants(&self, name: &str) -> Option<Vec<Grant>> {
        let Some(claim) = self.0.get(name) else { return Some(Vec::new()) };
        claim.as_array()?.iter().map(|text| Grant::parse(text.as_str()?)).collect()
    }
}

fn user_id(claim: &Value) -> Option<String> {
    json::text_or_integer(claim).filter(|id| is_user_id(id))
}

/// Reads an object alone (a derived struct would take an array of the values as well), each claim at most once.
struct ClaimsSeed<'a> {
    user_claim: &'a str,
}

impl<'de> DeserializeSeed<'de> for ClaimsSeed<'_> {
    type Value = Claims;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Claims, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ClaimsSeed<'_> {
    type Value = Claims;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
        let mut claims = BTreeMap::new();
        while let Some(name) = members.next_key::<String>()? {
            if name != self.user_claim && !CLAIMS.contains(&name.as_str()) {
                members.next_value::<IgnoredAny>()?;
            } else if claims.insert(name, members.next_value()?).is_some() {
                return Err(A::Error::custom("a claim twice"));
            }
        }
        Ok(Claims(claims))
    }
}

/// Units that issuers use by mistake, with their number per second.
const UNITS: [(&str, u64); 3] =
    [("milliseconds", 1000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000)];

/// The dates of this century in seconds. In another unit each lies at least thirty thousand years ahead.
const CENTURY: Range<u64> = 946_684_800..4_102_444_800;

/// The last second of the year 9999, the end of RFC 3339's dates.
const LAST: u64 = 253_402_300_799;

/// Reads the claim `name` as a date.
///
/// # Errors
/// A sentence if the claim is not a number of seconds, or plainly a number of another unit.
fn date(name: &str, claim: &Value) -> Result<u64, String> {
    let number = seconds(claim).ok_or_else(|| format!("{name} must be a number of seconds"))?;
    match mistaken_unit(number) {
        None => Ok(number),
        Some((unit, _)) => Err(format!("{name} is in {unit}: it must be in seconds")),
    }
}

/// Whole seconds, rounded down; a larger number than `u64::MAX` counts as that.
fn seconds(claim: &Value) -> Option<u64> {
    let fraction = || claim.as_f64().filter(|seconds| *seconds >= 0.0);
    claim.as_u64().or_else(|| fraction().map(|seconds| seconds as u64))
}

/// The unit of a date that is not in seconds, with its number per second.
fn mistaken_unit(number: u64) -> Option<(&'static str, u64)> {
    UNITS.into_iter().find(|(_, per_second)| CENTURY.contains(&(number / per_second)))
}

/// A date in UTC with its distance from the second `now`, and the mistake in its unit if there is one.
fn shown(claim: &Value, now: u64) -> String {
    let Some(number) = seconds(claim) else {
        return "no number of seconds".to_owned();
    };
    match mistaken_unit(number) {
        None => moment(number, now),
        Some((unit, per_second)) => {
            let moment = moment(number / per_second, now);
            format!("{moment}, if it were in seconds: it is in {unit}")
        }
    }
}

fn moment(unix: u64, now: u64) -> String {
    if unix > LAST {
        return "after the year 9999".to_owned();
    }
    let distance = match unix.abs_diff(now) {
        0 => "now".to_owned(),
        seconds if unix > now => format!("in {}", span(seconds)),
        seconds => format!("{} ago", span(seconds)),
    };
    format!("{}Z, {distance}", utc(unix))
}

/// A duration in its two largest units.
fn span(seconds: u64) -> String {
    let (larger, smaller, per_larger, per_smaller) = match seconds {
        ..60 => return format!("{seconds} s"),
        60..3600 => ("min", "s", 60, 1),
        3600..86_400 => ("h", "min", 3600, 60),
        _ => ("d", "h", 86_400, 3600),
    };
    match seconds % per_larger / per_smaller {
        0 => format!("{} {larger}", seconds / per_larger),
        rest => format!("{} {larger} {rest} {smaller}", seconds / per_larger),
    }
}

#[cfg(test)]
mod tests;
