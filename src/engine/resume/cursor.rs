//! Cursors: places in the sequence of published messages, by this process's own count and by the entries of each stream.

mod signer;

pub use signer::Signer;

use std::fmt;

/// The most streams that a cursor has a place in.
pub const STREAMS_MAX: usize = 8;

/// The digits of base 32 in the order of their characters (RFC 4648 section 7, in small letters).
const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

const NODE_CHARS: usize = 12;
const NUMBER_CHARS: usize = 10;

/// The name of one process: the second in which it started, and random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u64);

impl Node {
    /// The name of a process that started at `unix` seconds since 1970: later ones are greater. `random` is any 64 bits.
    pub fn new(unix: u64, random: u64) -> Node {
        Node((unix & 0xffff_ffff) << 28 | random >> 36)
    }

    /// The name as a number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The inverse of [`Node::number`].
    pub fn of_number(number: u64) -> Node {
        Node(number)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(NODE_CHARS);
        write_number(&mut text, self.0, NODE_CHARS);
        f.write_str(&text)
    }
}

/// The position that a client remembers, and comes back with.
///
/// Its text is opaque to clients, and rises along each connection: 22 characters, some more for each stream, and the 13 of the MAC
/// that a [`Signer`] appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The process that counted `number`.
    pub node: Node,
    /// The number of the latest message that the cursor includes.
    pub number: u64,
    /// Messages of channels are included, for which other processes have no number.
    pub has_channels: bool,
    /// The latest entry of each stream that the cursor includes.
    pub entries: Vec<EntryId>,
}

impl Cursor {
    /// Parses a text of [`write`], and no other text.
    fn parse(text: &str) -> Option<Cursor> {
        let mut rest = text.as_bytes();
        let node = Node(read_number(&mut rest, NODE_CHARS)?);
        let number = read_number(&mut rest, NUMBER_CHARS)?;
        let has_channels = match rest.first() {
            None | Some(b'1') => true,
            Some(b'0') => false,
            Some(_) => return None,
        };
        rest = rest.get(1..).unwrap_or_default();
        let mut entries = Vec::new();
        while !rest.is_empty() {
            if entries.len() == STREAMS_MAX {
                return None;
            }
            let millis = read_counted(&mut rest)?;
            let number = read_counted(&mut rest)?;
            entries.push(EntryId { millis, number });
        }
        let cursor = Cursor { node, number, has_channels, entries };
        // Each cursor has one text.
        let mut again = String::with_capacity(text.len());
        write(&mut again, cursor.node, cursor.number, cursor.has_channels, &cursor.entries);
        (again == text).then_some(cursor)
    }
}

/// Appends the text of a cursor with these parts, without a MAC.
fn write(out: &mut String, node: Node, number: u64, has_channels: bool, entries: &[EntryId]) {
    write_number(out, node.0, NODE_CHARS);
    write_number(out, number, NUMBER_CHARS);
    if !entries.is_empty() {
        out.push(if has_channels { '1' } else { '0' });
    }
    for entry in entries {
        write_counted(out, entry.millis);
        write_counted(out, entry.number);
    }
}

/// Appends the lowest `chars` digits of a number.
fn write_number(out: &mut String, number: u64, chars: usize) {
    for place in (0..chars).rev() {
        out.push(char::from(DIGITS[(number >> (5 * place)) as usize & 31]));
    }
}

fn read_number(rest: &mut &[u8], chars: usize) -> Option<u64> {
    let (digits, after) = rest.split_at_checked(chars)?;
    *rest = after;
    digits.iter().try_fold(0_u64, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'v' => digit - b'a' + 10,
            _ => return None,
        };
        (number >> 59 == 0).then_some(number << 5 | u64::from(value))
    })
}

/// Appends the number of digits, then the digits: short for small numbers, and in the order of the numbers all the same.
fn write_counted(out: &mut String, number: u64) {
    let chars = (u64::BITS - number.leading_zeros()).div_ceil(5) as usize;
    out.push(char::from(DIGITS[chars]));
    write_number(out, number, chars);
}

fn read_counted(rest: &mut &[u8]) -> Option<u64> {
    let chars = read_number(rest, 1)? as usize;
    read_number(rest, chars)
}

/// The id of an entry in a stream of Redis: milliseconds since 1970, and a number among those of one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, by the clock of Redis.
    pub millis: u64,
    /// The place among the entries of that millisecond.
    pub number: u64,
}

impl EntryId {
    pub const ZERO: EntryId = EntryId { millis: 0, number: 0 };
    pub const MAX: EntryId = EntryId { millis: u64::MAX, number: u64::MAX };

    /// Parses an id as Redis writes it: `1718000000000-0`.
    pub fn parse(text: &[u8]) -> Option<EntryId> {
        let (millis, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(EntryId { millis: decimal(millis)?, number: decimal(number)? })
    }

    /// The id right before this one, if there is one.
    pub fn before(self) -> Option<EntryId> {
        match (self.number.checked_sub(1), self.millis.checked_sub(1)) {
            (Some(number), _) => Some(EntryId { number, ..self }),
            (None, Some(millis)) => Some(EntryId { millis, number: u64::MAX }),
            (None, None) => None,
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

/// Parses digits alone: `str::parse` also takes a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn an_entry_is_read_as_redis_writes_it() {
        for text in ["0-0", "1718000000000-12", "18446744073709551615-18446744073709551615"] {
            let id = EntryId::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(id.to_string(), text);
        }
        for text in ["", "-", "1", "1-", "-1", "+1-1", "1-1-1", "1-x", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_one_before_is_the_next_smaller() {
        let id = |millis, number| EntryId { millis, number };
        assert_eq!(id(5, 3).before(), Some(id(5, 2)));
        assert_eq!(id(5, 0).before(), Some(id(4, u64::MAX)));
        assert_eq!(EntryId::ZERO.before(), None);
        assert!(id(5, 0).before() < Some(id(5, 0)));
    }

    fn text(cursor: &Cursor) -> String {
        let mut text = String::new();
        write(&mut text, cursor.node, cursor.number, cursor.has_channels, &cursor.entries);
        text
    }

    fn cursor(random: &mut Random) -> Cursor {
        let small = |random: &mut Random| random.next() >> (random.next() % 64);
        let entries = (0..random.below(3))
            .map(|_| EntryId { millis: small(random), number: small(random) })
            .collect::<Vec<_>>();
        Cursor {
            node: Node(random.next() >> 4),
            number: random.next() >> 14,
            has_channels: entries.is_empty() || random.below(2) == 0,
            entries,
        }
    }

    #[test]
    fn a_cursor_comes_back_from_its_text() {
        let mut random = Random::new(0xc0_450);
        for _ in 0..20_000 {
            let cursor = cursor(&mut random);
            let text = text(&cursor);
            assert_eq!(Cursor::parse(&text), Some(cursor), "{text}");
        }
        let node = Node::new(1_700_000_000, u64::MAX);
        assert_eq!(node.to_string().len(), 12);
        let plain = Cursor { node, number: 1, has_channels: true, entries: vec![] };
        assert_eq!(text(&plain).len(), 22);
    }

    #[test]
    fn what_is_later_rises_as_text() {
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            let one = cursor(&mut random);
            let later = Cursor { number: one.number + 1, ..one.clone() };
            assert!(text(&later) > text(&one));
            let mut entries = one.entries.clone();
            if let Some(entry) = entries.last_mut()
                && entry.number < u64::MAX
                && entry.millis < u64::MAX
            {
                entry.number += 1;
                assert!(text(&Cursor { entries: entries.clone(), ..one.clone() }) > text(&one));
                let last = entries.len() - 1;
                entries[last] = EntryId { millis: entries[last].millis + 1, number: 0 };
                assert!(text(&Cursor { entries, ..one.clone() }) > text(&one));
            }
        }
        let [early, late] = [5, 6].map(|unix| Node::new(unix, 0).to_string());
        assert!(early < late);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let mut random = Random::new(99);
        for _ in 0..20_000 {
            let mut text = text(&cursor(&mut random)).into_bytes();
            match random.below(3) {
                0 => text.truncate(random.below(text.len())),
                1 => text.push(random.choose(b"0v1z\xff".as_slice())),
                _ => {
                    let at = random.below(text.len());
                    text[at] = random.choose(b"0v1zW \xff".as_slice());
                }
            }
            let Ok(given) = std::str::from_utf8(&text) else { continue };
            // Each text that is read is a cursor's own.
            assert!(Cursor::parse(given).is_none_or(|read| self::text(&read) == given), "{given}");
        }
        for text in ["", "x", "é", &"v".repeat(4000), "0000000000000000000001"] {
            let is_one = Cursor::parse(text).is_some();
            assert_eq!(is_one, text.len() == 22 && text.is_ascii(), "{text}");
        }
    }
}
