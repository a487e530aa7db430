//! A publisher's connection to us: RESP commands in, PUBLISH out to the caller, everything else answered here.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use super::commands::{Session, write_arity};
use super::inline::{self, Refusal};
use super::resp::{self, ENVELOPE_BYTES_MAX, Framer, Whole};
use super::scanner::Grammar;

/// How a TLS ClientHello begins (RFC 8446 section 5.1). It has no line's end to wait for.
const TLS_HANDSHAKE: u8 = 0x16;
/// Redis' bound on an inline command.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Of one command, before AUTH: strangers hold no memory.
const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;
/// Above this many bytes of answers that the peer has not read, no further command is executed.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// More words than any command has that is looked at as a whole.
const WORDS_MAX: usize = 8;

/// `PUBLISH channel payload`, to be answered with `Publisher::published`.
#[derive(Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub channel: &'a [u8],
    /// At most `payload_bytes_max`.
    pub payload: &'a [u8],
}

/// The state of one connection. The caller owns the socket. Between two commands it holds no buffer.
pub struct Publisher {
    payload_bytes_max: usize,
    session: Session,
    framer: Framer,
    /// An inline command whose end has not come yet.
    line: Vec<u8>,
    output: Vec<u8>,
    /// Input that came while the peer did not read its answers: at most what the caller read at once.
    waiting: Vec<u8>,
    waiting_read: usize,
    /// A command that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
    oversized: u32,
    is_ending: bool,
}

/// A PUBLISH, and where in it things are.
struct Found<'a> {
    command: Cow<'a, [u8]>,
    channel: Range<usize>,
    payload: Range<usize>,
}

impl Publisher {
    /// Whether it has given the password, if one is asked for.
    pub fn is_authenticated(&self) -> bool {
        self.session.is_authenticated()
    }

    /// With a password, nothing can be published before AUTH.
    pub fn new(payload_bytes_max: usize, password: Option<Rc<[u8]>>) -> Publisher {
        Publisher {
            payload_bytes_max,
            session: Session::new(password),
            framer: Framer::new(Grammar::Commands),
            line: Vec::new(),
            output: Vec::new(),
            waiting: Vec::new(),
            waiting_read: 0,
            lent: Vec::new(),
            oversized: 0,
            is_ending: false,
        }
    }

    /// Takes from `input` up to the next PUBLISH, answering all else; `None`: it is used up. Call until then.
    ///
    /// Once more than 64 KiB of answers are unread, it keeps the rest of the input and says `None`: after `wrote`, call again
    /// with whatever there is (an empty input will do) as long as it finds something.
    pub fn next<'a, 'input: 'a>(&'a mut self, input: &mut &'input [u8]) -> Option<Publish<'a>> {
        self.lent = Vec::new();
        let found = match self.waiting.is_empty() {
            true => self.find(input),
            false => self.find_waiting(input),
        };
        let Some(Found { command, channel, payload }) = found else {
            self.waiting.extend_from_slice(input);
            *input = &[];
            return None;
        };
        let command: &'a [u8] = match command {
            Cow::Borrowed(command) => command,
            Cow::Owned(command) => {
                self.lent = command;
                &self.lent
            }
        };
        Some(Publish { channel: &command[channel], payload: &command[payload] })
    }

    /// Answers the PUBLISH that `next` returned last.
    pub fn published(&mut self, receivers: usize) {
        resp::write_integer(&mut self.output, receivers);
    }

    /// Bytes for the socket.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The socket took the first `count` bytes of `output`.
    pub fn wrote(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Whether this is the end: of a QUIT, of a stream that is not RESP, of a browser. Close when `output` is written.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether the socket should be read. Not while the peer leaves its answers unread.
    pub fn wants_input(&self) -> bool {
        !self.is_ending && self.waiting.is_empty() && self.output.len() <= OUTPUT_BYTES_MAX
    }

    /// How many PUBLISH were refused for their size since the last call.
    pub fn take_oversized(&mut self) -> u32 {
        std::mem::take(&mut self.oversized)
    }

    fn find_waiting(&mut self, input: &mut &[u8]) -> Option<Found<'static>> {
        self.waiting.extend_from_slice(input);
        *input = &[];
        let waiting = std::mem::take(&mut self.waiting);
        let mut rest = &waiting[self.waiting_read..];
        let found = self
            .find(&mut rest)
            .map(|found| Found { command: Cow::Owned(found.command.into_owned()), ..found });
        self.waiting_read = waiting.len() - rest.len();
        match rest.is_empty() {
            true => self.waiting_read = 0,
            false => self.waiting = waiting,
        }
        found
    }

    fn find<'input>(&mut self, input: &mut &'input [u8]) -> Option<Found<'input>> {
        loop {
            if self.is_ending {
                *input = &[];
            }
            if input.is_empty() || self.output.len() > OUTPUT_BYTES_MAX {
                return None;
            }
            match self.take_command(input) {
                Some(Whole::Value(command)) => {
                    if let Some((channel, payload)) = self.execute(&command) {
                        return Some(Found { command, channel, payload });
                    }
                }
                Some(Whole::Oversized { bytes }) => self.refuse_oversized("command", bytes),
                None => {}
            }
        }
    }

    fn take_command<'input>(&mut self, input: &mut &'input [u8]) -> Option<Whole<'input>> {
        let bytes_max = match self.session.is_authenticated() {
            true => self.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX),
            false => UNAUTHENTICATED_BYTES_MAX,
        };
        let is_inline = self.framer.is_idle() && input.first() != Some(&b'*');
        if is_inline && self.line.is_empty() && input.first() == Some(&TLS_HANDSHAKE) {
            self.end("ERR Protocol error: TLS is not spoken here");
            return None;
        }
        if is_inline || !self.line.is_empty() {
            return self.take_line(input, bytes_max.min(LINE_BYTES_MAX));
        }
        self.framer.next(input, bytes_max).unwrap_or_else(|garbage| {
            self.end(&format!("ERR Protocol error: {garbage}"));
            None
        })
    }

    fn take_line<'input>(
        &mut self,
        input: &mut &'input [u8],
        bytes_max: usize,
    ) -> Option<Whole<'input>> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let (taken, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        *input = rest;
        if self.line.len() + taken.len() > bytes_max {
            self.end("ERR Protocol error: too big inline request");
            return None;
        }
        if end.is_none() || !self.line.is_empty() {
            self.line.extend_from_slice(taken);
        }
        end?;
        let line = std::mem::take(&mut self.line);
        match inline::to_array(if line.is_empty() { taken } else { &line }) {
            Ok(command) => return Some(Whole::Value(Cow::Owned(command))),
            Err(Refusal::Quotes) => self.end("ERR Protocol error: unbalanced quotes in request"),
            // Not a word to a page that should not know we are here.
            Err(Refusal::Http) => self.is_ending = true,
        }
        None
    }

    /// Channel and payload, if it is a PUBLISH that may be carried out.
    fn execute(&mut self, command: &[u8]) -> Option<(Range<usize>, Range<usize>)> {
        let mut bulks = resp::bulks(command)?;
        let words = bulks.left();
        let name = bulks.next()?;
        if !command[name.clone()].eq_ignore_ascii_case(b"PUBLISH") {
            self.answer(std::iter::once(name).chain(bulks).map(|word| &command[word]));
        } else if !self.session.is_authenticated() {
            self.session.write_unauthenticated(&mut self.output);
        } else if words != 3 {
            write_arity(&mut self.output, b"publish");
        } else {
            let (channel, payload) = (bulks.next()?, bulks.next()?);
            if payload.len() <= self.payload_bytes_max {
                return Some((channel, payload));
            }
            self.refuse_oversized("payload", payload.len() as u64);
        }
        None
    }

    fn answer<'a>(&mut self, words: impl Iterator<Item = &'a [u8]>) {
        let (mut first, mut count) = ([&b""[..]; WORDS_MAX], 0);
        for (slot, word) in first.iter_mut().zip(words) {
            *slot = word;
            count += 1;
        }
        self.is_ending |= self.session.answer(&first[..count], &mut self.output);
    }

    fn refuse_oversized(&mut self, what: &str, bytes: u64) {
        if !self.session.is_authenticated() {
            return self.session.write_unauthenticated(&mut self.output);
        }
        self.oversized = self.oversized.saturating_add(1);
        let bytes_max = self.payload_bytes_max;
        let text = format!("ERR {what} is {bytes} bytes, payload_bytes_max is {bytes_max}");
        resp::write_error(&mut self.output, &text);
    }

    fn end(&mut self, text: &str) {
        resp::write_error(&mut self.output, text);
        self.is_ending = true;
    }
}

#[cfg(test)]
mod tests;
