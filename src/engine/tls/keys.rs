//! Keys of an open TLS connection, in a box of exactly their size that is wiped when it is freed.
//!
//! Storing the secret alone would save 56 bytes, and cost 0.7 µs for each record: key and IV are derived by four runs of HMAC.
//! Ciphers that ring sets up from a key live on the stack for one record; ring does not wipe them, the next call overwrites them.

use std::fmt;
use std::mem::size_of;

use ring::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::failure::RecordsEnd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

impl TlsVersion {
    /// Returns the label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        }
    }
}

/// Version and cipher of a session, which decide the format of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsSuite {
    Tls13Aes128,
    Tls13Aes256,
    Tls13ChaCha20,
    Tls12Aes128,
    Tls12Aes256,
    Tls12ChaCha20,
}

impl TlsSuite {
    pub fn version(self) -> TlsVersion {
        match self {
            TlsSuite::Tls13Aes128 | TlsSuite::Tls13Aes256 | TlsSuite::Tls13ChaCha20 => {
                TlsVersion::V1_3
            }
            _ => TlsVersion::V1_2,
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            TlsSuite::Tls13Aes128 | TlsSuite::Tls12Aes128 => &AES_128_GCM,
            TlsSuite::Tls13Aes256 | TlsSuite::Tls12Aes256 => &AES_256_GCM,
            TlsSuite::Tls13ChaCha20 | TlsSuite::Tls12ChaCha20 => &CHACHA20_POLY1305,
        }
    }

    pub(super) fn is_gcm(self) -> bool {
        self.algorithm() != &CHACHA20_POLY1305
    }

    /// Returns the length of a traffic secret; TLS 1.2 has none.
    fn secret_bytes(self) -> usize {
        match self {
            TlsSuite::Tls13Aes128 | TlsSuite::Tls13ChaCha20 => 32,
            TlsSuite::Tls13Aes256 => 48,
            _ => 0,
        }
    }
}

/// Bytes of an IV, and of a nonce.
pub(super) const IV_BYTES: usize = 12;

/// The keys of one direction, as a handshake yields them.
pub struct TrafficKeys<'a> {
    pub key: &'a [u8],
    /// TLS 1.2 with GCM: 4 bytes of salt, and where the explicit nonces begin.
    pub iv: &'a [u8],
    /// Empty in TLS 1.2.
    pub secret: &'a [u8],
    /// Records so far.
    pub sequence: u64,
}

impl TrafficKeys<'_> {
    /// Returns whether key and IV derive from the secret (TLS 1.3).
    pub(super) fn are_of_secret(&self) -> bool {
        let (mut key, mut iv) = ([0; 32], [0; IV_BYTES]);
        let key = &mut key[..self.key.len()];
        derive(self.secret, key, &mut iv);
        let is_right = key == self.key && iv == self.iv;
        key.zeroize();
        is_right
    }
}

/// Stored keys of one direction.
struct DirectionKeys<const KEY: usize, const SECRET: usize> {
    key: [u8; KEY],
    iv: [u8; IV_BYTES],
    secret: [u8; SECRET],
    sequence: u32,
}

impl<const KEY: usize, const SECRET: usize> DirectionKeys<KEY, SECRET> {
    fn new(suite: TlsSuite, keys: &TrafficKeys<'_>) -> Option<Self> {
        let mut secret = [0; SECRET];
        let is_right = keys.secret.len() == suite.secret_bytes();
        secret.get_mut(..keys.secret.len()).filter(|_| is_right)?.copy_from_slice(keys.secret);
        Some(DirectionKeys {
            key: keys.key.try_into().ok()?,
            iv: keys.iv.try_into().ok()?,
            secret,
            sequence: keys.sequence.try_into().ok()?,
        })
    }

    fn traffic(&self, suite: TlsSuite) -> TrafficKeys<'_> {
        let DirectionKeys { key, iv, secret, sequence } = self;
        let secret = &secret[..suite.secret_bytes()];
        TrafficKeys { key, iv, secret, sequence: u64::from(*sequence) }
    }

    fn view(&mut self, suite: TlsSuite) -> Direction<'_> {
        let DirectionKeys { key, iv, secret, sequence } = self;
        Direction { suite, key, iv, secret: &mut secret[..suite.secret_bytes()], sequence }
    }
}

impl<const KEY: usize, const SECRET: usize> Zeroize for DirectionKeys<KEY, SECRET> {
    fn zeroize(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
        self.secret.zeroize();
    }
}

impl<const KEY: usize, const SECRET: usize> Drop for DirectionKeys<KEY, SECRET> {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl<const KEY: usize, const SECRET: usize> ZeroizeOnDrop for DirectionKeys<KEY, SECRET> {}

/// State of the record layer beside the keys: 8 bytes.
pub(super) struct RecordState {
    pub suite: TlsSuite,
    pub sending: SendingState,
    /// The end of what the client sends, once it has been seen.
    pub end: Option<RecordsEnd>,
    /// Bytes received of a handshake message's header; 0 between messages.
    pub handshake_seen: u8,
    /// Bytes to come of a handshake message's body.
    pub handshake_left: u16,
    /// Records without data since the last one with data.
    pub useless: u8,
    /// Warnings and requests for renegotiation, over the whole session.
    pub tolerated: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SendingState {
    Open,
    /// The client has asked for new keys: a KeyUpdate goes before the next record.
    KeyUpdateRequested,
    /// After close_notify or a fatal alert.
    Closed,
}

/// Everything that an open connection keeps, in one of two sizes.
pub(super) struct SessionKeys<const KEY: usize, const SECRET: usize> {
    sending: DirectionKeys<KEY, SECRET>,
    receiving: DirectionKeys<KEY, SECRET>,
    state: RecordState,
}

impl<const KEY: usize, const SECRET: usize> SessionKeys<KEY, SECRET> {
    fn new(
        suite: TlsSuite,
        receiving: &TrafficKeys<'_>,
        sending: &TrafficKeys<'_>,
    ) -> Option<Box<Self>> {
        Some(Box::new(SessionKeys {
            sending: DirectionKeys::new(suite, sending)?,
            receiving: DirectionKeys::new(suite, receiving)?,
            state: RecordState {
                suite,
                sending: SendingState::Open,
                end: None,
                handshake_seen: 0,
                handshake_left: 0,
                useless: 0,
                tolerated: 0,
            },
        }))
    }
}

/// AES-128-GCM with SHA-256, which nearly every client has.
pub(super) type SmallKeys = SessionKeys<16, 32>;
/// AES-256-GCM with SHA-384, and ChaCha20 with SHA-256.
pub(super) type LargeKeys = SessionKeys<32, 48>;

const _: () = assert!(size_of::<SmallKeys>() == 136 && size_of::<LargeKeys>() == 200);

pub(super) enum KeyBox {
    Small(Box<SmallKeys>),
    Large(Box<LargeKeys>),
}

impl KeyBox {
    /// Returns `None` if a length does not suit the suite.
    pub fn new(
        suite: TlsSuite,
        receiving: &TrafficKeys<'_>,
        sending: &TrafficKeys<'_>,
    ) -> Option<KeyBox> {
        match suite {
            TlsSuite::Tls13Aes128 | TlsSuite::Tls12Aes128 => {
                SessionKeys::new(suite, receiving, sending).map(KeyBox::Small)
            }
            _ => SessionKeys::new(suite, receiving, sending).map(KeyBox::Large),
        }
    }

    pub fn state(&self) -> &RecordState {
        match self {
            KeyBox::Small(keys) => &keys.state,
            KeyBox::Large(keys) => &keys.state,
        }
    }

    pub fn state_mut(&mut self) -> &mut RecordState {
        match self {
            KeyBox::Small(keys) => &mut keys.state,
            KeyBox::Large(keys) => &mut keys.state,
        }
    }

    pub fn sending(&mut self) -> Direction<'_> {
        match self {
            KeyBox::Small(keys) => keys.sending.view(keys.state.suite),
            KeyBox::Large(keys) => keys.sending.view(keys.state.suite),
        }
    }

    pub fn receiving(&mut self) -> Direction<'_> {
        match self {
            KeyBox::Small(keys) => keys.receiving.view(keys.state.suite),
            KeyBox::Large(keys) => keys.receiving.view(keys.state.suite),
        }
    }

    /// Returns the keys for receiving and for sending.
    pub fn traffic(&self) -> [TrafficKeys<'_>; 2] {
        match self {
            KeyBox::Small(keys) => {
                [&keys.receiving, &keys.sending].map(|one| one.traffic(keys.state.suite))
            }
            KeyBox::Large(keys) => {
                [&keys.receiving, &keys.sending].map(|one| one.traffic(keys.state.suite))
            }
        }
    }

    pub fn sent_records(&self) -> u32 {
        match self {
            KeyBox::Small(keys) => keys.sending.sequence,
            KeyBox::Large(keys) => keys.sending.sequence,
        }
    }

    pub fn heap_bytes(&self) -> usize {
        match self {
            KeyBox::Small(_) => size_of::<SmallKeys>(),
            KeyBox::Large(_) => size_of::<LargeKeys>(),
        }
    }
}

impl fmt::Debug for KeyBox {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state().suite.fmt(formatter)
    }
}

/// The keys of one direction, of either size.
pub(super) struct Direction<'a> {
    pub suite: TlsSuite,
    key: &'a mut [u8],
    iv: &'a mut [u8; IV_BYTES],
    secret: &'a mut [u8],
    /// Records so far under this key. No key may be used for 2³² records, so it never wraps.
    pub sequence: &'a mut u32,
}

impl Direction<'_> {
    pub fn cipher(&self) -> LessSafeKey {
        let key = UnboundKey::new(self.suite.algorithm(), self.key);
        LessSafeKey::new(key.expect("a key has the length that its suite demands"))
    }

    /// Returns the nonce of the next record: the IV, and the sequence number over its last bytes (RFC 8446, section 5.3; RFC
    /// 7905). TLS 1.2 with GCM leaves its last eight bytes to the sender (RFC 5288); they are made in the same way here.
    pub fn nonce(&self) -> [u8; IV_BYTES] {
        let mut nonce = *self.iv;
        for (byte, of_sequence) in nonce[IV_BYTES - 4..].iter_mut().zip(self.sequence.to_be_bytes())
        {
            *byte ^= of_sequence;
        }
        nonce
    }

    /// Replaces secret, key and IV by the next generation (RFC 8446, section 7.2).
    pub fn update(&mut self) {
        let secret = &mut *self.secret;
        let mut next = [0; 48];
        let next = &mut next[..secret.len()];
        expand_label(secret, "traffic upd", next);
        secret.copy_from_slice(next);
        next.zeroize();
        derive(secret, self.key, self.iv);
        *self.sequence = 0;
    }
}

/// Derives key and IV from a traffic secret (RFC 8446, section 7.3).
fn derive(secret: &[u8], key: &mut [u8], iv: &mut [u8; IV_BYTES]) {
    expand_label(secret, "key", key);
    expand_label(secret, "iv", iv);
}

/// HKDF-Expand-Label without a context (RFC 8446, section 7.1). The length of the secret determines the hash.
fn expand_label(secret: &[u8], label: &str, output: &mut [u8]) {
    let algorithm = if secret.len() == 48 { HKDF_SHA384 } else { HKDF_SHA256 };
    let length = (output.len() as u16).to_be_bytes();
    let label_length = ["tls13 ".len() as u8 + label.len() as u8];
    let info = [&length[..], &label_length, b"tls13 ", label.as_bytes(), &[0]];
    let secret = Prk::new_less_safe(algorithm, secret);
    let output_bytes = OutputBytes(output.len());
    let expanded = secret.expand(&info, output_bytes).and_then(|key| key.fill(output));
    expanded.expect("a key is shorter than 255 hashes");
}

struct OutputBytes(usize);

impl KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_is_wiped() {
        fn wiped_on_drop<T: ZeroizeOnDrop>(_: &T) {}
        let keys = TrafficKeys { key: &[1; 32], iv: &[2; 12], secret: &[3; 48], sequence: 4 };
        let mut stored = DirectionKeys::<32, 48>::new(TlsSuite::Tls13Aes256, &keys).unwrap();
        wiped_on_drop(&stored);
        // Drop calls this, and nothing else.
        stored.zeroize();
        assert_eq!((stored.key, stored.iv, stored.secret), ([0; 32], [0; 12], [0; 48]));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let keys = TrafficKeys { key: &[171; 16], iv: &[171; 12], secret: &[171; 32], sequence: 0 };
        let keys = KeyBox::new(TlsSuite::Tls13Aes128, &keys, &keys);
        assert_eq!(format!("{keys:?}"), "Some(Tls13Aes128)");
    }
}
