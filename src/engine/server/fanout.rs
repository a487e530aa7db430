//! Fan-out: messages to large topics, given to a part of the subscribers in each turn.
//!
//! A message to few subscribers is queued for each of them at once. For a large topic that would make a turn as long as the topic
//! is large, and allocate for every subscriber. The message therefore waits here, and the flush phase walks along the subscribers, as many in a turn as the
//! turn has writes. Each client that the walk reaches gets all waiting messages for it in one write, mostly from one shared
//! buffer.
//!
//! Order is kept: before a client is sent anything else, changes its subscriptions or is closed, it
//! [catches up](crate::engine::server::Server::catch_up), and a walk skips clients that are up to date.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::engine::client::delivery_count::CountedFanout;
use crate::engine::client::encoding::Encoding;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::{Backlog, GATHERED_BYTES_MAX};
use crate::engine::client::{Client, State};
use crate::engine::pubsub::hub::Hub;
use crate::engine::server::clients::Clients;
use crate::engine::slots::ConnId;

/// The bound on all waiting messages, in bounds of one backlog. For each audience it is half of one.
const BACKLOGS_MAX: usize = 4;

/// The highest number of a message. Some are left, since one message may be a broadcast on each route.
const NUMBERS_MAX: u32 = u32::MAX - 1024;

/// The clients that a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The subscribers of these topics of the route's hub.
    Topics(Rc<[u32]>),
    /// Every client of the route that has a subscription.
    Everyone,
}

/// A message to many subscribers.
#[derive(Debug)]
pub(super) struct Broadcast {
    /// Rises from one broadcast to the next. A client keeps the number of the latest one delivered to it.
    pub number: u32,
    pub route: u8,
    pub audience: Audience,
    pub frame: Frame,
    /// The history has it too.
    pub is_recorded: bool,
    /// Ends with the walk if the frame's deliveries are counted.
    counted: Option<CountedFanout>,
}

/// The messages that wait for one audience.
#[derive(Debug)]
struct Share {
    route: u8,
    audience: Audience,
    frames: usize,
    bytes: usize,
}

/// The progress of the first broadcast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// The next one of the audience's topics, or the next slot.
    pub place: u32,
    /// The latest broadcast when it began: every client on the way gets the messages up to it.
    pub latest: u32,
}

/// The bytes of all messages from the first of these numbers to the second.
#[derive(Debug, Default)]
struct Gathered {
    from_to: (u32, u32),
    /// `None`: they have several audiences, or are too long for one write.
    bytes: Option<Vec<u8>>,
}

/// The queue of broadcasts.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    pub(super) waiting: VecDeque<Broadcast>,
    shares: Vec<Share>,
    /// Bytes of all waiting messages; read for each recipient.
    bytes: usize,
    pub(super) latest: u32,
    pub(super) walk: Option<Walk>,
    /// For each encoding of clients.
    gathered: [Gathered; Encoding::ALL.len()],
    /// Reused for the keys of a publish, and for the topics found by them: see [`Scope::publish`](super::Scope::publish).
    pub(super) keys: String,
    pub(super) found: Vec<u32>,
    /// The number of waiting messages whose deliveries are counted.
    counted: usize,
}

impl Fanout {
    /// Returns whether every recipient has got every message.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the number of waiting messages.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number of the latest broadcast.
    pub fn latest(&self) -> u32 {
        self.latest
    }

    /// Returns whether no more input may be read that could add messages: half of a backlog's bound waits for one audience, or
    /// [`BACKLOGS_MAX`] bounds in all. A subscriber whose socket is full takes all messages of its audience into its backlog.
    pub fn is_full(&self, backlog: &Backlog) -> bool {
        let is_half = |share: &Share| {
            share.frames * 2 >= backlog.frames_max || share.bytes * 2 >= backlog.bytes_max
        };
        let [frames_max, bytes_max] =
            [backlog.frames_max, backlog.bytes_max].map(|most| most.saturating_mul(BACKLOGS_MAX));
        let is_much = self.waiting.len() >= frames_max || self.bytes() >= bytes_max;
        !self.is_empty()
            && (is_much || self.latest >= NUMBERS_MAX || self.shares.iter().any(is_half))
    }

    /// Bytes of all waiting messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether all waiting messages have one audience.
    pub(super) fn is_for_one_audience(&self) -> bool {
        self.shares.len() == 1
    }

    /// Returns whether deliveries of a waiting message are counted.
    pub(super) fn are_counted(&self) -> bool {
        self.counted > 0
    }

    pub(super) fn push(&mut self, route: u8, audience: Audience, frame: Frame, is_recorded: bool) {
        self.latest += 1;
        let bytes = frame.as_bytes().len();
        self.bytes += bytes;
        let counted = frame.delivery_count().map(|count| count.begin_fanout());
        self.counted += usize::from(counted.is_some());
        let known = |share: &&mut Share| (share.route, &share.audience) == (route, &audience);
        match self.shares.iter_mut().find(known) {
            Some(share) => (share.frames, share.bytes) = (share.frames + 1, share.bytes + bytes),
            None => {
                self.shares.push(Share { route, audience: audience.clone(), frames: 1, bytes });
            }
        }
        self.waiting.push_back(Broadcast {
            number: self.latest,
            route,
            audience,
            frame,
            is_recorded,
            counted,
        });
    }

    /// Removes the first broadcast, whose walk is over, and those behind it that the same walk delivered.
    pub(super) fn pop(&mut self) {
        let walked = self.remove_first();
        let latest = self.walk.take().map_or(walked.number, |walk| walk.latest);
        while let Some(next) = self.waiting.front()
            && next.number <= latest
            && (next.route, &next.audience) == (walked.route, &walked.audience)
        {
            self.remove_first();
        }
    }

    fn remove_first(&mut self) -> Broadcast {
        let first = self.waiting.pop_front().expect("a walk has its broadcast");
        let is_its =
            |share: &Share| (share.route, &share.audience) == (first.route, &first.audience);
        let at = self.shares.iter().position(is_its).expect("every broadcast has its share");
        self.shares[at].frames -= 1;
        self.shares[at].bytes -= first.frame.as_bytes().len();
        self.bytes -= first.frame.as_bytes().len();
        self.counted -= usize::from(first.counted.is_some());
        if self.shares[at].frames == 0 {
            self.shares.swap_remove(at);
        }
        first
    }

    /// The frames that wait for a client that has got the broadcasts up to `delivered`.
    pub(super) fn pending(&self, client: &Client, hub: &Hub, delivered: u32) -> Vec<Frame> {
        // Few clients subscribe to more than some topics.
        let mut topics: Vec<u32> = hub.topic_numbers(&client.subscriptions).collect();
        topics.sort_unstable();
        let is_for_it = |audience: &Audience| match audience {
            Audience::Topics(of) => of.iter().any(|topic| topics.binary_search(topic).is_ok()),
            Audience::Everyone => !topics.is_empty(),
        };
        let waiting = self.waiting.iter();
        let is_replaying = client.is_replaying();
        waiting
            .filter(|one| one.number > delivered && one.route == client.route)
            .filter(|one| is_for_it(&one.audience))
            .filter(|one| {
                // The replay brings it.
                let is_replayed = is_replaying && one.is_recorded;
                if is_replayed && let Some(count) = one.frame.delivery_count() {
                    count.remove_recipient();
                }
                !is_replayed
            })
            .map(|one| one.frame.clone())
            .collect()
    }

    /// The next client to be written to. Each step of the walk takes one of `visits`, even to a client that is up to date; `None`:
    /// no visits are left, or nothing waits.
    pub(crate) fn next_recipient(
        &mut self,
        clients: &mut Clients,
        hubs: &mut [Hub],
        visits: &mut usize,
    ) -> Option<ConnId> {
        while *visits > 0 && !self.is_empty() {
            *visits -= 1;
            let Some((index, latest)) = self.walk_on(clients.end(), hubs) else {
                self.pop();
                if self.renumber() {
                    // Once in two billion broadcasts: 10 ms at a million clients.
                    clients.iter_mut().for_each(|client| {
                        client.mark_delivered(0);
                    });
                }
                continue;
            };
            let Some((id, client)) = clients.at(index) else { continue };
            if client.state() == State::Open && client.is_behind(latest) {
                return Some(id);
            }
        }
        None
    }

    /// The slot of the next client of the first message's audience, and the number of the latest broadcast that this walk delivers.
    fn walk_on(&mut self, end: u32, hubs: &mut [Hub]) -> Option<(u32, u32)> {
        let first = self.waiting.front()?;
        let latest = self.latest;
        let walk = self.walk.get_or_insert(Walk { place: 0, latest });
        match &first.audience {
            Audience::Everyone => {
                let index = walk.place;
                walk.place += 1;
                (index < end).then_some((index, walk.latest))
            }
            Audience::Topics(topics) => {
                let hub = &mut hubs[first.route as usize];
                loop {
                    if walk.place > 0
                        && let Some(client) = hub.walk_on()
                    {
                        return Some((client, walk.latest));
                    }
                    let topic = topics.get(walk.place as usize)?;
                    walk.place += 1;
                    hub.begin_walk(*topic);
                }
            }
        }
    }

    /// The bytes of all waiting messages in this encoding, if they have one audience and fit one write. They are gathered once for
    /// all subscribers.
    pub(super) fn gathered(&mut self, encoding: Encoding) -> Option<&[u8]> {
        let first = self.waiting.front()?;
        if self.waiting.len() == 1 {
            let bytes = encoding.of(&first.frame).as_bytes();
            return (bytes.len() <= GATHERED_BYTES_MAX).then_some(bytes);
        }
        let from_to = (first.number, self.latest);
        if self.gathered[encoding as usize].from_to != from_to {
            let mut bytes = self.gathered[encoding as usize].bytes.take().unwrap_or_default();
            bytes.clear();
            let mut fits = self.is_for_one_audience();
            let mut frames = self.waiting.iter().map(|one| encoding.of(&one.frame).as_bytes());
            while fits && let Some(frame) = frames.next() {
                bytes.extend_from_slice(frame);
                fits = bytes.len() <= GATHERED_BYTES_MAX;
            }
            self.gathered[encoding as usize] = Gathered { from_to, bytes: fits.then_some(bytes) };
        }
        self.gathered[encoding as usize].bytes.as_deref()
    }

    /// Restarts the numbers once nothing waits and most are used up. Returns whether it did: the marks of all clients are to be
    /// reset then.
    pub(super) fn renumber(&mut self) -> bool {
        let is_time = self.is_empty() && self.latest > NUMBERS_MAX / 2;
        if is_time {
            self.latest = 0;
            self.gathered = Default::default();
        }
        is_time
    }

    /// Frees the memory of a burst.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Fanout { latest: self.latest, ..Fanout::default() };
        }
    }

    /// Sets the latest number.
    #[cfg(test)]
    pub fn skip_numbers(&mut self, latest: u32) {
        self.latest = latest;
    }
}
