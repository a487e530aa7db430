//! Signatures of tokens, checked and made by ring.
//!
//! jsonwebtoken knows algorithms and keys, and takes a library for signatures as a provider. None is installed: it would belong to
//! the whole process, also to a program that uses this crate and has its own, and it would build the key anew for each token.

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use ring::agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, agree_ephemeral};
use ring::hmac::{self, HMAC_SHA256, HMAC_SHA384, HMAC_SHA512};
use ring::rand::SystemRandom;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};

use crate::der::{DerReader, INTEGER, SEQUENCE};

/// Bits of an RSA key: at least those of RFC 7518 section 3.3; at most what a token may cost.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// A key in the form that ring takes.
pub enum SignatureKey {
    /// A shared secret, with each hash: the block that it fills is hashed once, here.
    Secret(Box<[hmac::Key; 3]>),
    /// An uncompressed point of P-256 or P-384, or one of Ed25519 (RFC 8032 section 5.1.2).
    Point(Vec<u8>),
    /// Two big-endian numbers without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

impl SignatureKey {
    /// A key from a shared secret of any length.
    pub fn from_secret(secret: &[u8]) -> SignatureKey {
        let hashes = [HMAC_SHA256, HMAC_SHA384, HMAC_SHA512];
        SignatureKey::Secret(Box::new(hashes.map(|hash| hmac::Key::new(hash, secret))))
    }

    /// A public key, with the algorithms that it may be used with. `jsonwebtoken` takes any bytes for one, and ring fails over a
    /// bad key as over a bad signature, so the key is examined here. One mistake goes unnoticed: 32 bytes that are no point of
    /// Ed25519, a key that no token is signed with.
    ///
    /// # Errors
    /// A predicate, whose subject is the key.
    pub fn from_public(key: &DecodingKey) -> Result<(SignatureKey, &'static [Algorithm]), String> {
        if key.family() == AlgorithmFamily::Rsa {
            return rsa(key);
        }
        let point = key.try_get_as_bytes().unwrap_or_default();
        let algorithms: &[Algorithm] = match (key.family(), point.len()) {
            (AlgorithmFamily::Ec, 33 | 49) if matches!(point[0], 2 | 3) => {
                return Err("is a compressed point, expected both coordinates: `openssl ec -pubin -in FILE \
                            -conv_form uncompressed` prints it"
                    .to_owned());
            }
            (AlgorithmFamily::Ec, 65) if is_on(&ECDH_P256, point) => &[Algorithm::ES256],
            (AlgorithmFamily::Ec, 97) if is_on(&ECDH_P384, point) => &[Algorithm::ES384],
            (AlgorithmFamily::Ed, 32) => &[Algorithm::EdDSA],
            _ => {
                return Err(
                    "is not a point of its curve, expected EC on P-256 or P-384, or Ed25519"
                        .to_owned(),
                );
            }
        };
        Ok((SignatureKey::Point(point.to_vec()), algorithms))
    }

    /// Returns whether this key has made the signature. The caller has checked that the key may be used with the algorithm.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let checked = match self {
            SignatureKey::Secret(keys) => {
                hmac::verify(with_hash(keys, algorithm), message, signature)
            }
            SignatureKey::Point(point) => {
                let public = signature::UnparsedPublicKey::new(curve(algorithm), point);
                public.verify(message, signature)
            }
            SignatureKey::Rsa { modulus, exponent } => {
                let public = RsaPublicKeyComponents { n: modulus, e: exponent };
                public.verify(padding(algorithm), message, signature)
            }
        };
        checked.is_ok()
    }

    /// Signs a message with a shared secret; a public key signs nothing.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Option<hmac::Tag> {
        let SignatureKey::Secret(keys) = self else { return None };
        Some(hmac::sign(with_hash(keys, algorithm), message))
    }

    /// Returns the length of an RSA key in bits; 0 for another kind.
    pub fn rsa_bits(&self) -> usize {
        let SignatureKey::Rsa { modulus, .. } = self else { return 0 };
        modulus.len() * 8 - modulus[0].leading_zeros() as usize
    }
}

fn with_hash(keys: &[hmac::Key; 3], algorithm: Algorithm) -> &hmac::Key {
    match algorithm {
        Algorithm::HS256 => &keys[0],
        Algorithm::HS384 => &keys[1],
        Algorithm::HS512 => &keys[2],
        _ => panic!("a secret is not used with {algorithm:?}"),
    }
}

fn curve(algorithm: Algorithm) -> &'static dyn VerificationAlgorithm {
    match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        _ => panic!("a point is not used with {algorithm:?}"),
    }
}

fn padding(algorithm: Algorithm) -> &'static RsaParameters {
    match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => panic!("an RSA key is not used with {algorithm:?}"),
    }
}

/// Returns whether an uncompressed point lies on a curve: ring checks that of the other side's key of an agreement (Diffie and
/// Hellman), and of no other without a signature.
fn is_on(curve: &'static agreement::Algorithm, point: &[u8]) -> bool {
    let ours = EphemeralPrivateKey::generate(curve, &SystemRandom::new());
    let theirs = agreement::UnparsedPublicKey::new(curve, point);
    ours.and_then(|ours| agree_ephemeral(ours, &theirs, |_| ())).is_ok()
}

/// An RSA key from a JWK, or from the structure `RSAPublicKey` (RFC 8017 appendix A.1.1) of a PEM file.
fn rsa(key: &DecodingKey) -> Result<(SignatureKey, &'static [Algorithm]), String> {
    let (modulus, exponent) = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => (&n[..], &e[..]),
        DecodingKeyKind::SecretOrDer(der) => rsa_numbers(der).ok_or("is not an RSA key")?,
    };
    let [modulus, exponent] = [modulus, exponent].map(without_zeros);
    let is_odd = |number: &[u8]| number.last().is_some_and(|byte| byte % 2 == 1);
    // ring takes less than 2^33.
    let is_short = matches!(exponent, [1, _, _, _, _]) || exponent.len() < 5;
    let is_exponent = is_odd(exponent) && exponent != [1] && is_short;
    if !is_odd(modulus) || !is_exponent {
        return Err("is not an RSA key".to_owned());
    }
    let (modulus, exponent) = (modulus.to_vec(), exponent.to_vec());
    let key = SignatureKey::Rsa { modulus, exponent };
    let bits = key.rsa_bits();
    if !RSA_BITS.contains(&bits) {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!("has {bits} bits, expected {least} to {most} (RFC 7518 section 3.3)"));
    }
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    Ok((key, &[RS256, RS384, RS512, PS256, PS384, PS512]))
}

fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut numbers = DerReader(der).contents_of(SEQUENCE)?;
    Some((numbers.contents_of(INTEGER)?.0, numbers.contents_of(INTEGER)?.0))
}

/// Strips leading zeros: DER puts one before a number whose first bit is set, some issuers do so in a JWK, and ring takes none.
fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::super::public_key::from_pem;
    use super::*;

    const MESSAGE: &[u8] = b"eyJzdWIiOiI0MiJ9.a message";
    const SECRET: &[u8] = b"an example secret of 32 bytes...";

    fn public(key: DecodingKey) -> Result<SignatureKey, String> {
        SignatureKey::from_public(&key).map(|(key, _)| key)
    }

    /// A key for each family of algorithms, from the files of the tests.
    fn key(algorithm: Algorithm) -> SignatureKey {
        let pem = match algorithm {
            Algorithm::ES256 => include_str!("../../../tests/keys/p256.public.pem"),
            Algorithm::ES384 => include_str!("../../../tests/keys/p384.public.pem"),
            Algorithm::EdDSA => include_str!("../../../tests/keys/ed25519.public.pem"),
            _ if algorithm.family() == AlgorithmFamily::Hmac => {
                return SignatureKey::from_secret(SECRET);
            }
            _ => include_str!("../../../tests/keys/rsa.public.pem"),
        };
        public(from_pem(pem).unwrap()).unwrap()
    }

    /// By another program: `openssl dgst -sha256 -sign tests/keys/rsa.private.pem` and the like, for each algorithm.
    fn signatures() -> Vec<(Algorithm, Vec<u8>)> {
        let lines = include_str!("../../../tests/keys/signatures.txt").lines();
        let read = |line: &str| {
            let (name, signature) = line.split_once(' ').unwrap();
            let signature = data_encoding::BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
            (name.parse().unwrap(), signature)
        };
        lines.map(read).collect()
    }

    #[test]
    fn openssl_signatures_are_verified_with_each_algorithm() {
        let signatures = signatures();
        assert_eq!(signatures.len(), 12, "HS, RS, PS in three lengths, ES in two, EdDSA");
        for (algorithm, signature) in &signatures {
            let key = key(*algorithm);
            assert!(key.verifies(*algorithm, MESSAGE, signature), "{algorithm:?}");
            assert!(!key.verifies(*algorithm, &MESSAGE[1..], signature), "{algorithm:?}");
            assert!(!key.verifies(*algorithm, MESSAGE, &signature[1..]), "{algorithm:?}");
            assert!(!key.verifies(*algorithm, MESSAGE, b""), "{algorithm:?}");
            for at in 0..signature.len() {
                let mut changed = signature.clone();
                changed[at] ^= 1 << (at % 8);
                assert!(!key.verifies(*algorithm, MESSAGE, &changed), "{algorithm:?} at {at}");
            }
            for (_, other) in signatures.iter().filter(|(other, _)| other != algorithm) {
                assert!(!key.verifies(*algorithm, MESSAGE, other), "{algorithm:?}");
            }
            let made = key.sign(*algorithm, MESSAGE);
            let signs = algorithm.family() == AlgorithmFamily::Hmac;
            assert_eq!(made.is_some(), signs, "{algorithm:?}");
            assert!(made.is_none_or(|made| made.as_ref() == signature), "{algorithm:?}");
        }
    }

    #[test]
    fn zeros_before_the_numbers_of_an_rsa_key_are_passed_over() {
        let SignatureKey::Rsa { modulus, exponent } = key(Algorithm::RS256) else {
            panic!("an RSA key")
        };
        assert_eq!((modulus.len(), &exponent[..]), (256, &[1, 0, 1][..]));
        let [modulus, exponent] = [modulus, exponent].map(|number| [&[0, 0][..], &number].concat());
        let key = public(DecodingKey::from_rsa_raw_components(&modulus, &exponent)).unwrap();
        assert_eq!(key.rsa_bits(), 2048);
        let signature = &signatures()[3];
        assert!(key.verifies(signature.0, MESSAGE, &signature.1));
    }

    #[test]
    fn numbers_that_are_no_rsa_key_are_refused() {
        let odd = |bytes: usize| vec![0xFF; bytes];
        let even = [odd(255), vec![0xFE]].concat();
        for (modulus, exponent, expected) in [
            (odd(256), vec![3], ""),
            (odd(512), vec![1, 0, 0, 0, 1], ""),
            (odd(513), vec![3], "has 4104 bits, expected 2048 to 4096"),
            ([vec![0x7F], odd(255)].concat(), vec![3], "has 2047 bits"),
            (odd(256), vec![], "is not an RSA key"),
            (odd(256), vec![0], "is not an RSA key"),
            (odd(256), vec![1], "is not an RSA key"),
            (odd(256), vec![2], "is not an RSA key"),
            (odd(256), vec![1, 0, 0, 0, 0, 1], "is not an RSA key"),
            (odd(256), vec![2, 0, 0, 0, 1], "is not an RSA key"),
            (even, vec![3], "is not an RSA key"),
            (vec![], vec![3], "is not an RSA key"),
        ] {
            let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
            let refusal = public(key).err().unwrap_or_default();
            assert!(refusal.starts_with(expected), "{refusal}");
            assert_eq!(refusal.is_empty(), expected.is_empty(), "{refusal}");
        }
        for der in ["", "30", "3000", "30020200", "3003020103", "300402010302", "3080", "30830000"]
        {
            let der = data_encoding::HEXLOWER.decode(der.as_bytes()).unwrap();
            assert_eq!(rsa_numbers(&der), None, "{der:?}");
        }
    }

    #[test]
    fn a_point_that_does_not_lie_on_its_curve_is_refused() {
        let SignatureKey::Point(point) = key(Algorithm::ES384) else { panic!("a point") };
        for at in 1..point.len() {
            let mut changed = point.clone();
            changed[at] ^= 1;
            let refusal = public(DecodingKey::from_ec_der(&changed)).err();
            let refusal = refusal.unwrap_or_else(|| panic!("byte {at}"));
            assert!(refusal.starts_with("is not a point of its curve"), "{refusal}");
        }
        let compressed = [&[2 + point[96] % 2], &point[1..49]].concat();
        let refusal = public(DecodingKey::from_ec_der(&compressed)).err().unwrap();
        assert!(refusal.contains("openssl ec -pubin"), "{refusal}");
    }
}
