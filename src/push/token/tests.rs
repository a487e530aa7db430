//! Tokens against keys: what is accepted, and each way to be refused.

use super::private_key::{from_pem, sign as signature};
use super::signature::SignatureKey;
use super::*;
use Algorithm::{ES256, ES384, EdDSA, HS256, PS384, RS256};

const NOW: u64 = 1_700_000_000;
const SECRET: &[u8] = b"an example secret of 32 bytes...";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const PAYLOAD: &str = r#"{"sub":"42","exp":1700000060}"#;
const RSA: &[u8] = include_bytes!("../../../tests/keys/rsa.public.pem");
const P256_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/p256.private.pem");

fn secret(secret: &[u8]) -> Option<Secret> {
    Some(Secret::new(secret.to_vec()))
}

fn settings() -> Jwt {
    Jwt { secret: secret(SECRET), ..Jwt::default() }
}

fn public(pem: &[u8]) -> Jwt {
    Jwt { key: Some(pem.to_vec()), ..Jwt::default() }
}

fn keys(settings: &Jwt) -> Keys {
    Keys::new(settings).expect("good settings")
}

/// A token of just these texts, signed whatever they say.
fn sign(header: &str, payload: &str, key: &[u8], algorithm: Algorithm) -> String {
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let message = format!("{}.{}", encode(header), encode(payload));
    let signature = signature(message.as_bytes(), key, algorithm);
    format!("{message}.{signature}")
}

fn sign_with(secret: &[u8], header: &str, payload: &str) -> String {
    sign(header, payload, secret, HS256)
}

fn assert_refused(keys: &Keys, token: &str, name: &str, case: &str) {
    let refusal = keys.check(token, NOW).expect_err(case);
    assert_eq!(refusal.name(), name, "{case}: {}", refusal.detail());
}

#[test]
fn what_is_issued_is_accepted_until_it_expires() {
    let [audience, issuer] =
        [["push", "mail"], ["shop", "cellar"]].map(|all| all.map(str::to_owned).to_vec());
    let mut settings = Jwt { audience, issuer, ..settings() };
    let keys = keys(&settings);
    let (topics, may) = (["room.*".to_owned(), "news".to_owned()], ["*".to_owned()]);
    let token = keys.issue("ü 42", &topics, &may, true, NOW, 60).unwrap();
    let grant = |text| Grant::parse(text).unwrap();
    let mut identity = Identity {
        sub: "ü 42".to_owned(),
        expires: NOW + 60,
        issued: Some(NOW),
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
    settings.issuer.remove(0);
    let keys = self::keys(&settings);
    assert_refused(&keys, &token, "claims", "another issuer");
}

#[test]
fn no_token_is_issued_that_would_live_too_long() {
    let keys = keys(&Jwt { lifetime_seconds_max: 60, ..settings() });
    let issue = |seconds| keys.issue("42", &[], &[], false, NOW, seconds);
    assert_eq!((keys.lifetime_seconds(59), keys.lifetime_seconds(61)), (59, 60));
    assert!(keys.check(&issue(60).unwrap(), NOW).is_ok());
    assert!(issue(61).unwrap_err().contains("jwt.lifetime_seconds_max (60)"));
}

#[test]
fn the_user_is_named_by_the_claim_that_is_set() {
    let settings = Jwt { user_claim: "user_id".to_owned(), ..settings() };
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
    let key = from_pem(ed);
    let renamed = sign(r#"{"alg":"Ed25519"}"#, django, &key, EdDSA);
    let public = include_bytes!("../../../tests/keys/ed25519.public.pem");
    let public = Jwt { user_claim: "user_id".to_owned(), ..self::public(public) };
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
        (0, RS256, from_pem(rsa)),
        (0, PS384, from_pem(rsa)),
        (1, ES256, from_pem(P256_PRIVATE)),
        (2, ES384, from_pem(p384)),
        (3, EdDSA, from_pem(ed)),
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
    let ours = VerificationKey::from_pem("it", pem, &[]).unwrap().signature;
    let SignatureKey::Point(point) = ours else { panic!("a point") };
    let part = |at: usize| BASE64URL_NOPAD.encode(&point[at..at + 32]);
    let mut keys: Vec<String> = (1..count).map(|kid| key(theirs[0], theirs[1], kid)).collect();
    keys.push(key(&part(1), &part(33), count));
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

#[test]
fn few_keys_are_tried_with_a_token_that_names_none() {
    let private = from_pem(P256_PRIVATE);
    let check = |keys: usize, header: &str| {
        let set = key_set(keys);
        let settings = Jwt { jwks: Some(set.into_bytes()), ..Jwt::default() };
        let token = sign(header, PAYLOAD, &private, ES256);
        let (checked, microseconds) = self::keys(&settings).check_at_a_price(&token, NOW);
        (checked.map(|identity| identity.sub), microseconds)
    };
    let (bare, named) = (r#"{"alg":"ES256"}"#, r#"{"alg":"ES256","kid":"20"}"#);
    assert_eq!(check(4, bare), (Ok("42".to_owned()), 4 * 80));
    let refusal = TokenRefusal::Signature("it needs a kid: more keys here fit it than are tried");
    assert_eq!(check(5, bare), (Err(refusal.clone()), 4 * 80));
    assert_eq!(check(20, bare), (Err(refusal), 4 * 80));
    assert_eq!(check(20, named), (Ok("42".to_owned()), 80));
    let unknown = TokenRefusal::Signature("no key here has its kid");
    assert_eq!(check(20, r#"{"alg":"ES256","kid":"21"}"#), (Err(unknown), 0));
}

#[test]
fn a_named_key_is_tried_before_those_without_a_name() {
    let (pem, set) = (include_bytes!("../../../tests/keys/p256.public.pem"), key_set(5));
    let (previous_key, jwks) = (Some(pem.to_vec()), Some(set.into_bytes()));
    let keys = keys(&Jwt { jwks, previous_key, ..Jwt::default() });
    let private = from_pem(P256_PRIVATE);
    for (kid, price) in [("5", 80), ("1", 2 * 80), ("another", 80)] {
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
        let token = sign(&header, PAYLOAD, &private, ES256);
        let (checked, microseconds) = keys.check_at_a_price(&token, NOW);
        assert_eq!((checked.is_ok(), microseconds), (true, price), "{kid}");
    }
}

#[test]
fn a_previous_key_still_counts_and_a_third_one_does_not() {
    let (previous_secret, key) = (secret(&[7; 40]), Some(RSA.to_vec()));
    let keys = keys(&Jwt { previous_secret, key, ..settings() });
    assert!(keys.check(&sign_with(SECRET, HEADER, PAYLOAD), NOW).is_ok());
    assert!(keys.check(&sign_with(&[7; 40], HEADER, PAYLOAD), NOW).is_ok());
    let third = sign_with(&[8; 40], HEADER, PAYLOAD);
    assert_refused(&keys, &third, "signature", "a third secret");
    let expired = sign_with(&[7; 40], HEADER, r#"{"sub":1,"exp":1}"#);
    assert_refused(&keys, &expired, "expired", "by the previous secret");
}

#[test]
fn settings_that_could_not_work_are_refused() {
    let refuse = |change: fn(&mut Jwt)| {
        let mut settings = settings();
        change(&mut settings);
        assert!(Keys::new(&settings).is_err());
    };
    refuse(|settings| settings.secret = None);
    refuse(|settings| settings.secret = secret(b""));
    refuse(|settings| settings.secret = secret(b"short"));
    refuse(|settings| {
        settings.secret = settings.previous_secret.replace(Secret::new(SECRET.to_vec()))
    });
    refuse(|settings| settings.previous_secret = secret(b"short"));
    refuse(|settings| settings.key = Some(P256_PRIVATE.to_vec()));
    refuse(|settings| settings.jwks = Some(b"{}".to_vec()));
    let algorithms = vec!["RS256".to_owned()];
    assert!(Keys::new(&Jwt { algorithms, ..settings() }).is_err());
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

fn told(header: &str, rest: &str) -> &'static str {
    let token = format!("{}{rest}", BASE64URL_NOPAD.encode(header.as_bytes()));
    read_header(&token).err().expect("it is no token")
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
        (r#"{"alg":"HS256","kid":"1","kid":"2"}"#, ".a.b", "twice"),
        (r#"["HS256",null,null]"#, ".a.b", "not a JSON object"),
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
        let found = read_header(token).err().expect("it is no token");
        assert!(found.contains(words), "{token}: {found}");
    }
}

#[test]
fn what_stands_around_a_token_is_passed_over() {
    for text in ["a.b.c", "a.b.c\n", " a.b.c\r\n\r\n", "\u{feff}a.b.c\t"] {
        assert_eq!(trimmed(text), "a.b.c");
    }
}
