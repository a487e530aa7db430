//! The client side of TLS: the authorities that it trusts, and the certificate that it shows.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{self, CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::pem::certificates;

/// Sessions kept to resume; each server takes one place, with up to eight tickets.
const SESSIONS_MAX: usize = 4;

/// A verifier of servers' certificates.
pub struct Trust(Arc<dyn ServerCertVerifier>);

impl Trust {
    /// Trusts the authorities of the system: those of its packages, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    ///
    /// They take 3 ms to read and 0.6 MB to keep, so they are not read if the settings name others.
    ///
    /// # Errors
    /// A clause: there are none.
    pub fn system() -> Result<Trust, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Trust::of(roots).map_err(|_| {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            format!(
                "this system has no certificates of authorities{why}: apt install ca-certificates"
            )
        })
    }

    /// Trusts the certificates of a PEM file, and no others.
    ///
    /// # Errors
    /// A clause: it holds none.
    pub fn file(pem: &[u8]) -> Result<Trust, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots
                .add(certificate)
                .map_err(|error| format!("a certificate in it is unusable: {error}"))?;
        }
        Trust::of(roots)
    }

    /// Trusts every certificate: the connection is encrypted, but the server may be anyone's.
    pub fn anyone() -> Trust {
        Trust(Arc::new(AnyCertificate(provider().signature_verification_algorithms)))
    }

    fn of(roots: RootCertStore) -> Result<Trust, String> {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        verifier.build().map(|verifier| Trust(verifier)).map_err(|error| error.to_string())
    }

    /// Verifies the chain of a server, its own certificate first.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        unix: Duration,
    ) -> Result<(), Error> {
        let now = UnixTime::since_unix_epoch(unix);
        let (own, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.0.verify_server_cert(own, rest, name, &[], now).map(|_| ())
    }

    /// Builds the settings of connections; no file is read after this.
    ///
    /// # Errors
    /// A clause: the key is not that of the certificate.
    pub fn settings(self, identity: Option<CertifiedKey>) -> Result<Arc<ClientConfig>, String> {
        let versions =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = versions.expect("the provider has suites for both versions");
        let builder = builder.dangerous().with_custom_certificate_verifier(self.0);
        let mut settings = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                identity.keys_match().map_err(|error| match error {
                    Error::InconsistentKeys(_) => {
                        "the key is not that of the first certificate in the file".to_owned()
                    }
                    error => error.to_string(),
                })?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
            }
        };
        settings.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Ok(Arc::new(settings))
    }
}

/// Begins a connection to a server with this name or IP address. It owns no socket.
///
/// # Errors
/// A sentence: it is neither.
pub fn begin(settings: &Arc<ClientConfig>, host: &str) -> Result<ClientConnection, String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    ClientConnection::new(Arc::clone(settings), name).map_err(|error| error.to_string())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

/// A verifier that accepts any certificate. The server must still prove that it has the key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
