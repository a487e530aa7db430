//! The number of entries that one XREAD asks for: few while they are large, more while many wait.
//!
//! No reply is held here, but Redis builds it whole before it sends the first byte. So the number follows the size of recent
//! entries. It cannot foresee the next ones: large entries behind many small ones make one reply of up to [`COUNT_MAX`] of them, and
//! the next one is small again.

/// The intended size of a reply, in bytes.
const REPLY_BYTES: u64 = 2 * 1024 * 1024;
/// The number while nothing is known of the size, and while no more wait.
const COUNT_FIRST: usize = 16;
const COUNT_MAX: usize = 256;

/// The number, and the size of recent replies.
pub struct ReadCount {
    count: usize,
    /// The largest recent entry, in bytes.
    largest: u64,
    /// Entries of the reply that is being read.
    entries: usize,
}

impl Default for ReadCount {
    fn default() -> ReadCount {
        ReadCount { count: COUNT_FIRST, largest: 0, entries: 0 }
    }
}

impl ReadCount {
    /// The number for each of so many streams.
    pub fn count(&self, streams: usize) -> usize {
        (self.count / streams.max(1)).max(1)
    }

    /// Takes an entry into account.
    pub fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.largest = self.largest.max(bytes);
    }

    /// Ends the reply of an XREAD from so many streams.
    pub fn end(&mut self, streams: usize) {
        let is_full = self.entries >= self.count(streams);
        let wanted = if is_full { 2 * self.count } else { COUNT_FIRST };
        let fitting = REPLY_BYTES / self.largest.max(1);
        self.count = wanted.min(COUNT_MAX).min(fitting as usize).max(1);
        (self.entries, self.largest) = (0, self.largest / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(reads: &mut ReadCount, entries: usize, bytes: u64) -> usize {
        (0..entries).for_each(|_| reads.add(bytes));
        reads.end(1);
        reads.count(1)
    }

    #[test]
    fn full_replies_of_small_entries_grow_up_to_a_bound() {
        let mut reads = ReadCount::default();
        let counts: Vec<usize> = (0..6).map(|_| reply(&mut reads, 256, 100)).collect();
        assert_eq!(counts, [32, 64, 128, 256, 256, 256]);
        assert_eq!(reply(&mut reads, 3, 100), 16, "no more wait");
        assert_eq!(reply(&mut reads, 0, 0), 16);
    }

    #[test]
    fn a_reply_of_large_entries_is_followed_by_a_small_one() {
        let mut reads = ReadCount::default();
        (0..6).for_each(|_| _ = reply(&mut reads, 256, 100));
        assert_eq!(reply(&mut reads, 256, 1 << 20), 2);
        assert_eq!(reply(&mut reads, 2, 1 << 20), 2);
        assert_eq!(reply(&mut reads, 2, 100), 4, "what was large is forgotten by and by");
        assert_eq!(reply(&mut reads, 4, u64::MAX), 1);
        assert_eq!(reads.count(8), 1);
    }
}
