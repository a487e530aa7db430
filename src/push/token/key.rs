//! The keys that tokens are checked with, read once at start; a key that could not check a token is refused here.

use jsonwebtoken::{Algorithm, AlgorithmFamily};

use super::header::TokenHeader;
use super::public_key;
use super::signature::SignatureKey;

/// A shorter secret can be guessed: RFC 7518 section 3.2 asks for the length of the hash.
const SECRET_BYTES_MIN: usize = 32;

/// Keys tried with one token. A token without `kid` fits every key of its algorithm, and a forged one costs its maker nothing.
pub const KEYS_TRIED_MAX: usize = 4;

/// A key and the algorithms that it may be used with, all of one family: the token has no say in it.
pub struct VerificationKey {
    /// The `kid` of a key from a JWKS.
    pub id: Option<String>,
    pub signature: SignatureKey,
    /// At least one.
    pub algorithms: Vec<Algorithm>,
    /// The time to check a signature, roughly.
    pub microseconds: u32,
}

impl VerificationKey {
    /// Builds a key that may be used with the `usual` algorithms, or with those of them that are `named` if any are; `None` if
    /// that leaves none.
    pub fn new(
        id: Option<String>,
        signature: SignatureKey,
        usual: &[Algorithm],
        named: &[Algorithm],
    ) -> Option<VerificationKey> {
        let mut algorithms = usual.to_vec();
        algorithms.retain(|each| named.is_empty() || named.contains(each));
        let microseconds = microseconds(usual[0], signature.rsa_bits());
        let key = VerificationKey { id, signature, algorithms, microseconds };
        (!key.algorithms.is_empty()).then_some(key)
    }

    /// Returns whether a token with this header can be signed for this key: its algorithm is permitted, and the two do not bear
    /// different ids (`kid`, RFC 7515 section 4.1.4).
    pub fn fits(&self, header: &TokenHeader) -> bool {
        let is_other =
            matches!((&self.id, &header.kid), (Some(ours), Some(theirs)) if ours != theirs);
        !is_other && self.permits(header.alg)
    }

    /// Returns whether the header names this very key.
    pub fn is_named_by(&self, header: &TokenHeader) -> bool {
        self.id.is_some() && self.id == header.kid
    }

    /// Returns whether the key may be used with this algorithm.
    pub fn permits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Reads a shared secret, for HS256, or for the HS algorithms among the `named` ones. `name` is its name in errors.
    pub fn from_secret(name: &str, secret: &[u8], named: &[Algorithm]) -> Result<Self, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "{name} is {} bytes long, expected {SECRET_BYTES_MIN} at least: \
                 `openssl rand -base64 32` makes one",
                secret.len()
            ));
        }
        let family = AlgorithmFamily::Hmac;
        let usual = if named.is_empty() { &[Algorithm::HS256] } else { family.algorithms() };
        let key = SignatureKey::from_secret(secret);
        VerificationKey::new(None, key, usual, named).ok_or_else(|| not_named(name, usual))
    }

    /// Reads a public key in PEM: RSA, EC on P-256 or P-384, or Ed25519.
    pub fn from_pem(name: &str, pem: &[u8], named: &[Algorithm]) -> Result<Self, String> {
        let text = String::from_utf8_lossy(without_mark(pem));
        if text.contains("PRIVATE KEY-----") {
            return Err(format!(
                "{name} is a private key, expected the public one: `openssl pkey -in FILE -pubout` \
                 prints it"
            ));
        }
        if text.contains("-----BEGIN CERTIFICATE") {
            return Err(format!(
                "{name} is a certificate, expected the key in it: `openssl x509 -in FILE -pubkey \
                 -noout` prints it"
            ));
        }
        let key = public_key::from_pem(&text).ok_or_else(|| {
            format!(
                "{name} cannot be read, expected `-----BEGIN PUBLIC KEY-----` (PEM): RSA, EC on \
                 P-256 or P-384, or Ed25519"
            )
        })?;
        let (key, usual) =
            SignatureKey::from_public(&key).map_err(|problem| format!("{name} {problem}"))?;
        VerificationKey::new(None, key, usual, named).ok_or_else(|| not_named(name, usual))
    }
}

/// Strips the byte order mark that some editors put at the start of a file.
pub fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file)
}

fn not_named(name: &str, usual: &[Algorithm]) -> String {
    format!("{name} works with {usual:?}, none of which is among the algorithms of the settings")
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

/// The time to check a signature, as `cargo bench --bench attack -- --only signatures` measures it on a busy machine. The ratios
/// count: on another machine all times change together. For P-384 ring has no code of its own in assembly, as it has for P-256.
fn microseconds(algorithm: Algorithm, rsa_bits: usize) -> u32 {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => 5,
        Algorithm::EdDSA => 60,
        Algorithm::ES256 => 80,
        Algorithm::ES384 => 1300,
        // RSA, by the square of its length: 32 with 2048 bits, 128 with 4096.
        _ => ((rsa_bits * rsa_bits) >> 17) as u32,
    }
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
        let of = |key: Result<VerificationKey, String>| key.unwrap().algorithms;
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

    #[test]
    fn a_key_has_the_price_of_its_algorithm() {
        let price = |pem| VerificationKey::from_pem("it", pem, &[]).unwrap().microseconds;
        assert_eq!([RSA, P256, P384, ED25519].map(price), [32, 80, 1300, 60]);
        assert_eq!(VerificationKey::from_secret("it", &[7; 32], &[]).unwrap().microseconds, 5);
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
