//! Members of topics, noted for the feature that lists them: a member is a user with a subscription to exactly that topic, on a route
//! whose subscribers may list each other.

use std::collections::{BTreeSet, VecDeque};

use crate::engine::client::Client;
use crate::engine::pubsub::hub::{Hub, Reason};
use crate::engine::pubsub::topic::{Grant, is_pattern, user_of, watchers_key};
use crate::engine::server::{RouteOptions, Server};
use crate::engine::slots::ConnId;

/// Bytes that the feature keeps for a member, besides the names of the topic and the user: 165 were measured with a Redis, 134 without.
const MEMBER_BYTES: usize = 165;

/// Bytes that the process which keeps the members of several has besides, to know where a member is, and the names once more: 46 to 75
/// were measured.
const PLACE_BYTES: usize = 75;

/// A client of a user began or ended its subscription to a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct MemberChange {
    pub topic: Box<str>,
    pub user: Box<str>,
    pub has_come: bool,
}

/// A client that watches the members of a topic asks for their list.
#[derive(Debug, PartialEq, Eq)]
pub struct MembersRequest {
    pub id: ConnId,
    pub topic: Box<str>,
    /// The `ref` of its command, as written.
    pub reference: Option<Box<str>>,
}

/// A request for a list that another process keeps, or of another process for one that this process keeps.
#[derive(Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// The process that asks.
    pub process: u32,
    /// The number of the answer's ticket.
    pub number: u64,
    pub topic: Box<str>,
}

/// The answer to a [`ListRequest`].
#[derive(Debug, PartialEq, Eq)]
pub struct GivenList {
    pub process: u32,
    pub number: u64,
    /// The number of all members.
    pub count: usize,
    pub users: Vec<Box<str>>,
}

/// Notes between processes that keep their members in one of them, for whatever passes them on.
#[derive(Default)]
struct MembersExchange {
    asked: Vec<ListRequest>,
    given: Vec<GivenList>,
    /// Topics whose lists have changed; an empty one stands for all.
    changed: BTreeSet<Box<str>>,
}

/// Changes and requests that the feature has not seen yet.
#[derive(Default)]
pub(crate) struct MemberNotes {
    exchange: Option<MembersExchange>,
    /// The topics of each route whose members are listed; without a feature that lists them there are no routes here, and nothing is
    /// noted.
    listed: Vec<Vec<Grant>>,
    changes: VecDeque<MemberChange>,
    requests: Vec<MembersRequest>,
    /// Topics that were watched in the process whose place this one takes.
    resumed: BTreeSet<Box<str>>,
    /// Bytes that the feature keeps for members, as if each connection were of another user.
    bytes: usize,
}

impl MemberNotes {
    /// Begins to note changes. Nobody may be connected yet: each client that goes must have come.
    pub fn begin(&mut self, routes: &[RouteOptions]) {
        self.listed = routes.iter().map(|route| route.members.clone()).collect();
    }

    /// Stops noting changes: clients that are sent away in a drain come back to other nodes.
    pub fn ignore(&mut self) {
        *self = MemberNotes::default();
    }

    /// Returns whether the subscribers of this key may list each other on this route.
    pub fn are_listed(&self, route: u8, key: &str) -> bool {
        let grants = self.listed.get(route as usize).map_or(&[][..], Vec::as_slice);
        grants.iter().any(|grant| grant.covers(false, key)) && !is_pattern(key)
    }

    /// Returns whether something was noted since it was last taken.
    pub fn has_news(&self) -> bool {
        let is_asked = self.exchange.as_ref().is_some_and(|of| !of.asked.is_empty());
        is_asked
            || !(self.changes.is_empty() && self.requests.is_empty() && self.resumed.is_empty())
    }

    /// Bytes that the feature keeps for all members.
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether no changes are left to be taken.
    pub fn are_taken(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes so many of the changes at most, in their order.
    pub fn take_changes(&mut self, most: usize) -> VecDeque<MemberChange> {
        let rest = self.changes.split_off(most.min(self.changes.len()));
        std::mem::replace(&mut self.changes, rest)
    }

    /// Begins to keep the members of several processes in one of them.
    pub fn begin_exchange(&mut self) {
        self.exchange = Some(MembersExchange::default());
    }

    /// Notes a change in another process, whose members this one keeps.
    pub fn note_elsewhere(&mut self, topic: &str, user: &str, has_come: bool) {
        if self.exchange.is_some() {
            let (topic, user) = (topic.into(), user.into());
            self.changes.push_back(MemberChange { topic, user, has_come });
        }
    }

    /// Asks the process for a list that keeps it.
    pub fn ask(&mut self, request: ListRequest) {
        if let Some(of) = &mut self.exchange {
            of.asked.push(request);
        }
    }

    pub fn take_asked(&mut self) -> Vec<ListRequest> {
        self.exchange.as_mut().map(|of| std::mem::take(&mut of.asked)).unwrap_or_default()
    }

    /// Gives a list to the process that asked for it.
    pub fn give(&mut self, list: GivenList) {
        if let Some(of) = &mut self.exchange {
            of.given.push(list);
        }
    }

    pub fn take_given(&mut self) -> Vec<GivenList> {
        self.exchange.as_mut().map(|of| std::mem::take(&mut of.given)).unwrap_or_default()
    }

    /// Notes that a list has changed, for other processes or for this one; without a name: all of them.
    pub fn note_changed(&mut self, topic: &str) {
        if let Some(of) = &mut self.exchange {
            of.changed.insert(topic.into());
        }
    }

    pub fn take_changed(&mut self) -> BTreeSet<Box<str>> {
        self.exchange.as_mut().map(|of| std::mem::take(&mut of.changed)).unwrap_or_default()
    }

    /// Takes the requests in their order. They came behind all changes.
    pub fn take_requests(&mut self) -> Vec<MembersRequest> {
        std::mem::take(&mut self.requests)
    }

    pub(super) fn request(&mut self, id: ConnId, topic: &str, reference: Option<&str>) {
        let (topic, reference) = (topic.into(), reference.map(Box::from));
        self.requests.push(MembersRequest { id, topic, reference });
    }

    /// Takes the topics whose lists are to be sent to all their watchers.
    pub fn take_resumed(&mut self) -> BTreeSet<Box<str>> {
        std::mem::take(&mut self.resumed)
    }

    /// Notes that a client of another process watches the members of a topic. Returns `false` if they are listed no more.
    pub(super) fn resume(&mut self, route: u8, topic: &str) -> bool {
        let are_listed = self.are_listed(route, topic);
        if are_listed {
            self.resumed.insert(topic.into());
        }
        are_listed
    }

    /// Notes the subscriptions of a client of another process.
    pub(super) fn on_restored(&mut self, client: &Client, hub: &Hub) {
        self.note_all(client, hub, true);
    }

    /// Notes that a client is about to lose all its subscriptions.
    pub(super) fn on_leaving(&mut self, client: &Client, hub: &Hub) {
        self.note_all(client, hub, false);
    }

    fn note_all(&mut self, client: &Client, hub: &Hub, has_come: bool) {
        let Some(user) = user(client, hub) else { return };
        let keys: Vec<&str> = self.listed_keys(client, hub).collect();
        keys.into_iter().for_each(|key| self.note_member(key, user, has_come));
    }

    /// Notes a change of a subscription whose topic is listed, if the client has a user.
    fn note(&mut self, client: &Client, hub: &Hub, key: &str, has_come: bool) {
        if let Some(user) = user(client, hub) {
            self.note_member(key, user, has_come);
        }
    }

    fn note_member(&mut self, key: &str, user: &str, has_come: bool) {
        match has_come {
            true => self.bytes += self.bytes_of(key, user),
            false => self.bytes -= self.bytes_of(key, user),
        }
        self.changes.push_back(MemberChange { topic: key.into(), user: user.into(), has_come });
    }

    /// The bytes of a member, in this process or in the one that keeps the members of several.
    fn bytes_of(&self, topic: &str, user: &str) -> usize {
        let names = topic.len() + user.len();
        match self.exchange {
            None => MEMBER_BYTES + names,
            Some(_) => MEMBER_BYTES + PLACE_BYTES + 2 * names,
        }
    }

    /// The topics of a client whose members are listed.
    fn listed_keys<'a>(
        &self,
        client: &'a Client,
        hub: &'a Hub,
    ) -> impl Iterator<Item = &'a str> + use<'a, '_> {
        let is_on = self.listed.get(client.route as usize).is_some_and(|one| !one.is_empty());
        let topics = is_on.then(|| hub.topics(&client.subscriptions)).into_iter().flatten();
        topics.map(|(key, _)| key).filter(|key| self.are_listed(client.route, key))
    }
}

/// The user of a client's own topic.
fn user<'a>(client: &'a Client, hub: &'a Hub) -> Option<&'a str> {
    let own = hub.topics(&client.subscriptions).find(|(_, reason)| *reason == Reason::Own);
    own.and_then(|(own, _)| user_of(own))
}

/// Notes a client's new subscription. One to its own topic gives it a user, who becomes a member by its other subscriptions.
pub(super) fn on_subscribed(server: &mut Server, id: ConnId, key: &str, reason: Reason) {
    let Server { clients, hubs, members, .. } = server;
    let Some(client) = clients.get(id) else { return };
    let hub = &hubs[client.route as usize];
    if reason == Reason::Own {
        members.note_all(client, hub, true);
    } else if members.are_listed(client.route, key) {
        members.note(client, hub, key, true);
    }
}

/// Notes the end of a client's subscription, which is still there, and ends its watch over the members of that topic.
pub(super) fn on_unsubscribing(server: &mut Server, id: ConnId, key: &str) {
    let Server { clients, hubs, members, .. } = server;
    let Some(client) = clients.get_mut(id) else { return };
    let hub = &mut hubs[client.route as usize];
    if members.are_listed(client.route, key) && hub.reason(&client.subscriptions, key).is_some() {
        members.note(client, hub, key, false);
        hub.unsubscribe(&mut client.subscriptions, &watchers_key(key));
    }
}

/// Bytes that the feature would not keep without this client, if its user had no other.
pub(super) fn held_bytes_of(server: &Server, client: &Client) -> usize {
    let Some(hub) = server.hubs.get(client.route as usize) else { return 0 };
    let (members, user) = (&server.members, user(client, hub));
    let listed = members.listed_keys(client, hub);
    user.map_or(0, |user| listed.map(|key| members.bytes_of(key, user)).sum())
}

/// Returns whether a client watches the members of a topic.
pub(crate) fn is_watching(server: &Server, id: ConnId, topic: &str) -> bool {
    let Some(client) = server.clients.get(id) else { return false };
    let hub = server.hubs.get(client.route as usize);
    hub.is_some_and(|hub| hub.reason(&client.subscriptions, &watchers_key(topic)).is_some())
}

/// Returns whether a client of any route watches the members of a topic.
pub(crate) fn has_watchers(server: &Server, topic: &str) -> bool {
    let key = watchers_key(topic);
    server.hubs.iter().any(|hub| hub.find(&key).is_some())
}
