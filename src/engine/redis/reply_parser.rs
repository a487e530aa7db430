//! Takes a nested reply apart while it comes: headers of its outer arrays one by one, what they hold value by value.
//!
//! A reply of a thousand entries is never whole in memory: at most one entry is, and none above its bound.

use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;

/// `*`, the digits of the longest legal length, CR LF, and some more: what has leading zeros is refused by the value.
const HEAD_BYTES_MAX: usize = 16;
/// Redis' bound on the elements of a command. No reply that we ask for comes near it.
const ELEMENTS_MAX: usize = 1024 * 1024;

/// The beginning of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHead {
    /// An array of this many elements.
    Array(usize),
    /// A null array.
    Null,
    /// Anything else, of which nothing was taken: it is a value.
    Other(u8),
}

/// A stream of replies, read at the pace at which it comes.
pub struct ReplyParser {
    framer: Framer,
    /// A header that came in pieces.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
}

impl ReplyParser {
    pub fn new() -> ReplyParser {
        ReplyParser {
            framer: Framer::new(Grammar::Replies),
            head: [0; HEAD_BYTES_MAX],
            head_bytes: 0,
        }
    }

    /// Takes the header of an array, if one begins here; `None`: the input is used up.
    pub fn head(&mut self, input: &mut &[u8]) -> Result<Option<ReplyHead>, Garbage> {
        match input.first() {
            None => return Ok(None),
            Some(&kind) if self.head_bytes == 0 && kind != b'*' => {
                return Ok(Some(ReplyHead::Other(kind)));
            }
            Some(_) => {}
        }
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            let place = self.head.get_mut(self.head_bytes).ok_or(Garbage::Length)?;
            *place = byte;
            self.head_bytes += 1;
            if byte == b'\n' {
                let length = std::mem::take(&mut self.head_bytes);
                return read_head(&self.head[..length]).map(Some);
            }
        }
        Ok(None)
    }

    /// Takes the header of an array of `count` elements.
    pub fn array_of(&mut self, count: usize, input: &mut &[u8]) -> Result<Option<()>, Garbage> {
        match self.head(input)? {
            None => Ok(None),
            Some(ReplyHead::Array(found)) if found == count => Ok(Some(())),
            Some(ReplyHead::Other(kind)) => Err(Garbage::Type(kind)),
            Some(_) => Err(Garbage::Length),
        }
    }

    /// The beginning of a value that has not come whole; `None` if that is not held.
    pub fn held(&self) -> Option<&[u8]> {
        if self.head_bytes > 0 { None } else { self.framer.held() }
    }

    /// Takes a whole value; see [`Framer::next`].
    pub fn value<'a>(
        &mut self,
        input: &mut &'a [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'a>>, Garbage> {
        self.framer.next(input, bytes_max)
    }
}

fn read_head(line: &[u8]) -> Result<ReplyHead, Garbage> {
    let Some(length) = line.strip_suffix(b"\r\n").map(|line| &line[1..]) else {
        return Err(Garbage::Terminator);
    };
    if length == b"-1" {
        return Ok(ReplyHead::Null);
    }
    let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(length).ok().filter(|_| is_number);
    match number.and_then(|digits| digits.parse().ok()) {
        Some(count) if count <= ELEMENTS_MAX => Ok(ReplyHead::Array(count)),
        _ => Err(Garbage::Length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_the_same_however_it_is_cut() {
        for (text, expected) in [
            ("*0\r\n", Ok(ReplyHead::Array(0))),
            ("*12\r\n", Ok(ReplyHead::Array(12))),
            ("*1048576\r\n", Ok(ReplyHead::Array(ELEMENTS_MAX))),
            ("*-1\r\n", Ok(ReplyHead::Null)),
            ("*1048577\r\n", Err(Garbage::Length)),
            ("*99999999999999999999\r\n", Err(Garbage::Length)),
            ("*-2\r\n", Err(Garbage::Length)),
            ("*+1\r\n", Err(Garbage::Length)),
            ("*\r\n", Err(Garbage::Length)),
            ("*1\n", Err(Garbage::Terminator)),
            ("$5\r\n", Ok(ReplyHead::Other(b'$'))),
        ] {
            let mut whole = text.as_bytes();
            let found = ReplyParser::new().head(&mut whole).map(|head| head.expect("it is whole"));
            assert_eq!(found, expected, "{text:?}");
            let mut parser = ReplyParser::new();
            let mut found = Ok(None);
            for byte in text.as_bytes().chunks(1) {
                found = parser.head(&mut &*byte);
                if !matches!(found, Ok(None)) {
                    break;
                }
            }
            assert_eq!(found.map(|head| head.expect("it is whole")), expected, "{text:?}");
        }
    }
}
