//! Private keys of certificates: their kinds, the cost of a handshake with each, and why one cannot be used.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::SigningKey;

use crate::der::{
    BIT_STRING, DerReader, EC_KEY, ED25519_KEY, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, RSA_KEY,
    SEQUENCE, TAG_0,
};

/// The kind of a key, in the order of preference: if several certificates cover a name, the first kind that the client can verify is
/// used. All clients since 2015 can verify P-256, and it costs a sixth of RSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyKind {
    P256,
    Ed25519,
    P384,
    Rsa { bits: usize },
}

/// The sizes of RSA keys that can sign: below, no browser accepts the certificate; above, a signature takes longer than the whole turn
/// of a loop should.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// The weight of a microsecond in the budget of a turn, which counts bytes read (256 KB are 3 ms).
const BYTES_PER_MICROSECOND: usize = 87;

impl KeyKind {
    /// Returns the cost of a full handshake with such a key, in bytes read by the loop.
    pub fn handshake_cost(self) -> usize {
        // Microseconds of CPU for a full handshake of TLS 1.3 with X25519, by ring: 19, 31, 450 and 540 of them (at 2048 bits) are the
        // signature. That of RSA grows with the cube of its bits.
        let micros = match self {
            KeyKind::P256 => 110,
            KeyKind::Ed25519 => 120,
            KeyKind::P384 => 540,
            KeyKind::Rsa { bits } => 90 + 540 * (bits / 64).pow(3) / 32_usize.pow(3),
        };
        micros * BYTES_PER_MICROSECOND
    }

    /// Reads the kind from a public key (RFC 5280 section 4.1.2.7).
    fn of_public(key: &[u8]) -> Option<KeyKind> {
        let mut whole = DerReader(key).contents_of(SEQUENCE)?;
        let algorithm = Algorithm::parse(&mut whole.contents_of(SEQUENCE)?)?;
        // The first byte counts unused bits.
        let (_, key) = whole.contents_of(BIT_STRING)?.0.split_first()?;
        match algorithm {
            Algorithm::Ec("P-256") => Some(KeyKind::P256),
            Algorithm::Ec("P-384") => Some(KeyKind::P384),
            Algorithm::Ed25519 => Some(KeyKind::Ed25519),
            Algorithm::Rsa => Some(KeyKind::Rsa { bits: rsa_bits(key)? }),
            _ => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::P256 => f.write_str("ECDSA P-256"),
            KeyKind::P384 => f.write_str("ECDSA P-384"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Rsa { bits } => write!(f, "RSA {bits}"),
        }
    }
}

/// Builds a key that signs handshakes.
///
/// # Errors
/// A clause that says what the key is, and what is possible.
pub fn signing_key(key: &PrivateKeyDer) -> Result<(Arc<dyn SigningKey>, KeyKind), String> {
    let usable = any_supported_type(key).ok().and_then(|usable| {
        let kind = KeyKind::of_public(usable.public_key()?.as_ref())?;
        Some((usable, kind))
    });
    usable.ok_or_else(|| {
        let what = describe(key).unwrap_or_else(|| "malformed".to_owned());
        format!(
            "the key is {what}; possible are ECDSA on P-256 (the fastest: openssl genpkey -algorithm EC -pkeyopt \
             ec_paramgen_curve:P-256) or P-384, Ed25519, and RSA from 2048 to 4096 bits"
        )
    })
}

/// Describes a key that cannot be used.
fn describe(key: &PrivateKeyDer) -> Option<String> {
    let rsa = |key: &[u8]| {
        let bits = rsa_bits(key)?;
        let is_odd = RSA_BITS.contains(&bits);
        Some(format!("RSA with {bits} bits{}", if is_odd { ", but malformed" } else { "" }))
    };
    let mut fields = DerReader(key.secret_der()).contents_of(SEQUENCE)?;
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        // RFC 5915: version, key, curve.
        PrivateKeyDer::Sec1(_) => {
            fields.contents_of(INTEGER)?;
            fields.contents_of(OCTET_STRING)?;
            let curve = fields.contents_of(TAG_0)?.contents_of(OBJECT_IDENTIFIER)?;
            Some(["ECDSA on ", curve_name(curve.0)].concat())
        }
        // RFC 5958: version, algorithm, key.
        PrivateKeyDer::Pkcs8(_) => {
            fields.contents_of(INTEGER)?;
            match Algorithm::parse(&mut fields.contents_of(SEQUENCE)?)? {
                Algorithm::Rsa => rsa(fields.contents_of(OCTET_STRING)?.0),
                Algorithm::Ec(curve) => Some(["ECDSA on ", curve].concat()),
                Algorithm::Ed25519 => Some("Ed25519, but malformed".to_owned()),
                Algorithm::Other(name) => Some(name.to_owned()),
            }
        }
        _ => None,
    }
}

/// The algorithm that a key is for.
enum Algorithm {
    Rsa,
    /// By the name of its curve.
    Ec(&'static str),
    Ed25519,
    Other(&'static str),
}

impl Algorithm {
    /// Parses an `AlgorithmIdentifier`: an object identifier and parameters (RFC 5480, RFC 8410, RFC 8017).
    fn parse(fields: &mut DerReader) -> Option<Algorithm> {
        Some(match fields.contents_of(OBJECT_IDENTIFIER)?.0 {
            EC_KEY => Algorithm::Ec(curve_name(fields.contents_of(OBJECT_IDENTIFIER)?.0)),
            RSA_KEY => Algorithm::Rsa,
            ED25519_KEY => Algorithm::Ed25519,
            [0x2b, 0x65, 0x71] => Algorithm::Other("Ed448"),
            [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a] => {
                Algorithm::Other("RSA for PSS alone")
            }
            [0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01] => Algorithm::Other("DSA"),
            _ => Algorithm::Other("of an unknown kind"),
        })
    }
}

/// Returns the name of a curve by its object identifier.
fn curve_name(identifier: &[u8]) -> &'static str {
    match identifier {
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07] => "P-256",
        [0x2b, 0x81, 0x04, 0x00, 0x22] => "P-384",
        [0x2b, 0x81, 0x04, 0x00, 0x23] => "P-521",
        [0x2b, 0x81, 0x04, 0x00, 0x0a] => "secp256k1",
        _ => "an unknown curve",
    }
}

/// Returns the bits of the modulus of an RSA key in the form of PKCS #1 (RFC 8017 appendix A.1), public or private.
fn rsa_bits(key: &[u8]) -> Option<usize> {
    let mut fields = DerReader(key).contents_of(SEQUENCE)?;
    let mut modulus = fields.contents_of(INTEGER)?.0;
    if modulus.len() <= 1 {
        // A private key begins with its version.
        modulus = fields.contents_of(INTEGER)?.0;
    }
    let first = modulus.iter().position(|byte| *byte != 0)?;
    Some(modulus[first..].len() * 8 - modulus[first].leading_zeros() as usize)
}
