//! Pages of streams in tests that play Redis: the feature that asks for them, and its requests.

use std::any::Any;

use crate::engine::reactor::Reactor;
use crate::engine::resume::cursor::EntryId;
use crate::features::streams::pages::StreamPages;

impl Reactor {
    /// Reads these streams, and no channels.
    pub(super) fn read_streams(&mut self, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.router.features = vec![Box::new(StreamPages::new(names.len()))];
        self.router.server.resume.read_streams(names);
        self.router.server.resume.has_channels = false;
    }

    /// The number of pages on their way, of clients that wait for one, and of clients that are ahead.
    pub(super) fn pages_len(&self) -> (usize, usize, usize) {
        let mut features = self.router.features.iter();
        let pages = features.find_map(|feature| (&**feature as &dyn Any).downcast_ref());
        let (asked, waiting) = pages.map_or((0, 0), StreamPages::len);
        (asked, waiting, self.router.server.resume.ahead.len())
    }
}

/// The bounds of a page.
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

/// Reads `XRANGE name from up_to COUNT n`.
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
