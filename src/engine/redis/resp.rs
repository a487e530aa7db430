//! RESP for our connections to Redis and for the publishers' port: whole values out of a stream, strings out of a value, replies
//! into a buffer.
//!
//! The redis crate's parser takes 640 ns and five allocations for a 100-byte `pmessage` and cannot be bounded. This one delivers
//! slices of the caller's input; what is not a flat array of strings still goes through the crate, once `Framer` has delimited it.

use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;

use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::scanner::{Grammar, Scanner};

/// The most bytes of a command or a message besides its payload: names, lengths, a channel.
pub const ENVELOPE_BYTES_MAX: usize = 64 * 1024;

/// A value that [`Framer`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Whole<'a> {
    /// One complete value: a slice of the input, or owned if it came in pieces.
    Value(Cow<'a, [u8]>),
    /// A value above the bound ended. It was never held, and is lost: count it.
    Oversized {
        /// Size of the whole value.
        bytes: u64,
    },
}

impl Whole<'_> {
    /// Size of the whole value.
    pub fn bytes(&self) -> u64 {
        match self {
            Whole::Value(value) => value.len() as u64,
            Whole::Oversized { bytes } => *bytes,
        }
    }

    /// Parses the value.
    pub fn parse(&self) -> Result<redis::Value, Garbage> {
        match self {
            Whole::Value(value) => parse(value),
            Whole::Oversized { .. } => Err(Garbage::Size),
        }
    }
}

/// Parses a whole value.
pub fn parse(value: &[u8]) -> Result<redis::Value, Garbage> {
    redis::parse_redis_value(value).map_err(|_| Garbage::Malformed)
}

/// Cuts a stream into values, holding at most one that is not whole yet, and no memory between two.
pub struct Framer {
    scanner: Scanner,
    partial: Vec<u8>,
    is_skipping: bool,
}

impl Framer {
    pub fn new(grammar: Grammar) -> Framer {
        Framer { scanner: Scanner::new(grammar), partial: Vec::new(), is_skipping: false }
    }

    /// Returns whether no value is under way.
    pub fn is_idle(&self) -> bool {
        self.scanner.is_idle()
    }

    /// The beginning of the value under way; `None` if it is not held.
    pub fn held(&self) -> Option<&[u8]> {
        (!self.is_skipping).then_some(&self.partial)
    }

    /// Takes one value from `input`; `None`: the input is used up. A value above `bytes_max` streams by without being held,
    /// from the moment its size is known on. After an error the stream is lost.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        bytes_max: usize,
    ) -> Result<Option<Whole<'a>>, Garbage> {
        if input.is_empty() {
            return Ok(None);
        }
        let end = self.scanner.scan(input)?;
        let (taken, rest) = input.split_at(end.unwrap_or(input.len()));
        *input = rest;
        let bytes = self.scanner.bytes();
        if bytes + self.scanner.bytes_announced() > bytes_max as u64 {
            self.is_skipping = true;
            self.partial = Vec::new();
        }
        if end.is_none() {
            self.hold(taken);
            return Ok(None);
        }
        if std::mem::take(&mut self.is_skipping) {
            return Ok(Some(Whole::Oversized { bytes }));
        }
        if self.partial.is_empty() {
            return Ok(Some(Whole::Value(Cow::Borrowed(taken))));
        }
        let mut value = std::mem::take(&mut self.partial);
        value.extend_from_slice(taken);
        Ok(Some(Whole::Value(Cow::Owned(value))))
    }

    fn hold(&mut self, piece: &[u8]) {
        if self.is_skipping || piece.is_empty() {
            return;
        }
        // An announced string gets its room at once, CR LF included, instead of by doubling.
        // Pages whose bytes never come are never touched.
        if self.scanner.bytes_announced() > 0 {
            let announced = self.scanner.bytes_announced() as usize + 2;
            self.partial.reserve_exact(piece.len() + announced);
        }
        self.partial.extend_from_slice(piece);
    }
}

/// The places of the strings of a flat array or push in a whole value. They are ranges, so that an owned value can be moved
/// between finding its parts and using them.
pub struct Bulks<'a> {
    value: &'a [u8],
    at: usize,
    left: usize,
}

/// Splits an array (`*`) or push (`>`); `None` for anything else, and for a null array. Allocates nothing.
pub fn bulks(value: &[u8]) -> Option<Bulks<'_>> {
    if !matches!(value.first(), Some(b'*' | b'>')) {
        return None;
    }
    let (left, at) = header(value, 0)?;
    Some(Bulks { value, at, left })
}

impl Bulks<'_> {
    /// The number of elements that are still to come, strings or not.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The end of the elements that were taken so far.
    pub fn end(&self) -> usize {
        self.at
    }
}

impl Iterator for Bulks<'_> {
    type Item = Range<usize>;

    /// Ends at the first element that is not a string, too.
    fn next(&mut self) -> Option<Range<usize>> {
        if self.left == 0 || self.value.get(self.at) != Some(&b'$') {
            return None;
        }
        let (length, start) = header(self.value, self.at)?;
        let end = start.checked_add(length)?;
        if end + 2 > self.value.len() {
            return None;
        }
        (self.at, self.left) = (end + 2, self.left - 1);
        Some(start..end)
    }
}

/// The length announced at `at`, and where its line ends; `None` for null.
fn header(value: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut number = 0usize;
    for (offset, &byte) in value.get(at + 1..)?.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(usize::from(byte - b'0'))?;
            }
            b'\r' => return Some((number, at + 1 + offset + 2)),
            _ => return None,
        }
    }
    None
}

/// `text` must hold neither CR nor LF.
pub fn write_simple(out: &mut Vec<u8>, text: &str) {
    write_line(out, '+', text);
}

/// `text` begins with its code (`ERR ...`) and must hold neither CR nor LF.
pub fn write_error(out: &mut Vec<u8>, text: &str) {
    write_line(out, '-', text);
}

pub fn write_integer(out: &mut Vec<u8>, number: i64) {
    write_line(out, ':', number);
}

pub fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    write_line(out, '$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Announces an array of `count` elements, which the caller writes next.
pub fn write_array(out: &mut Vec<u8>, count: usize) {
    write_line(out, '*', count);
}

/// Appends a line of this kind.
pub fn write_line(out: &mut Vec<u8>, kind: char, content: impl std::fmt::Display) {
    write!(out, "{kind}{content}\r\n").expect("a Vec takes every write");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::redis::values::write_value;

    /// `Ok` a value, `Err` the size of an oversized one.
    type Found = Vec<Result<Vec<u8>, u64>>;

    fn frame_all(pieces: &[&[u8]], bytes_max: usize) -> Found {
        let (mut framer, mut found) = (Framer::new(Grammar::Replies), vec![]);
        for mut input in pieces.iter().copied() {
            while let Some(whole) = framer.next(&mut input, bytes_max).expect("it is RESP") {
                found.push(match whole {
                    Whole::Value(value) => Ok(value.into_owned()),
                    Whole::Oversized { bytes } => Err(bytes),
                });
            }
            assert!(input.is_empty());
            assert!(framer.partial.len() <= bytes_max);
            assert!(!framer.is_idle() || framer.partial.capacity() == 0);
        }
        found
    }

    #[test]
    fn pieces_do_not_change_what_is_found_and_the_bound_holds() {
        for seed in 1..3000 {
            let mut random = Random::new(seed);
            let (mut stream, mut expected) = (vec![], vec![]);
            let bytes_max = 1 + random.below(80);
            for _ in 0..4 {
                let mut value = Vec::new();
                let depth = random.below(3);
                write_value(&mut random, depth, &mut value);
                stream.extend_from_slice(&value);
                let is_oversized = value.len() > bytes_max;
                expected.push(if is_oversized { Err(value.len() as u64) } else { Ok(value) });
            }
            assert_eq!(frame_all(&[&stream], bytes_max), expected, "whole, seed {seed}");
            let pieces = random.pieces(&stream, 9);
            assert_eq!(frame_all(&pieces, bytes_max), expected, "pieces, seed {seed}");
        }
    }

    #[test]
    fn a_whole_value_is_not_copied_and_an_oversized_one_is_not_held() {
        let mut framer = Framer::new(Grammar::Replies);
        let mut input: &[u8] = b"+OK\r\n";
        let whole = framer.next(&mut input, 64);
        assert!(matches!(whole, Ok(Some(Whole::Value(Cow::Borrowed(b"+OK\r\n"))))));
        let mut input: &[u8] = b"$536870912\r\nthe beginning";
        assert_eq!(framer.next(&mut input, 1 << 20), Ok(None));
        assert_eq!(framer.partial.capacity(), 0);
    }

    #[test]
    fn a_flat_array_splits_into_its_strings() {
        let split = |value: &'static str| -> Option<(Vec<&str>, usize)> {
            let mut bulks = bulks(value.as_bytes())?;
            let strings = bulks.by_ref().map(|range| &value[range]).collect();
            Some((strings, bulks.left()))
        };
        assert_eq!(split("*2\r\n$1\r\na\r\n$0\r\n\r\n"), Some((vec!["a", ""], 0)));
        assert_eq!(split(">2\r\n$1\r\na\r\n:1\r\n"), Some((vec!["a"], 1)));
        assert_eq!(split("*2\r\n$1\r\na\r\n$-1\r\n"), Some((vec!["a"], 1)));
        assert_eq!(split("*0\r\n"), Some((vec![], 0)));
        assert_eq!(split("*-1\r\n"), None);
        assert_eq!(split("$1\r\na\r\n"), None);
        // Nothing but whole values comes here; still nothing may panic.
        for broken in ["", "*", "*1", "*1\r", "*1\r\n$9\r\na", "*1\r\n$18446744073709551615\r\n"] {
            assert!(split(broken).is_none_or(|(strings, _)| strings.is_empty()), "{broken:?}");
        }
    }
}
