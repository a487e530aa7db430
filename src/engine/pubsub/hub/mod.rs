//! Who listens to what.
//!
//! A membership is one `Link` in two lists: the members of its topic (doubly linked, so that leaving is one step
//! however many there are) and the memberships of its client (at most `topics_per_client_max`, so that finding one is a
//! short walk). Every table that grows with the clients grows by pages.

mod index;

use std::collections::HashMap;

use smol_str::SmolStr;

use crate::engine::slots::Slots;
use index::Index;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// The longest name that lies in its topic; a longer one has a block of its own.
const SHORT_NAME_BYTES: usize = 23;

/// What such a block takes besides the name: two counts, and the allocator's part.
const NAME_BYTES: usize = 2 * size_of::<usize>() + 16;

/// What one membership takes, and one topic without its name: itself, and its bucket of the index.
const LINK_BYTES: usize = size_of::<Option<Link>>();
const TOPIC_BYTES: usize = size_of::<Option<Topic>>() + size_of::<u32>();

/// More members than these make a topic a crowd.
pub const CROWD: usize = 64;

/// Why a client is a member; the hub only keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the client's own topic.
    Own,
    /// It was granted from the start.
    Granted,
    /// The client asked.
    Asked,
    /// A back end joined it.
    Joined,
}

/// Where a client's list of memberships begins.
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
    /// The neighbours among the topic's members.
    next: u32,
    previous: u32,
    /// The next membership of the same client.
    sibling: u32,
    reason: Reason,
}

struct Topic {
    /// Up to 23 bytes lie here, longer names on the heap.
    name: SmolStr,
    /// The next topic in the same bucket of the index.
    chained: u32,
    first: u32,
}

/// The memberships of one route's clients. A topic exists while it has a member.
#[derive(Default)]
pub struct Hub {
    topics: Slots<Topic>,
    links: Slots<Link>,
    index: Index,
    /// What the blocks of long names take.
    names_bytes: usize,
    /// The members of each crowd, counted: most topics are one user's own, and a number in each would cost 8 bytes. A million
    /// memberships are 15,000 crowds at most, so this may be a table that doubles.
    crowds: HashMap<u32, u32>,
    /// The next link of the walk along a topic's members. It stays right whoever leaves meanwhile; whoever joins stands
    /// before its beginning.
    walk: Option<u32>,
    /// How often somebody joined or left.
    changes: u64,
}

impl Hub {
    /// Makes `client` a member; `false` if it is one already (its reason stays).
    pub fn subscribe(
        &mut self,
        client: u32,
        of: &mut Subscriptions,
        name: &str,
        reason: Reason,
    ) -> bool {
        let topic = self.find(name).unwrap_or_else(|| self.add_topic(name));
        if self.siblings(of).any(|(_, link)| link.topic == topic) {
            return false;
        }
        let next = self.topics[topic].first;
        let sibling = of.0;
        let link = self.links.insert_with(|_| Link {
            client,
            topic,
            next,
            previous: NONE,
            sibling,
            reason,
        });
        if next != NONE {
            self.links[next].previous = link;
        }
        of.0 = link;
        self.topics[topic].first = link;
        self.changes += 1;
        self.count_joined(topic);
        true
    }

    /// Ends a membership; `false` if there is none.
    pub fn unsubscribe(&mut self, of: &mut Subscriptions, name: &str) -> bool {
        let Some(topic) = self.find(name) else {
            return false;
        };
        let mut before = NONE;
        let mut at = of.0;
        while at != NONE && self.links[at].topic != topic {
            before = at;
            at = self.links[at].sibling;
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

    /// Ends all memberships of a client.
    pub fn leave_all(&mut self, of: &mut Subscriptions) {
        while of.0 != NONE {
            let link = of.0;
            of.0 = self.links[link].sibling;
            self.unlink(link);
        }
    }

    /// What a client is a member of, the latest first.
    pub fn topics<'a>(
        &'a self,
        of: &'a Subscriptions,
    ) -> impl Iterator<Item = (&'a str, Reason)> + 'a {
        self.siblings(of).map(|(_, link)| (self.topics[link.topic].name.as_str(), link.reason))
    }

    /// Whether the client is a member, and why.
    pub fn reason(&self, of: &Subscriptions, name: &str) -> Option<Reason> {
        let topic = self.find(name)?;
        self.siblings(of).find(|(_, link)| link.topic == topic).map(|(_, link)| link.reason)
    }

    /// Says why a client is a member of a topic from now on; nothing happens if it is none.
    pub fn set_reason(&mut self, of: &Subscriptions, name: &str, reason: Reason) {
        let Some(topic) = self.find(name) else { return };
        let found = self.siblings(of).find(|(_, link)| link.topic == topic).map(|(at, _)| at);
        if let Some(at) = found {
            self.links[at].reason = reason;
        }
    }

    /// The number of the topic with this name, while it has a member.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.index.find(&self.topics, name)
    }

    /// The members of a topic, by the numbers of their slots, the latest first.
    pub fn members(&self, topic: u32) -> Members<'_> {
        let first = self.topics.get(topic).map_or(NONE, |topic| topic.first);
        Members { links: &self.links, at: first }
    }

    /// Whether a topic has more than [`CROWD`] members.
    pub fn is_crowd(&self, topic: u32) -> bool {
        self.crowds.contains_key(&topic)
    }

    /// How many members a topic has.
    pub fn members_len(&self, topic: u32) -> usize {
        match self.crowds.get(&topic) {
            Some(count) => *count as usize,
            None => self.members(topic).count(),
        }
    }

    /// Whether the client is a member of one of these topics.
    pub fn is_member(&self, of: &Subscriptions, topics: &[u32]) -> bool {
        self.siblings(of).any(|(_, link)| topics.contains(&link.topic))
    }

    /// The numbers of the topics that a client is a member of.
    pub fn topic_numbers<'a>(&'a self, of: &Subscriptions) -> impl Iterator<Item = u32> + 'a {
        self.siblings(of).map(|(_, link)| link.topic)
    }

    /// How often somebody joined or left: while this number stays, so does who is a member of what.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Begins a walk along a topic's members. There is one walk at a time.
    pub fn begin_walk(&mut self, topic: u32) {
        self.walk = self.topics.get(topic).map(|topic| topic.first);
    }

    /// The next member of the walk.
    pub fn walk_on(&mut self) -> Option<u32> {
        let link = self.links.get(self.walk?)?;
        self.walk = Some(link.next);
        Some(link.client)
    }

    /// How many topics have a member.
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// How many memberships there are.
    pub fn memberships_len(&self) -> usize {
        self.links.len()
    }

    /// What memberships and topics that there are take, with all names.
    pub fn held_bytes(&self) -> usize {
        self.links.len() * LINK_BYTES + self.topics.len() * TOPIC_BYTES + self.names_bytes
    }

    /// The part of that which would be free without this client.
    pub fn held_bytes_of(&self, of: &Subscriptions) -> usize {
        let cost = |link: &Link| {
            let topic = &self.topics[link.topic];
            let is_alone = link.next == NONE && link.previous == NONE;
            LINK_BYTES + if is_alone { TOPIC_BYTES + name_bytes(&topic.name) } else { 0 }
        };
        self.siblings(of).map(|(_, link)| cost(link)).sum()
    }

    /// The number of the topic that is a client's own: all connections of a user have the same.
    pub fn own_topic(&self, of: &Subscriptions) -> Option<u32> {
        self.siblings(of).find(|(_, link)| link.reason == Reason::Own).map(|(_, link)| link.topic)
    }

    /// What both take, vacant places too.
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

    fn count_joined(&mut self, topic: u32) {
        if let Some(count) = self.crowds.get_mut(&topic) {
            *count += 1;
        } else if self.members(topic).nth(CROWD).is_some() {
            self.crowds.insert(topic, CROWD as u32 + 1);
        }
    }

    fn count_left(&mut self, topic: u32) {
        let Some(count) = self.crowds.get_mut(&topic) else { return };
        *count -= 1;
        if *count as usize == CROWD {
            self.crowds.remove(&topic);
            if self.crowds.is_empty() {
                self.crowds = HashMap::new();
            }
        }
    }

    fn add_topic(&mut self, name: &str) -> u32 {
        let topic = Topic { name: SmolStr::new(name), chained: NONE, first: NONE };
        self.names_bytes += name_bytes(&topic.name);
        let number = self.topics.insert_with(|_| topic);
        self.index.insert(&mut self.topics, number);
        number
    }

    /// Takes a link out of its topic's list; the last one takes the topic with it.
    fn unlink(&mut self, at: u32) {
        let link = self.links.remove(at).expect("a listed link exists");
        if self.walk == Some(at) {
            self.walk = Some(link.next);
        }
        self.changes += 1;
        self.count_left(link.topic);
        match link.previous {
            NONE => self.topics[link.topic].first = link.next,
            previous => self.links[previous].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next].previous = link.previous;
        }
        if self.topics[link.topic].first == NONE {
            self.index.remove(&mut self.topics, link.topic);
            let gone = self.topics.remove(link.topic).expect("it had a member");
            self.names_bytes -= name_bytes(&gone.name);
        }
    }
}

/// What a name takes outside of its topic.
fn name_bytes(name: &str) -> usize {
    if name.len() > SHORT_NAME_BYTES { name.len() + NAME_BYTES } else { 0 }
}

/// See [`Hub::members`].
pub struct Members<'a> {
    links: &'a Slots<Link>,
    at: u32,
}

impl Iterator for Members<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let link = self.links.get(self.at)?;
        self.at = link.next;
        Some(link.client)
    }
}

#[cfg(test)]
mod tests;
