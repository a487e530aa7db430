//! Claims and dates, well-formed and malformed.

use super::*;

const NOW: u64 = 1_700_000_000;

fn expected(audience: &[&str], issuer: &[&str]) -> Jwt {
    let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect();
    Jwt { audience: owned(audience), issuer: owned(issuer), ..Jwt::default() }
}

/// Checks `members` and, where these lack them, a good `sub` and `exp`.
fn check(members: &str, expected: &Jwt) -> Result<Identity, TokenRefusal> {
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
fn read(json: &str, expected: &Jwt) -> Result<Identity, TokenRefusal> {
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
fn an_issue_date_that_proves_nothing_counts_as_missing() {
    let any = expected(&[], &[]);
    for (iat, issued) in [
        ("1699999999", Some(NOW - 1)),
        ("1699999999.9", Some(NOW - 1)),
        ("1700000240", Some(NOW + 240)),
        ("1700000241", None),
        ("1700000000000", None),
        ("\"1699999999\"", None),
        ("-1", None),
        ("null", None),
    ] {
        let identity = check(&format!("\"iat\":{iat}"), &any).unwrap();
        assert_eq!(identity.issued, issued, "{iat}");
    }
    assert_eq!(check("", &any).unwrap().issued, None);
}

#[test]
fn a_token_may_live_for_so_long_and_must_say_since_when() {
    let limited = Jwt { lifetime_seconds_max: 60, ..Jwt::default() };
    let issued = |members| check(members, &limited).map(|identity| identity.issued);
    assert_eq!(issued(r#""iat":1700000000,"exp":1700000060"#), Ok(Some(NOW)));
    assert_eq!(issued(r#""iat":1700000240,"exp":1700000300"#), Ok(Some(NOW + 240)));
    for (members, detail) in [
        (r#""iat":1699999999,"exp":1700000060"#, "it lives longer than jwt.lifetime_seconds_max"),
        (r#""iat":0,"exp":18446744073709551615"#, "it lives longer"),
        (r#""exp":1700000010"#, "iat is missing: see jwt.lifetime_seconds_max"),
        (r#""iat":"0""#, "iat must be a number of seconds"),
        (r#""iat":null"#, "iat must be a number of seconds"),
        (r#""iat":1700000000000"#, "iat is in milliseconds"),
        (r#""iat":1700000241,"exp":1700000300"#, "iat is more than 240 s ahead"),
    ] {
        let refusal = issued(members).expect_err(members);
        assert_eq!(refusal.name(), "claims");
        assert!(refusal.detail().contains(detail), "{members}: {}", refusal.detail());
    }
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
        check(&format!("\"nbf\":{},\"exp\":{},\"iat\":{}", NOW + nbf, NOW + exp, NOW + nbf), &any)
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
    let iat = "iat  2023-11-14T22:12:20Z, 1 min ago, if it were in seconds: it is in milliseconds";
    let lines =
        format!("sub  42\n{iat}\nnbf  no number of seconds\nexp  2023-11-14T22:14:20Z, in 1 min\n");
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
        assert_eq!(refusal.detail(), format!("{claim} is in microseconds: it must be in seconds"));
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
        Claims::parse(payload.as_bytes(), "user_id").ok()?.0.get("user_id").and_then(user_id)
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

#[test]
fn another_unit_than_seconds_is_named() {
    for number in [0, 1, NOW, 4_102_444_799, 99_999_999_999, LAST, u64::MAX] {
        assert_eq!(date("exp", &Value::from(number)), Ok(number));
    }
    for (number, unit) in [
        (NOW * 1000, "milliseconds"),
        (946_684_800_000, "milliseconds"),
        (4_102_444_799_999, "milliseconds"),
        (NOW * 1_000_000, "microseconds"),
        (NOW * 1_000_000_000, "nanoseconds"),
    ] {
        for claim in [Value::from(number), Value::from(number as f64)] {
            let refusal = date("nbf", &claim).expect_err("not in seconds");
            assert_eq!(refusal, format!("nbf is in {unit}: it must be in seconds"));
        }
    }
}

#[test]
fn dates_are_shown_with_their_distance() {
    for (number, expected) in [
        (NOW, "2023-11-14T22:13:20Z, now"),
        (NOW + 59, "2023-11-14T22:14:19Z, in 59 s"),
        (NOW + 3600, "2023-11-14T23:13:20Z, in 1 h"),
        (NOW - 150, "2023-11-14T22:10:50Z, 2 min 30 s ago"),
        (NOW - 5400, "2023-11-14T20:43:20Z, 1 h 30 min ago"),
        (NOW + 90_000, "2023-11-15T23:13:20Z, in 1 d 1 h"),
        (0, "1970-01-01T00:00:00Z, 19675 d 22 h ago"),
        (LAST, "9999-12-31T23:59:59Z, in 2913221 d 1 h"),
        (LAST + 1, "after the year 9999"),
        (u64::MAX, "after the year 9999"),
        (
            (NOW + 60) * 1000,
            "2023-11-14T22:14:20Z, in 1 min, if it were in seconds: it is in milliseconds",
        ),
    ] {
        assert_eq!(shown(&Value::from(number), NOW), expected, "{number}");
    }
    assert_eq!(shown(&Value::from(NOW as f64 + 0.9), NOW), "2023-11-14T22:13:20Z, now");
    assert_eq!(shown(&Value::from("soon"), NOW), "no number of seconds");
}
