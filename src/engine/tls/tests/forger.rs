//! A client's side of an open connection that seals whatever it is told to. It shares no code with the record layer that it tests.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use ring::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};

/// One direction of a connection: keys, and the number of the next record.
pub struct Forger {
    pub key: Vec<u8>,
    pub iv: Vec<u8>,
    /// Empty in TLS 1.2.
    pub secret: Vec<u8>,
    pub sequence: u64,
    pub is_chacha: bool,
}

impl Forger {
    /// TLS 1.3: by a traffic secret.
    pub fn of_secret(secret: &[u8], is_chacha: bool) -> Forger {
        let is_small = secret.len() == 32 && !is_chacha;
        let key = expand(secret, b"key", if is_small { 16 } else { 32 });
        let iv = expand(secret, b"iv", 12);
        Forger { key, iv, secret: secret.to_vec(), sequence: 0, is_chacha }
    }

    pub fn update(&mut self) {
        let next = expand(&self.secret, b"traffic upd", self.secret.len());
        *self = Forger::of_secret(&next, self.is_chacha);
    }

    /// A record as it should be.
    pub fn record(&mut self, content: u8, plain: &[u8], padding: usize) -> Vec<u8> {
        let outer = if self.secret.is_empty() { content } else { 23 };
        self.record_as(outer, content, plain, padding)
    }

    /// A record that authenticates the header of a usual one, and then shows another type.
    pub fn record_as(&mut self, outer: u8, content: u8, plain: &[u8], padding: usize) -> Vec<u8> {
        let is_tls13 = !self.secret.is_empty();
        let mut nonce: [u8; 12] = self.iv[..].try_into().unwrap();
        for (at, byte) in self.sequence.to_be_bytes().into_iter().enumerate() {
            nonce[4 + at] ^= byte;
        }
        let mut body = plain.to_vec();
        if is_tls13 {
            body.push(content);
            body.resize(body.len() + padding, 0);
        }
        let explicit = if is_tls13 || self.is_chacha { &[][..] } else { &nonce[4..] };
        let length = (explicit.len() + body.len() + 16) as u16;
        let mut record = vec![outer, 3, 3];
        record.extend(length.to_be_bytes());
        record.extend(explicit);
        let additional = if is_tls13 {
            [&[23, 3, 3][..], &length.to_be_bytes()].concat()
        } else {
            let plain_length = (plain.len() as u16).to_be_bytes();
            [&self.sequence.to_be_bytes()[..], &[content, 3, 3], &plain_length].concat()
        };
        let algorithm = match (self.is_chacha, self.key.len()) {
            (true, _) => &CHACHA20_POLY1305,
            (false, 16) => &AES_128_GCM,
            (false, _) => &AES_256_GCM,
        };
        let cipher = LessSafeKey::new(UnboundKey::new(algorithm, &self.key).unwrap());
        let nonce = Nonce::assume_unique_for_key(nonce);
        cipher.seal_in_place_append_tag(nonce, Aad::from(&additional[..]), &mut body).unwrap();
        record.extend(body);
        self.sequence += 1;
        record
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(secret: &[u8], label: &[u8], bytes: usize) -> Vec<u8> {
    let hash = if secret.len() == 48 { HKDF_SHA384 } else { HKDF_SHA256 };
    let mut info = vec![0, bytes as u8, 6 + label.len() as u8];
    info.extend(b"tls13 ");
    info.extend(label);
    info.push(0);
    let mut output = vec![0; bytes];
    let info = [&info[..]];
    let secret = Prk::new_less_safe(hash, secret);
    secret.expand(&info, Length(bytes)).unwrap().fill(&mut output).unwrap();
    output
}
