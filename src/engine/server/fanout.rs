//! Fan-out: messages to large topics, given to a part of the subscribers in each turn.
//!
//! A message to few is queued for each of them at once. For a large topic that would be a turn as long as the topic is large, and a
//! box for every subscriber; so the message waits here, and the flush phase walks along the subscribers, as many in a turn as the
//! turn has writes. Each client that the walk meets is offered all waiting messages that are for it, in one write, mostly from one
//! buffer that all of them share.
//!
//! Order holds: before a client is sent anything else, changes its subscriptions or is closed, it
//! [catches up](crate::engine::server::Server::catch_up), and a walk passes clients by that have been served.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::engine::client::delivery_count::CountedFanout;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::{Backlog, GATHERED_BYTES_MAX};
use crate::engine::client::{Client, State};
use crate::engine::pubsub::hub::Hub;
use crate::engine::server::clients::Clients;
use crate::engine::slots::ConnId;

/// Bounds of a backlog that may wait in all, for whatever crowds: half of one for each.
const BACKLOGS_MAX: usize = 4;

/// Numbers are not dealt out to their very end: one message may be a broadcast on each route.
const NUMBERS_MAX: u32 = u32::MAX - 1024;

/// The clients that a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The members of these topics of the route's hub.
    Topics(Rc<[u32]>),
    /// Everyone of the route who listens to anything.
    Everyone,
}

/// One message to a crowd.
#[derive(Debug)]
pub(super) struct Broadcast {
    /// Rises from one to the next. A client knows by it up to where it was served.
    pub number: u32,
    pub route: u8,
    pub audience: Audience,
    pub frame: Frame,
    /// Whether it stands in the history too.
    pub is_recorded: bool,
    /// Ends with the walk, if the frame's deliveries are counted.
    counted: Option<CountedFanout>,
}

/// How much waits for one audience.
#[derive(Debug)]
struct Share {
    route: u8,
    audience: Audience,
    frames: usize,
    bytes: usize,
}

/// How far the first broadcast was dealt out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// The next one of the audience's topics, or the next slot.
    pub place: u32,
    /// The latest broadcast when it began: everyone whom it meets is served up to there.
    pub latest: u32,
}

/// The bytes of all that waited from the first of these numbers to the second.
#[derive(Debug, Default)]
struct Gathered {
    from_to: (u32, u32),
    /// `None`: they are not for one audience alone, or too many for one write.
    bytes: Option<Vec<u8>>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    pub(super) waiting: VecDeque<Broadcast>,
    shares: Vec<Share>,
    /// Of all that waits: asked for at each listener.
    bytes: usize,
    pub(super) latest: u32,
    pub(super) walk: Option<Walk>,
    gathered: Gathered,
    /// Reused for the keys of a publish, and for the topics found by them: see [`Scope::publish`](super::Scope::publish).
    pub(super) keys: String,
    pub(super) found: Vec<u32>,
    /// The number of waiting messages whose deliveries are counted.
    counted: usize,
}

impl Fanout {
    /// Whether everybody has been served.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The number of the latest one.
    pub fn latest(&self) -> u32 {
        self.latest
    }

    /// Whether so much waits that nothing more must come in: half of a backlog's bound for one audience, of which a listener
    /// whose socket is full would have all in its own backlog, or some bounds in all.
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

    /// Bytes of all that waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all that waits is for one audience.
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

    /// The first one's walk is over, and with it those of all for the same audience that waited when it began.
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
        let first = self.waiting.pop_front().expect("the one that is walked waits");
        let is_its =
            |share: &Share| (share.route, &share.audience) == (first.route, &first.audience);
        let at = self.shares.iter().position(is_its).expect("whatever waits has its share");
        self.shares[at].frames -= 1;
        self.shares[at].bytes -= first.frame.as_bytes().len();
        self.bytes -= first.frame.as_bytes().len();
        self.counted -= usize::from(first.counted.is_some());
        if self.shares[at].frames == 0 {
            self.shares.swap_remove(at);
        }
        first
    }

    /// The frames that wait for a client which was served up to `served`.
    pub(super) fn owed(&self, client: &Client, hub: &Hub, served: u32) -> Vec<Frame> {
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
            .filter(|one| one.number > served && one.route == client.route)
            .filter(|one| is_for_it(&one.audience))
            .filter(|one| {
                // It comes to those in the history.
                let is_replayed = is_replaying && one.is_recorded;
                if is_replayed && let Some(count) = one.frame.delivery_count() {
                    count.remove_recipient();
                }
                !is_replayed
            })
            .map(|one| one.frame.clone())
            .collect()
    }

    /// The next client that is to be served. Each step of the walk counts as a visit, also to clients that were served; `None`: no
    /// visits are left, or nothing waits.
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

    /// The slot of the next client of the first message's audience, and the number up to which every client of this walk is served.
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

    /// The bytes of all that waits, if all of it is for one audience and fits one write. They are gathered once for all
    /// listeners.
    pub(super) fn gathered(&mut self) -> Option<&[u8]> {
        let first = self.waiting.front()?;
        if self.waiting.len() == 1 {
            return Some(first.frame.as_bytes());
        }
        let from_to = (first.number, self.latest);
        if self.gathered.from_to != from_to {
            let mut bytes = self.gathered.bytes.take().unwrap_or_default();
            bytes.clear();
            let fits = self.is_for_one_audience() && self.bytes() <= GATHERED_BYTES_MAX;
            let frames = self.waiting.iter().filter(|_| fits).map(|one| one.frame.as_bytes());
            frames.for_each(|frame| bytes.extend_from_slice(frame));
            self.gathered = Gathered { from_to, bytes: fits.then_some(bytes) };
        }
        self.gathered.bytes.as_deref()
    }

    /// Begins to number anew once nothing waits and most numbers are used up. Whether it did: then nobody was served yet.
    pub(super) fn renumber(&mut self) -> bool {
        let is_time = self.is_empty() && self.latest > NUMBERS_MAX / 2;
        if is_time {
            self.latest = 0;
            self.gathered = Gathered::default();
        }
        is_time
    }

    /// Gives back what a burst needed.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Fanout { latest: self.latest, ..Fanout::default() };
        }
    }

    /// As if so many had been dealt out.
    #[cfg(test)]
    pub fn skip_numbers(&mut self, latest: u32) {
        self.latest = latest;
    }
}
