//! Server-side TLS, without I/O and without a clock: a handshake that is dropped when it is done, then keys alone.
//!
//! ```text
//!             bytes of the client                      records of the client
//!                     │                                          │
//!                     ▼                                          ▼
//!  Acceptor ──► TlsHandshake ──────── Done ────────────► TlsSession::open ──► plaintext, in place
//!               rustls, in a box      keys alone:        TlsSession::seal ◄── plaintext
//!               of about 4 KB         136 or 200 bytes           │
//!                     │                                          ▼
//!                     ▼ records of the handshake              records
//! ```
//!
//! An idle client of a usual TLS library costs 3 to 47 KB: buffers, cipher contexts, a transcript. Here rustls does the
//! handshake, the difficult part, and is dropped at its end. All that an open connection needs afterwards is, for each direction,
//! a key, an IV, a sequence number, and the secret from which a KeyUpdate derives the next key. Everything else is borrowed:
//! records are opened in the buffer into which the loop reads, sealed into the one from which it writes, and a cipher is set up
//! from its key for each use, which takes 130 ns.
//!
//! The cryptography is ring's and the handshake rustls'. Only the record layer is our own: `session.rs` and `record.rs` implement
//! RFC 8446 (TLS 1.3), and RFC 5246, 5288 and 7905 (TLS 1.2 with AEAD ciphers). It is tested against the vectors of RFC 8448,
//! against rustls' clients, and record by record against rustls' server.

mod config;
mod failure;
mod handshake;
mod keys;
mod record;
mod session;
#[cfg(test)]
pub(super) mod tests;

pub use config::{Acceptor, prepared, provider};
pub use failure::{RecordsEnd, TlsFailure};
pub use handshake::{HandshakeFacts, HandshakeProgress, TlsHandshake};
pub use keys::{TlsSuite, TlsVersion, TrafficKeys};
pub use record::{RECORD_BYTES_MAX, RECORD_PLAIN_MAX};
pub use session::{Opened, TlsSession};
