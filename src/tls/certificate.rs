//! A certificate with its chain and key, read from a pair of files and checked as far as files can be.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, SigningKey};
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::certificate_fields::{CertificateFields, name_for_people};
use super::files::read;
use super::key::{KeyKind, signing_key};
use super::pem::{certificates, private_key};
use crate::clock::utc;
use crate::config::TlsConfig;

/// With fewer days left, a renewal that should have happened has failed: certbot and lego renew 30 days before the end.
pub const DAYS_LEFT_MIN: u64 = 14;

/// The files of a certificate, as they were written in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, then its chain.
    pub certificate: String,
    pub key: String,
}

impl CertificateFiles {
    /// Takes the pairs of the settings, which have as many keys as certificates.
    pub fn pairs(settings: &TlsConfig) -> Vec<CertificateFiles> {
        let TlsConfig { certificate_files, key_files } = settings.clone();
        let pairs = certificate_files.into_iter().zip(key_files);
        pairs.map(|(certificate, key)| CertificateFiles { certificate, key }).collect()
    }

    /// Returns both names.
    pub(super) fn names(&self) -> [&str; 2] {
        [&self.certificate, &self.key]
    }
}

/// A certificate that handshakes can use.
pub struct Certificate {
    pub files: CertificateFiles,
    /// The host names that it covers, in lower case; `*.` stands for one label.
    pub names: Vec<String>,
    /// The first and the last unix second of its validity.
    pub not_before: u64,
    pub not_after: u64,
    /// The name of the issuer, for messages.
    pub issuer: String,
    pub kind: KeyKind,
    /// Reasons why clients may refuse it, as sentences, apart from its dates.
    pub flaws: Vec<String>,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Certificate {
    /// Reads a pair of files.
    ///
    /// # Errors
    /// A sentence that names the file, and says what to do.
    pub fn read(files: &CertificateFiles) -> Result<Certificate, String> {
        let about_certificate =
            |why: String| format!("tls.cert_file {:?}: {why}", files.certificate);
        let about_key = |why: String| format!("tls.key_file {:?}: {why}", files.key);
        let chain = read(&files.certificate).and_then(|bytes| certificates(&bytes));
        let chain = chain.map_err(about_certificate)?;
        let (key, kind) = read(&files.key)
            .and_then(|bytes| private_key(&bytes))
            .and_then(|key| signing_key(&Zeroizing::new(key)))
            .map_err(about_key)?;
        Certificate::new(files.clone(), chain, key, kind).map_err(about_certificate)
    }

    fn new(
        files: CertificateFiles,
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        kind: KeyKind,
    ) -> Result<Certificate, String> {
        let certified = CertifiedKey::new(chain, key);
        let leaf = EndEntityCert::try_from(&certified.cert[0]).map_err(|error| {
            format!(
                "the first certificate cannot be used ({error}): it must be one of version 3 with the host's name as \
                 subjectAltName"
            )
        })?;
        let fields = CertificateFields::parse(&certified.cert[0]).ok_or(MALFORMED)?;
        if certified.keys_match().is_err() {
            return Err(misfit(&files.key, &certified));
        }
        let mut names: Vec<String> = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        names.dedup();
        let mut flaws = chain_flaws(&certified.cert);
        if names.is_empty() {
            flaws.push(
                "it has no host name as subjectAltName: browsers refuse it for every name"
                    .to_owned(),
            );
        }
        let CertificateFields { not_before, not_after, issuer, .. } = fields;
        Ok(Certificate {
            names,
            not_before,
            not_after,
            issuer: name_for_people(issuer),
            kind,
            flaws,
            certified: Arc::new(certified),
            files,
        })
    }

    /// Returns the first host name, or the file if it has none: for the log and for labels.
    pub fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.files.certificate)
    }

    /// Returns a sentence if the certificate is not valid at this unix second.
    pub fn date_problem(&self, unix: u64) -> Option<String> {
        if unix > self.not_after {
            return Some(format!(
                "it ended at {}Z: clients refuse it; renew it",
                utc(self.not_after)
            ));
        }
        (unix < self.not_before).then(|| {
            format!(
                "it begins at {}Z: clients refuse it until then; is the clock right?",
                utc(self.not_before)
            )
        })
    }

    /// Returns whether another certificate has the same contents.
    pub fn is_same(&self, other: &Certificate) -> bool {
        self.certified.cert == other.certified.cert
    }

    /// Returns a line for the log: names, kind of key, issuer and end.
    pub fn summary(&self) -> String {
        const NAMES_SHOWN: usize = 4;
        let mut names = self.names.iter().take(NAMES_SHOWN).cloned().collect::<Vec<_>>().join(", ");
        match self.names.len() {
            0 => names = format!("{:?}", self.files.certificate),
            count if count > NAMES_SHOWN => names += &format!(" and {} more", count - NAMES_SHOWN),
            _ => {}
        }
        format!("{names} ({}, by {}, until {}Z)", self.kind, self.issuer, utc(self.not_after))
    }
}

/// Shows no key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())
    }
}

const MALFORMED: &str = "the first certificate is malformed";

/// Explains a key that does not fit the first certificate: it may belong to another one of the file.
fn misfit(key_file: &str, certified: &CertifiedKey) -> String {
    let fits = |certificate: &CertificateDer<'static>| {
        let alone = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&certified.key));
        alone.keys_match().is_ok()
    };
    match certified.cert.iter().position(fits) {
        Some(at) => format!(
            "the key in {key_file:?} belongs to certificate {} of the file, which must stand first, its issuer behind it",
            at + 1
        ),
        None => format!(
            "the key in {key_file:?} does not belong to the first certificate: name the pair that was made together, and as \
             many key files as certificate files, in the same order"
        ),
    }
}

/// Checks that each certificate of a chain is issued by the next one. The last may be issued by a root, which clients have.
fn chain_flaws(chain: &[CertificateDer<'static>]) -> Vec<String> {
    let fields: Vec<_> = chain.iter().map_while(|one| CertificateFields::parse(one)).collect();
    let mut flaws = Vec::new();
    if fields.len() < chain.len() {
        flaws.push(format!("certificate {} of the file is malformed", fields.len() + 1));
    }
    for (at, pair) in fields.windows(2).enumerate() {
        if pair[0].issuer != pair[1].subject {
            flaws.push(format!(
                "certificate {} of the file is issued by {:?}, but certificate {} is {:?}: order the file from the host's \
                 certificate upwards",
                at + 1,
                name_for_people(pair[0].issuer),
                at + 2,
                name_for_people(pair[1].subject)
            ));
        }
    }
    if let [alone] = &fields[..]
        && !alone.is_self_issued()
    {
        flaws.push(format!(
            "the file has no chain: unless {:?}, which issued the certificate, is a root that clients know, they refuse it; name \
             fullchain.pem, not cert.pem",
            name_for_people(alone.issuer)
        ));
    }
    flaws
}
