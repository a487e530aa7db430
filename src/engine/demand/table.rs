//! The table of topics that are at Redis, or on their way.

use std::ops::{Index, IndexMut};

use super::share::{TopicLink, UNMARKED};
use crate::clock::Millis;
use crate::engine::pubsub::hub::index::{self, Indexed};
use crate::engine::pubsub::hub::{KeyName, NONE, name_bytes};
use crate::engine::slots::Slots;

/// The unit of times in the table.
pub(super) const TENTH: Millis = 100;

/// Returns a time in that unit; 32 bits are 13 years.
pub(super) fn tenths(now: Millis) -> u32 {
    (now / TENTH) as u32
}

/// A topic that is at Redis, or on its way.
pub(super) struct DemandTopic {
    pub name: KeyName,
    pub chained: u32,
    /// The connection of `link`.
    pub epoch: u32,
    /// Messages after the one with this number are held.
    pub from: u64,
    /// When its last client left, in tenths of a second.
    pub left: u32,
    /// Hubs in which it has a client.
    pub hubs: u8,
    pub share: u8,
    pub link: TopicLink,
    /// It is in the queue of topics without clients.
    pub is_lingering: bool,
}

impl Indexed for DemandTopic {
    fn name(&self) -> &str {
        &self.name
    }

    fn chained(&self) -> u32 {
        self.chained
    }

    fn chain(&mut self, next: u32) {
        self.chained = next;
    }
}

/// Topics by their places, found by their names.
#[derive(Default)]
pub(super) struct TopicTable {
    topics: Slots<DemandTopic>,
    index: index::Index,
    names_bytes: usize,
}

impl TopicTable {
    pub fn find(&self, name: &str) -> Option<u32> {
        self.index.find(&self.topics, name)
    }

    pub fn get(&self, at: u32) -> Option<&DemandTopic> {
        self.topics.get(at)
    }

    /// The place behind the last one that may be taken.
    pub fn end(&self) -> u32 {
        self.topics.end()
    }

    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Memory allocated, with the names.
    pub fn bytes(&self) -> usize {
        self.topics.bytes() + self.topics.len() * size_of::<u32>() + self.names_bytes
    }

    /// A number that only depends on the name.
    pub fn hash(&self, name: &str) -> u64 {
        self.index.hash(name)
    }

    /// Adds a topic that is not there.
    pub fn add(&mut self, name: KeyName, share: u8) -> u32 {
        self.names_bytes += name_bytes(&name);
        let topic = DemandTopic {
            name,
            chained: NONE,
            epoch: 0,
            from: UNMARKED,
            left: 0,
            hubs: 0,
            share,
            link: TopicLink::Absent,
            is_lingering: false,
        };
        let at = self.topics.insert_with(|_| topic);
        self.index.insert(&mut self.topics, at);
        at
    }

    pub fn remove(&mut self, at: u32) {
        self.index.remove(&mut self.topics, at);
        let gone = self.topics.remove(at).expect("it was found");
        self.names_bytes -= name_bytes(&gone.name);
    }
}

impl Index<u32> for TopicTable {
    type Output = DemandTopic;

    fn index(&self, at: u32) -> &DemandTopic {
        &self.topics[at]
    }
}

impl IndexMut<u32> for TopicTable {
    fn index_mut(&mut self, at: u32) -> &mut DemandTopic {
        &mut self.topics[at]
    }
}
