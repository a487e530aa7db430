//! What a client that came back listens to, as its replay asks for it: a look costs the same however many keys there are.

use std::ops::Range;

use crate::engine::client::Client;
use crate::engine::resume::replay::Change;
use crate::engine::pubsub::hub::Hub;
use crate::engine::pubsub::topic::{is_pattern, keys_of};
use crate::engine::resume::history::hash_of;

/// Bits by which most topics that are none of the keys are passed by.
const BITS: usize = 1024;

/// The keys, by the hashes of their names.
pub(super) struct Filter<'a> {
    keys: Vec<Key<'a>>,
    bits: [u64; BITS / 64],
    /// Whether a pattern is among them: then the topic of every message must be looked at.
    has_patterns: bool,
}

/// A topic or a pattern.
struct Key<'a> {
    hash: u32,
    name: &'a str,
    /// The messages for which it counts.
    numbers: Range<u64>,
}

impl<'a> Filter<'a> {
    /// The keys that the client listens to, and those that it has left since it came back.
    pub fn new(hub: &'a Hub, client: &'a Client, changes: &'a [Change]) -> Filter<'a> {
        let mut filter = Filter { keys: Vec::new(), bits: [0; BITS / 64], has_patterns: false };
        let mut joined: Vec<(&str, u64)> = changes
            .iter()
            .filter(|one| one.until == u64::MAX)
            .map(|one| (&*one.key, one.from))
            .collect();
        joined.sort_unstable();
        for (key, _) in hub.topics(&client.subscriptions) {
            let from = joined.binary_search_by_key(&key, |(name, _)| name);
            filter.add(key, from.map_or(0, |at| joined[at].1)..u64::MAX);
        }
        for one in changes.iter().filter(|one| one.until < u64::MAX) {
            filter.add(&one.key, one.from..one.until);
        }
        filter.keys.sort_unstable_by_key(|key| key.hash);
        filter
    }

    fn add(&mut self, name: &'a str, numbers: Range<u64>) {
        let hash = hash_of(name);
        self.keys.push(Key { hash, name, numbers });
        self.bits[bit(hash).0] |= bit(hash).1;
        self.has_patterns |= is_pattern(name);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns whether the topic of every message has to be looked at.
    pub fn has_patterns(&self) -> bool {
        self.has_patterns
    }

    /// Returns whether a topic with this hash may be for the client: what is not need not be looked at.
    pub fn may_match(&self, hash: u32) -> bool {
        self.has_patterns || self.has(hash)
    }

    /// Returns whether the message with this number is for the client: it listened when that came, and does now. `scratch` is
    /// overwritten.
    pub fn matches(&self, number: u64, hash: u32, topic: &str, scratch: &mut String) -> bool {
        let mut found = Found::default();
        if self.has(hash) {
            self.find(number, hash, topic, &mut found);
        }
        if self.has_patterns {
            keys_of(topic, scratch, |key| {
                let hash = if is_pattern(key) { hash_of(key) } else { return };
                if self.has(hash) {
                    self.find(number, hash, key, &mut found);
                }
            });
        }
        found.then && found.now
    }

    fn has(&self, hash: u32) -> bool {
        self.bits[bit(hash).0] & bit(hash).1 != 0
    }

    fn find(&self, number: u64, hash: u32, name: &str, found: &mut Found) {
        let first = self.keys.partition_point(|key| key.hash < hash);
        let same = self.keys[first..].iter().take_while(|key| key.hash == hash);
        for key in same.filter(|key| key.name == name) {
            found.then |= key.numbers.contains(&number);
            found.now |= key.numbers.end == u64::MAX;
        }
    }
}

/// Whether a key covered a message when it came, and whether one does now.
#[derive(Default)]
struct Found {
    then: bool,
    now: bool,
}

/// The word, and the bit in it.
fn bit(hash: u32) -> (usize, u64) {
    // The upper bits of a hash by multiplication are the better ones.
    let place = (hash >> 22) as usize % BITS;
    (place / 64, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::transport::Transport;
    use crate::engine::pubsub::hub::{Reason, Subscriptions};
    use crate::engine::pubsub::topic::is_user_topic;
    use crate::engine::random::Random;

    /// As the rule is told: a topic, or a pattern that begins it.
    fn covers(key: &str, topic: &str) -> bool {
        match key.strip_suffix('\0') {
            Some(text) => topic.starts_with(text) && is_user_topic(topic) == is_user_topic(text),
            None => key == topic,
        }
    }

    #[test]
    fn it_finds_what_a_look_at_each_key_finds() {
        let topics = ["a", "a.b", "a.b.c", "b", "user.1", "user.2", "room.1", "room.10"];
        let patterns = ["\0", "a.\0", "a.b.\0", "user.\0", "room.\0"];
        let mut random = Random::new(0xf117e4);
        for _ in 0..2_000 {
            let (mut hub, mut of) = (Hub::default(), Subscriptions::default());
            let mut changes: Vec<Change> = Vec::new();
            for _ in 0..random.below(8) {
                let key = match random.below(2) {
                    0 => random.choose(&topics),
                    _ => random.choose(&patterns),
                };
                let is_new = hub.subscribe(0, &mut of, key, Reason::Asked);
                let (from, until) = match random.below(4) {
                    0 if is_new => (random.below(10) as u64, u64::MAX),
                    1 => (random.below(5) as u64, 5 + random.below(5) as u64),
                    _ => continue,
                };
                changes.push(Change::new(key, (from, until), Vec::new(), Vec::new()));
            }
            let mut client = Client::new(Transport::Memory, 0, 0, 0);
            client.subscriptions = of;
            let filter = Filter::new(&hub, &client, &changes);
            let mut scratch = String::new();
            for topic in topics {
                for number in 0..10 {
                    let (mut then, mut now) = (false, false);
                    for (key, _) in hub.topics(&client.subscriptions) {
                        let open = |one: &&Change| *one.key == *key && one.until == u64::MAX;
                        let from = changes.iter().find(open).map_or(0, |one| one.from);
                        if covers(key, topic) {
                            (then, now) = (then || number >= from, true);
                        }
                    }
                    for one in changes.iter().filter(|one| one.until < u64::MAX) {
                        then |= covers(&one.key, topic) && (one.from..one.until).contains(&number);
                    }
                    let found = filter.matches(number, hash_of(topic), topic, &mut scratch);
                    assert_eq!(found, then && now, "{topic} {number}");
                    assert!(!found || filter.may_match(hash_of(topic)));
                }
            }
        }
    }
}
