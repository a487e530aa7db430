//! The size of recent entries of a stream, from which the size of a page follows.

/// The most bytes of a page whose entries are all as large as the largest recent one.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// The size of recent entries of one stream, in bytes.
#[derive(Clone, Copy, Default)]
pub struct EntrySizes {
    mean: u64,
    largest: u64,
}

impl EntrySizes {
    /// Takes an entry into account.
    pub fn add(&mut self, bytes: usize) {
        self.mean = (31 * self.mean + bytes as u64) / 32;
        self.largest = self.largest.max(bytes as u64);
    }

    /// Takes a page into account. An earlier large entry loses its weight by and by.
    pub fn add_page(&mut self, entries: usize, bytes: u64, largest: u64) {
        if let Some(mean) = bytes.checked_div(entries as u64) {
            self.mean = (7 * self.mean + mean) / 8;
            self.largest = largest.max(self.largest - self.largest / 16);
        }
    }

    /// The entries that a page may have, at most `most`.
    pub fn entries_max(&self, most: usize) -> usize {
        (PAGE_BYTES_MAX / self.largest.max(1)).clamp(1, most as u64) as usize
    }

    /// The bytes that are expected of a page of so many entries.
    pub fn expected(&self, entries: usize) -> u64 {
        (2 * self.mean * entries as u64).max(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_the_sizes_of_late() {
        let mut sizes = EntrySizes::default();
        assert_eq!((sizes.entries_max(128), sizes.expected(8)), (128, 0));
        sizes.add(500_000);
        assert_eq!(sizes.entries_max(128), 2);
        (0..40).for_each(|_| sizes.add_page(2, 1_000_000, 500_000));
        assert!(sizes.expected(2) > 1_800_000, "{}", sizes.expected(2));
        (0..200).for_each(|_| sizes.add_page(100, 10_000, 100));
        assert_eq!(sizes.entries_max(128), 128);
        assert!(sizes.expected(128) < 128 * 300);
        sizes.add_page(0, 0, 0);
    }
}
