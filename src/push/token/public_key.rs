//! Public keys in PEM (RFC 7468), as far as tokens take them.

use data_encoding::BASE64;
use jsonwebtoken::DecodingKey;

use crate::der::{
    BIT_STRING, DerReader, EC_KEY, ED25519_KEY, OBJECT_IDENTIFIER, RSA_KEY, SEQUENCE,
};

/// Reads the first section: a `PUBLIC KEY` of any kind, or an `RSA PUBLIC KEY`. The key in it is not examined.
pub fn from_pem(text: &str) -> Option<DecodingKey> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    let der = BASE64.decode(body.as_bytes()).ok()?;
    match label {
        "PUBLIC KEY" => from_der(&der),
        "RSA PUBLIC KEY" => Some(DecodingKey::from_rsa_der(&der)),
        _ => None,
    }
}

/// Reads a `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
fn from_der(der: &[u8]) -> Option<DecodingKey> {
    let mut info = DerReader(der).contents_of(SEQUENCE)?;
    let algorithm = info.contents_of(SEQUENCE)?.contents_of(OBJECT_IDENTIFIER)?.0;
    // The first byte counts unused bits.
    let (_, key) = info.contents_of(BIT_STRING)?.0.split_first()?;
    match algorithm {
        RSA_KEY => Some(DecodingKey::from_rsa_der(key)),
        EC_KEY => Some(DecodingKey::from_ec_der(key)),
        ED25519_KEY => Some(DecodingKey::from_ed_der(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::AlgorithmFamily::{self, Ec, Ed, Rsa};

    const RSA: &str = include_str!("../../../tests/keys/rsa.public.pem");
    const P256: &str = include_str!("../../../tests/keys/p256.public.pem");
    const ED25519: &str = include_str!("../../../tests/keys/ed25519.public.pem");

    fn family(pem: &str) -> Option<AlgorithmFamily> {
        from_pem(pem).map(|key| key.family())
    }

    #[test]
    fn a_key_is_found_as_files_have_it() {
        for (pem, expected) in [(RSA, Rsa), (P256, Ec), (ED25519, Ed)] {
            assert_eq!(family(pem), Some(expected));
            assert_eq!(family(&pem.replace('\n', "\r\n")), Some(expected));
            assert_eq!(family(pem.trim_end()), Some(expected));
            assert_eq!(
                family(&format!("Public-Key: (of a test)\n{pem}\nand more")),
                Some(expected)
            );
            let other = if expected == Rsa { ED25519 } else { RSA };
            assert_eq!(family(&[pem, other].concat()), Some(expected), "the first one counts");
        }
    }

    /// Of `RSA PUBLIC KEY`, the contents are those of the bit string of `PUBLIC KEY`.
    #[test]
    fn both_forms_of_an_rsa_key_are_the_same() {
        let body: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let info = BASE64.decode(body.as_bytes()).unwrap();
        let numbers = BASE64.encode(&info[24..]);
        let pem =
            format!("-----BEGIN RSA PUBLIC KEY-----\n{numbers}\n-----END RSA PUBLIC KEY-----");
        let bytes = |pem| from_pem(pem).unwrap().try_get_as_bytes().unwrap().to_vec();
        assert_eq!((bytes(&pem), bytes(RSA)[0]), (bytes(RSA), SEQUENCE));
    }

    #[test]
    fn anything_else_is_no_key() {
        for label in ["PUBLIC", "EC PUBLIC KEY", "CERTIFICATE", "", "-----"] {
            assert_eq!(family(&P256.replace("PUBLIC KEY", label)), None, "{label}");
        }
        assert_eq!(family(&P256.replace("END PUBLIC", "END RSA PUBLIC")), None);
        assert_eq!(family(&P256.replacen('M', "*", 1)), None, "not base64");
        for end in 0..P256.trim_end().len() {
            assert_eq!(family(&P256[..end]), None, "{end} bytes of it");
        }
    }
}
