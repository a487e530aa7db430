//! Checks of the entries that a stream holds (`XINFO STREAM`), each for all clients that wait for one.
//!
//! A page does not say whether entries before it are gone, so Redis is asked before the first page of each client. The reply contains
//! the stream's first and last entry whole, so checks are rare: clients that come meanwhile wait for the next one.

use crate::clock::Millis;
use crate::engine::slots::ConnId;

/// The least time between two checks of the same stream.
const PAUSE: Millis = 200;

/// The checks of one stream.
#[derive(Default)]
struct CheckQueue {
    /// Clients that wait for the next check.
    waiting: Vec<ConnId>,
    /// Clients that wait for the check that is on its way.
    asked: Option<Vec<ConnId>>,
    /// The time from which on the next check may begin.
    next: Millis,
}

/// The checks of all streams.
pub struct StreamChecks(Vec<CheckQueue>);

impl StreamChecks {
    pub fn new(streams: usize) -> StreamChecks {
        StreamChecks((0..streams).map(|_| CheckQueue::default()).collect())
    }

    /// Adds a client to the next check of a stream.
    pub fn wait(&mut self, stream: usize, id: ConnId) {
        self.0[stream].waiting.push(id);
    }

    /// Begins a check that is due: the caller asks about the stream.
    pub fn begin(&mut self, now: Millis) -> Option<usize> {
        let stream = self.0.iter().position(|queue| queue.is_ready() && queue.next <= now)?;
        let queue = &mut self.0[stream];
        queue.asked = Some(std::mem::take(&mut queue.waiting));
        queue.next = now + PAUSE;
        Some(stream)
    }

    /// Ends a check. Returns the clients that waited for it.
    pub fn end(&mut self, stream: usize) -> Vec<ConnId> {
        self.0[stream].asked.take().unwrap_or_default()
    }

    /// The time at which the next check is due, even if nothing else happens.
    pub fn deadline(&self) -> Option<Millis> {
        self.0.iter().filter(|queue| queue.is_ready()).map(|queue| queue.next).min()
    }
}

impl CheckQueue {
    /// Returns whether clients wait, and no check is on its way.
    fn is_ready(&self) -> bool {
        self.asked.is_none() && !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_is_for_all_that_waited_and_the_next_one_comes_later() {
        let id = |index| ConnId { index, generation: 0 };
        let mut checks = StreamChecks::new(2);
        assert_eq!((checks.begin(5), checks.deadline()), (None, None));
        (0..3).for_each(|number| checks.wait(1, id(number)));
        assert_eq!(checks.deadline(), Some(0));
        assert_eq!((checks.begin(5), checks.begin(5)), (Some(1), None));
        checks.wait(1, id(3));
        checks.wait(0, id(4));
        assert_eq!(checks.begin(6), Some(0), "each stream has its own");
        assert_eq!((checks.begin(1000), checks.deadline()), (None, None), "one is on its way");
        assert_eq!(checks.end(1), [0, 1, 2].map(id));
        assert_eq!((checks.begin(5 + PAUSE - 1), checks.deadline()), (None, Some(5 + PAUSE)));
        assert_eq!(checks.begin(5 + PAUSE), Some(1));
        assert_eq!((checks.end(1), checks.end(0)), (vec![id(3)], vec![id(4)]));
    }
}
