//! Subscriptions: which client subscribes to which topic.
//!
//! A subscription is one `Link` in two lists: the subscribers of its topic (doubly linked, so that removing one takes constant
//! time) and the subscriptions of its client (at most `topics_per_client_max`, so that a search is short). Every table that grows
//! with the clients grows by pages.

pub(crate) mod index;

use std::collections::HashMap;

/// A key in memory of its own: up to 23 bytes without a block.
pub use smol_str::SmolStr as KeyName;

use crate::engine::slots::Slots;
use index::{Index, Indexed};

/// The end of a list.
pub(crate) const NONE: u32 = u32::MAX;

/// The longest name stored inside its topic; a longer one has a block of its own.
const SHORT_NAME_BYTES: usize = 23;

/// The overhead of such a block: two counts, and the allocator's part.
const NAME_BYTES: usize = 2 * size_of::<usize>() + 16;

/// The memory of a subscription, and of a topic without its name: itself, and its bucket of the index.
const LINK_BYTES: usize = size_of::<Option<Link>>();
const TOPIC_BYTES: usize = size_of::<Option<Topic>>() + size_of::<u32>();

/// A topic with more subscribers than this is large.
pub const LARGE_TOPIC: usize = 64;

/// The origin of a subscription. The hub only stores it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The topic is the client's own.
    Own,
    /// The client's token grants it from the start.
    Granted,
    /// The client asked for it.
    Asked,
    /// A back end subscribed the client.
    Joined,
    /// The client watches the members of a topic: the key is that of its watchers, and no topic of the client.
    Watching,
}

/// The head of a client's list of subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscriptions(u32);

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions(NONE)
    }
}

struct Link {
    client: u32,
    topic: u32,
    /// The neighbours in the topic's list.
    next: u32,
    previous: u32,
    /// The client's next subscription.
    sibling: u32,
    reason: Reason,
}

struct Topic {
    /// Up to 23 bytes are stored here, longer names on the heap.
    name: KeyName,
    /// The next topic in the same bucket of the index.
    chained: u32,
    first: u32,
}

impl Indexed for Topic {
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

/// A key whose first subscriber came, or whose last one left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    pub key: KeyName,
    pub is_wanted: bool,
}

/// The subscriptions of one route's clients. A topic exists while it has a subscriber.
#[derive(Default)]
pub struct Hub {
    topics: Slots<Topic>,
    links: Slots<Link>,
    index: Index,
    /// Memory used by the blocks of long names.
    names_bytes: usize,
    /// The number of subscribers of each large topic. Most topics are one user's own, and a count in each would cost 8 bytes. A
    /// million subscriptions make at most 15,000 large topics, so this table may double.
    large_topics: HashMap<u32, u32>,
    /// The next link of the walk along a topic's subscribers. It stays valid if subscribers are removed meanwhile; new ones are
    /// inserted before the start.
    walk: Option<u32>,
    /// Keys that came or went since they were last taken; `None`: nobody asks.
    changes: Option<Vec<KeyChange>>,
}

impl Hub {
    /// An empty hub that tells which keys come and go.
    pub fn watched() -> Hub {
        Hub { changes: Some(Vec::new()), ..Hub::default() }
    }

    /// Takes the keys that came or went since the last call, in that order.
    pub fn take_changes(&mut self) -> Vec<KeyChange> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn tell(&mut self, key: &KeyName, is_wanted: bool) {
        if let Some(changes) = &mut self.changes {
            changes.push(KeyChange { key: key.clone(), is_wanted });
        }
    }

    /// Subscribes `client`; `false` if it is subscribed already (its reason stays).
    pub fn subscribe(
        &mut self,
        client: u32,
        of: &mut Subscriptions,
        name: &str,
        reason: Reason,
    ) -> bool {
        let topic = self.find(name).unwrap_or_else(|| self.add_topic(name));
        if self.find_link(of, topic).is_some() {
            return false;
        }
        let (next, sibling) = (self.topics[topic].first, of.0);
        let link = Link { client, topic, next, previous: NONE, sibling, reason };
        let link = self.links.insert_with(|_| link);
        if next != NONE {
            self.links[next].previous = link;
        }
        of.0 = link;
        self.topics[topic].first = link;
        self.count_subscribed(topic);
        true
    }

    /// Ends a subscription; `false` if there is none.
    pub fn unsubscribe(&mut self, of: &mut Subscriptions, name: &str) -> bool {
        let Some(topic) = self.find(name) else { return false };
        let (mut before, mut at) = (NONE, of.0);
        while at != NONE && self.links[at].topic != topic {
            (before, at) = (at, self.links[at].sibling);
        }
        if at == NONE {
            return false;
        }
        let sibling = self.links[at].sibling;
        match before {
            NONE => of.0 = sibling,
            before => self.links[before].sibling = sibling,
        }
        self.unlink(at);
        true
    }

    /// Ends all subscriptions of a client.
    pub fn unsubscribe_all(&mut self, of: &mut Subscriptions) {
        while of.0 != NONE {
            let link = of.0;
            of.0 = self.links[link].sibling;
            self.unlink(link);
        }
    }

    /// The topics of a client, the latest first.
    pub fn topics<'a>(
        &'a self,
        of: &'a Subscriptions,
    ) -> impl Iterator<Item = (&'a str, Reason)> + 'a {
        self.keys(of).filter(|(_, reason)| *reason != Reason::Watching)
    }

    /// All that a client is subscribed to, the latest first.
    pub fn keys<'a>(
        &'a self,
        of: &'a Subscriptions,
    ) -> impl Iterator<Item = (&'a str, Reason)> + 'a {
        self.siblings(of).map(|(_, link)| (self.topics[link.topic].name.as_str(), link.reason))
    }

    /// The reason of a client's subscription.
    pub fn reason(&self, of: &Subscriptions, name: &str) -> Option<Reason> {
        self.find_link(of, self.find(name)?).map(|link| self.links[link].reason)
    }

    /// Changes the reason of a client's subscription, if it exists.
    pub fn set_reason(&mut self, of: &Subscriptions, name: &str, reason: Reason) {
        let link = self.find(name).and_then(|topic| self.find_link(of, topic));
        if let Some(link) = link {
            self.links[link].reason = reason;
        }
    }

    /// The number of the topic with this name, if it has a subscriber.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.index.find(&self.topics, name)
    }

    /// The subscribers of a topic by slot, the latest first.
    pub fn subscribers(&self, topic: u32) -> impl Iterator<Item = u32> {
        let mut at = self.topics.get(topic).map_or(NONE, |topic| topic.first);
        std::iter::from_fn(move || {
            let link = self.links.get(at)?;
            at = link.next;
            Some(link.client)
        })
    }

    /// Returns whether a topic has more than [`LARGE_TOPIC`] subscribers.
    pub fn is_large(&self, topic: u32) -> bool {
        self.large_topics.contains_key(&topic)
    }

    /// The number of a topic's subscribers.
    pub fn subscribers_len(&self, topic: u32) -> usize {
        match self.large_topics.get(&topic) {
            Some(count) => *count as usize,
            None => self.subscribers(topic).count(),
        }
    }

    /// Returns whether the client subscribes to one of these topics.
    pub fn is_subscribed(&self, of: &Subscriptions, topics: &[u32]) -> bool {
        self.siblings(of).any(|(_, link)| topics.contains(&link.topic))
    }

    /// The numbers of a client's topics.
    pub fn topic_numbers<'a>(&'a self, of: &Subscriptions) -> impl Iterator<Item = u32> + 'a {
        self.siblings(of).map(|(_, link)| link.topic)
    }

    /// Begins a walk along a topic's subscribers. There is only one walk at a time.
    pub fn begin_walk(&mut self, topic: u32) {
        self.walk = self.topics.get(topic).map(|topic| topic.first);
    }

    /// The next subscriber of the walk.
    pub fn walk_on(&mut self) -> Option<u32> {
        let link = self.links.get(self.walk?)?;
        self.walk = Some(link.next);
        Some(link.client)
    }

    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    pub fn subscriptions_len(&self) -> usize {
        self.links.len()
    }

    /// Memory used by subscriptions and topics, with all names.
    pub fn held_bytes(&self) -> usize {
        self.links.len() * LINK_BYTES + self.topics.len() * TOPIC_BYTES + self.names_bytes
    }

    /// Memory that would be free without this client.
    pub fn held_bytes_of(&self, of: &Subscriptions) -> usize {
        let cost = |link: &Link| {
            let topic = &self.topics[link.topic];
            let is_alone = link.next == NONE && link.previous == NONE;
            LINK_BYTES + if is_alone { TOPIC_BYTES + name_bytes(&topic.name) } else { 0 }
        };
        self.siblings(of).map(|(_, link)| cost(link)).sum()
    }

    /// The number of the client's own topic, which all connections of a user share.
    pub fn own_topic(&self, of: &Subscriptions) -> Option<u32> {
        self.siblings(of).find(|(_, link)| link.reason == Reason::Own).map(|(_, link)| link.topic)
    }

    /// Memory allocated, vacant places included.
    pub fn bytes(&self) -> usize {
        self.links.bytes() + self.topics.bytes() + self.names_bytes
    }

    fn siblings<'a>(&'a self, of: &Subscriptions) -> impl Iterator<Item = (u32, &'a Link)> + 'a {
        let mut at = of.0;
        std::iter::from_fn(move || {
            let here = (at, self.links.get(at)?);
            at = here.1.sibling;
            Some(here)
        })
    }

    /// The link of a client's subscription.
    fn find_link(&self, of: &Subscriptions, topic: u32) -> Option<u32> {
        self.siblings(of).find(|(_, link)| link.topic == topic).map(|(at, _)| at)
    }

    fn count_subscribed(&mut self, topic: u32) {
        if let Some(count) = self.large_topics.get_mut(&topic) {
            *count += 1;
        } else if self.subscribers(topic).nth(LARGE_TOPIC).is_some() {
            self.large_topics.insert(topic, LARGE_TOPIC as u32 + 1);
        }
    }

    fn count_unsubscribed(&mut self, topic: u32) {
        let Some(count) = self.large_topics.get_mut(&topic) else { return };
        *count -= 1;
        if *count as usize == LARGE_TOPIC {
            self.large_topics.remove(&topic);
            if self.large_topics.is_empty() {
                self.large_topics = HashMap::new();
            }
        }
    }

    fn add_topic(&mut self, name: &str) -> u32 {
        let topic = Topic { name: KeyName::new(name), chained: NONE, first: NONE };
        self.tell(&topic.name, true);
        self.names_bytes += name_bytes(&topic.name);
        let number = self.topics.insert_with(|_| topic);
        self.index.insert(&mut self.topics, number);
        number
    }

    /// Removes a link from its topic's list. The last one removes the topic.
    fn unlink(&mut self, at: u32) {
        let link = self.links.remove(at).expect("a listed link exists");
        if self.walk == Some(at) {
            self.walk = Some(link.next);
        }
        self.count_unsubscribed(link.topic);
        match link.previous {
            NONE => self.topics[link.topic].first = link.next,
            previous => self.links[previous].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next].previous = link.previous;
        }
        if self.topics[link.topic].first == NONE {
            self.index.remove(&mut self.topics, link.topic);
            let gone = self.topics.remove(link.topic).expect("it had a subscriber");
            self.names_bytes -= name_bytes(&gone.name);
            self.tell(&gone.name, false);
        }
    }
}

/// Memory used by a name outside its topic.
pub(crate) fn name_bytes(name: &str) -> usize {
    if name.len() > SHORT_NAME_BYTES { name.len() + NAME_BYTES } else { 0 }
}

#[cfg(test)]
mod tests;
