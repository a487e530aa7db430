//! Looks at what a stream holds (`XINFO STREAM`), each for all clients that wait for one.
//!
//! A page does not say whether entries before it are gone, so behind the first page of each client Redis is asked. The answer brings the
//! stream's first and last entry whole: it is asked for seldom, and whoever comes meanwhile waits for the next one.

use crate::clock::Millis;
use crate::engine::slots::ConnId;

/// Between two looks at the same stream, at least.
const PAUSE: Millis = 200;

/// Those of one stream.
#[derive(Default)]
struct Look {
    /// Clients that the next one is for.
    waiting: Vec<ConnId>,
    /// Clients that the one on its way is for.
    asked: Option<Vec<ConnId>>,
    /// When the next one may be taken.
    next: Millis,
}

/// Those of all streams.
#[derive(Default)]
pub(super) struct Looks(Vec<Look>);

impl Looks {
    pub fn new(streams: usize) -> Looks {
        Looks((0..streams).map(|_| Look::default()).collect())
    }

    /// A client waits for a look that begins from now on.
    pub fn wait(&mut self, stream: usize, id: ConnId) {
        self.0[stream].waiting.push(id);
    }

    /// A stream that is to be looked at now: the caller asks.
    pub fn begin(&mut self, now: Millis) -> Option<usize> {
        let stream = self.0.iter().position(|look| {
            look.asked.is_none() && !look.waiting.is_empty() && look.next <= now
        })?;
        let look = &mut self.0[stream];
        look.asked = Some(std::mem::take(&mut look.waiting));
        look.next = now + PAUSE;
        Some(stream)
    }

    /// A look has ended. Returns for whom it was.
    pub fn end(&mut self, stream: usize) -> Vec<ConnId> {
        self.0[stream].asked.take().unwrap_or_default()
    }

    /// When the next one is due, whatever else happens.
    pub fn deadline(&self) -> Option<Millis> {
        let due = |look: &&Look| look.asked.is_none() && !look.waiting.is_empty();
        self.0.iter().filter(due).map(|look| look.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_look_is_for_all_that_waited_and_the_next_one_comes_later() {
        let id = |index| ConnId { index, generation: 0 };
        let mut looks = Looks::new(2);
        assert_eq!((looks.begin(5), looks.deadline()), (None, None));
        (0..3).for_each(|number| looks.wait(1, id(number)));
        assert_eq!(looks.deadline(), Some(0));
        assert_eq!((looks.begin(5), looks.begin(5)), (Some(1), None));
        looks.wait(1, id(3));
        looks.wait(0, id(4));
        assert_eq!(looks.begin(6), Some(0), "each stream has its own");
        assert_eq!((looks.begin(1000), looks.deadline()), (None, None), "one is on its way");
        assert_eq!(looks.end(1), [0, 1, 2].map(id));
        assert_eq!((looks.begin(5 + PAUSE - 1), looks.deadline()), (None, Some(5 + PAUSE)));
        assert_eq!(looks.begin(5 + PAUSE), Some(1));
        assert_eq!((looks.end(1), looks.end(0)), (vec![id(3)], vec![id(4)]));
    }
}
