//! How many entries one XREAD asks for: few while they are large, more while many wait.
//!
//! Nothing of a reply is held here, but Redis builds it whole before it sends the first byte. So the number follows the size of
//! what came lately. It cannot see what comes next: large entries behind many small ones make one reply of up to
//! [`COUNT_MAX`] of them, and the next one is small again.

/// What a reply should come to, in bytes.
const REPLY_BYTES: u64 = 2 * 1024 * 1024;
/// While nothing is known of the size, and while no more wait.
const COUNT_FIRST: usize = 16;
const COUNT_MAX: usize = 256;

/// The number, and what the replies are like.
pub struct Batch {
    count: usize,
    /// The largest entry of late, in bytes.
    largest: u64,
    /// In the reply that is being read.
    entries: usize,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { count: COUNT_FIRST, largest: 0, entries: 0 }
    }
}

impl Batch {
    /// For each of so many streams.
    pub fn count(&self, streams: usize) -> usize {
        (self.count / streams.max(1)).max(1)
    }

    /// An entry came.
    pub fn saw(&mut self, bytes: u64) {
        self.entries += 1;
        self.largest = self.largest.max(bytes);
    }

    /// The reply of an XREAD from so many streams has ended.
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

    fn reply(batch: &mut Batch, entries: usize, bytes: u64) -> usize {
        (0..entries).for_each(|_| batch.saw(bytes));
        batch.end(1);
        batch.count(1)
    }

    #[test]
    fn full_replies_of_small_entries_grow_up_to_a_bound() {
        let mut batch = Batch::default();
        let counts: Vec<usize> = (0..6).map(|_| reply(&mut batch, 256, 100)).collect();
        assert_eq!(counts, [32, 64, 128, 256, 256, 256]);
        assert_eq!(reply(&mut batch, 3, 100), 16, "no more wait");
        assert_eq!(reply(&mut batch, 0, 0), 16);
    }

    #[test]
    fn a_reply_of_large_entries_is_followed_by_a_small_one() {
        let mut batch = Batch::default();
        (0..6).for_each(|_| _ = reply(&mut batch, 256, 100));
        assert_eq!(reply(&mut batch, 256, 1 << 20), 2);
        assert_eq!(reply(&mut batch, 2, 1 << 20), 2);
        assert_eq!(reply(&mut batch, 2, 100), 4, "what was large is forgotten by and by");
        assert_eq!(reply(&mut batch, 4, u64::MAX), 1);
        assert_eq!(batch.count(8), 1);
    }
}
