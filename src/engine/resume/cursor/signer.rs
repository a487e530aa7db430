//! The MAC of cursors: a client can come back with a cursor that it was sent, and with none of its own making.
//!
//! A cursor decides how much of a stream is read for its client, so its text ends with a MAC over all that stands before. The key is
//! the same at every process with the same secret, so a cursor is valid at each of them, and after a restart.
//!
//! The MAC is SipHash-2-4 (Aumasson and Bernstein 2012), made for short inputs: it is computed once for each message that has a
//! subscriber. 64 bits are enough, since there is no oracle but the handshake: a forger tries 2^63 of them, each with a valid token,
//! and gains no more than a replay.

use ring::hmac;
use siphasher::sip::SipHasher24;

use super::{Cursor, EntryId, Node, read_number, write, write_number};
use crate::upgrade::{StateError, StateReader, StateWriter};

const MAC_CHARS: usize = 13;

/// Separates this key from all else that a secret is used for. No token can be signed for this text: it has no dot.
const LABEL: &[u8] = b"oneloop: the key of cursors, 1";

const KEY_BYTES: usize = 16;

/// Signs cursors, and verifies those signed with its key or with the previous one.
pub struct Signer {
    own: SipHasher24,
    previous: Option<SipHasher24>,
    /// No other process has the key: one that takes this one's place is given it.
    is_own: bool,
}

impl Signer {
    /// A signer with keys derived from a secret and from the previous one. A cursor reveals neither: HMAC-SHA256 (RFC 2104) goes
    /// one way.
    pub fn derived(secret: &[u8], previous: Option<&[u8]>) -> Signer {
        let key = |secret| SipHasher24::new_with_key(&derive(secret));
        Signer { own: key(secret), previous: previous.map(key), is_own: false }
    }

    /// A signer with a key that no other process has.
    pub fn with_key(key: &[u8; KEY_BYTES]) -> Signer {
        Signer { own: SipHasher24::new_with_key(key), previous: None, is_own: true }
    }

    /// The key, if no settings have it.
    pub fn own_key(&self) -> Option<[u8; KEY_BYTES]> {
        self.is_own.then(|| self.own.key())
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        if let Some(own) = writer.option(self.own_key()) {
            writer.bytes(&own);
        }
    }

    /// Takes over the key that was written, if neither process has one of the settings.
    ///
    /// # Errors
    /// No key.
    pub fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        if let Some(key) = reader.option(|reader| reader.bytes(KEY_BYTES))?
            && self.is_own
        {
            let key = key.try_into().map_err(|_| StateError::Malformed("the key of cursors"))?;
            *self = Signer::with_key(&key);
        }
        Ok(())
    }

    /// Parses a text of [`Signer::write`] that was signed with the same key or the previous one, and no other text.
    pub fn read(&self, text: &str) -> Option<Cursor> {
        let (signed, mac) = text.split_at_checked(text.len().checked_sub(MAC_CHARS)?)?;
        let given = read_number(&mut mac.as_bytes(), MAC_CHARS)?;
        let is_of = |key: &SipHasher24| key.hash(signed.as_bytes()) == given;
        let is_ours = is_of(&self.own) || self.previous.as_ref().is_some_and(is_of);
        is_ours.then(|| Cursor::parse(signed))?
    }

    /// Appends the text of a cursor with these parts.
    pub fn write(
        &self,
        out: &mut String,
        node: Node,
        number: u64,
        has_channels: bool,
        entries: &[EntryId],
    ) {
        let begin = out.len();
        write(out, node, number, has_channels, entries);
        let mac = self.own.hash(&out.as_bytes()[begin..]);
        write_number(out, mac, MAC_CHARS);
    }

    #[cfg(test)]
    pub fn text(&self, cursor: &Cursor) -> String {
        let mut text = String::new();
        self.write(&mut text, cursor.node, cursor.number, cursor.has_channels, &cursor.entries);
        text
    }
}

fn derive(secret: &[u8]) -> [u8; KEY_BYTES] {
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), LABEL);
    std::array::from_fn(|at| mac.as_ref()[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret for tests alone, long enough";

    fn cursor(number: u64, millis: &[u64]) -> Cursor {
        let entries = millis.iter().map(|millis| EntryId { millis: *millis, number: 0 }).collect();
        Cursor { node: Node::new(1_700_000_000, 1 << 40), number, has_channels: true, entries }
    }

    #[test]
    fn the_key_is_that_of_siphash_2_4_and_of_no_other_use_of_the_secret() {
        // Appendix A of the paper: key 00 01 … 0f, input 00 01 … 0e.
        let key = std::array::from_fn(|at| at as u8);
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(SipHasher24::new_with_key(&key).hash(&input), 0xa129_ca61_49be_45e5);
        // By another program: printf LABEL | openssl dgst -sha256 -hmac SECRET.
        let key = derive(SECRET);
        assert_eq!(
            key.map(|byte| format!("{byte:02x}")).concat(),
            "c1cb5246c1f7adccbc33bb48cec64d47"
        );
    }

    #[test]
    fn a_cursor_of_an_older_version_with_the_same_secret_is_valid() {
        // By another program, from the descriptions of SipHash and HMAC.
        let text = "cl9v2000000g0000000007111091hf7uaq000ebcb23ubthsp6";
        let signer = Signer::derived(SECRET, None);
        assert_eq!(signer.read(text), Some(cursor(7, &[1, 1_700_000_000_000])));
        assert_eq!(signer.text(&cursor(7, &[1, 1_700_000_000_000])), text);
    }

    #[test]
    fn a_cursor_is_good_at_each_process_with_the_secret_and_at_no_other() {
        let text = Signer::derived(SECRET, None).text(&cursor(7, &[1, 2]));
        let read = |signer: Signer| signer.read(&text).is_some();
        assert!(read(Signer::derived(SECRET, None)), "after a restart");
        assert!(read(Signer::derived(b"a new one", Some(SECRET))), "while secrets are changed");
        assert!(!read(Signer::derived(b"a new one", None)));
        assert!(!read(Signer::derived(b"a new one", Some(b"another one"))));
        assert!(!read(Signer::with_key(&[0; KEY_BYTES])));
    }

    #[test]
    fn an_altered_cursor_is_none() {
        let signer = Signer::derived(SECRET, None);
        let text = signer.text(&cursor(7, &[1, 1_700_000_000_000]));
        assert_eq!(signer.read(&text), Some(cursor(7, &[1, 1_700_000_000_000])));
        for at in 0..text.len() {
            for digit in "0123456789abcdefghijklmnopqrstuvwAV -\0é".chars() {
                let altered = [&text[..at], &digit.to_string(), &text[at + 1..]].concat();
                assert!(altered == text || signer.read(&altered).is_none(), "{altered}");
            }
            assert_eq!(signer.read(&text[..at]), None);
            assert_eq!(signer.read(&text[at + 1..]), None);
        }
        for end in ["0", "v", "\0", "é"] {
            assert_eq!(signer.read(&[&text, end].concat()), None);
        }
        // A MAC has 65 bits of digits, and 64 of its own.
        let unsigned = &text[..text.len() - MAC_CHARS];
        for mac in ["", "0", "0000000000000", "vvvvvvvvvvvvv", "ééééééé"] {
            assert_eq!(signer.read(&[unsigned, mac].concat()), None, "{mac}");
        }
    }

    #[test]
    fn signed_cursors_rise_as_their_parts_do() {
        let signer = Signer::derived(SECRET, None);
        let text = |number, millis: &[u64]| signer.text(&cursor(number, millis));
        for number in 0..2_000_u64 {
            let millis = 1_700_000_000_000 + 37 * number;
            assert!(text(number, &[]) < text(number + 1, &[]));
            assert!(text(number, &[millis, 5]) < text(number + 1, &[millis, 5]));
            assert!(text(7, &[millis, 5]) < text(7, &[millis + 1, 5]));
            assert!(text(7, &[5, number]) < text(7, &[5, number + 1]));
        }
        assert_eq!(text(1, &[]).len(), 22 + MAC_CHARS);
    }
}
