//! How far a stream was read: forwards from where it stood at the start, and once backwards, to what was said lately.

use crate::engine::resume::cursor::EntryId;
use crate::features::streams::commands;
use crate::features::streams::position::Position;

/// Of one stream, over all connections.
#[derive(Clone, Copy)]
pub struct Progress {
    /// Unknown until Redis was asked for the first time.
    pub position: Option<Position>,
    earlier: Earlier,
}

/// Whether what was said lately is still to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    /// Up to the position.
    Begins,
    /// All before this entry.
    Before(EntryId),
    /// There is no more, or no more is wanted, and nobody was told.
    Ends {
        first_is_reached: bool,
    },
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

    /// Whether there is something to ask or to tell about earlier entries.
    pub fn is_looking_back(&self) -> bool {
        self.earlier != Earlier::Done
    }

    /// Asks for the next page of earlier entries, so many at most; `None`: no more are wanted.
    pub fn next_page(&self, name: &str, count: usize) -> Option<Vec<u8>> {
        match self.earlier {
            Earlier::Begins => Some(commands::page_up_to(name, self.last(), count)),
            Earlier::Before(id) => Some(commands::page_before(name, id, count)),
            Earlier::Ends { .. } | Earlier::Done => None,
        }
    }

    /// An earlier entry came; `false`: it is not wanted.
    pub fn look_back(&mut self, id: EntryId) -> bool {
        let is_wanted = matches!(self.earlier, Earlier::Begins | Earlier::Before(_));
        if is_wanted {
            self.earlier = Earlier::Before(id);
        }
        is_wanted
    }

    /// A page had so many entries, of as many as were asked for.
    pub fn end_page(&mut self, entries: usize, count: usize) {
        if entries < count {
            self.stop_looking_back(true);
        }
    }

    /// No more earlier entries are wanted.
    pub fn stop_looking_back(&mut self, first_is_reached: bool) {
        if matches!(self.earlier, Earlier::Begins | Earlier::Before(_)) {
            self.earlier = Earlier::Ends { first_is_reached };
        }
    }

    /// Says once whether the first entry of the stream was among the earlier ones.
    pub fn end_looking_back(&mut self) -> Option<bool> {
        let Earlier::Ends { first_is_reached } = self.earlier else { return None };
        self.earlier = Earlier::Done;
        Some(first_is_reached)
    }
}
