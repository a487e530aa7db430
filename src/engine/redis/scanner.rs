//! The end of a RESP value, found in a stream that may stop at any byte.

use crate::engine::redis::garbage::Garbage;

/// Redis' `proto-max-bulk-len` as it comes: a longer string is not announced by any Redis.
const BULK_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Redis' own bound on the elements of a command; here on all values that are still to come, however they nest.
const ELEMENTS_MAX: u64 = 1024 * 1024;
/// Redis' bound on an inline line. No status or error line comes near it.
const LINE_BYTES_MAX: u32 = 64 * 1024;
/// Above this a value would never end: the largest string and ample room around it.
const VALUE_BYTES_MAX: u64 = BULK_BYTES_MAX + 1024 * 1024;

/// The legal values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// Anything of RESP2 and RESP3, except streamed types, which no server sends.
    Replies,
    /// The commands of a client: arrays of strings, none of them null.
    Commands,
}

/// A scanner that counts the values still to come instead of nesting: a million levels cost as much as one.
pub struct Scanner {
    grammar: Grammar,
    state: ScanState,
    /// Values that have to end before the outermost one has ended; 0 between two values.
    values_left: u64,
    /// Bytes of the outermost value so far.
    bytes: u64,
}

#[derive(Clone, Copy)]
enum ScanState {
    /// At the type of the outermost value.
    First,
    Type,
    Length {
        kind: u8,
        length: Length,
    },
    LengthFeed {
        kind: u8,
        length: Length,
    },
    Line {
        bytes: u32,
    },
    LineFeed,
    Body {
        left: u64,
    },
    BodyReturn,
    BodyFeed,
}

#[derive(Clone, Copy, Default)]
struct Length {
    is_negative: bool,
    digits: u8,
    number: u64,
}

impl Scanner {
    pub fn new(grammar: Grammar) -> Scanner {
        Scanner { grammar, state: ScanState::First, values_left: 0, bytes: 0 }
    }

    /// Returns whether it stands between two values.
    pub fn is_idle(&self) -> bool {
        self.values_left == 0
    }

    /// Bytes of the current value so far; after its end those of the one that ended.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of further bytes that the value has announced. It may need more.
    pub fn bytes_announced(&self) -> u64 {
        match self.state {
            ScanState::Body { left } => left,
            _ => 0,
        }
    }

    /// Goes on where it stopped: `Some(n)` if the value ends after `n` bytes of `input`, `None` if all of it belongs to the value.
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<usize>, Garbage> {
        if input.is_empty() {
            return Ok(None);
        }
        if self.values_left == 0 {
            (self.values_left, self.bytes, self.state) = (1, 0, ScanState::First);
        }
        let mut at = 0;
        while at < input.len() && self.values_left > 0 {
            let rest = &input[at..];
            at += match self.state {
                ScanState::Body { left } => self.skip_body(left, rest),
                ScanState::First | ScanState::Type => self.read_header(rest)?,
                _ => {
                    self.state = self.step(rest[0])?;
                    1
                }
            };
        }
        self.bytes += at as u64;
        if self.bytes > VALUE_BYTES_MAX {
            return Err(Garbage::Size);
        }
        Ok(self.is_idle().then_some(at))
    }

    /// The type and, if the whole line is there, what it announces: byte by byte, a message would take four times as long.
    fn read_header(&mut self, input: &[u8]) -> Result<usize, Garbage> {
        self.state = self.begin(input[0])?;
        let ScanState::Length { kind, mut length } = self.state else {
            return Ok(1);
        };
        for (at, &byte) in input.iter().enumerate().skip(1) {
            if byte.is_ascii_digit() {
                length = length.with(byte)?;
                continue;
            }
            if byte == b'\r' && input.get(at + 1) == Some(&b'\n') {
                self.state = self.announced(kind, length)?;
                return Ok(at + 2);
            }
            break;
        }
        Ok(1)
    }

    fn skip_body(&mut self, left: u64, input: &[u8]) -> usize {
        let end = left.min(input.len() as u64) as usize;
        self.state = match left - end as u64 {
            0 if input[end..].starts_with(b"\r\n") => {
                self.values_left -= 1;
                self.state = ScanState::Type;
                return end + 2;
            }
            0 => ScanState::BodyReturn,
            left => ScanState::Body { left },
        };
        end
    }

    fn step(&mut self, byte: u8) -> Result<ScanState, Garbage> {
        Ok(match (self.state, byte) {
            (ScanState::Length { kind, length }, b'\r') => ScanState::LengthFeed { kind, length },
            (ScanState::Length { kind, length }, _) => {
                ScanState::Length { kind, length: length.with(byte)? }
            }
            (ScanState::LengthFeed { kind, length }, b'\n') => self.announced(kind, length)?,
            (ScanState::Line { .. }, b'\r') => ScanState::LineFeed,
            (ScanState::Line { .. }, b'\n') => return Err(Garbage::Terminator),
            (ScanState::Line { bytes }, _) if bytes == LINE_BYTES_MAX => return Err(Garbage::Size),
            (ScanState::Line { bytes }, _) => ScanState::Line { bytes: bytes + 1 },
            (ScanState::BodyReturn, b'\r') => ScanState::BodyFeed,
            (ScanState::LineFeed | ScanState::BodyFeed, b'\n') => {
                self.values_left -= 1;
                ScanState::Type
            }
            _ => return Err(Garbage::Terminator),
        })
    }

    fn begin(&self, kind: u8) -> Result<ScanState, Garbage> {
        let is_legal = match self.grammar {
            Grammar::Replies => b"+-:_,#($=!*~>%|".contains(&kind),
            Grammar::Commands if matches!(self.state, ScanState::First) => kind == b'*',
            Grammar::Commands => kind == b'$',
        };
        match kind {
            _ if !is_legal => Err(Garbage::Type(kind)),
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Ok(ScanState::Line { bytes: 0 }),
            _ => Ok(ScanState::Length { kind, length: Length::default() }),
        }
    }

    /// A header is whole: adds what it announces to the values to come.
    fn announced(&mut self, kind: u8, length: Length) -> Result<ScanState, Garbage> {
        let Length { is_negative, digits, number } = length;
        let is_null = is_negative && number == 1 && self.may_be_null(kind);
        if digits == 0 || (is_negative && !is_null) {
            return Err(Garbage::Length);
        }
        let is_string = matches!(kind, b'$' | b'=' | b'!');
        if number > if is_string { BULK_BYTES_MAX } else { ELEMENTS_MAX } {
            return Err(Garbage::Length);
        }
        self.values_left += match kind {
            _ if is_null || is_string => 0,
            b'%' | b'|' => 2 * number,
            _ => number,
        };
        if self.values_left > ELEMENTS_MAX + 1 {
            return Err(Garbage::Length);
        }
        if is_string && !is_null {
            return Ok(match number {
                0 => ScanState::BodyReturn,
                left => ScanState::Body { left },
            });
        }
        // Attributes come before the value they belong to, which is still to come.
        if kind != b'|' {
            self.values_left -= 1;
        }
        Ok(ScanState::Type)
    }

    fn may_be_null(&self, kind: u8) -> bool {
        kind == b'*' || (kind == b'$' && self.grammar == Grammar::Replies)
    }
}

impl Length {
    fn with(self, byte: u8) -> Result<Length, Garbage> {
        match byte {
            b'-' if self.digits == 0 && !self.is_negative => {
                Ok(Length { is_negative: true, ..self })
            }
            // Ten digits are more than any legal length has, and cannot overflow.
            b'0'..=b'9' if self.digits < 10 => Ok(Length {
                digits: self.digits + 1,
                number: self.number * 10 + u64::from(byte - b'0'),
                ..self
            }),
            _ => Err(Garbage::Length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::redis::values::write_value;

    /// Looks at the whole buffer at once, recursing into aggregates: `Some(end)`, or `None` if it is not whole.
    fn model(bytes: &[u8], at: usize) -> Result<Option<usize>, ()> {
        let Some(&kind) = bytes.get(at) else {
            return Ok(None);
        };
        if !b"+-:_,#($=!*~>%|".contains(&kind) {
            return Err(());
        }
        let is_line = b"+-:_,#(".contains(&kind);
        let Some(feed) = bytes[at..].iter().position(|&byte| byte == b'\n') else {
            // The part of a header that has arrived must begin a legal one.
            let head = &bytes[at + 1..];
            let text = head.strip_suffix(b"\r").unwrap_or(head);
            let is_bad = text.contains(&b'\r')
                || (!is_line && !b"".eq(text) && !b"-".eq(text) && number(text).is_none());
            return if is_bad { Err(()) } else { Ok(None) };
        };
        let line = bytes[at + 1..at + feed].strip_suffix(b"\r").ok_or(())?;
        if line.contains(&b'\r') {
            return Err(());
        }
        let mut next = at + feed + 1;
        if is_line {
            return Ok(Some(next));
        }
        let count = number(line).ok_or(())?;
        if count == -1 && b"$*".contains(&kind) {
            return Ok(Some(next));
        }
        let limit = if b"$=!".contains(&kind) { BULK_BYTES_MAX } else { ELEMENTS_MAX };
        let count = usize::try_from(count).map_err(|_| ())?;
        if count as u64 > limit {
            return Err(());
        }
        if b"$=!".contains(&kind) {
            let end = bytes.get(next + count..).unwrap_or(b"");
            return match end {
                [] | [b'\r'] => Ok(None),
                [b'\r', b'\n', ..] => Ok(Some(next + count + 2)),
                _ => Err(()),
            };
        }
        let count = match kind {
            b'%' => 2 * count,
            b'|' => 2 * count + 1,
            _ => count,
        };
        for _ in 0..count {
            match model(bytes, next)? {
                Some(end) => next = end,
                None => return Ok(None),
            }
        }
        Ok(Some(next))
    }

    fn number(text: &[u8]) -> Option<i64> {
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let is_number = digits.iter().all(u8::is_ascii_digit) && (1..=10).contains(&digits.len());
        is_number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
    }

    /// Ends of all values in the stream and whether garbage follows, read in these pieces.
    fn scan_all(pieces: &[&[u8]]) -> (Vec<usize>, bool) {
        let (mut scanner, mut ends, mut base) = (Scanner::new(Grammar::Replies), vec![], 0);
        for piece in pieces {
            let mut at = 0;
            while at < piece.len() {
                match scanner.scan(&piece[at..]) {
                    Ok(Some(length)) => {
                        at += length;
                        ends.push(base + at);
                    }
                    Ok(None) => at = piece.len(),
                    Err(_) => return (ends, true),
                }
            }
            base += piece.len();
        }
        (ends, false)
    }

    #[test]
    fn random_streams_in_random_pieces_agree_with_a_whole_buffer_model() {
        for seed in 1..6000 {
            let mut random = Random::new(seed);
            let mut stream = Vec::new();
            for _ in 0..1 + random.below(4) {
                let depth = random.below(4);
                write_value(&mut random, depth, &mut stream);
            }
            if random.below(2) == 0 {
                for _ in 0..1 + random.below(3) {
                    let at = random.below(stream.len());
                    stream[at] = random.choose(b"*$+-:0129\r\nx%|>~_");
                }
            }
            let (mut ends, mut at, mut is_garbage) = (vec![], 0, false);
            while at < stream.len() {
                match model(&stream, at) {
                    Ok(Some(end)) => {
                        ends.push(end);
                        at = end;
                    }
                    Ok(None) => break,
                    Err(()) => {
                        is_garbage = true;
                        break;
                    }
                }
            }
            let expected = (ends, is_garbage);
            assert_eq!(scan_all(&[&stream]), expected, "whole, seed {seed}");
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(scan_all(&bytes), expected, "bytes, seed {seed}");
            for cut in 1..stream.len() {
                let halves = [&stream[..cut], &stream[cut..]];
                assert_eq!(scan_all(&halves), expected, "cut at {cut}, seed {seed}");
            }
        }
    }

    #[test]
    fn what_no_redis_announces_is_refused_from_its_header() {
        for (header, garbage) in [
            ("$536870913\r\n", Garbage::Length),
            ("$9223372036854775807\r\n", Garbage::Length),
            ("*1048577\r\n", Garbage::Length),
            ("%1048576\r\n", Garbage::Length),
            ("*1048576\r\n*1048576\r\n", Garbage::Length),
            ("$-2\r\n", Garbage::Length),
            (">-1\r\n", Garbage::Length),
            ("=-1\r\n", Garbage::Length),
            ("$--1\r\n", Garbage::Length),
            ("$\r\n", Garbage::Length),
            ("$-\r\n", Garbage::Length),
            ("$+1\r\n", Garbage::Length),
            ("$?\r\n", Garbage::Length),
            ("$1\n", Garbage::Length),
            ("$1\rx", Garbage::Terminator),
            ("$1\r\nab", Garbage::Terminator),
            ("+OK\rx", Garbage::Terminator),
            ("HTTP/1.1 400", Garbage::Type(b'H')),
        ] {
            let mut scanner = Scanner::new(Grammar::Replies);
            assert_eq!(scanner.scan(header.as_bytes()), Err(garbage), "{header:?}");
        }
        let line = [b"+".to_vec(), b"a".repeat(LINE_BYTES_MAX as usize + 1)].concat();
        assert_eq!(Scanner::new(Grammar::Replies).scan(&line), Err(Garbage::Size));
    }

    #[test]
    fn a_million_levels_are_one_value() {
        let deep = [b"*1\r\n".repeat(1_000_000), b":1\r\n".to_vec()].concat();
        assert_eq!(Scanner::new(Grammar::Replies).scan(&deep), Ok(Some(deep.len())));
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        for (command, expected) in [
            ("*1\r\n$4\r\nPING\r\n", Ok(Some(14))),
            ("*0\r\n", Ok(Some(4))),
            ("*-1\r\n", Ok(Some(5))),
            ("*1\r\n:1\r\n", Err(Garbage::Type(b':'))),
            ("*1\r\n*1\r\n", Err(Garbage::Type(b'*'))),
            ("*1\r\n$-1\r\n", Err(Garbage::Length)),
        ] {
            let mut scanner = Scanner::new(Grammar::Commands);
            assert_eq!(scanner.scan(command.as_bytes()), expected, "{command:?}");
        }
    }
}
