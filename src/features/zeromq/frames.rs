//! Frames of ZMTP in a stream of bytes (RFC 23): a header of two or nine bytes, then the body.

use std::borrow::Cow;

use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// Flags of a frame. The other bits are reserved, and must be zero.
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The body is a command, not a part of a message.
    pub is_command: bool,
    /// Another part of the same message follows.
    pub has_more: bool,
    /// Bytes of the body.
    pub length: u64,
}

/// A frame that has come whole. Without a body it was passed over.
#[derive(Debug, PartialEq, Eq)]
pub struct ZmtpFrame<'input> {
    pub header: FrameHeader,
    pub body: Option<Cow<'input, [u8]>>,
}

/// A header with reserved flags, or a command that is said to have more parts.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFlags;

/// The part of a frame that has come. Between two frames it holds no buffer.
#[derive(Default)]
pub struct FrameReader {
    /// The header, and whether the body is kept.
    header: Option<(FrameHeader, bool)>,
    /// The beginning of the header, or of a body that is kept.
    partial: Vec<u8>,
    /// Bytes to come of a body that is passed over.
    skip: u64,
}

impl FrameReader {
    /// Takes one frame; `None`: it is not complete. `is_kept` decides by the header alone whether the body is kept: nothing is held
    /// of one that is not.
    ///
    /// # Errors
    /// The peer does not speak ZMTP.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
        is_kept: impl FnOnce(FrameHeader) -> bool,
    ) -> Result<Option<ZmtpFrame<'input>>, BadFlags> {
        let (header, is_kept) = match self.header {
            Some(known) => known,
            None => {
                let Some(header) = self.take_header(input)? else { return Ok(None) };
                let is_kept = is_kept(header);
                self.skip = if is_kept { 0 } else { header.length };
                (header, is_kept)
            }
        };
        let body = if is_kept { self.take_body(input, header.length) } else { None };
        let passed = self.skip.min(input.len() as u64);
        *input = &input[passed as usize..];
        self.skip -= passed;
        if body.is_none() && (is_kept || self.skip > 0) {
            self.header = Some((header, is_kept));
            return Ok(None);
        }
        self.header = None;
        Ok(Some(ZmtpFrame { header, body }))
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        if let Some((header, is_kept)) = writer.option(self.header) {
            writer.bool(header.is_command);
            writer.bool(header.has_more);
            writer.u64(header.length);
            writer.bool(is_kept);
        }
        writer.bytes(&self.partial);
        writer.u64(self.skip);
    }

    /// The reader that was written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(reader: &mut StateReader<'_>) -> Result<FrameReader, StateError> {
        let header = reader.option(|reader| {
            let (is_command, has_more) = (reader.bool()?, reader.bool()?);
            let header = FrameHeader { is_command, has_more, length: reader.u64()? };
            Ok((header, reader.bool()?))
        })?;
        let (partial, skip) = (reader.bytes(BYTES_MAX)?, reader.u64()?);
        let is_long = partial.first().is_some_and(|flags| flags & LONG != 0);
        let most = header.map_or(if is_long { 8 } else { 1 }, |(header, _)| header.length);
        let fits = partial.len() as u64 <= most;
        fits.then_some(FrameReader { header, partial, skip }).ok_or(StateError::Malformed("ZMTP"))
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, BadFlags> {
        let first = self.partial.first().or(input.first());
        let Some(flags) = first.copied() else { return Ok(None) };
        let is_command = flags & COMMAND != 0;
        if flags > (MORE | LONG | COMMAND) || (is_command && flags & MORE != 0) {
            return Err(BadFlags);
        }
        let size = if flags & LONG != 0 { 9 } else { 2 };
        let Some(bytes) = self.take_body(input, size) else { return Ok(None) };
        let length = match <[u8; 8]>::try_from(&bytes[1..]) {
            Ok(long) => u64::from_be_bytes(long),
            Err(_) => bytes[1].into(),
        };
        Ok(Some(FrameHeader { is_command, has_more: flags & MORE != 0, length }))
    }

    /// Takes `length` bytes; `None`: they have not all come, and their beginning is kept.
    fn take_body<'input>(
        &mut self,
        input: &mut &'input [u8],
        length: u64,
    ) -> Option<Cow<'input, [u8]>> {
        let missing = length - self.partial.len() as u64;
        let taken = missing.min(input.len() as u64);
        let (bytes, rest) = input.split_at(taken as usize);
        *input = rest;
        if taken == length {
            return Some(Cow::Borrowed(bytes));
        }
        self.partial.extend_from_slice(bytes);
        (taken == missing).then(|| Cow::Owned(std::mem::take(&mut self.partial)))
    }

    /// Returns whether the last frame has come whole, and nothing of the next.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.header.is_none() && self.partial.capacity() == 0
    }
}

/// Writes a command.
pub fn write_command(output: &mut Vec<u8>, name: &str, data: &[u8]) {
    let length = 1 + name.len() + data.len();
    match u8::try_from(length) {
        Ok(length) => output.extend([COMMAND, length]),
        Err(_) => {
            output.push(COMMAND | LONG);
            output.extend((length as u64).to_be_bytes());
        }
    }
    output.push(name.len() as u8);
    output.extend(name.as_bytes());
    output.extend(data);
}

/// Parts a command into its name and its data; `None`: it is malformed.
pub fn command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = body.split_first()?;
    rest.split_at_checked(usize::from(*length)).filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::engine::random::Random;

    /// Writes a part of a message.
    pub fn part(body: &[u8], has_more: bool) -> Vec<u8> {
        let flags = u8::from(has_more);
        match u8::try_from(body.len()) {
            Ok(length) => [&[flags, length][..], body].concat(),
            Err(_) => [&[flags | LONG][..], &(body.len() as u64).to_be_bytes(), body].concat(),
        }
    }

    fn read(pieces: &[&[u8]], bytes_max: u64) -> Result<Vec<ZmtpFrame<'static>>, BadFlags> {
        let (mut reader, mut found) = (FrameReader::default(), Vec::new());
        for piece in pieces {
            let mut input = *piece;
            while let Some(frame) = reader.next(&mut input, |header| header.length <= bytes_max)? {
                let body = frame.body.map(|body| Cow::Owned(body.into_owned()));
                found.push(ZmtpFrame { header: frame.header, body });
            }
            assert!(input.is_empty(), "all of it was taken");
        }
        Ok(found)
    }

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut() {
        let mut stream = [part(b"", false), part(b"a", true), part(&[7; 300], false)].concat();
        write_command(&mut stream, "PING", b"\0\0x");
        write_command(&mut stream, "READY", &[1; 255]);
        let whole = read(&[&stream], 299).expect("these are frames");
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[2].body, None, "it was passed over");
        assert_eq!(whole[3].body.as_deref().and_then(command), Some((&b"PING"[..], &b"\0\0x"[..])));
        assert_eq!(
            whole[4].body.as_deref().and_then(command),
            Some((&b"READY"[..], &[1; 255][..]))
        );
        for cut in 0..=stream.len() {
            let halves = [&stream[..cut], &stream[cut..]];
            assert_eq!(read(&halves, 299).as_ref(), Ok(&whole), "cut at {cut}");
        }
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let pieces = random.pieces(&stream, 1 + seed as usize % 20);
            assert_eq!(read(&pieces, 299).as_ref(), Ok(&whole), "seed {seed}");
        }
    }

    #[test]
    fn nothing_is_held_of_a_body_that_is_passed_over_and_nothing_between_frames() {
        let mut reader = FrameReader::default();
        let header = [&[LONG][..], &u64::MAX.to_be_bytes()].concat();
        for piece in [&header[..], &[0; 70_000], &[0; 70_000]] {
            assert_eq!(reader.next(&mut &*piece, |_| false), Ok(None));
            assert_eq!(reader.partial.capacity(), 0);
        }
        let mut reader = FrameReader::default();
        for piece in [&b"\0"[..], b"\x02", b"a", b"b"] {
            assert!(reader.is_idle() || piece != b"\0");
            let _ = reader.next(&mut &*piece, |_| true);
        }
        assert!(reader.is_idle());
    }

    #[test]
    fn reserved_flags_and_commands_in_parts_are_refused() {
        for flags in 0..=255 {
            let is_known = flags < 8 && flags & (COMMAND | MORE) != COMMAND | MORE;
            let (mut reader, bytes) = (FrameReader::default(), [flags, 0]);
            let found = reader.next(&mut &bytes[..], |_| true);
            assert_eq!(found.is_ok(), is_known, "{flags}");
        }
    }

    #[test]
    fn a_command_has_a_name() {
        assert_eq!(command(b""), None);
        assert_eq!(command(b"\0"), None);
        assert_eq!(command(b"\x05PING"), None);
        assert_eq!(command(b"\x04PING"), Some((&b"PING"[..], &b""[..])));
    }
}
