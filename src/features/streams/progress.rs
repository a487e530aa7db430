//! The progress in a stream: forwards from its end at the start, and once backwards, through recent entries.

use crate::engine::resume::cursor::EntryId;
use crate::features::streams::commands;
use crate::features::streams::position::Position;

/// The progress in one stream, over all connections.
#[derive(Clone, Copy)]
pub struct Progress {
    /// Unknown until Redis was asked for the first time.
    pub position: Option<Position>,
    earlier: Earlier,
}

/// The entries from before the start that are still to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    /// All up to the position.
    Begins,
    /// All before this entry.
    Before(EntryId),
    /// None: there are no more, or no more are wanted.
    Done,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { position: None, earlier: Earlier::Begins }
    }

    /// Every entry after this one is still to be read.
    pub fn last(&self) -> EntryId {
        self.position.map_or(EntryId::ZERO, |position| position.last)
    }

    /// Returns whether earlier entries are still to be read.
    pub fn is_looking_back(&self) -> bool {
        self.earlier != Earlier::Done
    }

    /// The command for the next page of at most `count` earlier entries, if any are wanted.
    pub fn next_page(&self, name: &str, count: usize) -> Option<Vec<u8>> {
        match self.earlier {
            Earlier::Begins => Some(commands::page_up_to(name, self.last(), count)),
            Earlier::Before(id) => Some(commands::page_before(name, id, count)),
            Earlier::Done => None,
        }
    }

    /// Takes an earlier entry into account. `false`: it is not wanted.
    pub fn look_back(&mut self, id: EntryId) -> bool {
        let is_wanted = self.is_looking_back();
        if is_wanted {
            self.earlier = Earlier::Before(id);
        }
        is_wanted
    }

    /// Ends a page of earlier entries: one with fewer entries than asked for was the last.
    pub fn end_page(&mut self, entries: usize, count: usize) {
        if entries < count {
            self.stop_looking_back();
        }
    }

    /// No more earlier entries are wanted.
    pub fn stop_looking_back(&mut self) {
        self.earlier = Earlier::Done;
    }
}
