//! The decompressor, which the messages of all clients share (RFC 7692 section 7.2.2).

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY,
    TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Follows each message: its tail, which is not sent, and a last block, which is found only if the message ended with a block.
const TAIL: [u8; 9] = [0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff];

/// An empty block takes ten bits, and its codes are laid out anew: without a bound, 64 KB would be 52,000 of them. Compressors end a
/// block after some hundred symbols, or thousands.
const BLOCKS_MIN: usize = 32;
const BYTES_PER_BLOCK: usize = 256;

/// The price of a block, in bytes read: an estimate on the safe side.
const BLOCK_COST: usize = 300;

/// The reason why a message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateFault {
    /// It is not DEFLATE (RFC 1951), does not end with a block, or has too many.
    Malformed,
    /// It is longer than the bound.
    TooLarge,
}

/// The decompressor of the loop, 11 KB that exist from the first message on.
#[derive(Default)]
pub struct Inflater {
    state: Option<Box<DecompressorOxide>>,
    costs: usize,
}

impl Inflater {
    /// Inflates a message of at most `bytes_max` bytes. No more memory is taken for it.
    ///
    /// # Errors
    /// [`InflateFault`].
    pub fn inflate(&mut self, message: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateFault> {
        let state = self.state.get_or_insert_with(Box::default);
        state.init();
        let mut run = Run {
            state,
            // One byte more shows that a message is too long; one that fits ends before it.
            output: vec![0; message.len().saturating_mul(4).min(bytes_max) + 1],
            written: 0,
            bytes_max,
            blocks_left: BLOCKS_MIN + message.len() / BYTES_PER_BLOCK,
        };
        let blocks = run.blocks_left;
        let result = match run.feed(message) {
            Ok(false) => run.feed(&TAIL).and_then(|is_at_end| match is_at_end {
                true => Ok(()),
                false => Err(InflateFault::Malformed),
            }),
            result => result.map(|_| ()),
        };
        self.costs += run.written + (blocks - run.blocks_left) * BLOCK_COST;
        let Run { mut output, written, .. } = run;
        output.truncate(written);
        result.map(|()| output)
    }

    /// Takes the price of what was inflated since the last call, in bytes read.
    pub fn take_costs(&mut self) -> usize {
        std::mem::take(&mut self.costs)
    }
}

/// The inflation of one message.
struct Run<'a> {
    state: &'a mut DecompressorOxide,
    output: Vec<u8>,
    written: usize,
    bytes_max: usize,
    blocks_left: usize,
}

impl Run<'_> {
    /// Inflates all of `input`. Returns whether a last block ended with it.
    fn feed(&mut self, mut input: &[u8]) -> Result<bool, InflateFault> {
        const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT
            | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY
            | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        loop {
            let (status, read, written) =
                decompress(self.state, input, &mut self.output, self.written, FLAGS);
            input = &input[read..];
            self.written += written;
            if self.written > self.bytes_max {
                return Err(InflateFault::TooLarge);
            }
            match status {
                TINFLStatus::NeedsMoreInput => return Ok(false),
                TINFLStatus::HasMoreOutput => self.grow()?,
                TINFLStatus::BlockBoundary => self.count_block()?,
                TINFLStatus::Done if input.is_empty() => return Ok(true),
                TINFLStatus::Done => {
                    // Blocks may follow the last one (RFC 7692 section 7.2.3.4).
                    self.count_block()?;
                    self.state.init();
                }
                _ => return Err(InflateFault::Malformed),
            }
        }
    }

    fn count_block(&mut self) -> Result<(), InflateFault> {
        self.blocks_left = self.blocks_left.checked_sub(1).ok_or(InflateFault::Malformed)?;
        Ok(())
    }

    fn grow(&mut self) -> Result<(), InflateFault> {
        if self.output.len() > self.bytes_max {
            return Err(InflateFault::TooLarge);
        }
        let length = self.output.len().saturating_mul(2).min(self.bytes_max + 1);
        self.output.resize(length, 0);
        Ok(())
    }
}
