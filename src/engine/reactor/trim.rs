//! Returning the memory of a burst to the system.

use crate::clock::Millis;

/// After this many writes or closes, freed memory is worth returning to the system. A large payload is worth it alone.
const BURST: usize = 1024;

/// The pause after a burst before memory is returned: once for many bursts, since the next one needs it again.
const PAUSE: Millis = 1000;

/// When memory is returned, and how.
pub(super) struct Trim {
    /// The largest number of pending writes or closes since memory was last returned.
    pub burst: usize,
    /// When to return memory.
    pub at: Option<Millis>,
    /// The allocator's part.
    pub act: Option<fn()>,
}

impl Trim {
    pub fn new(act: Option<fn()>) -> Trim {
        Trim { burst: 0, at: None, act }
    }

    /// Notes how many writes are pending, and whether a large payload came.
    pub fn note(&mut self, pending: usize, had_large_payload: bool) {
        self.burst = if had_large_payload { BURST } else { self.burst.max(pending) };
    }

    /// Ends a turn: after a burst memory is returned, and after less if no client is left.
    pub fn end_turn(&mut self, now: Millis, has_clients: bool) {
        let none_left = self.burst > 0 && !has_clients;
        if (none_left || self.burst >= BURST) && self.at.is_none() {
            self.at = Some(now + PAUSE);
        }
    }

    /// Returns what the allocator holds free. The owners of queues have shrunk them before.
    pub fn give_back(&mut self) {
        (self.burst, self.at) = (0, None);
        if let Some(act) = self.act {
            act();
        }
    }
}
