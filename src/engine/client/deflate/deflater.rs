//! The compressor, which all messages of the loop share (RFC 7692 section 7.2.1).

use std::cell::Cell;
use std::fmt;
use std::io::Cursor;

use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressionStrategy, CompressorOxide, TDEFLFlush, compress};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::OpCode;

/// The longest frame that is compressed: it takes some 3 ms, for which the loop does nothing else.
pub const DEFLATED_BYTES_MAX: usize = 1 << 20;

/// Level 3 takes 1.4 times as long for 1 KB of JSON, and three times for 10 KB.
const LEVEL: u8 = 1;

/// The largest window: clients are not asked for a smaller one.
const WINDOW_BITS: u8 = 15;

/// The time that a message takes, however short, in microseconds: most of it clears the compressor.
const MICROSECONDS: usize = 9;

/// The bytes that are compressed in a microsecond beyond that.
const BYTES_PER_MICROSECOND: usize = 512;

/// After this time in a turn, in microseconds, no more input is read that could add messages.
const TIRED_MICROSECONDS: usize = 1000;

/// The end of each compressed message, which is not sent: an empty block without compression.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The compressor of the loop, 320 KB that exist from the first message on, and its account.
#[derive(Default)]
pub struct Deflater {
    compressor: Cell<Option<Box<CompressorOxide>>>,
    tally: Cell<Tally>,
}

/// The work since it was last taken into account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub messages: u64,
    /// Bytes by which their frames became shorter, each counted once.
    pub saved_bytes: u64,
    pub microseconds: usize,
}

impl Deflater {
    /// Compresses a frame with a whole message. Any other bytes, and a message that would not become shorter, stay as they are.
    pub fn deflate(&self, frame: &[u8]) -> Vec<u8> {
        let deflated = self.shortened(frame).unwrap_or_else(|| frame.to_vec());
        let mut tally = self.tally.get();
        tally.messages += 1;
        tally.saved_bytes += (frame.len() - deflated.len()) as u64;
        tally.microseconds += MICROSECONDS + frame.len() / BYTES_PER_MICROSECOND;
        self.tally.set(tally);
        deflated
    }

    fn shortened(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let mut cursor = Cursor::new(frame);
        let (header, length) = FrameHeader::parse(&mut cursor).ok()??;
        let payload = &frame[cursor.position() as usize..];
        let is_message = matches!(header.opcode, OpCode::Data(_)) && header.is_final;
        if !is_message || payload.len() as u64 != length {
            return None;
        }
        let compressed = self.compress(payload)?;
        let header = FrameHeader { rsv1: true, ..header };
        let length = compressed.len() as u64;
        let mut deflated = Vec::with_capacity(header.len(length) + compressed.len());
        header.format(length, &mut deflated).expect("a vector takes every header");
        deflated.extend_from_slice(&compressed);
        Some(deflated)
    }

    /// Compresses a payload; `None` if it would not become shorter.
    fn compress(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut compressor = self.compressor.take().unwrap_or_else(|| Box::new(compressor()));
        compressor.reset();
        let mut output = vec![0; payload.len() + TAIL.len()];
        let (_, read, written) = compress(&mut compressor, payload, &mut output, TDEFLFlush::Sync);
        self.compressor.set(Some(compressor));
        // A flush that does not fit would go on in the next call.
        let is_whole = read == payload.len() && written < output.len();
        output.truncate(written.saturating_sub(TAIL.len()));
        is_whole.then_some(output)
    }

    /// Returns whether compressing has taken so much of the turn that nothing should be read that may cause more.
    pub fn is_tired(&self) -> bool {
        self.tally.get().microseconds >= TIRED_MICROSECONDS
    }

    /// Takes the work since the last call into account.
    pub fn take_tally(&self) -> Tally {
        self.tally.take()
    }

    /// Frees the compressor; the next message makes another.
    pub fn shrink(&self) {
        self.compressor.set(None);
    }
}

fn compressor() -> CompressorOxide {
    CompressorOxide::with_params(DataFormat::Raw, LEVEL, CompressionStrategy::Default, WINDOW_BITS)
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater").field("tally", &self.tally).finish_non_exhaustive()
    }
}
