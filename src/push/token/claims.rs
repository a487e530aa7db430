//! The claims of a token (RFC 7519 section 4), checked strictly: an identity, or the reason for a refusal.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::dates::{date, shown};
use crate::engine::pubsub::topic::{Grant, is_user_id};

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
    /// Topics subscribed to from the start.
    pub topics: Vec<Grant>,
    /// Topics that the client may ask for.
    pub may: Vec<Grant>,
    /// Whether its grants cover the topics of users.
    pub admin: bool,
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
        }
    }

    /// Returns whether the same token will be accepted a little later.
    pub fn is_for_now(&self) -> bool {
        matches!(self, TokenRefusal::Early { .. })
    }
}

/// The requirements that claims must meet.
pub struct Expected {
    /// The claim that names the user.
    pub user_claim: String,
    /// Accepted audiences, one of which `aud` must name; if empty, `aud` is not checked.
    pub audience: Vec<String>,
    /// Accepted issuers, one of which `iss` must be; if empty, `iss` is not checked.
    pub issuer: Vec<String>,
    /// Seconds by which the issuer's clock may differ from ours, either way.
    pub leeway_seconds: u64,
}

/// The claims of a token of our own, in the order of writing; empty ones are left out.
#[derive(Serialize)]
pub struct Issued<'a> {
    /// The one claim that names the user, and that user.
    #[serde(flatten)]
    pub user: BTreeMap<&'a str, &'a str>,
    pub iat: u64,
    pub exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub topics: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub may: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
}

/// The claims that matter, as they came. `null` is a value, and never an accepted one.
#[derive(Default)]
pub struct Claims {
    /// The claim that names the user: `sub`, or another by the settings.
    user: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    /// Shown, never checked: it says nothing about the audience of the token.
    iat: Option<Value>,
    aud: Option<Value>,
    iss: Option<Value>,
    topics: Option<Value>,
    may: Option<Value>,
    admin: Option<Value>,
}

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
    pub fn shown(self, user_claim: &str, unix: u64) -> String {
        let width = user_claim.len().max(3);
        let user = self.user.and_then(user_id).map(|id| format!("{user_claim:width$}  {id}\n"));
        let dates = [("iat", &self.iat), ("nbf", &self.nbf), ("exp", &self.exp)];
        let lines = dates.into_iter().filter_map(|(name, claim)| {
            claim.as_ref().map(|claim| format!("{name:width$}  {}\n", shown(claim, unix)))
        });
        user.into_iter().chain(lines).collect()
    }

    /// Checks the claims at the second `unix`.
    ///
    /// `exp` is checked last, so that `expired` means that the same claims would be accepted if they were fresh.
    pub fn check(self, expected: &Expected, unix: u64) -> Result<Identity, TokenRefusal> {
        self.are_for(expected)?;
        let user_claim = &expected.user_claim;
        let refused = |detail: String| TokenRefusal::Claims(detail.into());
        let user = self
            .user
            .ok_or_else(|| refused(format!("{user_claim} is missing: it names the user")))?;
        let exp = self.exp.ok_or(TokenRefusal::claims("exp is missing: every token has an end"))?;
        let sub = user_id(user).ok_or_else(|| {
            let expected = "a string of 1 to 255 bytes without control characters, or an integer";
            refused(format!("{user_claim} must be {expected}"))
        })?;
        let exp = date("exp", &exp).map_err(refused)?;
        let nbf = self.nbf.map_or(Ok(0), |nbf| date("nbf", &nbf)).map_err(refused)?;
        let admin = match self.admin {
            None => false,
            Some(Value::Bool(admin)) => admin,
            _ => return Err(TokenRefusal::claims("admin must be true or false")),
        };
        let topics =
            grants(&self.topics).ok_or(TokenRefusal::claims("topics must be a list of grants"))?;
        let may = grants(&self.may).ok_or(TokenRefusal::claims("may must be a list of grants"))?;
        let begins = nbf.saturating_sub(expected.leeway_seconds);
        if begins > unix {
            return Err(match nbf - unix {
                _ if exp <= nbf => TokenRefusal::claims("exp is not behind nbf: it is never valid"),
                seconds @ ..=EARLY_SECONDS_MAX => {
                    TokenRefusal::Early { seconds, retry_seconds: begins - unix }
                }
                _ => TokenRefusal::claims("nbf is more than 240 s ahead of this server's clock"),
            });
        }
        let latest = exp.saturating_add(expected.leeway_seconds);
        if unix >= latest {
            return Err(TokenRefusal::Expired);
        }
        let expires = if unix < exp { exp } else { latest };
        Ok(Identity { sub, expires, topics, may, admin })
    }

    /// Requires `aud` and `iss` where they are configured (RFC 7519 sections 4.1.1 and 4.1.3).
    fn are_for(&self, expected: &Expected) -> Result<(), TokenRefusal> {
        let Expected { audience, issuer, .. } = expected;
        let is_one_of = |claim: &Value, accepted: &[String]| {
            claim.as_str().is_some_and(|text| accepted.iter().any(|one| one == text))
        };
        let is_meant = match &self.aud {
            _ if audience.is_empty() => true,
            // A list that holds anything but strings is no list of audiences.
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string) && all.iter().any(|aud| is_one_of(aud, audience))
            }
            aud => aud.as_ref().is_some_and(|aud| is_one_of(aud, audience)),
        };
        let is_from_there =
            issuer.is_empty() || self.iss.as_ref().is_some_and(|iss| is_one_of(iss, issuer));
        if !is_meant {
            Err(TokenRefusal::claims("aud does not name this server: see jwt.audience"))
        } else if !is_from_there {
            Err(TokenRefusal::claims("iss is not the issuer that is expected here: see jwt.issuer"))
        } else {
            Ok(())
        }
    }
}

/// A user id; an integer counts as its decimal digits: PHP libraries write `'sub' => 42`.
fn user_id(claim: Value) -> Option<String> {
    match claim {
        Value::String(text) if is_user_id(&text) => Some(text),
        Value::Number(number) if number.is_u64() || number.is_i64() => Some(number.to_string()),
        _ => None,
    }
}

fn grants(claim: &Option<Value>) -> Option<Vec<Grant>> {
    match claim {
        None => Some(Vec::new()),
        Some(Value::Array(texts)) => {
            texts.iter().map(|text| text.as_str().and_then(Grant::parse)).collect()
        }
        Some(_) => None,
    }
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
        let (mut claims, mut unused_sub) = (Claims::default(), None);
        while let Some(name) = members.next_key::<String>()? {
            let claim = match name.as_str() {
                name if name == self.user_claim => &mut claims.user,
                "sub" => &mut unused_sub,
                "exp" => &mut claims.exp,
                "nbf" => &mut claims.nbf,
                "iat" => &mut claims.iat,
                "aud" => &mut claims.aud,
                "iss" => &mut claims.iss,
                "topics" => &mut claims.topics,
                "may" => &mut claims.may,
                "admin" => &mut claims.admin,
                _ => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if claim.replace(members.next_value()?).is_some() {
                return Err(A::Error::custom("a claim twice"));
            }
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn expected(audience: &[&str], issuer: &[&str]) -> Expected {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
        Expected {
            user_claim: "sub".to_owned(),
            audience: owned(audience),
            issuer: owned(issuer),
            leeway_seconds: 5,
        }
    }

    /// Checks `members` and, where these lack them, a good `sub` and `exp`.
    fn check(members: &str, expected: &Expected) -> Result<Identity, TokenRefusal> {
        let mut object = members.to_owned();
        for (name, good) in [("sub", "\"42\""), ("exp", "1700000060")] {
            if !members.contains(&format!("\"{name}\":")) {
                let comma = if object.is_empty() { "" } else { "," };
                object += &format!("{comma}\"{name}\":{good}");
            }
        }
        read(&format!("{{{object}}}"), expected)
    }

    /// As the signature check hands them over: what cannot be read is a matter of the claims, too.
    fn read(json: &str, expected: &Expected) -> Result<Identity, TokenRefusal> {
        let claims = Claims::parse(json.as_bytes(), "sub");
        claims.map_err(|_| TokenRefusal::UNREADABLE)?.check(expected, NOW)
    }

    #[test]
    fn well_formed_claims_are_read() {
        let any = expected(&[], &[]);
        let sub = |json: &str| check(&format!("\"sub\":{json}"), &any).unwrap().sub;
        assert_eq!(sub("42"), "42");
        assert_eq!(sub("-7"), "-7");
        assert_eq!(sub("18446744073709551615"), "18446744073709551615");
        assert_eq!(sub(r#""a\u002eb * ""#), "a.b * ");
        assert_eq!(sub(&format!("{:?}", "x".repeat(255))).len(), 255);
        let expires = |json: &str| check(&format!("\"exp\":{json}"), &any).unwrap().expires;
        assert_eq!(expires("1700000010.9"), NOW + 10);
        assert_eq!(expires("18446744073709551615"), u64::MAX);
        assert_eq!(expires("1e300"), u64::MAX);
        let good = r#""topics":["room.*","user.7"],"may":["*"],"admin":true,"nbf":1700000005"#;
        let identity = check(good, &any).unwrap();
        let grant = |text| Grant::parse(text).unwrap();
        assert_eq!(identity.topics, [grant("room.*"), grant("user.7")]);
        assert_eq!((identity.may, identity.admin), (vec![grant("*")], true));
        let ignored = r#""aud":5,"iss":[1],"iat":"x","unknown":{"exp" :1},"jti":null,"topics":[]"#;
        assert!(check(ignored, &any).is_ok());
    }

    #[test]
    fn malformed_claims_are_refused() {
        let any = expected(&[], &[]);
        let cases = r#"
            "sub":4.5          "sub":42.0       "sub":[1]          "sub":{}      "sub":true
            "sub":null         "sub":""         "sub":"a\nb"       "sub":1e30    "sub":"\u0000"
            "exp":null         "exp":"1700000060" "exp":-1         "exp":1e999   "exp":[1700000060]
            "exp":-0.5         "exp":true       "nbf":1700000241   "nbf":"0"     "nbf":null
            "nbf":1e300        "nbf":-1         "topics":"news"    "topics":[1]  "topics":{}
            "topics":null      "topics":["a..b"] "may":[["a"]]     "may":[""]    "may":["a",null]
            "may":["a.*.b"]    "admin":1        "admin":"true"     "admin":null  "admin":[true]
            "sub":"a","sub":"a"   "exp":1700000060,"exp":1700000060  "nbf":0,"nbf":0
            "aud":"a","aud":"a"   "iss":"a","iss":"a"                "topics":[],"topics":[]
            "may":[],"may":[]     "admin":false,"\u0061dmin":true"#;
        for members in cases.split_whitespace() {
            let refusal = check(members, &any).expect_err(members);
            assert_eq!(refusal.name(), "claims", "{members}");
        }
        assert!(check(&format!("\"sub\":{:?}", "x".repeat(256)), &any).is_err());
    }

    #[test]
    fn a_clock_that_is_ahead_is_waited_for() {
        let any = expected(&[], &[]);
        let at = |nbf: u64, exp: u64| {
            check(
                &format!("\"nbf\":{},\"exp\":{},\"iat\":{}", NOW + nbf, NOW + exp, NOW + nbf),
                &any,
            )
        };
        assert!(at(5, 60).is_ok(), "within the leeway");
        let refusal = at(6, 60).unwrap_err();
        assert_eq!(refusal, TokenRefusal::Early { seconds: 6, retry_seconds: 1 });
        assert_eq!(refusal.detail(), "nbf is 6 s ahead of this server's clock");
        assert_eq!(at(240, 600), Err(TokenRefusal::Early { seconds: 240, retry_seconds: 235 }));
        assert_eq!(at(241, 600).unwrap_err().name(), "claims");
        assert_eq!(at(60, 60).unwrap_err().name(), "claims", "it is never valid");
    }

    #[test]
    fn claims_are_an_object_that_names_a_user_and_an_end() {
        let any = expected(&[], &[]);
        let cases = r#"{} {"sub":"42"} {"exp":1700000060} {"sub":"42","exp":1700000060,}
            ["42",1700000060,0,"","",[],[],true] [] null 5 "" {"#;
        for json in cases.split_whitespace().chain([""]) {
            assert_eq!(read(json, &any).expect_err(json).name(), "claims", "{json}");
        }
    }

    #[test]
    fn a_token_is_shown_with_its_user_and_its_dates() {
        let shown =
            |json: &str, claim| Claims::parse(json.as_bytes(), claim).unwrap().shown(claim, NOW);
        let all = r#"{"sub":42,"exp":1700000060,"iat":1699999940000,"nbf":"x","name":"secret"}"#;
        let iat =
            "iat  2023-11-14T22:12:20Z, 1 min ago, if it were in seconds: it is in milliseconds";
        let lines = format!(
            "sub  42\n{iat}\nnbf  no number of seconds\nexp  2023-11-14T22:14:20Z, in 1 min\n"
        );
        assert_eq!(shown(all, "sub"), lines);
        let user = r#"{"user_id":"a","exp":1700000000}"#;
        assert_eq!(shown(user, "user_id"), "user_id  a\nexp      2023-11-14T22:13:20Z, now\n");
        assert_eq!(shown(r#"{"sub":"a\nb"}"#, "sub"), "");
        // A mistake in `iat` refuses no token: nothing depends on it.
        let any = expected(&[], &[]);
        assert!(check("\"iat\":1699999940000", &any).is_ok());
        for claim in ["nbf", "exp"] {
            let refusal = check(&format!("\"{claim}\":1700000060000000"), &any).unwrap_err();
            assert_eq!(refusal.name(), "claims");
            assert_eq!(
                refusal.detail(),
                format!("{claim} is in microseconds: it must be in seconds")
            );
        }
    }

    #[test]
    fn an_end_in_the_past_is_told_apart_and_the_leeway_bridges_it() {
        let any = expected(&[], &[]);
        for exp in ["0", "0.5", "1699999995", "1699999995.9"] {
            assert_eq!(check(&format!("\"exp\":{exp}"), &any), Err(TokenRefusal::Expired));
        }
        for (exp, expires) in [(NOW - 4, NOW + 1), (NOW, NOW + 5), (NOW + 1, NOW + 1)] {
            assert_eq!(check(&format!("\"exp\":{exp}"), &any).unwrap().expires, expires);
        }
        let two_faults = check(r#""exp":0,"admin":1"#, &any);
        assert_eq!(two_faults.unwrap_err().name(), "claims", "a fresh one would not do either");
    }

    #[test]
    fn audience_and_issuer_are_required_where_configured() {
        let ours = expected(&["push"], &["shop"]);
        for members in [r#""aud":"push","iss":"shop""#, r#""aud":["other","push"],"iss":"shop""#] {
            assert!(check(members, &ours).is_ok(), "{members}");
        }
        let cases = r#" "iss":"shop"             "aud":"push"
            "aud":"other","iss":"shop"           "aud":["other"],"iss":"shop"
            "aud":[],"iss":"shop"                "aud":5,"iss":"shop"
            "aud":["push",5],"iss":"shop"        "aud":null,"iss":"shop"
            "aud":"push","iss":"Shop"            "aud":"push","iss":["shop"]
            "aud":"push","iss":5                 "aud":"push","iss":null"#;
        for members in cases.split_whitespace() {
            assert_eq!(check(members, &ours).expect_err(members).name(), "claims", "{members}");
        }
        let several = expected(&["push", "mail"], &["https://a/realms/x", "https://b/realms/x"]);
        for (aud, iss, is_good) in [
            (r#""push""#, "https://a/realms/x", true),
            (r#"["other","mail"]"#, "https://b/realms/x", true),
            (r#""mail""#, "https://c/realms/x", false),
            (r#"["other"]"#, "https://a/realms/x", false),
            (r#""push,mail""#, "https://a/realms/x", false),
        ] {
            let members = format!(r#""aud":{aud},"iss":"{iss}""#);
            assert_eq!(check(&members, &several).is_ok(), is_good, "{members}");
        }
    }

    #[test]
    fn a_claim_is_found_by_its_name_alone() {
        let user = |payload: &str| {
            Claims::parse(payload.as_bytes(), "user_id").ok()?.user.and_then(user_id)
        };
        for (payload, expected) in [
            (r#"{"user_id":42,"sub":"7"}"#, Some("42")),
            (r#"{"sub":"7","user\u005fid":"a"}"#, Some("a")),
            (r#"{"sub":"7"}"#, None),
            (r#"{"in":{"user_id":1},"User_id":2}"#, None),
            (r#"{"user_id":null}"#, None),
            (r#"{"user_id":4.2}"#, None),
            (r#"{"user_id":1,"user_id":1}"#, None),
            (r#"{"user_id":null,"user_id":1}"#, None),
            (r#"{"user_id":1}}"#, None),
            (r#"["user_id",1]"#, None),
            ("", None),
        ] {
            assert_eq!(user(payload).as_deref(), expected, "{payload}");
        }
    }
}
