//! Who listens to what.
//!
//! A membership is one `Link` in two lists: the members of its topic (doubly linked, so that leaving is one step
//! however many there are) and the memberships of its client (at most `topics_per_client_max`, so that finding one is a
//! short walk). Nothing here is sized by a power of two: every table grows by pages.

mod index;

use smol_str::SmolStr;

use crate::slots::Slots;
use index::Index;

/// The end of a list.
const NONE: u32 = u32::MAX;

/// Why a client is a member; the hub only keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is the client's own topic.
    Own,
    /// It was granted from the start.
    Granted,
    /// The client asked.
    Asked,
}

/// Where a client's list of memberships begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Memberships(u32);

impl Default for Memberships {
    fn default() -> Self {
        Memberships(NONE)
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
}

impl Hub {
    /// Makes `client` a member; `false` if it is one already (its reason stays).
    pub fn join(&mut self, client: u32, of: &mut Memberships, name: &str, reason: Reason) -> bool {
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
        true
    }

    /// Ends a membership; `false` if there is none.
    pub fn leave(&mut self, of: &mut Memberships, name: &str) -> bool {
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
    pub fn leave_all(&mut self, of: &mut Memberships) {
        while of.0 != NONE {
            let link = of.0;
            of.0 = self.links[link].sibling;
            self.unlink(link);
        }
    }

    /// What a client is a member of, the latest first.
    pub fn topics<'a>(
        &'a self,
        of: &'a Memberships,
    ) -> impl Iterator<Item = (&'a str, Reason)> + 'a {
        self.siblings(of).map(|(_, link)| (self.topics[link.topic].name.as_str(), link.reason))
    }

    /// Whether the client is a member, and why.
    pub fn reason(&self, of: &Memberships, name: &str) -> Option<Reason> {
        let topic = self.find(name)?;
        self.siblings(of).find(|(_, link)| link.topic == topic).map(|(_, link)| link.reason)
    }

    /// Says why a client is a member of a topic from now on; nothing happens if it is none.
    pub fn set_reason(&mut self, of: &Memberships, name: &str, reason: Reason) {
        let Some(topic) = self.find(name) else { return };
        let found = self.siblings(of).find(|(_, link)| link.topic == topic).map(|(at, _)| at);
        if let Some(at) = found {
            self.links[at].reason = reason;
        }
    }

    /// The members of a topic, by the numbers of their slots, the latest first.
    pub fn members(&self, name: &str) -> Members<'_> {
        let first = self.find(name).map_or(NONE, |topic| self.topics[topic].first);
        Members { links: &self.links, at: first }
    }

    /// How many topics have a member.
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// How many memberships there are.
    pub fn memberships_len(&self) -> usize {
        self.links.len()
    }

    fn siblings<'a>(&'a self, of: &Memberships) -> impl Iterator<Item = (u32, &'a Link)> + 'a {
        let mut at = of.0;
        std::iter::from_fn(move || {
            let here = (at, self.links.get(at)?);
            at = here.1.sibling;
            Some(here)
        })
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.index.find(&self.topics, name)
    }

    fn add_topic(&mut self, name: &str) -> u32 {
        let topic = Topic { name: SmolStr::new(name), chained: NONE, first: NONE };
        let number = self.topics.insert_with(|_| topic);
        self.index.insert(&mut self.topics, number);
        number
    }

    /// Takes a link out of its topic's list; the last one takes the topic with it.
    fn unlink(&mut self, at: u32) {
        let link = self.links.remove(at).expect("a listed link exists");
        match link.previous {
            NONE => self.topics[link.topic].first = link.next,
            previous => self.links[previous].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next].previous = link.previous;
        }
        if self.topics[link.topic].first == NONE {
            self.index.remove(&mut self.topics, link.topic);
            self.topics.remove(link.topic);
        }
    }
}

/// See [`Hub::members`].
#[derive(Clone)]
pub struct Members<'a> {
    links: &'a Slots<Link>,
    at: u32,
}

impl Members<'_> {
    /// Whether more than `few` are still to come. Members are not counted: a number in each topic would cost every user 8
    /// bytes, and nothing but this asks for it.
    pub fn are_more_than(&self, few: usize) -> bool {
        self.clone().nth(few).is_some()
    }
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
