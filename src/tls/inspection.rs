//! A server's certificate as a client judges it: for a report, not for a connection.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, Error};

use super::certificate_fields::CertificateFields;
use super::client::Trust;
use crate::engine::redis::tls::plain_name;

/// The findings on a certificate.
pub struct Inspection {
    /// The last unix second of its validity; `None`: it is malformed.
    pub not_after: Option<u64>,
    /// The reason why clients refuse it.
    pub flaw: Option<CertificateFlaw>,
}

/// A reason to refuse a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum CertificateFlaw {
    Expired,
    /// It is for these names.
    Name(Vec<String>),
    /// Its issuer is unknown, or the chain to it was not sent.
    Issuer,
    Other(String),
}

impl Inspection {
    /// Judges the chain that a server sent, its own certificate first, by the authorities of the system.
    pub fn of(chain: &[CertificateDer<'_>], name: &str, unix: u64) -> Inspection {
        let fields = chain.first().and_then(|own| CertificateFields::parse(own));
        Inspection {
            not_after: fields.map(|fields| fields.not_after),
            flaw: judge(chain, name, unix).err(),
        }
    }
}

fn judge(chain: &[CertificateDer<'_>], name: &str, unix: u64) -> Result<(), CertificateFlaw> {
    let name =
        ServerName::try_from(name).map_err(|error| CertificateFlaw::Other(error.to_string()))?;
    let trust = Trust::system().map_err(CertificateFlaw::Other)?;
    let judged = trust.verify(chain, &name, Duration::from_secs(unix));
    judged.map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. }) => {
            CertificateFlaw::Expired
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => CertificateFlaw::Issuer,
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented, ..
        }) => CertificateFlaw::Name(presented.iter().map(|name| plain_name(name)).collect()),
        error => CertificateFlaw::Other(error.to_string()),
    })
}
