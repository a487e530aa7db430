//! TLS to Redis: its settings, and its failures explained so that an operator can act on them.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, Error};

use crate::engine::redis::printable::printable;
use crate::engine::redis::url::Address;

/// The settings of TLS to one Redis.
#[derive(Clone)]
pub struct RedisTls {
    client: Arc<ClientConfig>,
    /// The name that the certificate must carry.
    name: ServerName<'static>,
    /// The address of the server, for messages.
    address: String,
    has_ca_file: bool,
}

impl RedisTls {
    /// TLS to a server. `has_ca_file`: the setting `redis_ca_file` says what `client` trusts.
    ///
    /// # Errors
    /// A sentence if no certificate can carry the host's name.
    pub fn new(
        client: Arc<ClientConfig>,
        host: &str,
        address: String,
        has_ca_file: bool,
    ) -> Result<RedisTls, String> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(RedisTls { client, name, address, has_ca_file }),
            Err(_) => Err("no certificate can carry the name of the host in the URL".to_owned()),
        }
    }

    /// TLS by the same settings to another server.
    ///
    /// # Errors
    /// A sentence if no certificate can carry the host's name.
    pub fn at(&self, address: &Address) -> Result<RedisTls, String> {
        let Address::Tcp { host, .. } = address else { return Ok(self.clone()) };
        RedisTls::new(Arc::clone(&self.client), host, address.to_string(), self.has_ca_file)
    }

    /// Takes over the settings of `newer` for the same server.
    pub fn renew(&mut self, newer: &RedisTls) {
        (self.client, self.has_ca_file) = (Arc::clone(&newer.client), newer.has_ca_file);
    }

    /// Begins a connection. It owns no socket.
    ///
    /// # Errors
    /// A sentence; rustls gives none for settings that were accepted.
    pub fn begin(&self) -> Result<ClientConnection, String> {
        ClientConnection::new(Arc::clone(&self.client), self.name.clone())
            .map_err(|error| format!("TLS to Redis cannot begin: {error}"))
    }

    /// Explains an error of the connection whose cause is TLS; `None` for others. `is_open`: the handshake was over.
    pub fn explain(&self, error: &io::Error, is_open: bool) -> Option<String> {
        if let Some(error) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
            return Some(self.advice(error));
        }
        let address = &self.address;
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                if !is_open =>
            {
                Some(format!(
                    "{address} closed the connection in the handshake of TLS: is it Redis, and its port with TLS (tls-port)? \
                     its log may say more"
                ))
            }
            ErrorKind::UnexpectedEof => Some(format!(
                "the connection to Redis at {address} was cut off: it ended without the close_notify of TLS"
            )),
            _ => None,
        }
    }

    fn advice(&self, error: &Error) -> String {
        let address = &self.address;
        match error {
            Error::InvalidCertificate(error) => {
                format!("the certificate of Redis at {address} {}", self.of_certificate(error))
            }
            Error::InvalidMessage(_) => format!(
                "the answer of {address} is not TLS: is it the port without TLS? \
                 then write redis:// in place of rediss://, or name the port with TLS (tls-port)"
            ),
            Error::AlertReceived(alert) => format!("Redis at {address} {}", of_alert(*alert)),
            Error::PeerIncompatible(_) => format!(
                "Redis at {address} and oneloop have no version or cipher of TLS in common: \
                 allow TLS 1.2 or 1.3 there (tls-protocols, tls-ciphers)"
            ),
            error => {
                format!("TLS with Redis at {address} failed: {}", printable(&error.to_string()))
            }
        }
    }

    fn of_certificate(&self, error: &CertificateError) -> String {
        match error {
            CertificateError::UnknownIssuer if self.has_ca_file => {
                "is not signed by an authority in redis_ca_file: put the certificate of the one that signed it there"
                    .to_owned()
            }
            CertificateError::UnknownIssuer => {
                "is not signed by an authority that this system trusts: name the file with the certificate of the one that \
                 signed it in the setting redis_ca_file"
                    .to_owned()
            }
            CertificateError::NotValidForName => {
                format!("is not for {}, which the URL names", self.name.to_str())
            }
            CertificateError::NotValidForNameContext { presented, .. } => self.of_names(presented),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "expired {} ago: renew it, and make Redis load it (CONFIG SET tls-cert-file)",
                duration(time.as_secs().saturating_sub(not_after.as_secs()))
            ),
            CertificateError::Expired => "has expired: renew it".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "is not valid yet: do the clocks of both machines agree?".to_owned()
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "is not one for servers: its extendedKeyUsage must have serverAuth".to_owned()
            }
            // rustls hands on the errors of webpki that it has no name for.
            CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
                "is one of an authority (CA:TRUE), which a server may not show as its own: sign a certificate for the server with \
                 it; or make it by openssl req -x509 with -addext basicConstraints=critical,CA:FALSE"
                    .to_owned()
            }
            error => format!("is not accepted: {}", printable(&error.to_string())),
        }
    }

    /// Says which names the certificate has, which are `presented` in webpki's words.
    fn of_names(&self, presented: &[String]) -> String {
        let name = self.name.to_str();
        if presented.is_empty() {
            return format!(
                "has no subjectAltName: make one with the name {name} (its CN does not count)"
            );
        }
        let names = presented.iter().map(|name| plain_name(name)).collect::<Vec<_>>().join(", ");
        format!(
            "is for {}, and the URL names {name}: write one of its names into the URL, or make a certificate for {name} \
             (for a primary, the name is the one that its Sentinels announce)",
            printable(&names)
        )
    }
}

/// Takes a name out of webpki's words: `DnsName("a.b")`, `IpAddress(::1)`.
pub fn plain_name(word: &str) -> String {
    let inner = word.split_once('(').map_or(word, |(_, rest)| rest);
    inner.trim_end_matches(')').trim_matches('"').to_owned()
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => {
            "wants a client certificate: set redis_cert_file and redis_key_file (or tls-auth-clients no there)"
                .to_owned()
        }
        // With TLS 1.2, the alert for a missing client certificate as well.
        AlertDescription::HandshakeFailure => {
            "refuses the handshake: either it wants a client certificate (redis_cert_file, redis_key_file), \
             or there is no cipher of TLS in common (tls-ciphers)"
                .to_owned()
        }
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => format!(
            "refuses our certificate ({alert:?}): redis_cert_file must be signed by an authority in its tls-ca-cert-file, \
             and be for clients, and not have expired"
        ),
        AlertDescription::ProtocolVersion => {
            "speaks neither TLS 1.2 nor 1.3: allow one of them there (tls-protocols)".to_owned()
        }
        alert => format!("ended TLS with the alert {alert:?}"),
    }
}

/// Returns a duration in words: days, or hours below one day.
fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600) {
        (0, 0) => "less than an hour".to_owned(),
        (0, hours) => format!("{hours} h"),
        (1, _) => "a day".to_owned(),
        (days, _) => format!("{days} days"),
    }
}
