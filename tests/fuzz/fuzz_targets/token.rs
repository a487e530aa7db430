//! The token check: nothing that is not signed with a key gets in, and of what is signed nothing that says too little.
#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use libfuzzer_sys::fuzz_target;
use oneloop::config::{Jwt, Secret};
use oneloop::push::token::{Identity, Keys, TokenRefusal};
use serde_json::Value;

const NOW: u64 = 1_700_000_000;
const LEEWAY: u64 = 5;
const SECRET: &[u8] = b"an example secret of 32 bytes...";

/// The longest lifetime, where there is one.
const LIFETIME: u64 = 60;

/// With a secret; the same for an audience of one issuer, and for a lifetime; with public keys, whose private ones nobody here has.
static KEYS: LazyLock<[Keys; 5]> = LazyLock::new(|| {
    let pem = |pem: &[u8]| Some(pem.to_vec());
    let rsa = pem(include_bytes!("../../keys/rsa.public.pem"));
    let p256 = pem(include_bytes!("../../keys/p256.public.pem"));
    let ed25519 = pem(include_bytes!("../../keys/ed25519.public.pem"));
    let [audience, issuer] = ["push", "shop"].map(|name| vec![name.to_owned()]);
    let settings = || Jwt { leeway_seconds: LEEWAY, ..Jwt::default() };
    let signed = || Jwt { secret: Some(Secret::new(SECRET.to_vec())), ..settings() };
    let all = [
        signed(),
        Jwt { audience, issuer, ..signed() },
        Jwt { lifetime_seconds_max: LIFETIME, ..signed() },
        Jwt { key: rsa, previous_key: p256, ..settings() },
        Jwt { key: ed25519, ..settings() },
    ];
    all.map(|settings| Keys::new(&settings).expect("the keys are good"))
});

fuzz_target!(|input: &[u8]| {
    let Ok(input) = std::str::from_utf8(input) else { return };
    for keys in KEYS.iter() {
        assert!(keys.check(input, NOW).is_err(), "nobody signed it");
    }
    let Some((header, payload)) = input.split_once('\n') else { return };
    let token = sign(header, payload);
    for (number, keys) in KEYS.iter().enumerate() {
        match keys.check(&token, NOW) {
            Ok(identity) => check(number, header, payload, &identity),
            Err(refusal) => {
                assert!(refusal.detail().len() < 123 || refusal == TokenRefusal::Expired)
            }
        }
    }
});

/// A token of just these texts.
fn sign(header: &str, payload: &str) -> String {
    let [header, payload] = [header, payload].map(|text| BASE64URL_NOPAD.encode(text.as_bytes()));
    let message = format!("{header}.{payload}");
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("it signs");
    format!("{message}.{signature}")
}

/// Reads JSON whole; `None`: it has a number, in a claim of no meaning here, that an `f64` cannot hold.
fn read(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Err(why) if why.to_string().starts_with("number out of range") => None,
        read => Some(read.expect("it is JSON")),
    }
}

/// Checks an accepted token with another reader.
fn check(keys: usize, header: &str, payload: &str, identity: &Identity) {
    let (Some(header), Some(payload)) = (read(header), read(payload)) else { return };
    assert!(keys < 3, "no private key is here");
    assert_eq!(header["alg"], "HS256");
    assert!(header["crit"].is_null());
    let exp = payload["exp"].as_f64().expect("it expires");
    assert!(exp + LEEWAY as f64 > NOW as f64 && identity.expires > NOW);
    assert!(payload["nbf"].as_f64().is_none_or(|nbf| nbf < (NOW + LEEWAY + 1) as f64));
    let sub = match &payload["sub"] {
        Value::String(sub) => sub.clone(),
        Value::Number(sub) if !sub.is_f64() => sub.to_string(),
        other => panic!("{other}"),
    };
    assert_eq!(sub, identity.sub);
    let iat = payload["iat"].as_f64();
    if let Some(issued) = identity.issued {
        assert!(issued <= NOW + 240 && iat.is_some_and(|iat| iat.floor() == issued as f64));
    }
    if keys == 2 {
        let iat = iat.expect("it says when it was issued").floor();
        assert!(identity.issued.is_some() && exp.floor() - iat <= LIFETIME as f64);
    }
    assert!((1..=255).contains(&sub.len()) && !sub.contains(char::is_control));
    assert_eq!(identity.admin, payload["admin"] == true);
    for (claim, grants) in [("topics", &identity.topics), ("may", &identity.may)] {
        let texts: Vec<String> = grants.iter().map(ToString::to_string).collect();
        let claimed = payload.get(claim).map_or(Value::Array(Vec::new()), Value::clone);
        assert_eq!(claimed, Value::from(texts));
    }
    if keys == 1 {
        let aud = &payload["aud"];
        let listed = aud.as_array().is_some_and(|all| all.contains(&Value::from("push")));
        assert!(*aud == "push" || listed);
        assert_eq!(payload["iss"], "shop");
    }
}
