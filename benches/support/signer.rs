//! Tokens of each family of keys, signed by the bench as a back end signs them.

use std::path::PathBuf;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey};
use oneloop::config::Jwt;
use oneloop::push::token::Keys;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use super::private_key;
use super::server::{SECRET, SHARED_TOPIC};

/// The validity of a bench's tokens, in seconds.
const LIFETIME: u64 = 3600;

/// An algorithm, with the keys that the tests use too.
pub struct Signer {
    /// As it is called in a token.
    pub name: &'static str,
    algorithm: Algorithm,
    /// The secret, or a private key in the form of PKCS #8.
    private: Vec<u8>,
    /// The key that checks tokens, in PEM; `None`: the server's secret.
    public: Option<&'static str>,
}

impl Signer {
    /// Takes HS256, ES256, ES384, EdDSA or RS256.
    pub fn of(name: &str) -> Signer {
        let read = |file| private_key::from_pem(&std::fs::read(path(file)).expect("it is there"));
        let (name, algorithm, private, public) = match name {
            "HS256" => ("HS256", Algorithm::HS256, SECRET.as_bytes().to_vec(), None),
            "ES256" => {
                ("ES256", Algorithm::ES256, read("p256.private.pem"), Some("p256.public.pem"))
            }
            "ES384" => {
                ("ES384", Algorithm::ES384, read("p384.private.pem"), Some("p384.public.pem"))
            }
            "EdDSA" => {
                ("EdDSA", Algorithm::EdDSA, read("ed25519.private.pem"), Some("ed25519.public.pem"))
            }
            "RS256" => ("RS256", Algorithm::RS256, read("rsa.private.pem"), Some("rsa.public.pem")),
            _ => panic!("no key for {name}"),
        };
        Signer { name, algorithm, private, public }
    }

    /// A token for each of so many clients, with a `sub` of 8 characters, their own topic and the shared one.
    pub fn tokens(&self, clients: usize) -> Vec<String> {
        let header = BASE64URL_NOPAD.encode(format!(r#"{{"alg":"{}"}}"#, self.name).as_bytes());
        let expires = unix() + LIFETIME;
        let token = |number| {
            let claims = json!({
                "sub": format!("u{number:07}"), "exp": expires, "topics": [SHARED_TOPIC],
            });
            let claims = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
            let message = format!("{header}.{claims}");
            let signature = private_key::sign(message.as_bytes(), &self.private, self.algorithm);
            format!("{message}.{signature}")
        };
        (0..clients).map(token).collect()
    }

    /// A token with a signature by this key of something else: nothing but a check shows that.
    pub fn forged(&self) -> String {
        let [first, second] = self.tokens(2).try_into().expect("as many as were asked for");
        let (message, _) = first.rsplit_once('.').expect("a token has three parts");
        let (_, signature) = second.rsplit_once('.').expect("a token has three parts");
        format!("{message}.{signature}")
    }

    /// A JWKS that holds the public key so many times, each with an id of its own.
    pub fn key_set(&self, keys: usize) -> String {
        let pem =
            std::fs::read(path(self.public.expect("a key of two parts"))).expect("it is there");
        let info = SubjectPublicKeyInfoDer::from_pem_slice(&pem).expect("a public key");
        // It ends with the point, uncompressed.
        let point_bytes = if self.algorithm == Algorithm::ES384 { 97 } else { 65 };
        let key = DecodingKey::from_ec_der(&info[info.len() - point_bytes..]);
        let jwk = Jwk::from_decoding_key(&key, Some(self.algorithm)).expect("it can be written");
        let named = (0..keys).map(|number| {
            let mut jwk = jwk.clone();
            jwk.common.key_id = Some(number.to_string());
            jwk
        });
        json!({"keys": named.collect::<Vec<_>>()}).to_string()
    }

    /// The flags of a server that accepts its tokens.
    pub fn flags(&self) -> Vec<String> {
        let file = self.public.map(|file| path(file).to_string_lossy().into_owned());
        file.map_or_else(Vec::new, |file| vec!["--jwt-key-file".to_owned(), file])
    }

    /// The keys that check its tokens, as the server has them.
    pub fn keys(&self) -> Keys {
        let key = self.public.map(|file| std::fs::read(path(file)).expect("the key is there"));
        let keys = match key {
            Some(_) => Keys::new(&Jwt { key, ..Jwt::default() }),
            None => Keys::from_secret(SECRET.as_bytes()),
        };
        keys.expect("the key is good")
    }
}

/// Seconds since 1970.
pub fn unix() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs()
}

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(file)
}
