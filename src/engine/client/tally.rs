//! What became of a message's copies, for a publisher who wants to know.

use std::cell::Cell;

/// Shared by all frames of one message. A message that nobody asks about has none.
#[derive(Debug, Default)]
pub struct DeliveryCount {
    /// Clients that it was for, or more than these: then the copies are counted in the end.
    listeners: Cell<usize>,
    is_bound: Cell<bool>,
    /// Copies that were made.
    copies: Cell<usize>,
    /// Copies that wait to be written.
    waiting: Cell<usize>,
    written: Cell<usize>,
    /// Broadcasts of it that are not dealt out to everybody yet.
    dealing: Cell<usize>,
}

/// Where all copies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Clients that it was for: the sum of the others.
    pub queued: usize,
    /// On the wire.
    pub written: usize,
    /// Of clients that are gone, or read too slowly.
    pub dropped: usize,
    /// Not known yet.
    pub pending: usize,
}

impl DeliveryCount {
    /// It goes to so many more clients, or to fewer if that number is not exact.
    pub fn met(&self, listeners: usize, is_exact: bool) {
        add(&self.listeners, listeners);
        self.is_bound.set(self.is_bound.get() || !is_exact);
    }

    /// It is not for one of them after all: it is told that by its replay, which is not counted.
    pub fn unmet(&self) {
        self.listeners.set(self.listeners.get().saturating_sub(1));
    }

    /// A copy waits to be written.
    pub fn waits(&self) {
        add(&self.copies, 1);
        add(&self.waiting, 1);
    }

    /// One that waited was written.
    pub fn wrote(&self) {
        self.dropped();
        add(&self.written, 1);
    }

    /// One that waited never will be.
    pub fn dropped(&self) {
        self.waiting.set(self.waiting.get().saturating_sub(1));
    }

    /// A copy was written that did not have to wait.
    pub fn wrote_at_once(&self) {
        add(&self.copies, 1);
        add(&self.written, 1);
    }

    /// It begins to be dealt out to a crowd.
    pub fn deals(&self) {
        add(&self.dealing, 1);
    }

    /// Everybody of the crowd has it, or is gone.
    pub fn dealt(&self) {
        self.dealing.set(self.dealing.get().saturating_sub(1));
    }

    /// Whether nothing more will become of it.
    pub fn is_settled(&self) -> bool {
        self.waiting.get() == 0 && self.dealing.get() == 0
    }

    /// As far as it is known.
    pub fn count(&self) -> Count {
        let is_dealt = self.dealing.get() == 0;
        let queued =
            if self.is_bound.get() && is_dealt { self.copies.get() } else { self.listeners.get() };
        let written = self.written.get().min(queued);
        // Who of a crowd was not met yet is not known one by one.
        let open = if is_dealt { self.waiting.get() } else { queued };
        let pending = open.min(queued - written);
        Count { queued, written, dropped: queued - written - pending, pending }
    }
}

fn add(cell: &Cell<usize>, more: usize) {
    cell.set(cell.get() + more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_always_adds_up() {
        let tally = DeliveryCount::default();
        tally.met(5, true);
        tally.deals();
        tally.wrote_at_once();
        tally.waits();
        let count = |queued, written, dropped, pending| Count { queued, written, dropped, pending };
        assert_eq!(tally.count(), count(5, 1, 0, 4));
        tally.waits();
        tally.dealt();
        assert_eq!(tally.count(), count(5, 1, 2, 2), "two were gone before they were met");
        assert!(!tally.is_settled());
        tally.wrote();
        tally.dropped();
        assert_eq!(tally.count(), count(5, 2, 3, 0));
        assert!(tally.is_settled());
    }

    #[test]
    fn clients_that_were_counted_twice_are_not_called_dropped() {
        let tally = DeliveryCount::default();
        tally.met(10, false);
        tally.deals();
        (0..5).for_each(|_| tally.wrote_at_once());
        tally.waits();
        let count = |queued, written, dropped, pending| Count { queued, written, dropped, pending };
        assert_eq!(tally.count(), count(10, 5, 0, 5));
        tally.dealt();
        assert_eq!(tally.count(), count(6, 5, 0, 1));
        tally.dropped();
        assert_eq!(tally.count(), count(6, 5, 1, 0));
    }
}
