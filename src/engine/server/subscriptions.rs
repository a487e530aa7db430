//! Subscriptions of a client: the verbs for a handler.

use crate::engine::client::Client;
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::watchers_key;
use crate::engine::resume::history::Record;
use crate::engine::server::replay::{self, slice_max};
use crate::engine::server::users::owners_in;
use crate::engine::server::{ReplayItem, Resumed, Scope, Server, demand, members};
use crate::engine::slots::ConnId;

/// The cost of a subscription that begins or ends, out of the 1 MiB read from all clients in a turn: the client's other
/// subscriptions are searched, and the command is answered. Without it, commands of 40 bytes would make a turn 50 ms long.
const MEMBERSHIP_COST_BYTES: usize = 128;

/// Records of the history that are passed by in a microsecond.
const LOOK_STEPS_PER_MICROSECOND: usize = 500;

impl Scope<'_> {
    /// Counts a topic that a client asks for; `false` if it has asked for too many in this second.
    pub fn count_topic(&mut self, id: ConnId) -> bool {
        let allowance = self.allowance();
        self.client(id).is_some_and(|client| !allowance.is_spent(client.spend(1)))
    }

    /// Subscribes a client to the topic or pattern with this key (see [`crate::engine::pubsub::topic::Grant::key`]); `false` if
    /// it is subscribed already or not open.
    pub fn subscribe(&mut self, id: ConnId, key: &str, reason: Reason) -> bool {
        if !self.caught_up(id) {
            return false;
        }
        self.costs += MEMBERSHIP_COST_BYTES;
        let Some((client, hub)) = self.with_hub(id) else {
            return false;
        };
        let joined = hub.subscribe(id.index, &mut client.subscriptions, key, reason);
        if joined && reason == Reason::Own {
            let route = self.route();
            self.users.note(key, true, (id, route));
        }
        if joined {
            members::on_subscribed(self, id, key, reason);
        }
        let next = self.resume.history.next();
        let Server { clients, resume, .. } = &mut **self;
        let replay = clients.get_mut(id).and_then(Client::replay);
        if joined && let Some(replay) = replay {
            replay.subscribe(key, next, &resume.entries);
        }
        if joined && reason == Reason::Joined {
            demand::await_gap(self, id, key);
        }
        joined
    }

    /// Returns whether Redis is subscribed to on demand: what clients want is there a while after they said so.
    pub fn is_on_demand(&self) -> bool {
        self.demand.is_some()
    }

    /// Has the handler wait until Redis has acknowledged one of the client's keys, or all of them. Returns the number under which
    /// [`RouteEvent::Subscribed`](crate::engine::handler::RouteEvent::Subscribed) comes; `None`: there is nothing to wait for.
    pub fn await_subscription(&mut self, id: ConnId, key: Option<&str>) -> Option<u64> {
        demand::await_subscription(self, id, key)
    }

    /// Ends the wait for an answer that goes out now. If Redis has not acknowledged its topics, a gap follows once it has.
    pub fn end_wait(&mut self, number: u64) {
        demand::end_wait(self, number);
    }

    /// Sends nothing live to a client, and reads nothing from it, until it is released.
    pub fn hold(&mut self, id: ConnId) {
        demand::hold(self, id);
    }

    /// Ends a hold. The client is given what is published from now on.
    pub fn release(&mut self, id: ConnId) {
        demand::release(self, id);
    }

    /// Gives a subscriber the messages of one of its keys since this cursor, then live ones, in order and once, as soon as the
    /// running handler is done with it. Its other subscriptions are not given anything twice.
    pub fn resume_topic(&mut self, id: ConnId, key: &str, since: &str) -> Resumed {
        self.costs += MEMBERSHIP_COST_BYTES;
        replay::resume_topic(self, id, key, since)
    }

    /// The numbers of the newest messages of these topics that the history holds. One look at it is for all of them. For a client that
    /// is ahead of this process there are none: newer ones may be on their way, and it would never be sent those.
    pub fn newest(&mut self, id: ConnId, topics: &[&str]) -> Vec<Option<u64>> {
        let Server { clients, resume, .. } = &mut **self;
        let replay = clients.get_mut(id).and_then(|client| client.replay());
        if replay.is_some_and(|replay| resume.is_ahead(replay)) {
            return vec![None; topics.len()];
        }
        let (found, steps) = self.resume.newest(topics);
        self.count_costly((steps / LOOK_STEPS_PER_MICROSECOND) as u32);
        let found = found.into_iter().zip(topics);
        found.map(|(number, topic)| demand::newest_held(self, topic, number)).collect()
    }

    /// Returns whether a client has so much to read that it is sent no more of the history at once.
    pub fn is_filled(&mut self, id: ConnId) -> bool {
        let (bytes, frames) = slice_max(&self.backlog);
        self.client(id).is_none_or(|client| client.holds(bytes, frames))
    }

    /// Sends a client the message with this number, if the history holds it. Its cursor is that of the client's own place, so
    /// that the client can come back with it.
    pub fn send_again(&mut self, id: ConnId, number: u64) {
        let Some(cursor) = replay::place_of(self, id) else { return };
        let mut scratch = Vec::new();
        let history = &self.resume.history;
        if !(history.first()..history.next()).contains(&number) {
            return;
        }
        let (Record::Message { subject, payload } | Record::Entry { subject, payload, .. }) =
            history.get(number, &mut scratch)
        else {
            return;
        };
        let encode = self.options[self.route() as usize].encode;
        let frame = encode(&ReplayItem::Message { cursor: &cursor, subject, payload });
        if let Some(frame) = frame {
            self.queue(id, &frame, Lane::Urgent);
            self.metrics.replayed += 1;
        }
    }

    /// Unsubscribes it; `false` if it is not subscribed or not open.
    pub fn unsubscribe(&mut self, id: ConnId, key: &str) -> bool {
        if !self.caught_up(id) {
            return false;
        }
        self.costs += MEMBERSHIP_COST_BYTES;
        members::on_unsubscribing(self, id, key);
        let Some((client, hub)) = self.with_hub(id) else {
            return false;
        };
        let was_own = hub.reason(&client.subscriptions, key) == Some(Reason::Own);
        let left = hub.unsubscribe(&mut client.subscriptions, key);
        if left && was_own {
            let route = self.route();
            self.users.note(key, false, (id, route));
        }
        let (next, most) = (self.resume.history.next(), self.bounds.topics_per_client_max);
        let Server { clients, resume, .. } = &mut **self;
        let replay = clients.get_mut(id).and_then(Client::replay);
        if left && let Some(replay) = replay {
            replay.unsubscribe(key, next, &resume.entries, most);
        }
        left
    }

    /// Gives a user's client the members of a topic, and the changes among them while it stays subscribed. Returns whether it may
    /// have them: it subscribes to this very topic, and the route lets subscribers list each other.
    pub fn watch_members(&mut self, id: ConnId, topic: &str, reference: Option<&str>) -> bool {
        let may_be_listed = self.members.are_listed(self.route(), topic);
        if !may_be_listed || !self.caught_up(id) {
            return false;
        }
        self.costs += MEMBERSHIP_COST_BYTES;
        let Some((client, hub)) = self.with_hub(id) else { return false };
        let of = &mut client.subscriptions;
        if hub.reason(of, topic).is_none() || hub.own_topic(of).is_none() {
            return false;
        }
        hub.subscribe(id.index, of, &watchers_key(topic), Reason::Watching);
        self.members.request(id, topic, reference);
        true
    }

    /// The reason of a client's subscription to this key.
    pub fn reason(&mut self, id: ConnId, key: &str) -> Option<Reason> {
        let (client, hub) = self.with_hub(id)?;
        hub.reason(&client.subscriptions, key)
    }

    /// Changes that reason.
    pub fn set_reason(&mut self, id: ConnId, key: &str, reason: Reason) {
        if let Some((client, hub)) = self.with_hub(id) {
            hub.set_reason(&client.subscriptions, key, reason);
        }
    }

    /// The keys of a client's subscriptions and their reasons.
    pub fn topics(&mut self, id: ConnId) -> Vec<(String, Reason)> {
        let Some((client, hub)) = self.with_hub(id) else {
            return Vec::new();
        };
        hub.topics(&client.subscriptions).map(|(key, reason)| (key.to_owned(), reason)).collect()
    }

    /// The number of a client's subscriptions.
    pub fn topics_len(&mut self, id: ConnId) -> usize {
        let Some((client, hub)) = self.with_hub(id) else {
            return 0;
        };
        hub.topics(&client.subscriptions).count()
    }

    /// Open clients of all routes whose own topic has this key, the latest first of each route: `clients_per_user_max` counts
    /// them together.
    pub fn owners_anywhere(&self, key: &str) -> Vec<ConnId> {
        self.hubs.iter().flat_map(|hub| owners_in(self, hub, key)).collect()
    }
}
