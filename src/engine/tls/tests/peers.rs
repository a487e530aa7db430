//! Clients and configurations for tests: rustls with a key exchange and a signature that cost nothing, so that a handshake takes
//! microseconds, and with chance from a seed, so that what failed once fails again. Nothing else of the provider is replaced.

use std::cell::Cell;
use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::ClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, ServerConfig, SignatureAlgorithm,
    SignatureScheme, SupportedCipherSuite,
};

use crate::engine::random::Random;
use crate::engine::tls::{
    Acceptor, HandshakeFacts, HandshakeProgress, TlsHandshake, TlsSession, prepared, provider,
};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(1) };
}

/// Handshakes of this thread are from now on those of this seed.
pub fn seed(seed: u64) {
    SEED.set(seed);
}

#[derive(Debug)]
struct SeededRandom;

impl SecureRandom for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        let mut random = Random::new(SEED.get());
        for byte in bytes {
            *byte = random.next() as u8;
        }
        SEED.set(random.next());
        Ok(())
    }
}

/// A key exchange in which both sides know the secret beforehand.
#[derive(Debug)]
struct FreeGroup(NamedGroup);

const X25519: FreeGroup = FreeGroup(NamedGroup::X25519);
/// A group that no server here has.
const P384: FreeGroup = FreeGroup(NamedGroup::secp384r1);

impl SupportedKxGroup for FreeGroup {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(FreeGroup(self.0)))
    }

    fn name(&self) -> NamedGroup {
        self.0
    }
}

impl ActiveKeyExchange for FreeGroup {
    fn complete(self: Box<Self>, _theirs: &[u8]) -> Result<SharedSecret, Error> {
        Ok(SharedSecret::from(&[7; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        &[9; 32]
    }

    fn group(&self) -> NamedGroup {
        self.0
    }
}

/// A key that signs everything in the same way.
#[derive(Debug)]
struct FreeKey;

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

impl SigningKey for FreeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SCHEME).then(|| Box::new(FreeKey) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for FreeKey {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(vec![1; 70])
    }

    fn scheme(&self) -> SignatureScheme {
        SCHEME
    }
}

/// Believes every server.
#[derive(Debug)]
pub struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SCHEME, SignatureScheme::RSA_PSS_SHA256]
    }
}

/// Tickets that hide nothing.
#[derive(Debug)]
struct FreeTickets;

impl ProducesTickets for FreeTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        1000
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        Some(plain.to_vec())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        Some(cipher.to_vec())
    }
}

pub fn free_provider() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![&X25519], secure_random: &SeededRandom, ..provider() }
}

/// A server's configuration, as plain rustls would use it.
pub fn server_config(has_tickets: bool) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(Arc::new(free_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let key = CertifiedKey::new(vec![CertificateDer::from(vec![1; 300])], Arc::new(FreeKey));
    let resolver = Arc::new(SingleCertAndKey::from(key));
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    if has_tickets {
        config.ticketer = Arc::new(FreeTickets);
    }
    config
}

pub fn acceptor(has_tickets: bool) -> Acceptor {
    Acceptor { config: Arc::new(prepared(server_config(has_tickets))), cost: 0 }
}

/// Returns whether a suite goes with the test's key.
pub fn suits(suite: SupportedCipherSuite) -> bool {
    suite.suite().as_str().is_some_and(|name| !name.contains("_RSA_"))
}

/// A suite of TLS 1.2.
pub fn tls12_suite() -> SupportedCipherSuite {
    let mut suites = free_provider().cipher_suites.into_iter();
    suites.find(|suite| suite.tls13().is_none() && suits(*suite)).expect("ring has it")
}

/// A client that knows this suite alone, or all.
pub fn client_config(suite: Option<SupportedCipherSuite>) -> Arc<ClientConfig> {
    let mut provider = free_provider();
    provider.cipher_suites.retain(|one| suite.is_none_or(|suite| *one == suite));
    client_config_of(provider)
}

/// A client whose first hello has no key share that the server could use: it must send a second one.
pub fn retrying_client_config() -> Arc<ClientConfig> {
    client_config_of(CryptoProvider { kx_groups: vec![&P384, &X25519], ..free_provider() })
}

fn client_config_of(provider: CryptoProvider) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = builder.with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}

pub fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), ServerName::try_from("test").unwrap()).unwrap()
}

/// All that the client has to send.
pub fn sent_by(client: &mut ClientConnection) -> Vec<u8> {
    let mut sent = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut sent).unwrap();
    }
    sent
}

/// Lets the client receive these bytes.
pub fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
        // Blocks when there is nothing, and ends after a close_notify.
        let _ = client.reader().read_to_end(&mut plain);
    }
    Ok(plain)
}

/// A finished handshake, with what the client sent behind it.
pub struct Shaken {
    pub session: TlsSession,
    pub client: ClientConnection,
    pub facts: HandshakeFacts,
    pub behind: Vec<u8>,
}

/// A handshake whose client sends pieces of up to `size_max` bytes, and `early` as soon as it may.
pub fn shake(
    acceptor: &Acceptor,
    mut client: ClientConnection,
    pieces: &mut Random,
    size_max: usize,
    early: &[u8],
) -> Shaken {
    let mut handshake = Box::new(TlsHandshake::new(acceptor));
    client.writer().write_all(early).unwrap();
    for _ in 0..10 {
        let sent = sent_by(&mut client);
        let mut output = Vec::new();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + pieces.below(size_max)).min(rest.len()));
            rest = behind;
            match handshake.advance(piece, &mut output) {
                HandshakeProgress::More => {}
                HandshakeProgress::Done(session, facts, mut left) => {
                    left.extend_from_slice(rest);
                    assert!(give(&mut client, &output).unwrap().is_empty());
                    return Shaken { session, client, facts, behind: left };
                }
                HandshakeProgress::Failed(failure) => panic!("{failure:?}"),
            }
        }
        give(&mut client, &output).unwrap();
    }
    panic!("the handshake does not end");
}
