//! The receivers of counted messages, summed over the workers.

use std::collections::VecDeque;

/// Messages of which a worker has yet to tell the number of its receivers, in the order of their numbers.
#[derive(Default)]
pub struct Counts {
    messages: VecDeque<CountedMessage>,
}

struct CountedMessage {
    number: u64,
    /// Workers that have not told theirs, a bit for each.
    missing: u64,
    receivers: usize,
}

impl Counts {
    /// Returns whether no count is awaited.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Expects a count from each of these workers.
    pub fn expect(&mut self, number: u64, workers: u64) {
        self.messages.push_back(CountedMessage { number, missing: workers, receivers: 0 });
    }

    /// Adds the count of a worker.
    pub fn add(&mut self, worker: usize, number: u64, receivers: usize) {
        let Some(first) = self.messages.front() else { return };
        let place = number.checked_sub(first.number).unwrap_or(u64::MAX) as usize;
        if let Some(message) = self.messages.get_mut(place)
            && message.missing & 1 << worker != 0
        {
            message.missing &= !(1 << worker);
            message.receivers = message.receivers.saturating_add(receivers);
        }
    }

    /// A worker is gone, and so are its receivers.
    pub fn leave(&mut self, worker: usize) {
        self.messages.iter_mut().for_each(|message| message.missing &= !(1 << worker));
    }

    /// Takes the first message if all workers have told their counts.
    pub fn pop(&mut self) -> Option<(u64, usize)> {
        if self.messages.front()?.missing != 0 {
            return None;
        }
        self.messages.pop_front().map(|message| (message.number, message.receivers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_counted_when_each_of_its_workers_told_or_is_gone() {
        let mut counts = Counts::default();
        counts.add(0, 1, 7);
        counts.expect(1, 0b01);
        counts.expect(2, 0b11);
        counts.expect(3, 0b11);
        assert_eq!(counts.pop(), None);
        counts.add(1, 1, 100);
        counts.add(1, 2, 2);
        assert_eq!(counts.pop(), None, "in their order");
        counts.add(0, 1, 1);
        counts.add(0, 1, 1);
        assert_eq!(counts.pop(), Some((1, 1)), "once, and none of a worker that has no part in it");
        counts.add(0, 2, 3);
        assert_eq!(counts.pop(), Some((2, 5)));
        counts.add(0, 3, 4);
        counts.leave(1);
        counts.add(1, 3, 50);
        assert_eq!(counts.pop(), Some((3, 4)));
        assert_eq!(counts.pop(), None);
        counts.expect(4, 0);
        assert_eq!(counts.pop(), Some((4, 0)));
    }
}
