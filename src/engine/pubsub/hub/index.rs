//! An index of topics by name: a hash table that grows and shrinks by one bucket at a time.
//!
//! Linear hashing (Litwin, 1980). A table that doubles would rehash a million names inside one turn of the loop. Here every new
//! topic splits one bucket and every removed one merges two, so no turn pays for another, and the index takes 4 bytes per topic
//! plus the 4 of the chain, at every size. Hashes are not stored: those of the chain that is split, two names on average, are
//! computed again, which costs 30 ns per new or removed topic and saves 8 bytes in each.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::engine::pubsub::hub::NONE;
use crate::engine::slots::Slots;

/// Buckets in a page of the directory.
const PAGE: usize = 1024;

/// A value that an index finds by its name. It holds the next one of its chain.
pub(crate) trait Indexed {
    fn name(&self) -> &str;

    fn chained(&self) -> u32;

    fn chain(&mut self, next: u32);
}

/// Heads of the chains, one chain per bucket.
#[derive(Default)]
pub(crate) struct Index {
    pages: Vec<Vec<u32>>,
    buckets: u32,
    topics: u32,
    /// Keyed at random for each process: clients choose names and must not choose collisions.
    hasher: RandomState,
}

impl Index {
    /// The topic with this name.
    pub fn find<T: Indexed>(&self, topics: &Slots<T>, name: &str) -> Option<u32> {
        if self.buckets == 0 {
            return None;
        }
        let mut at = self.head(self.bucket(name));
        while at != NONE {
            let topic = &topics[at];
            if topic.name() == name {
                return Some(at);
            }
            at = topic.chained();
        }
        None
    }

    /// Adds a topic that is not in the index.
    pub fn insert<T: Indexed>(&mut self, topics: &mut Slots<T>, topic: u32) {
        if self.topics == self.buckets {
            self.split(topics);
        }
        self.topics += 1;
        self.push(topics, topic);
    }

    /// Removes a topic that is in the index.
    pub fn remove<T: Indexed>(&mut self, topics: &mut Slots<T>, topic: u32) {
        let bucket = self.bucket(topics[topic].name());
        let next = topics[topic].chained();
        let mut at = self.head(bucket);
        if at == topic {
            *self.head_mut(bucket) = next;
        } else {
            while topics[at].chained() != topic {
                at = topics[at].chained();
                debug_assert_ne!(at, NONE, "an indexed topic is in its chain");
            }
            topics[at].chain(next);
        }
        self.topics -= 1;
        if self.topics < self.buckets {
            self.merge(topics);
        }
    }

    /// The hash of a name, the same as long as the index lives.
    pub fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    /// The bucket of a name. With n buckets and m the largest power of two not above n, the buckets below n - m are split already
    /// and use one more bit of the hash.
    fn bucket(&self, name: &str) -> u32 {
        let hash = self.hash(name) as u32;
        let mask = self.buckets.next_power_of_two() - 1;
        let bucket = hash & mask;
        if bucket < self.buckets { bucket } else { hash & (mask >> 1) }
    }

    /// Adds a bucket: the chain of the bucket it is split from is divided between the two.
    fn split<T: Indexed>(&mut self, topics: &mut Slots<T>) {
        let from = if self.buckets == 0 {
            NONE
        } else {
            let bit = 1 << self.buckets.ilog2();
            std::mem::replace(self.head_mut(self.buckets & !bit), NONE)
        };
        if (self.buckets as usize).is_multiple_of(PAGE) {
            // The first page grows as it fills: a hub of three topics does not take 4 KB.
            self.pages.push(Vec::new());
        }
        self.pages.last_mut().expect("a page was pushed").push(NONE);
        self.buckets += 1;
        self.deal_out(topics, from);
    }

    /// Removes the last bucket: its chain goes back to the bucket it was split from.
    fn merge<T: Indexed>(&mut self, topics: &mut Slots<T>) {
        let last = self.buckets - 1;
        let chain = self.head(last);
        let page = self.pages.last_mut().expect("the last bucket is in a page");
        page.pop();
        if page.is_empty() {
            self.pages.pop();
            if self.pages.len() < self.pages.capacity() / 4 {
                self.pages.shrink_to_fit();
            }
        }
        self.buckets = last;
        self.deal_out(topics, chain);
    }

    fn deal_out<T: Indexed>(&mut self, topics: &mut Slots<T>, mut chain: u32) {
        while chain != NONE {
            let topic = chain;
            chain = topics[topic].chained();
            self.push(topics, topic);
        }
    }

    fn push<T: Indexed>(&mut self, topics: &mut Slots<T>, topic: u32) {
        let bucket = self.bucket(topics[topic].name());
        topics[topic].chain(self.head(bucket));
        *self.head_mut(bucket) = topic;
    }

    fn head(&self, bucket: u32) -> u32 {
        self.pages[bucket as usize / PAGE][bucket as usize % PAGE]
    }

    fn head_mut(&mut self, bucket: u32) -> &mut u32 {
        &mut self.pages[bucket as usize / PAGE][bucket as usize % PAGE]
    }
}
