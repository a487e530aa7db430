//! Topics that are subscribed to at Redis on demand: the hubs alone say which are wanted.
//!
//! ```text
//!          first client                sent               acknowledged, then a mark
//!  Absent ──────────────► Queued ───────────────► Sent ─────────────────────────────► Held
//!    ▲                                                                                 │ last client left,
//!    └───────────── acknowledged ──────────── Leaving ◄──── sent ──── after a while ───┘ nobody came back
//! ```
//!
//! A table holds one entry for each topic that is at Redis or on its way: 48 bytes, and 8 of the index. When a connection is lost, its
//! number changes, and with that all of its topics are absent; those that are wanted are found by a walk along the table, some
//! thousand in a turn.
//!
//! A topic's messages are held from its *mark* on, a record in the history behind its acknowledgement. A cursor from before that mark
//! says nothing about the topic, even if no message of any other topic came in between.
//!
//! Clients of patterns (`room.*`) are served by one pattern for all topics, which every connection subscribes to: each connection
//! takes the messages of its own topics from it, so that no message comes twice.

mod commands;
mod share;
mod table;
#[cfg(test)]
mod tests;
pub mod waits;

use std::collections::VecDeque;

use crate::clock::Millis;
use crate::engine::pubsub::hub::{KeyChange, KeyName};
use crate::engine::pubsub::topic::{self, Subject};
use share::{TopicLink, TopicShare, UNMARKED};
use table::{TENTH, TopicTable, tenths};
use waits::Waits;

/// Topics whose time after the last client is looked at in a turn.
const EXPIRED_PER_TURN: usize = 4096;
/// The most topics that stay at Redis without a client: beyond that, the time of the oldest one is over.
const LINGERING_MAX: usize = 1 << 16;
/// The shortest time between two marks: each takes a place in the history.
const MARK_PAUSE: Millis = 20;

/// The settings of subscriptions on demand.
#[derive(Clone, Debug)]
pub struct DemandSettings {
    pub prefix: String,
    /// Connections that share the topics.
    pub connections: usize,
    /// The time that a topic stays at Redis after its last client.
    pub linger: Millis,
    /// The longest wait for an acknowledgement.
    pub timeout: Millis,
    /// Channels that carry no topics, and are subscribed to always.
    pub own: Vec<String>,
}

/// Commands so far, and their channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemandCounts {
    pub commands: u64,
    pub subscribed: u64,
    pub unsubscribed: u64,
}

/// The topics of all connections.
pub struct Demand {
    pub settings: DemandSettings,
    topics: TopicTable,
    shares: Vec<TopicShare>,
    /// Topics without clients, in the order in which their time began. Some have clients again.
    lingering: VecDeque<u32>,
    marked: Millis,
    /// Patterns that clients subscribe to, over all hubs.
    patterns: usize,
    /// When the last of them left.
    patterns_left: Millis,
    pub counts: DemandCounts,
    pub waits: Waits,
    /// All topics were subscribed to, and still are.
    pub is_whole: bool,
}

impl Demand {
    pub fn new(settings: DemandSettings) -> Demand {
        let shares =
            (0..settings.connections.clamp(1, 255)).map(|_| TopicShare::default()).collect();
        Demand {
            settings,
            topics: TopicTable::default(),
            shares,
            lingering: VecDeque::new(),
            marked: 0,
            patterns: 0,
            patterns_left: 0,
            counts: DemandCounts::default(),
            waits: Waits::default(),
            is_whole: false,
        }
    }

    /// Takes note of a key that has its first subscriber in a hub, or lost its last one there.
    pub fn on_change(&mut self, KeyChange { key, is_wanted }: KeyChange, now: Millis) {
        if topic::watched(&key).is_some() {
            return;
        }
        match (topic::is_pattern(&key), is_wanted) {
            (true, true) => self.patterns += 1,
            (true, false) => {
                self.patterns -= 1;
                self.patterns_left = now;
            }
            (false, true) => self.join(key),
            (false, false) => self.leave(&key, now),
        }
    }

    fn join(&mut self, name: KeyName) {
        let at = self.topics.find(&name).unwrap_or_else(|| self.add(name));
        self.topics[at].hubs += 1;
        match self.link(at) {
            TopicLink::Absent => self.queue(at),
            TopicLink::Leaving if self.topics[at].hubs == 1 => self.share_mut(at).returning += 1,
            TopicLink::Queued | TopicLink::Sent | TopicLink::Held | TopicLink::Leaving => {}
        }
    }

    fn leave(&mut self, name: &str, now: Millis) {
        let Some(at) = self.topics.find(name) else { return };
        let link = self.link(at);
        let topic = &mut self.topics[at];
        topic.hubs -= 1;
        topic.left = tenths(now);
        match link {
            _ if topic.hubs > 0 => {}
            TopicLink::Absent => self.remove(at),
            TopicLink::Held => self.linger(at),
            // A command is under way, or about to be: its end decides.
            TopicLink::Queued | TopicLink::Sent => {}
            TopicLink::Leaving => self.share_mut(at).returning -= 1,
        }
    }

    fn share_mut(&mut self, at: u32) -> &mut TopicShare {
        &mut self.shares[self.topics[at].share as usize]
    }

    /// Queues a topic to be subscribed to. Without a connection nothing is queued: all topics are looked at once it is there.
    fn queue(&mut self, at: u32) {
        let topic = &mut self.topics[at];
        let share = &mut self.shares[topic.share as usize];
        if share.is_up {
            (topic.link, topic.epoch) = (TopicLink::Queued, share.epoch);
            share.queued.push_back(at);
        }
    }

    fn linger(&mut self, at: u32) {
        if !std::mem::replace(&mut self.topics[at].is_lingering, true) {
            self.lingering.push_back(at);
        }
    }

    /// A connection came up.
    pub fn on_up(&mut self, number: usize) {
        self.shares[number].up();
    }

    /// A connection is gone. What it carried has to be subscribed to again, but for topics without clients.
    pub fn on_down(&mut self, number: usize) {
        self.shares[number].down();
    }

    /// Redis acknowledged a subscription to a channel. The order of acknowledgements is that of the commands.
    pub fn on_subscribed(&mut self, number: usize, channel: &[u8]) {
        let Some(at) = self.find_channel(channel) else { return };
        if self.topics[at].share as usize != number || self.link(at) != TopicLink::Sent {
            return;
        }
        self.shares[number].acknowledge();
        self.set_link(at, TopicLink::Held);
        self.topics[at].from = UNMARKED;
        self.shares[number].unmarked.push(at);
        if self.topics[at].hubs == 0 {
            self.linger(at);
        }
    }

    /// Redis acknowledged the end of a subscription. Returns `false` if nobody asked for that.
    pub fn on_unsubscribed(&mut self, number: usize, channel: &[u8]) -> bool {
        let Some(at) = self.find_channel(channel) else { return true };
        if self.topics[at].share as usize != number {
            return true;
        }
        match self.link(at) {
            TopicLink::Leaving => {
                self.shares[number].acknowledge();
                self.set_link(at, TopicLink::Absent);
                match self.topics[at].hubs {
                    0 => self.remove(at),
                    _ => {
                        self.shares[number].returning -= 1;
                        self.queue(at);
                    }
                }
                true
            }
            link => link != TopicLink::Held,
        }
    }

    /// Redis acknowledged the pattern for all topics, or its end. Returns `false` if nobody asked for that.
    pub fn on_everything(&mut self, number: usize, is_added: bool) -> bool {
        let share = &mut self.shares[number];
        match (share.everything.link, is_added) {
            (TopicLink::Sent, true) => {
                (share.everything.link, share.everything.from) = (TopicLink::Held, UNMARKED)
            }
            (TopicLink::Leaving, false) => share.everything.link = TopicLink::Absent,
            (link, is_added) => return is_added || link != TopicLink::Held,
        }
        share.acknowledge();
        true
    }

    /// Lets topics go whose time without clients is over.
    pub fn expire(&mut self, now: Millis) {
        for _ in 0..EXPIRED_PER_TURN {
            let Some(&at) = self.lingering.front() else { return };
            let is_full = self.lingering.len() > LINGERING_MAX;
            if self.lingering_until(at) > now && !is_full {
                return;
            }
            self.lingering.pop_front();
            self.topics[at].is_lingering = false;
            if self.topics[at].hubs > 0 {
                continue;
            }
            match self.link(at) {
                TopicLink::Held => self.shares[self.topics[at].share as usize].over.push_back(at),
                TopicLink::Absent => self.remove(at),
                TopicLink::Queued | TopicLink::Sent | TopicLink::Leaving => {}
            }
        }
    }

    fn lingering_until(&self, at: u32) -> Millis {
        (Millis::from(self.topics[at].left) * TENTH).saturating_add(self.settings.linger)
    }

    /// Returns when something is to be done without an event.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let lingering = self.lingering.front().map(|at| self.lingering_until(*at));
        let mark = self.has_unmarked().then(|| self.marked.saturating_add(MARK_PAUSE));
        let is_held = |share: &TopicShare| share.everything.link == TopicLink::Held;
        let patterns = (self.patterns == 0 && self.shares.iter().any(is_held))
            .then(|| self.patterns_left.saturating_add(self.settings.linger));
        // If it could not be sent in time, the next event brings it.
        let patterns = patterns.filter(|at| *at > now);
        [lingering, mark, patterns, self.waits.deadline()].into_iter().flatten().min()
    }

    /// Returns when the oldest command of a connection has to be acknowledged.
    pub fn acknowledged_by(&self, number: usize) -> Option<Millis> {
        self.shares[number].oldest().map(|sent| sent.saturating_add(self.settings.timeout))
    }

    /// Topics in the table.
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// Channels whose acknowledgement is awaited.
    pub fn pending_len(&self) -> usize {
        self.shares.iter().map(|share| share.unacknowledged() + share.queued.len()).sum()
    }

    /// Memory allocated for topics.
    pub fn bytes(&self) -> usize {
        self.topics.bytes()
    }

    fn name_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(channel.strip_prefix(self.settings.prefix.as_bytes())?).ok()
    }

    fn find_channel(&self, channel: &[u8]) -> Option<u32> {
        self.topics.find(self.name_of(channel)?)
    }

    fn share_of(&self, name: &str) -> usize {
        match self.shares.len() {
            1 => 0,
            shares => self.topics.hash(name) as usize % shares,
        }
    }

    fn link(&self, at: u32) -> TopicLink {
        let topic = &self.topics[at];
        let is_current = topic.epoch == self.shares[topic.share as usize].epoch;
        if is_current { topic.link } else { TopicLink::Absent }
    }

    fn set_link(&mut self, at: u32, link: TopicLink) {
        let topic = &mut self.topics[at];
        (topic.link, topic.epoch) = (link, self.shares[topic.share as usize].epoch);
    }

    /// Returns whether a message on a channel is to be taken from this connection. With `by_pattern` it came by the pattern for all
    /// topics: a channel that is subscribed to by name brings it as well, and a channel with a key is not heard on demand.
    pub fn hears(&self, number: usize, channel: &[u8], by_pattern: bool) -> bool {
        let Some(name) = self.name_of(channel).filter(|_| self.shares[number].is_told) else {
            return false;
        };
        // Until Redis acknowledges the end of a subscription, its messages come.
        let held = self.topics.find(name);
        let held = held.filter(|at| matches!(self.link(*at), TopicLink::Held | TopicLink::Leaving));
        if !by_pattern {
            let everything = self.shares[number].everything.link;
            return held.is_some_and(|at| {
                // A client that came back meanwhile is promised nothing yet. One that has a pattern in place of the name is.
                let is_wanted = self.link(at) == TopicLink::Held
                    || matches!(everything, TopicLink::Sent | TopicLink::Held);
                self.topics[at].share as usize == number && is_wanted
            });
        }
        held.is_none()
            && self.share_of(name) == number
            && !self.is_own(channel)
            && Subject::of_channel(name.as_bytes()).is_none_or(|subject| subject.key.is_none())
    }

    /// Returns whether a channel is subscribed to always, for a feature.
    fn is_own(&self, channel: &[u8]) -> bool {
        self.settings.own.iter().any(|own| own.as_bytes() == channel)
    }

    /// Returns whether a mark is due in the history.
    pub fn is_mark_due(&self, now: Millis) -> bool {
        self.has_unmarked() && now >= self.marked.saturating_add(MARK_PAUSE)
    }

    pub(super) fn has_unmarked(&self) -> bool {
        let everything = |share: &TopicShare| {
            share.everything.link == TopicLink::Held && share.everything.from == UNMARKED
        };
        let mut told = self.shares.iter().filter(|share| share.is_told);
        told.any(|share| !share.unmarked.is_empty() || everything(share))
    }

    /// Everything acknowledged so far is held behind the record with this number.
    pub fn mark(&mut self, number: u64, now: Millis) {
        self.marked = now;
        let Demand { shares, topics, .. } = self;
        for share in shares.iter_mut().filter(|share| share.is_told) {
            for at in std::mem::take(&mut share.unmarked) {
                if topics.get(at).is_some_and(|topic| topic.from == UNMARKED) {
                    topics[at].from = number;
                }
            }
            if share.everything.link == TopicLink::Held && share.everything.from == UNMARKED {
                share.everything.from = number;
            }
        }
    }

    /// Returns whether there is nothing to wait for before a client is told that it has this key: its messages come, or there is no
    /// connection that could bring them.
    pub fn is_settled(&self, key: &str) -> bool {
        match topic::is_pattern(key) {
            true => self.shares.iter().all(|share| {
                let TopicShare { is_up, everything, .. } = share;
                !is_up || (everything.link == TopicLink::Held && everything.from != UNMARKED)
            }),
            false => self.topics.find(key).is_none_or(|at| {
                let is_up = self.shares[self.topics[at].share as usize].is_up;
                !is_up || (self.link(at) == TopicLink::Held && self.topics[at].from != UNMARKED)
            }),
        }
    }

    /// Returns the number of the message after which every message of a key is held; `None`: messages are missed now.
    pub fn held_from(&self, key: &str) -> Option<u64> {
        let of = |share: &TopicShare| {
            let TopicShare { everything, .. } = share;
            (everything.link == TopicLink::Held && everything.from != UNMARKED)
                .then_some(everything.from)
        };
        if topic::is_pattern(key) {
            return self.shares.iter().map(of).try_fold(0, |most, from| Some(most.max(from?)));
        }
        let by_name = self.topics.find(key).filter(|at| self.link(*at) == TopicLink::Held);
        let by_name = by_name.map(|at| self.topics[at].from).filter(|from| *from != UNMARKED);
        [by_name, of(&self.shares[self.share_of(key)])].into_iter().flatten().min()
    }

    /// Takes a connection on which everything is subscribed to now that was wanted when it came up. Before that its messages are
    /// dropped, since they would hide what was missed before: that is to be reported now.
    pub fn take_whole(&mut self) -> Option<usize> {
        let number = self.shares.iter().position(|share| share.is_whole() && !share.is_told)?;
        self.shares[number].is_told = true;
        Some(number)
    }

    /// Returns whether messages come on all connections.
    pub fn are_shares_whole(&self) -> bool {
        self.shares.iter().all(|share| share.is_told)
    }

    fn add(&mut self, name: KeyName) -> u32 {
        let share = self.share_of(&name) as u8;
        self.topics.add(name, share)
    }

    /// Removes a topic; one that is in the queue of those without clients stays until its turn comes there.
    fn remove(&mut self, at: u32) {
        match self.topics[at].is_lingering {
            true => self.set_link(at, TopicLink::Absent),
            false => self.topics.remove(at),
        }
    }
}
