//! Signatures by private keys, for tests and benches: the server itself signs with a secret alone.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair,
};
use ring::{error::Unspecified, hmac};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

/// Reads a private key in PEM.
pub fn from_pem(pem: &[u8]) -> Vec<u8> {
    PrivateKeyDer::from_pem_slice(pem).expect("a private key").secret_der().to_vec()
}

/// Signs a message as a back end does, with a secret or a private key in the form of PKCS #8; the signature is in base64url, as it
/// stands in a token.
///
/// # Panics
/// The key is not one for the algorithm.
pub fn sign(message: &[u8], key: &[u8], algorithm: Algorithm) -> String {
    let signature = match algorithm {
        Algorithm::HS256 => Ok(by_secret(hmac::HMAC_SHA256, key, message)),
        Algorithm::HS384 => Ok(by_secret(hmac::HMAC_SHA384, key, message)),
        Algorithm::HS512 => Ok(by_secret(hmac::HMAC_SHA512, key, message)),
        Algorithm::ES256 => by_ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, key, message),
        Algorithm::ES384 => by_ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, key, message),
        Algorithm::EdDSA => {
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).expect("an Ed25519 key");
            Ok(pair.sign(message).as_ref().to_vec())
        }
        Algorithm::RS256 => by_rsa(&signature::RSA_PKCS1_SHA256, key, message),
        Algorithm::RS384 => by_rsa(&signature::RSA_PKCS1_SHA384, key, message),
        Algorithm::RS512 => by_rsa(&signature::RSA_PKCS1_SHA512, key, message),
        Algorithm::PS256 => by_rsa(&signature::RSA_PSS_SHA256, key, message),
        Algorithm::PS384 => by_rsa(&signature::RSA_PSS_SHA384, key, message),
        Algorithm::PS512 => by_rsa(&signature::RSA_PSS_SHA512, key, message),
        _ => panic!("{algorithm:?} has no signer"),
    };
    BASE64URL_NOPAD.encode(&signature.expect("the system has random bytes"))
}

fn by_secret(hash: hmac::Algorithm, secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
}

fn by_ec(
    curve: &'static EcdsaSigningAlgorithm,
    key: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(curve, key, &random).expect("a key on the curve");
    pair.sign(&random, message).map(|signature| signature.as_ref().to_vec())
}

fn by_rsa(
    encoding: &'static dyn RsaEncoding,
    key: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let pair = RsaKeyPair::from_pkcs8(key).expect("an RSA key of 2048 bits or more");
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut signature)?;
    Ok(signature)
}
