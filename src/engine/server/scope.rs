//! The server as the handler of one route sees it: publishing, and finding clients by topic, reach that route's clients alone.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use crate::engine::client::State;
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::Slow;
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::LARGE_TOPIC;
use crate::engine::pubsub::topic::{self, Subject, watchers_key};
use crate::engine::server::Server;
use crate::engine::server::fanout::Audience;
use crate::engine::server::replay;
use crate::engine::server::users::owners_in;
use crate::engine::slots::ConnId;

/// Subscriptions that are looked at to count a message's recipients, at most: they take about as long as one write.
const LOOKED_AT_MAX: usize = 512;

/// The number of clients that a message goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriberCount {
    pub count: usize,
    /// Each client is counted once. If not, a client that subscribes to two large topics of the message is counted for each, as
    /// Redis counts a subscriber.
    pub is_exact: bool,
}

/// A [`Server`], and the route whose handler is running.
pub struct Scope<'a> {
    server: &'a mut Server,
    route: u8,
    /// The message that is being published stands in the history: clients that are replaying it read it there.
    is_recorded: bool,
    /// Counts the deliveries of that message.
    delivery_count: Option<Rc<DeliveryCount>>,
}

impl Deref for Scope<'_> {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server
    }
}

impl DerefMut for Scope<'_> {
    fn deref_mut(&mut self) -> &mut Server {
        self.server
    }
}

impl<'a> Scope<'a> {
    /// `is_recorded`: what is published stands in the history, which gives it to clients in a replay.
    pub(crate) fn new(server: &'a mut Server, route: u8, is_recorded: bool) -> Scope<'a> {
        Scope { server, route, is_recorded, delivery_count: None }
    }

    /// Has the deliveries of what is published counted.
    pub(crate) fn counted_by(self, count: Option<Rc<DeliveryCount>>) -> Self {
        Scope { delivery_count: count, ..self }
    }

    fn add_recipients(&self, count: usize, is_exact: bool) {
        if let Some(counter) = &self.delivery_count {
            counter.add_recipients(count, is_exact);
        }
    }

    /// The number of the route.
    pub fn route(&self) -> u8 {
        self.route
    }

    /// Sends one frame to every subscriber of `topic` on this route, once each, and returns to how many it goes. `make` is called
    /// with the message's cursor if there is a subscriber. The number is exact unless two large topics overlap whose subscribers
    /// take more to be looked through than a write: then a client with both is counted twice, as Redis' `PUBLISH` counts.
    pub fn publish<'s>(
        &mut self,
        subject: impl Into<Subject<'s>>,
        make: impl FnOnce(&str) -> Frame,
    ) -> usize {
        let subject = subject.into();
        let reached =
            self.with_topics(subject.topic, |scope, found| scope.publish_to(found, subject, make));
        self.metrics.deliveries += reached as u64;
        reached
    }

    fn publish_to(
        &mut self,
        topics: &[u32],
        subject: Subject<'_>,
        make: impl FnOnce(&str) -> Frame,
    ) -> usize {
        if topics.is_empty() {
            return 0;
        }
        if self.is_recorded {
            replay::wake_subscribers(self.server, self.route, topics);
        }
        let hub = &self.server.hubs[self.route as usize];
        if topics.iter().any(|topic| hub.is_large(*topic)) {
            let subscribers = self.count(topics);
            self.add_recipients(subscribers.count, subscribers.is_exact);
            let frame = self.make(subject, true, make);
            self.broadcast(topics, frame);
            subscribers.count
        } else {
            let frame = self.make(subject, false, make);
            self.send_to_few(topics, &frame)
        }
    }

    /// Sends a frame to every client of this route that has a subscription.
    pub fn send_to_subscribers(&mut self, frame: Frame) {
        self.server.fanout.push(self.route, Audience::Everyone, frame, self.is_recorded);
    }

    /// Sends a frame to the clients of this route that watch the members of a topic. No cursor and no history knows of it.
    pub fn send_to_watchers(&mut self, topic: &str, frame: Frame) {
        let hub = &self.hubs[self.route as usize];
        let Some(watchers) = hub.find(&watchers_key(topic)) else { return };
        let is_broadcast = hub.is_large(watchers);
        let frame = match self.options[self.route as usize].deflate.covers(is_broadcast) {
            true => self.deflatable(frame),
            false => frame,
        };
        match is_broadcast {
            true => self.broadcast(&[watchers], frame),
            false => drop(self.send_to_few(&[watchers], &frame)),
        }
    }

    /// Returns the number of clients of this route that a message on this topic would go to. A client with two subscriptions that match it may be
    /// counted for each where both topics are large: see [`Scope::publish`].
    pub fn subscribers(&mut self, topic: &str) -> usize {
        self.with_topics(topic, |scope, found| scope.count(found).count)
    }

    /// Returns whether a message on this topic would go to this client.
    pub fn is_recipient(&mut self, id: ConnId, topic: &str) -> bool {
        self.with_topics(topic, |scope, found| {
            let client = scope.with_hub(id);
            client.is_some_and(|(client, hub)| hub.is_subscribed(&client.subscriptions, found))
        })
    }

    /// Open clients of this route that subscribe to exactly this key because it is their own, the latest first.
    pub fn owners(&self, key: &str) -> Vec<ConnId> {
        owners_in(self, &self.hubs[self.route as usize], key).collect()
    }

    /// The open client of this route that has this name.
    pub fn connection(&self, name: &str) -> Option<ConnId> {
        let id = self.names.id(name)?;
        let client = self.clients.get(id)?;
        (client.route == self.route && client.state() == State::Open).then_some(id)
    }

    /// A message's frame, which says which message it is where that is asked for.
    fn make(
        &self,
        subject: Subject<'_>,
        is_broadcast: bool,
        make: impl FnOnce(&str) -> Frame,
    ) -> Frame {
        let mut frame = make(&self.cursor());
        if let Some(count) = &self.delivery_count {
            frame = frame.counted_by(Rc::clone(count));
        }
        let options = &self.options[self.route as usize];
        if options.deflate.covers(is_broadcast) {
            frame = self.deflatable(frame);
        }
        match options.slow {
            Slow::Close => frame,
            Slow::Latest if subject.key.is_none() => frame,
            Slow::DropOldest(_) | Slow::KeepNewest | Slow::Latest => frame.about(
                subject,
                &self.resume.cursor_at(self.resume.history.next().saturating_sub(2)),
            ),
        }
    }

    /// Queues a frame for each subscriber of these topics, who are few. Returns for how many.
    fn send_to_few(&mut self, topics: &[u32], frame: &Frame) -> usize {
        let mut reached = 0;
        for (place, topic) in topics.iter().enumerate() {
            let mut room = [0; LARGE_TOPIC];
            for index in self.few_subscribers(*topic, &mut room) {
                let (id, client) = (self.clients.id(index), &self.clients[index]);
                if self.is_recorded && client.is_replaying() {
                    // The replay comes to it.
                    let hub = &self.hubs[self.route as usize];
                    reached +=
                        usize::from(!hub.is_subscribed(&client.subscriptions, &topics[..place]));
                } else if !client.was_just_queued(frame) {
                    self.add_recipients(1, true);
                    reached += usize::from(self.queue(id, frame, Lane::Urgent));
                }
            }
        }
        reached
    }

    /// Hands a frame to the fan-out for the subscribers of these topics, one of which is large. Subscribers of the small ones do not
    /// wait for it.
    fn broadcast(&mut self, topics: &[u32], frame: Frame) {
        let audience = Audience::Topics(topics.into());
        self.server.fanout.push(self.route, audience, frame, self.is_recorded);
        for topic in topics {
            if self.hubs[self.route as usize].is_large(*topic) {
                continue;
            }
            let mut room = [0; LARGE_TOPIC];
            for index in self.few_subscribers(*topic, &mut room) {
                let id = self.clients.id(index);
                if self.caught_up(id) {
                    self.schedule_flush(id, Lane::Urgent);
                }
            }
        }
    }

    /// The subscribers of a topic that is not large, as they are now: queueing for one may close it, which ends its subscriptions.
    fn few_subscribers<'r>(
        &self,
        topic: u32,
        room: &'r mut [u32; LARGE_TOPIC],
    ) -> impl Iterator<Item = u32> + use<'r> {
        let mut count = 0;
        for index in self.hubs[self.route as usize].subscribers(topic) {
            room[count] = index;
            count += 1;
        }
        room[..count].iter().copied()
    }

    /// Calls `act` with the numbers of the topics and patterns of this route's hub that a message on `topic` is for. Nothing is
    /// allocated for it.
    fn with_topics<R>(&mut self, topic: &str, act: impl FnOnce(&mut Self, &[u32]) -> R) -> R {
        let mut found = std::mem::take(&mut self.fanout.found);
        found.clear();
        let Server { hubs, fanout, .. } = &mut *self.server;
        let hub = &hubs[self.route as usize];
        topic::keys_of(topic, &mut fanout.keys, |key| found.extend(hub.find(key)));
        let result = act(self, &found);
        self.fanout.found = found;
        result
    }

    /// Counts the subscribers of these topics. Clients with two of them are found by walking along all topics but the largest, as
    /// far as that costs no more than a write.
    fn count(&self, topics: &[u32]) -> SubscriberCount {
        let hub = &self.hubs[self.route as usize];
        let sum = topics.iter().map(|topic| hub.subscribers_len(*topic)).sum();
        let largest = topics.iter().max_by_key(|topic| hub.subscribers_len(**topic)).copied();
        let (mut count, mut left) =
            (largest.map_or(0, |it| hub.subscribers_len(it)), LOOKED_AT_MAX);
        for (place, topic) in topics.iter().enumerate().filter(|one| Some(*one.1) != largest) {
            for index in hub.subscribers(*topic) {
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
