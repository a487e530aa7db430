//! Where somebody stands in what was published: in this process's own count, and in each stream of Redis.

use std::fmt;

/// The id of an entry in a stream of Redis: milliseconds since 1970, and a number among those of one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970, by the clock of Redis.
    pub millis: u64,
    /// Which one of that millisecond.
    pub number: u64,
}

impl EntryId {
    /// Before every entry.
    pub const ZERO: EntryId = EntryId { millis: 0, number: 0 };
    /// After every entry.
    pub const MAX: EntryId = EntryId { millis: u64::MAX, number: u64::MAX };

    /// Reads it as Redis writes it: `1718000000000-0`.
    pub fn parse(text: &[u8]) -> Option<EntryId> {
        let (millis, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(EntryId { millis: decimal(millis)?, number: decimal(number)? })
    }

    /// The id right before this one, where there is one.
    pub fn before(self) -> Option<EntryId> {
        match (self.number.checked_sub(1), self.millis.checked_sub(1)) {
            (Some(number), _) => Some(EntryId { number, ..self }),
            (None, Some(millis)) => Some(EntryId { millis, number: u64::MAX }),
            (None, None) => None,
        }
    }
}

impl fmt::Display for EntryId {
    /// As Redis takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.number)
    }
}

/// Digits alone, unlike what `str::parse` takes.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
