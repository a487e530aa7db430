//! Who listens to a topic: found by its keys, and counted.

use crate::engine::pubsub::topic;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// Memberships that are looked at to count a message's listeners, at most: they take about as long as one write.
const LOOKED_AT_MAX: usize = 512;

/// How many clients a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriberCount {
    pub count: usize,
    /// Each of them is counted once. If not, one that listens by two keys that are both crowds is counted for each, as Redis
    /// counts a subscriber.
    pub is_exact: bool,
}

impl Server {
    /// How many clients of this route a message on this topic would go to. One that hears it by two keys may be counted for each
    /// where both are crowds: see [`Server::publish`].
    pub fn subscribers(&mut self, topic: &str) -> usize {
        let found = self.find_topics(topic);
        let listeners = self.count_subscribers_of(&found);
        self.found = found;
        listeners.count
    }

    /// Whether a message on this topic would go to this client.
    pub fn hears(&mut self, id: ConnId, topic: &str) -> bool {
        let found = self.find_topics(topic);
        let hears = self
            .with_hub(id)
            .is_some_and(|(client, hub)| hub.is_member(&client.subscriptions, &found));
        self.found = found;
        hears
    }

    /// The numbers of the topics and patterns of this route's hub that a message on `topic` is for. Give the list back
    /// to `found`.
    pub(super) fn find_topics(&mut self, topic: &str) -> Vec<u32> {
        let mut found = std::mem::take(&mut self.found);
        let mut key = std::mem::take(&mut self.key);
        let hub = &self.hubs[self.route as usize];
        let mut keys = topic::keys_of(topic, &mut key);
        found.clear();
        while let Some(key) = keys.next_key() {
            found.extend(hub.find(key));
        }
        self.key = key;
        found
    }

    /// How many clients listen to one of these topics. Those who listen to two of them are found by walking along all but the
    /// largest, as far as that costs no more than a write: what it would cost is for those to say who listen.
    pub(super) fn count_subscribers_of(&self, topics: &[u32]) -> SubscriberCount {
        let hub = &self.hubs[self.route as usize];
        let sum = topics.iter().map(|topic| hub.members_len(*topic)).sum();
        let largest = topics.iter().max_by_key(|topic| hub.members_len(**topic)).copied();
        let (mut count, mut left) = (largest.map_or(0, |it| hub.members_len(it)), LOOKED_AT_MAX);
        for (place, topic) in topics.iter().enumerate().filter(|one| Some(*one.1) != largest) {
            for index in hub.members(*topic) {
                let of = &self.clients[index].subscriptions;
                let mut is_counted = false;
                for number in hub.topic_numbers(of) {
                    if left == 0 {
                        return SubscriberCount { count: sum, is_exact: false };
                    }
                    left -= 1;
                    is_counted |= topics[..place].contains(&number) || Some(number) == largest;
                }
                count += usize::from(!is_counted);
            }
        }
        SubscriberCount { count, is_exact: true }
    }
}
