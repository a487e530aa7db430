//! Who is owed a write, in the order in which it comes.

use std::collections::VecDeque;

use crate::slots::ConnId;

/// In which queue of those who are owed a write a client stands; a later one here is served earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// In none.
    None,
    /// Among those who came back, and for whom what they missed is still to be made.
    Replay,
    /// Among those whose share of the turn did not suffice, or who caught up with broadcasts.
    Bulk,
    /// Among those who are served first.
    Urgent,
    /// Among those for whom the sources wait.
    Pressed,
}

/// Queues served in turns, so that a message to one client does not wait for those who are owed much, and a stream of such
/// messages does not hold the others up for ever.
#[derive(Default)]
pub struct FlushQueue {
    pressed: VecDeque<ConnId>,
    urgent: VecDeque<ConnId>,
    bulk: VecDeque<ConnId>,
    replay: VecDeque<ConnId>,
    odd: bool,
}

impl FlushQueue {
    /// Adds a client that has just entered this lane.
    pub fn push(&mut self, id: ConnId, lane: Lane) {
        match lane {
            Lane::Pressed => self.pressed.push_back(id),
            Lane::Urgent => self.urgent.push_back(id),
            Lane::Bulk => self.bulk.push_back(id),
            Lane::Replay => self.replay.push_back(id),
            Lane::None => {}
        }
    }

    /// The next one of those for whom frames wait. A client may come twice: the second time it is owed nothing.
    pub fn pop(&mut self) -> Option<ConnId> {
        self.odd = !self.odd;
        // While somebody is pressed, nothing comes in that could starve the others.
        let order = match (self.odd, self.is_pressed()) {
            (true, true) => [&mut self.pressed, &mut self.urgent, &mut self.bulk],
            (false, true) => [&mut self.urgent, &mut self.pressed, &mut self.bulk],
            (true, false) => [&mut self.urgent, &mut self.bulk, &mut self.pressed],
            (false, false) => [&mut self.bulk, &mut self.urgent, &mut self.pressed],
        };
        order.into_iter().find_map(VecDeque::pop_front)
    }

    /// The next one of those who came back. They have a queue of their own, and a share of the turn: what one of them is given
    /// takes as long as many writes.
    pub fn pop_replay(&mut self) -> Option<ConnId> {
        self.replay.pop_front()
    }

    /// Gives back what a burst needed.
    pub fn shrink(&mut self) {
        for queue in [&mut self.pressed, &mut self.urgent, &mut self.bulk, &mut self.replay] {
            queue.shrink_to_fit();
        }
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        let queues = [&self.pressed, &self.urgent, &self.bulk, &self.replay];
        queues.map(VecDeque::capacity).iter().sum()
    }

    /// Whether somebody is owed so much that nothing more must come in before it was offered.
    pub fn is_pressed(&self) -> bool {
        !self.pressed.is_empty()
    }

    /// Whether nobody is owed a write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many stand in all queues.
    pub fn len(&self) -> usize {
        self.pressed.len() + self.urgent.len() + self.bulk.len() + self.replay.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queued: &[(Lane, std::ops::Range<u32>)]) -> Vec<u32> {
        let mut queue = FlushQueue::default();
        for (lane, range) in queued {
            range.clone().for_each(|index| queue.push(ConnId { index, generation: 0 }, *lane));
        }
        std::iter::from_fn(|| queue.pop()).map(|id| id.index).collect()
    }

    #[test]
    fn neither_queue_waits_for_the_other_to_end() {
        let order = order(&[(Lane::Bulk, 0..6), (Lane::Urgent, 10..13)]);
        assert_eq!(order, [10, 0, 11, 1, 12, 2, 3, 4, 5]);
    }

    #[test]
    fn the_others_wait_for_the_pressed() {
        let order = order(&[(Lane::Bulk, 0..2), (Lane::Urgent, 10..12), (Lane::Pressed, 20..23)]);
        assert_eq!(order, [20, 10, 21, 11, 22, 0, 1]);
    }
}
