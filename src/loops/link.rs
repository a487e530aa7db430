//! Frames on the link between a parent and a worker: a length, a kind, and a body of fields.
//!
//! Numbers are little-endian. The length counts the kind and the body. Both ends are the same program, so a malformed frame means that
//! something is broken: it ends the link.

/// The version of the frames. Both ends name it first.
pub const VERSION: u32 = 1;

/// The longest frame: a message with the largest payload that settings allow, and its names.
pub const FRAME_BYTES_MAX: usize = (64 << 20) + (64 << 10);

const LENGTH_BYTES: usize = 4;

/// The input is no sequence of frames of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedLink;

/// A frame of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFrame<'a> {
    pub kind: u8,
    pub body: &'a [u8],
}

/// Takes the first frame off the input; `None`: it is not complete yet.
///
/// # Errors
/// Its length is 0, or above [`FRAME_BYTES_MAX`].
pub fn next_frame<'a>(input: &mut &'a [u8]) -> Result<Option<LinkFrame<'a>>, MalformedLink> {
    let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(MalformedLink);
    }
    let Some((frame, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *input = rest;
    Ok(Some(LinkFrame { kind: frame[0], body: &frame[1..] }))
}

/// Appends a frame, whose fields `write` appends.
pub fn write_frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(kind);
    write(out);
    let length = out.len() - begin - LENGTH_BYTES;
    assert!(length <= FRAME_BYTES_MAX, "the bounds of its fields fit a frame");
    out[begin..begin + LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
}

/// Appends bytes behind their length.
pub fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends bytes that may be missing.
pub fn write_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    if let Some(bytes) = bytes {
        write_bytes(out, bytes);
    }
}

pub fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// The fields of a body, read in their order.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub fn of(body: &'a [u8]) -> Fields<'a> {
        Fields(body)
    }

    /// # Errors
    /// The body ends before. So it is for all fields.
    pub fn number(&mut self) -> Result<u64, MalformedLink> {
        let (number, rest) = self.0.split_first_chunk().ok_or(MalformedLink)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*number))
    }

    /// # Errors
    /// The number is not below `end`.
    pub fn number_below(&mut self, end: usize) -> Result<usize, MalformedLink> {
        let number = usize::try_from(self.number()?).map_err(|_| MalformedLink)?;
        if number < end { Ok(number) } else { Err(MalformedLink) }
    }

    /// # Errors
    /// The byte is neither 0 nor 1.
    pub fn truth(&mut self) -> Result<bool, MalformedLink> {
        let (byte, rest) = self.0.split_first().ok_or(MalformedLink)?;
        self.0 = rest;
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MalformedLink),
        }
    }

    /// # Errors
    /// The length is above what is left.
    pub fn bytes(&mut self) -> Result<&'a [u8], MalformedLink> {
        let (length, rest) = self.0.split_first_chunk().ok_or(MalformedLink)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (bytes, rest) = rest.split_at_checked(length).ok_or(MalformedLink)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// # Errors
    /// The bytes are not UTF-8.
    pub fn text(&mut self) -> Result<&'a str, MalformedLink> {
        std::str::from_utf8(self.bytes()?).map_err(|_| MalformedLink)
    }

    /// # Errors
    /// The same as [`Fields::truth`] and [`Fields::bytes`].
    pub fn option(&mut self) -> Result<Option<&'a [u8]>, MalformedLink> {
        self.truth()?.then(|| self.bytes()).transpose()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the body.
    ///
    /// # Errors
    /// Something is left.
    pub fn end(self) -> Result<(), MalformedLink> {
        if self.0.is_empty() { Ok(()) } else { Err(MalformedLink) }
    }
}

/// Input that has come in pieces: the begin of a frame whose rest is still to come, or frames that are not wanted yet.
#[derive(Default)]
pub struct LinkInput {
    pending: Vec<u8>,
    /// Bytes of `pending` that were taken.
    taken: usize,
}

impl LinkInput {
    /// Adds a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// Takes the next frame; `None`: it is not complete.
    ///
    /// # Errors
    /// See [`next_frame`].
    pub fn next_frame(&mut self) -> Result<Option<LinkFrame<'_>>, MalformedLink> {
        // The borrow of a frame that is returned would forbid to tidy up here: that is done when it is known that there is none.
        let mut rest = &self.pending[self.taken..];
        if next_frame(&mut rest)?.is_none() {
            self.pending.drain(..self.taken);
            self.taken = 0;
            if self.pending.is_empty() {
                self.pending = Vec::new();
            }
            return Ok(None);
        }
        let mut input = &self.pending[self.taken..];
        self.taken = self.pending.len() - rest.len();
        next_frame(&mut input)
    }

    /// Returns whether a whole frame waits.
    ///
    /// # Errors
    /// See [`next_frame`].
    pub fn has_frame(&self) -> Result<bool, MalformedLink> {
        next_frame(&mut &self.pending[self.taken..]).map(|frame| frame.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn frames_come_back_from_any_pieces() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..random.below(30) {
                let body: Vec<u8> = (0..random.below(300)).map(|_| random.next() as u8).collect();
                let kind = random.next() as u8;
                write_frame(&mut wire, kind, |out| out.extend_from_slice(&body));
                expected.push((kind, body));
            }
            let (mut input, mut found) = (LinkInput::default(), Vec::new());
            for piece in random.pieces(&wire, 100) {
                input.push(piece);
                // Not each time: frames may wait.
                if random.below(3) == 0 {
                    let has_frame = input.has_frame().unwrap();
                    let next = input.next_frame().unwrap();
                    assert_eq!(next.is_some(), has_frame, "seed {seed}");
                    found.extend(next.map(|frame| (frame.kind, frame.body.to_vec())));
                }
            }
            while let Some(frame) = input.next_frame().unwrap() {
                found.push((frame.kind, frame.body.to_vec()));
            }
            assert_eq!(found, expected, "seed {seed}");
            assert_eq!(input.pending.capacity(), 0, "an idle link holds nothing");
        }
    }

    #[test]
    fn fields_come_back_in_their_order_and_end_where_they_ended() {
        let mut body = Vec::new();
        write_number(&mut body, u64::MAX);
        body.push(1);
        write_bytes(&mut body, "grün".as_bytes());
        write_option(&mut body, None);
        write_option(&mut body, Some(b""));
        let read = |body: &[u8]| {
            let mut fields = Fields::of(body);
            let found = (
                fields.number()?,
                fields.truth()?,
                fields.text()?.to_owned(),
                fields.option()?.map(<[u8]>::to_vec),
                fields.option()?.map(<[u8]>::to_vec),
            );
            fields.end().map(|()| found)
        };
        let expected = (u64::MAX, true, "grün".to_owned(), None, Some(Vec::new()));
        assert_eq!(read(&body), Ok(expected));
        for length in 0..body.len() {
            assert_eq!(read(&body[..length]), Err(MalformedLink), "{length}");
        }
        assert_eq!(read(&[&body[..], b"x"].concat()), Err(MalformedLink));
        body[8] = 2;
        assert_eq!(read(&body), Err(MalformedLink), "neither true nor false");
    }

    #[test]
    fn junk_is_an_error_or_waits_and_never_a_panic() {
        for seed in 1..2000 {
            let mut random = Random::new(seed);
            let junk: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
            let mut input = LinkInput::default();
            for piece in random.pieces(&junk, 20) {
                input.push(piece);
                while let Ok(Some(frame)) = input.next_frame() {
                    let mut fields = Fields::of(frame.body);
                    for _ in 0..5 {
                        let _ = match random.below(4) {
                            0 => fields.number().map(drop),
                            1 => fields.text().map(drop),
                            2 => fields.option().map(drop),
                            _ => fields.number_below(3).map(drop),
                        };
                    }
                }
            }
        }
        for length in [0, FRAME_BYTES_MAX as u32 + 1, u32::MAX] {
            assert_eq!(next_frame(&mut &length.to_le_bytes()[..]), Err(MalformedLink));
        }
        let longest = (FRAME_BYTES_MAX as u32).to_le_bytes();
        assert_eq!(next_frame(&mut &longest[..]), Ok(None));
    }
}
