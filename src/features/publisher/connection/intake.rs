//! Commands out of what a publisher sends, in RESP or as lines.

use std::borrow::Cow;

use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;
use crate::features::publisher::inline::{self, Refusal};

/// How a TLS ClientHello begins (RFC 8446 section 5.1). It has no line's end to wait for.
const TLS_HANDSHAKE: u8 = 0x16;
/// Redis' bound on an inline command.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why the connection ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Not a word to a page that should not know we are here.
    Silent,
    /// With this error.
    Told(String),
}

/// What came of a command that is not whole yet. Between two commands it holds no buffer.
pub struct Intake {
    framer: Framer,
    /// An inline command whose end has not come yet.
    line: Vec<u8>,
}

impl Intake {
    pub fn new() -> Intake {
        Intake { framer: Framer::new(Grammar::Commands), line: Vec::new() }
    }

    /// Whether no command is under way, and nothing is held.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.framer.is_idle() && self.line.capacity() == 0
    }

    /// Takes one command, of at most `bytes_max`, from an input that is not empty; `None`: it is not whole.
    ///
    /// # Errors
    /// This is not RESP, or nobody who should talk to us.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'input>>, End> {
        let is_inline = self.framer.is_idle() && input.first() != Some(&b'*');
        if is_inline && self.line.is_empty() && input.first() == Some(&TLS_HANDSHAKE) {
            return Err(told("TLS is not spoken here"));
        }
        if is_inline || !self.line.is_empty() {
            return self.take_line(input, bytes_max.min(LINE_BYTES_MAX));
        }
        self.framer.next(input, bytes_max).map_err(|garbage| told(&garbage.to_string()))
    }

    fn take_line<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'input>>, End> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let (taken, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        *input = rest;
        if self.line.len() + taken.len() > bytes_max {
            return Err(told("too big inline request"));
        }
        if end.is_none() || !self.line.is_empty() {
            self.line.extend_from_slice(taken);
        }
        if end.is_none() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        match inline::to_array(if line.is_empty() { taken } else { &line }) {
            Ok(command) => Ok(Some(Whole::Value(Cow::Owned(command)))),
            Err(Refusal::Quotes) => Err(told("unbalanced quotes in request")),
            Err(Refusal::Binary) => Err(told("this line is no command")),
            Err(Refusal::Http) => Err(End::Silent),
        }
    }
}

fn told(why: &str) -> End {
    End::Told(format!("ERR Protocol error: {why}"))
}
