//! DER, read in place: nested elements of tag, length and contents (ITU-T X.690).
//!
//! The reader takes slices and never copies, so input of any size costs nothing, and lengths that lie end in `None`.

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_IDENTIFIER: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
/// The explicit tag [0]: a certificate's version, absent in version 1, or the curve of a key.
pub const TAG_0: u8 = 0xa0;

/// The object identifier `rsaEncryption` (RFC 8017 appendix C).
pub const RSA_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// The object identifier `id-ecPublicKey` (RFC 5480 section 2.1.1).
pub const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// The object identifier `id-Ed25519` (RFC 8410 section 3).
pub const ED25519_KEY: &[u8] = &[0x2b, 0x65, 0x70];

/// The rest of some DER.
pub struct DerReader<'a>(pub &'a [u8]);

impl<'a> DerReader<'a> {
    /// Takes the next element: its tag and contents.
    pub fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match length {
            short @ 0..=0x7f => (usize::from(short), rest),
            // One to four bytes follow that hold the length.
            long @ 0x81..=0x84 => {
                let (length, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// Takes the next element if it has this tag.
    pub fn contents_of(&mut self, tag: u8) -> Option<DerReader<'a>> {
        let before = self.0;
        match self.element()? {
            (found, contents) if found == tag => Some(DerReader(contents)),
            _ => {
                self.0 = before;
                None
            }
        }
    }
}
