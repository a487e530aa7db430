//! Clients with something to be written, in the order in which their writes come.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::engine::slots::ConnId;

/// The queue of pending writes that a client is in; later variants are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// No queue.
    None,
    /// Clients in a replay: their frames are made when their turn comes.
    Replay,
    /// Clients that used up their share of a turn, and clients that were given fan-outs they had yet to get.
    Bulk,
    /// Clients with a message of their own.
    Urgent,
    /// Clients with so much queued that the sources wait for them.
    Pressed,
}

/// Queues served alternately: a message to one client does not wait for clients with large backlogs, and a stream of such messages
/// does not starve those.
#[derive(Default)]
pub struct PendingWrites {
    pressed: VecDeque<ConnId>,
    urgent: VecDeque<ConnId>,
    bulk: VecDeque<ConnId>,
    replay: Turns,
    /// Makes numbers of users' names, for turns.
    owners: RandomState,
    pings: VecDeque<ConnId>,
    odd: bool,
    /// Something that is no client has so much queued that the sources wait for it.
    pub is_held: bool,
}

impl PendingWrites {
    /// Adds a client that has just entered this lane.
    pub fn push(&mut self, id: ConnId, lane: Lane) {
        match lane {
            Lane::Pressed => self.pressed.push_back(id),
            Lane::Urgent => self.urgent.push_back(id),
            Lane::Bulk => self.bulk.push_back(id),
            Lane::Replay | Lane::None => {}
        }
    }

    /// Adds a client in a replay. It takes one of the turns of `owner`.
    pub fn push_replay(&mut self, id: ConnId, owner: u64) {
        self.replay.push(id, owner);
    }

    /// The number of a user, for [`PendingWrites::push_replay`].
    pub fn owner(&self, user: &str) -> u64 {
        self.owners.hash_one(user)
    }

    /// Adds a client that is to be pinged.
    pub fn push_ping(&mut self, id: ConnId) {
        self.pings.push_back(id);
    }

    /// The next client with queued frames. A client may come twice: the second time it has none.
    pub fn pop(&mut self) -> Option<ConnId> {
        self.odd = !self.odd;
        // While a client is pressed, nothing comes in that could starve the others.
        let order = match (self.odd, self.is_pressed()) {
            (true, true) => [&mut self.pressed, &mut self.urgent, &mut self.bulk],
            (false, true) => [&mut self.urgent, &mut self.pressed, &mut self.bulk],
            (true, false) => [&mut self.urgent, &mut self.bulk, &mut self.pressed],
            (false, false) => [&mut self.bulk, &mut self.urgent, &mut self.pressed],
        };
        order.into_iter().find_map(VecDeque::pop_front)
    }

    /// The next client in a replay. Replays have a queue and a share of the turn of their own, since one step of a replay takes as
    /// long as many writes. Owners take turns, however many connections each has.
    pub fn pop_replay(&mut self) -> Option<ConnId> {
        self.replay.pop()
    }

    /// The next client to be pinged.
    pub fn pop_ping(&mut self) -> Option<ConnId> {
        self.pings.pop_front()
    }

    /// Gives the memory of a burst back.
    pub fn shrink(&mut self) {
        for queue in [&mut self.pressed, &mut self.urgent, &mut self.bulk, &mut self.pings] {
            queue.shrink_to_fit();
        }
        self.replay.shrink();
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        let queues = [&self.pressed, &self.urgent, &self.bulk, &self.pings];
        queues.map(VecDeque::capacity).iter().sum::<usize>() + self.replay.order.capacity()
    }

    /// Returns whether a client has so much queued that nothing more may come in before it was written to.
    pub fn is_pressed(&self) -> bool {
        !self.pressed.is_empty() || self.is_held
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clients in all queues.
    pub fn len(&self) -> usize {
        let queues = [&self.pressed, &self.urgent, &self.bulk, &self.pings].map(VecDeque::len);
        queues.iter().sum::<usize>() + self.replay.len
    }
}

/// A line of clients for each owner; the lines take turns.
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
        let line = self.lines.get_mut(&owner).expect("an owner in the order has a line");
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
        let mut queue = PendingWrites::default();
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
        let mut queue = PendingWrites::default();
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
