//! Who is owed a write, in the order in which it comes.

use std::collections::{HashMap, VecDeque};

use crate::engine::slots::ConnId;

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
    replay: Turns,
    odd: bool,
}

impl FlushQueue {
    /// Adds a client that has just entered this lane.
    pub fn push(&mut self, id: ConnId, lane: Lane) {
        match lane {
            Lane::Pressed => self.pressed.push_back(id),
            Lane::Urgent => self.urgent.push_back(id),
            Lane::Bulk => self.bulk.push_back(id),
            Lane::Replay | Lane::None => {}
        }
    }

    /// Adds a client that is to be given what it missed. `owner`: whose turns it takes.
    pub fn push_replay(&mut self, id: ConnId, owner: u64) {
        self.replay.push(id, owner);
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
    /// takes as long as many writes. Owners take turns, however many connections each has.
    pub fn pop_replay(&mut self) -> Option<ConnId> {
        self.replay.pop()
    }

    /// Gives back what a burst needed.
    pub fn shrink(&mut self) {
        for queue in [&mut self.pressed, &mut self.urgent, &mut self.bulk] {
            queue.shrink_to_fit();
        }
        self.replay.shrink();
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        let queues = [&self.pressed, &self.urgent, &self.bulk].map(VecDeque::capacity);
        queues.iter().sum::<usize>() + self.replay.order.capacity()
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
        self.pressed.len() + self.urgent.len() + self.bulk.len() + self.replay.len
    }
}

/// Clients in lines, one for each owner; the lines take turns.
#[derive(Default)]
struct Turns {
    lines: HashMap<u64, VecDeque<ConnId>>,
    order: VecDeque<u64>,
    len: usize,
}

impl Turns {
    fn push(&mut self, id: ConnId, owner: u64) {
        let line = self.lines.entry(owner).or_default();
        if line.is_empty() {
            self.order.push_back(owner);
        }
        line.push_back(id);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<ConnId> {
        let owner = self.order.pop_front()?;
        let line = self.lines.get_mut(&owner).expect("who has a turn has a line");
        let next = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&owner);
        } else {
            self.order.push_back(owner);
        }
        self.len -= 1;
        next
    }

    fn shrink(&mut self) {
        self.lines.shrink_to_fit();
        self.order.shrink_to_fit();
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
    fn users_take_turns_however_many_connections_they_have() {
        let mut queue = FlushQueue::default();
        let id = |index| ConnId { index, generation: 0 };
        (0..400).for_each(|index| queue.push_replay(id(index), 7));
        (1000..1002).for_each(|index| queue.push_replay(id(index), 8));
        queue.push_replay(id(2000), 9);
        assert_eq!(queue.len(), 403);
        let order: Vec<u32> =
            std::iter::from_fn(|| queue.pop_replay()).map(|id| id.index).collect();
        assert_eq!(order[..8], [0, 1000, 2000, 1, 1001, 2, 3, 4]);
        assert!(order.len() == 403 && queue.is_empty());
        assert!(queue.replay.lines.is_empty());
    }

    #[test]
    fn the_others_wait_for_the_pressed() {
        let order = order(&[(Lane::Bulk, 0..2), (Lane::Urgent, 10..12), (Lane::Pressed, 20..23)]);
        assert_eq!(order, [20, 10, 21, 11, 22, 0, 1]);
    }
}
