//! Who listens to a topic: found by its keys, and counted.

use crate::server::Server;
use crate::slots::ConnId;
use crate::topic;

/// See [`Server::listeners_len`].
#[derive(Default)]
pub(super) struct Counted {
    /// The route, and the changes of its hub.
    at: (u8, u64),
    topics: Vec<u32>,
    listeners: usize,
}

impl Server {
    /// How many clients of this route a message on this topic would go to.
    pub fn listeners(&mut self, topic: &str) -> usize {
        let found = self.find_topics(topic);
        let listeners = self.listeners_len(&found);
        self.found = found;
        listeners
    }

    /// Whether a message on this topic would go to this client.
    pub fn hears(&mut self, id: ConnId, topic: &str) -> bool {
        let found = self.find_topics(topic);
        let hears = self
            .with_hub(id)
            .is_some_and(|(client, hub)| hub.is_member(&client.memberships, &found));
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
    /// largest: once for as many messages as come before somebody joins or leaves.
    pub(super) fn listeners_len(&mut self, topics: &[u32]) -> usize {
        let hub = &self.hubs[self.route as usize];
        let now = (self.route, hub.changes());
        if self.counted.at == now && self.counted.topics == topics {
            return self.counted.listeners;
        }
        let largest = topics.iter().max_by_key(|topic| hub.members_len(**topic)).copied();
        let mut listeners = largest.map_or(0, |largest| hub.members_len(largest));
        for (place, topic) in topics.iter().enumerate() {
            if Some(*topic) == largest {
                continue;
            }
            let is_counted = |index: &u32| {
                let of = &self.clients[*index].memberships;
                hub.is_member(of, &topics[..place]) || hub.is_member(of, largest.as_slice())
            };
            listeners += hub.members(*topic).filter(|index| !is_counted(index)).count();
        }
        self.counted.at = now;
        self.counted.listeners = listeners;
        self.counted.topics.clear();
        self.counted.topics.extend_from_slice(topics);
        listeners
    }
}
