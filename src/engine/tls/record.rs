//! One record: its layout, and how it is sealed and opened.
//!
//! ```text
//!          type version length   TLS 1.2, GCM                                   TLS 1.3
//!         ┌────┬───────┬──────┬────────────────┬───────────────────────────┬───────────────┬────────┐
//! record  │ 23 │ 03 03 │      │ explicit nonce │          content          │ type, padding │  tag   │
//!         └────┴───────┴──────┴────────────────┴───────────────────────────┴───────────────┴────────┘
//!          5 bytes              8                at most 16,384              1 and more      16
//! ```
//!
//! TLS 1.3 encrypts the type behind the content, and the first byte is always that of data. TLS 1.2 has the type in the first
//! byte.

use ring::aead::{Aad, Nonce};

use super::failure::TlsFailure;
use super::keys::{Direction, IV_BYTES, TlsVersion};

/// The most plaintext that fits into a record.
pub const RECORD_PLAIN_MAX: usize = 16 * 1024;
/// The longest record (RFC 8446, section 5.2), and more than TLS 1.2 makes of one with an AEAD cipher.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + RECORD_PLAIN_MAX + 256;

pub(super) const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
const EXPLICIT_NONCE_BYTES: usize = 8;

/// The types of content (RFC 8446, section 5.1). A ChangeCipherSpec, 20, is only part of a handshake.
pub(super) mod content {
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

impl Direction<'_> {
    /// Appends a record to `out`: one copy of `plain`, encrypted where it lies.
    pub fn seal(&mut self, content: u8, plain: &[u8], out: &mut Vec<u8>) {
        // A nonce must not repeat: nothing is sealed instead.
        let Some(next) = self.sequence.checked_add(1) else { return };
        let nonce = self.nonce();
        let is_tls13 = self.suite.version() == TlsVersion::V1_3;
        let explicit = &nonce[IV_BYTES - self.explicit_bytes()..];
        let bytes = explicit.len() + plain.len() + usize::from(is_tls13) + TAG_BYTES;
        let [high, low] = (bytes as u16).to_be_bytes();
        let header = [if is_tls13 { content::APPLICATION_DATA } else { content }, 3, 3, high, low];
        out.reserve(HEADER_BYTES + bytes);
        out.extend_from_slice(&header);
        out.extend_from_slice(explicit);
        let start = out.len();
        out.extend_from_slice(plain);
        out.extend(is_tls13.then_some(content));
        let (nonce, additional) =
            (Nonce::assume_unique_for_key(nonce), self.additional_data(header, plain.len()));
        let sealed = self.cipher().seal_in_place_separate_tag(nonce, additional, &mut out[start..]);
        let tag = sealed.expect("a record is far below the limit of a cipher");
        out.extend_from_slice(tag.as_ref());
        *self.sequence = next;
    }

    /// Returns the length of the record behind this header. Invalid types and lengths are refused before the rest has arrived.
    pub fn checked_length(&self, header: [u8; HEADER_BYTES]) -> Result<usize, TlsFailure> {
        let [content, _, _, high, low] = header;
        let bytes = usize::from(u16::from_be_bytes([high, low]));
        let is_expected = match self.suite.version() {
            TlsVersion::V1_3 => content == content::APPLICATION_DATA,
            TlsVersion::V1_2 => (content::ALERT..=content::APPLICATION_DATA).contains(&content),
        };
        if !is_expected {
            return Err(TlsFailure::UnexpectedMessage);
        }
        if HEADER_BYTES + bytes > RECORD_BYTES_MAX {
            return Err(TlsFailure::RecordOverflow);
        }
        Ok(bytes)
    }

    /// Opens the record of `bytes` at the end of `place`, moves its plaintext to the front of `place`, and returns the type and the
    /// length of its content.
    pub fn open(
        &mut self,
        header: [u8; HEADER_BYTES],
        place: &mut [u8],
        bytes: usize,
    ) -> Result<(u8, usize), TlsFailure> {
        let next = self.sequence.checked_add(1).ok_or(TlsFailure::KeyWornOut)?;
        let explicit_bytes = self.explicit_bytes();
        let sealed_bytes =
            bytes.checked_sub(explicit_bytes + TAG_BYTES).ok_or(TlsFailure::BadRecordMac)?;
        let start = place.len() - bytes;
        let mut nonce = self.nonce();
        let explicit = &place[start..start + explicit_bytes];
        nonce[IV_BYTES - explicit_bytes..].copy_from_slice(explicit);
        let (nonce, additional) =
            (Nonce::assume_unique_for_key(nonce), self.additional_data(header, sealed_bytes));
        let opened = self.cipher().open_within(nonce, additional, place, start + explicit_bytes..);
        let plain: &[u8] = opened.map_err(|_| TlsFailure::BadRecordMac)?;
        *self.sequence = next;
        if self.suite.version() == TlsVersion::V1_2 {
            let is_right = plain.len() <= RECORD_PLAIN_MAX;
            return if is_right {
                Ok((header[0], plain.len()))
            } else {
                Err(TlsFailure::RecordOverflow)
            };
        }
        // The type of the content stands behind it, and zeros behind that (RFC 8446, section 5.4).
        if plain.len() > RECORD_PLAIN_MAX + 1 {
            return Err(TlsFailure::RecordOverflow);
        }
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or(TlsFailure::UnexpectedMessage)?;
        Ok((plain[end], end))
    }

    fn explicit_bytes(&self) -> usize {
        let is_explicit = self.suite.version() == TlsVersion::V1_2 && self.suite.is_gcm();
        if is_explicit { EXPLICIT_NONCE_BYTES } else { 0 }
    }

    /// Returns the data authenticated beside the content: the header (RFC 8446, section 5.2), or the sequence number and a header
    /// with the length of the plaintext (RFC 5246, section 6.2.3.3).
    fn additional_data(
        &self,
        header: [u8; HEADER_BYTES],
        plain_bytes: usize,
    ) -> Aad<AdditionalData> {
        let mut bytes = [0; 13];
        bytes[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..].copy_from_slice(&header);
        let is_tls13 = self.suite.version() == TlsVersion::V1_3;
        if !is_tls13 {
            bytes[11..].copy_from_slice(&(plain_bytes as u16).to_be_bytes());
        }
        Aad::from(AdditionalData { bytes, start: if is_tls13 { 8 } else { 0 } })
    }
}

struct AdditionalData {
    bytes: [u8; 13],
    start: usize,
}

impl AsRef<[u8]> for AdditionalData {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
