//! Certificates and private keys from the bytes of PEM files, and the reason if there is none.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads the certificates of a PEM file, at least one.
///
/// # Errors
/// A clause for a message that names the file.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|error| format!("it is not PEM: {error}"))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let hint = if has_section(bytes, "PRIVATE KEY") {
        "it holds a private key: are the files of certificate and key swapped?"
    } else if has_section(bytes, "CERTIFICATE REQUEST") {
        "it holds a request; name the certificate that the authority made of it"
    } else if bytes.first() == Some(&0x30) {
        "if it is DER, make it PEM: openssl x509 -inform der -in FILE -out FILE.pem"
    } else {
        "name a PEM file with -----BEGIN CERTIFICATE-----"
    };
    Err(format!("there is no certificate in it; {hint}"))
}

/// Reads the first private key of a PEM file.
///
/// # Errors
/// A clause for a message that names the file.
pub fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let is_encrypted =
        |line: &[u8]| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    if has_section(bytes, "ENCRYPTED PRIVATE KEY") || lines.any(is_encrypted) {
        return Err(
            "the key is encrypted, and nobody could type its password when the server starts again; keep it plain, \
             readable by the server alone: openssl pkey -in FILE -out FILE.plain"
                .to_owned(),
        );
    }
    if let Some(found) = PrivateKeyDer::pem_slice_iter(bytes).next() {
        return found.map_err(|error| format!("it is not PEM: {error}"));
    }
    let hint = if has_section(bytes, "CERTIFICATE") {
        "it holds a certificate: are the files of certificate and key swapped?"
    } else if has_section(bytes, "PUBLIC KEY") {
        "it holds a public key; name the private one that belongs to it"
    } else if bytes.first() == Some(&0x30) {
        "if it is DER, make it PEM: openssl pkey -inform der -in FILE -out FILE.pem"
    } else {
        "name a PEM file with -----BEGIN PRIVATE KEY-----"
    };
    Err(format!("there is no private key in it; {hint}"))
}

/// Returns whether a file has a section whose label ends with `label`, such as `PRIVATE KEY`.
fn has_section(bytes: &[u8], label: &str) -> bool {
    let end = [label, "-----"].concat();
    bytes.split(|byte| *byte == b'\n').any(|line| {
        let found = line.trim_ascii_end().strip_prefix(b"-----BEGIN ");
        found.is_some_and(|found| found.ends_with(end.as_bytes()))
    })
}
