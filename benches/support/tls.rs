//! TLS in the benches: the certificates of the tests, clients that accept them, and the settings of servers that show them.
//!
//! Clients compare a certificate with those of the tests and check no signature: they are load, and the time that they use is
//! the server's to wait.

use std::path::PathBuf;
use std::sync::Arc;

use oneloop::engine::tls::provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

/// How clients reach a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Security {
    Plain,
    Tls12,
    Tls13,
}

impl Security {
    /// The name in tables, in reports and in the arguments of a helper.
    pub fn name(self) -> &'static str {
        match self {
            Security::Plain => "plain",
            Security::Tls12 => "TLS 1.2",
            Security::Tls13 => "TLS 1.3",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Security {
        let all = [Security::Plain, Security::Tls12, Security::Tls13];
        let found = all.into_iter().find(|security| security.name() == name);
        found.unwrap_or_else(|| panic!("no such security: {name}"))
    }

    /// The configuration of clients that do a full handshake each time; `None` for plain ones.
    pub fn clients(self) -> Option<Arc<ClientConfig>> {
        (self != Security::Plain).then(|| self.clients_with(Resumption::disabled()))
    }

    /// The same of clients that keep their tickets here.
    pub fn returning_clients(self, tickets: Arc<dyn ClientSessionStore>) -> Arc<ClientConfig> {
        self.clients_with(Resumption::store(tickets))
    }

    fn clients_with(self, resumption: Resumption) -> Arc<ClientConfig> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(KnownCertificates::read(&provider));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[self.version()])
            .expect("the suites suit the version")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = resumption;
        Arc::new(config)
    }

    fn version(self) -> &'static SupportedProtocolVersion {
        match self {
            Security::Plain => panic!("plain clients know no version of TLS"),
            Security::Tls12 => &rustls::version::TLS12,
            Security::Tls13 => &rustls::version::TLS13,
        }
    }
}

/// A connection that begins with a handshake, for the name in the certificates.
pub fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("example.com").expect("a name");
    ClientConnection::new(config.clone(), name).expect("the configuration is whole")
}

/// A certificate of the tests, with its intermediate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Certificate {
    P256,
    Rsa2048,
}

impl Certificate {
    pub const ALL: [Certificate; 2] = [Certificate::P256, Certificate::Rsa2048];

    /// The name in tables, in reports and in the arguments of a helper.
    pub fn name(self) -> &'static str {
        match self {
            Certificate::P256 => "ECDSA P-256",
            Certificate::Rsa2048 => "RSA-2048",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Certificate {
        let found = Certificate::ALL.into_iter().find(|certificate| certificate.name() == name);
        found.unwrap_or_else(|| panic!("no such certificate: {name}"))
    }

    /// The file with the chain.
    pub fn chain_file(self) -> String {
        key_file(match self {
            Certificate::P256 => "tls/p256.pem",
            Certificate::Rsa2048 => "tls/rsa.pem",
        })
    }

    /// The file with the private key.
    pub fn key_file(self) -> String {
        key_file(match self {
            Certificate::P256 => "p256.private.pem",
            Certificate::Rsa2048 => "rsa.private.pem",
        })
    }

    /// The server's own certificate.
    pub fn leaf(self) -> CertificateDer<'static> {
        self.chain().swap_remove(0)
    }

    fn chain(self) -> Vec<CertificateDer<'static>> {
        let file = self.chain_file();
        let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect);
        read.unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The configuration of a server like oneloop's own: the same order of suites, and tickets.
    pub fn server(self) -> ServerConfig {
        let key = PrivateKeyDer::from_pem_file(self.key_file()).expect("the key is there");
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .expect("the suites suit the versions")
            .with_no_client_auth()
            .with_single_cert(self.chain(), key)
            .expect("key and certificate fit");
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().expect("random bytes can be had");
        config
    }
}

fn key_file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
    path.to_string_lossy().into_owned()
}

/// Accepts the certificates of the tests and no other.
#[derive(Debug)]
struct KnownCertificates {
    leaves: Vec<CertificateDer<'static>>,
    schemes: Vec<SignatureScheme>,
}

impl KnownCertificates {
    fn read(provider: &CryptoProvider) -> KnownCertificates {
        let leaves = Certificate::ALL.map(Certificate::leaf);
        let schemes = provider.signature_verification_algorithms.supported_schemes();
        KnownCertificates { leaves: leaves.into(), schemes }
    }
}

impl ServerCertVerifier for KnownCertificates {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.leaves.iter().any(|leaf| leaf == end_entity) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("not a certificate of the tests".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
