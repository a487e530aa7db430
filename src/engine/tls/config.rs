//! The settings of rustls that handshakes here rely on.

use std::cell::Cell;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::ring::default_provider;
use rustls::crypto::ring::kx_group::{SECP256R1, X25519};
use rustls::server::NoServerSessionStorage;
use rustls::{KeyLog, ServerConfig};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The settings of handshakes at TLS listeners, and their cost.
pub struct Acceptor {
    /// Made by [`prepared`], without which every handshake fails.
    pub config: Arc<ServerConfig>,
    /// The cost of a full handshake in the loop's unit of work, bytes read.
    pub cost: usize,
}

/// Returns ring's provider with AES-128-GCM first and AES-256-GCM last: a session by AES-128 takes 136 bytes instead of 200, and
/// its SHA-256 runs in hardware. Key exchange is by X25519 or P-256. All suites are AEAD ciphers with ECDHE.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        // By ring P-384 takes 1.2 ms, and no client is without one of these.
        kx_groups: vec![X25519, SECP256R1],
        ..default_provider()
    }
}

/// Adds what [`TlsHandshake`](super::TlsHandshake) needs to `config`: secrets can be extracted, early data is off, and sessions
/// are kept in tickets only. The server's order of suites decides. A client that offers protocols by ALPN must offer HTTP/1.1.
pub fn prepared(mut config: ServerConfig) -> ServerConfig {
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    config.key_log = Arc::new(SecretCatcher);
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The first traffic secrets of a TLS 1.3 connection. Keys are derived from them, and by KeyUpdate the next secrets.
pub(super) struct TrafficSecrets {
    pub client: [u8; SECRET_BYTES_MAX],
    pub server: [u8; SECRET_BYTES_MAX],
    /// The length of both, which is that of the suite's hash; 0 if there are none.
    pub bytes: usize,
}

/// The length of a secret by SHA-384.
const SECRET_BYTES_MAX: usize = 48;

impl Default for TrafficSecrets {
    fn default() -> TrafficSecrets {
        TrafficSecrets { client: [0; SECRET_BYTES_MAX], server: [0; SECRET_BYTES_MAX], bytes: 0 }
    }
}

impl Zeroize for TrafficSecrets {
    fn zeroize(&mut self) {
        self.client.zeroize();
        self.server.zeroize();
        self.bytes = 0;
    }
}

impl Drop for TrafficSecrets {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for TrafficSecrets {}

thread_local! {
    /// Filled and emptied within one call of rustls, whose key log is the only place where it shows traffic secrets.
    static CAUGHT: Cell<TrafficSecrets> = Cell::default();
}

/// Takes the traffic secrets that rustls derived in the call just made, if any.
pub(super) fn take_traffic_secrets() -> Option<TrafficSecrets> {
    Some(CAUGHT.take()).filter(|secrets| secrets.bytes > 0)
}

/// A key log for rustls that writes nothing down.
#[derive(Debug)]
struct SecretCatcher;

const OF_CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const OF_SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for SecretCatcher {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        // TLS 1.2 does not ask whether its master secret is wanted.
        if !self.will_log(label) {
            return;
        }
        let mut caught = CAUGHT.take();
        let of_it = if label == OF_CLIENT { &mut caught.client } else { &mut caught.server };
        of_it[..secret.len()].copy_from_slice(secret);
        caught.bytes = secret.len();
        CAUGHT.set(caught);
    }

    fn will_log(&self, label: &str) -> bool {
        label == OF_CLIENT || label == OF_SERVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_secrets_are_taken_once_and_wiped() {
        fn wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        SecretCatcher.log("CLIENT_RANDOM", &[], &[9; 48]);
        assert!(take_traffic_secrets().is_none(), "the master secret of TLS 1.2 is not kept");
        SecretCatcher.log(OF_CLIENT, &[], &[1; 32]);
        SecretCatcher.log(OF_SERVER, &[], &[2; 32]);
        let mut secrets = take_traffic_secrets().unwrap();
        assert!(take_traffic_secrets().is_none());
        wiped_on_drop(&secrets);
        assert_eq!((&secrets.client[..32], &secrets.server[..32]), (&[1; 32][..], &[2; 32][..]));
        // Drop calls this, and nothing else.
        secrets.zeroize();
        assert_eq!((secrets.client, secrets.server, secrets.bytes), ([0; 48], [0; 48], 0));
    }
}
