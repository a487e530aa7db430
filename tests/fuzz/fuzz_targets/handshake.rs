//! The first bytes of a client at a TLS port: pieces change nothing in the end, and what is kept has a bound.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use oneloop::engine::tls::{
    Acceptor, HandshakeProgress, RECORD_BYTES_MAX, TlsFailure, TlsHandshake, prepared, provider,
};
use oneloop_fuzz::pieces;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn acceptor() -> &'static Acceptor {
    static ACCEPTOR: OnceLock<Acceptor> = OnceLock::new();
    ACCEPTOR.get_or_init(|| {
        let certificate =
            CertificateDer::from_pem_slice(include_bytes!("../../keys/certificate.pem")).unwrap();
        let key =
            PrivateKeyDer::from_pem_slice(include_bytes!("../../keys/p256.private.pem")).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config =
            builder.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        Acceptor { config: Arc::new(prepared(config)), cost: 0 }
    })
}

fuzz_target!(|input: &[u8]| {
    let whole = shake(&[input]);
    // A request in plain HTTP is seen by its first piece.
    let cut = shake(&pieces(input));
    assert!(
        whole == cut || whole == Some(TlsFailure::PlainHttp) || cut == Some(TlsFailure::PlainHttp),
        "{whole:?}, {cut:?}"
    );
    assert!(!matches!(whole, Some(TlsFailure::Internal)));
});

fn shake(pieces: &[&[u8]]) -> Option<TlsFailure> {
    let mut handshake = TlsHandshake::new(acceptor());
    let new = handshake.held_bytes();
    for piece in pieces {
        let mut output = Vec::new();
        match handshake.advance(piece, &mut output) {
            HandshakeProgress::More => {
                assert!(handshake.held_bytes() <= new + 2 * RECORD_BYTES_MAX)
            }
            HandshakeProgress::Done(..) => panic!("nobody has the keys"),
            HandshakeProgress::Failed(failure) => {
                assert!(output.len() < 5000 && !failure.name().is_empty());
                return Some(failure);
            }
        }
    }
    None
}
