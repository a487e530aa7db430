//! The range of a requested page, for tests that play Redis.

use crate::engine::resume::cursor::EntryId;

/// The entries of a page, and their number.
pub(super) struct PageBounds {
    from: EntryId,
    up_to: EntryId,
    pub count: usize,
}

impl PageBounds {
    pub fn holds(&self, id: EntryId) -> bool {
        (self.from..=self.up_to).contains(&id)
    }
}

/// Parses `XRANGE name from up_to COUNT n`.
pub(super) fn bounds_of(command: &[u8]) -> PageBounds {
    let text = String::from_utf8_lossy(command);
    let words: Vec<&str> = text.split("\r\n").filter(|word| !word.starts_with('$')).collect();
    assert_eq!((words[1], words.len()), ("XRANGE", 8));
    let read = |text: &str| EntryId::parse(text.as_bytes()).expect("an entry");
    PageBounds {
        from: read(words[3]),
        up_to: read(words[4]),
        count: words[6].parse().expect("a number"),
    }
}
