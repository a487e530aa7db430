//! Who is owed a write, in the order in which it comes.

use std::collections::VecDeque;

use crate::slots::ConnId;

/// A message to more listeners than this goes out behind those to fewer.
pub const URGENT_LISTENERS_MAX: usize = 64;

/// In which queue of those who are owed a write a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// In none.
    None,
    /// Among the receivers of a broadcast.
    Bulk,
    /// Among those who are served first.
    Urgent,
}

/// Two queues served in turns, so that a message to one client does not wait for the end of a broadcast, and a stream of
/// such messages does not hold the broadcast up for ever.
#[derive(Default)]
pub struct FlushQueue {
    urgent: VecDeque<ConnId>,
    bulk: VecDeque<ConnId>,
    urgent_next: bool,
}

impl FlushQueue {
    /// Adds a client that has just entered this lane.
    pub fn push(&mut self, id: ConnId, lane: Lane) {
        match lane {
            Lane::Urgent => self.urgent.push_back(id),
            Lane::Bulk => self.bulk.push_back(id),
            Lane::None => {}
        }
    }

    /// The next one. A client may come twice: the second time it is owed nothing.
    pub fn pop(&mut self) -> Option<ConnId> {
        self.urgent_next = !self.urgent_next;
        let (first, second) = match self.urgent_next {
            true => (&mut self.urgent, &mut self.bulk),
            false => (&mut self.bulk, &mut self.urgent),
        };
        let next = first.pop_front().or_else(|| second.pop_front());
        if self.is_empty() {
            // A broadcast to a million leaves 8 MB behind otherwise.
            *self = FlushQueue::default();
        }
        next
    }

    /// Whether nobody is owed a write.
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }

    /// How many stand in both queues.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.bulk.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_queue_waits_for_the_other_to_end() {
        let mut queue = FlushQueue::default();
        for index in 0..6 {
            queue.push(ConnId { index, generation: 0 }, Lane::Bulk);
        }
        for index in 10..13 {
            queue.push(ConnId { index, generation: 0 }, Lane::Urgent);
        }
        let order: Vec<u32> = std::iter::from_fn(|| queue.pop()).map(|id| id.index).collect();
        assert_eq!(order, [10, 0, 11, 1, 12, 2, 3, 4, 5]);
    }
}
