//! Commands in the bytes of a publisher, in RESP or as lines.

use std::borrow::Cow;

use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;
use crate::features::publisher::inline::{self, InlineError};

/// The first byte of a TLS ClientHello (RFC 8446 section 5.1), which has no end of a line to wait for.
const TLS_HANDSHAKE: u8 = 0x16;
/// Redis' bound on an inline command.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// The end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Close without a reply: the peer is a browser.
    Silent,
    /// Close after this error.
    Answered(String),
}

/// The part of a command that has come. Between two commands it holds no buffer.
pub struct Intake {
    framer: Framer,
    /// An inline command whose end has not come yet.
    line: Vec<u8>,
}

impl Intake {
    pub fn new() -> Intake {
        Intake { framer: Framer::new(Grammar::Commands), line: Vec::new() }
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.framer.is_idle() && self.line.capacity() == 0
    }

    /// Takes one command, of at most `bytes_max`, from an input that is not empty; `None`: it is not complete.
    ///
    /// # Errors
    /// The input is not RESP, or comes from a browser.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'input>>, End> {
        let is_inline = self.framer.is_idle() && input.first() != Some(&b'*');
        if is_inline && self.line.is_empty() && input.first() == Some(&TLS_HANDSHAKE) {
            return Err(end("TLS is not spoken here"));
        }
        if is_inline || !self.line.is_empty() {
            return self.take_line(input, bytes_max.min(LINE_BYTES_MAX));
        }
        self.framer.next(input, bytes_max).map_err(|garbage| end(&garbage.to_string()))
    }

    fn take_line<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'input>>, End> {
        let line_end = input.iter().position(|&byte| byte == b'\n');
        let (taken, rest) = input.split_at(line_end.map_or(input.len(), |end| end + 1));
        *input = rest;
        if self.line.len() + taken.len() > bytes_max {
            return Err(end("too big inline request"));
        }
        if line_end.is_none() || !self.line.is_empty() {
            self.line.extend_from_slice(taken);
        }
        if line_end.is_none() {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        match inline::to_array(if line.is_empty() { taken } else { &line }) {
            Ok(command) => Ok(Some(Whole::Value(Cow::Owned(command)))),
            Err(InlineError::Quotes) => Err(end("unbalanced quotes in request")),
            Err(InlineError::Binary) => Err(end("this line is no command")),
            Err(InlineError::Http) => Err(End::Silent),
        }
    }
}

fn end(why: &str) -> End {
    End::Answered(format!("ERR Protocol error: {why}"))
}
