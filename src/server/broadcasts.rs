//! Messages to a crowd, on their way: dealt out to a part of the listeners in each turn.
//!
//! A message to few is queued for each of them at once. For a crowd that would be a turn as long as the crowd is large, and a
//! box for everyone; so a broadcast waits here, and the flush phase walks along its listeners, as many in a turn as the turn
//! has writes for. Each that it comes to is offered all broadcasts that wait and are for it, in one write, mostly from one
//! buffer that all of them share.
//!
//! Nobody is offered anything out of its order: whoever is sent something else, joins, leaves or is closed in the meantime
//! [catches up](Server::catch_up) first, and a walk passes those by who have been served already.

use std::collections::VecDeque;

use crate::client::frame::{Close, Frame};
use crate::client::outbox::{Backlog, GATHERED_BYTES_MAX};
use crate::client::{Client, State};
use crate::hub::Hub;
use crate::server::Server;
use crate::slots::ConnId;

/// When numbers are dealt out anew, as soon as nothing waits.
const RENUMBER: u32 = u32::MAX / 2;

/// Whom a broadcast is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Audience {
    /// The members of these topics of the route's hub.
    Topics(Box<[u32]>),
    /// Everyone of the route who listens to anything.
    Listeners,
}

#[derive(Debug)]
struct Broadcast {
    /// Rises from one to the next. A client knows by it up to where it was served.
    number: u32,
    route: u8,
    audience: Audience,
    frame: Frame,
}

/// The walk of the first broadcast.
#[derive(Clone, Copy, Debug)]
struct Walk {
    /// The next one of the audience's topics, or the next slot.
    place: u32,
    /// The latest broadcast when it began: everyone whom it meets is served up to there.
    latest: u32,
}

/// Broadcasts that are not dealt out to everybody yet, in their order.
#[derive(Debug, Default)]
pub(crate) struct Broadcasts {
    waiting: VecDeque<Broadcast>,
    /// Bytes of all that wait.
    bytes: usize,
    latest: u32,
    walk: Option<Walk>,
    /// What a listener is owed who is owed everything from the first of these numbers to the second.
    run: (u32, u32),
    run_bytes: Vec<u8>,
}

impl Broadcasts {
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of the latest one.
    pub fn latest(&self) -> u32 {
        self.latest
    }

    /// Whether so much waits that nothing more must come in: a listener whose socket is full would have it all in its backlog.
    pub fn is_full(&self, backlog: &Backlog) -> bool {
        let is_half_full = self.waiting.len() * 2 >= backlog.frames_max
            || self.bytes * 2 >= backlog.bytes_max
            || self.latest == u32::MAX;
        is_half_full && !self.is_empty()
    }

    /// As if so many had been dealt out.
    #[cfg(test)]
    pub fn skip_numbers(&mut self, latest: u32) {
        self.latest = latest;
    }

    fn push(&mut self, route: u8, audience: Audience, frame: Frame) {
        self.latest += 1;
        self.bytes += frame.as_bytes().len();
        self.waiting.push_back(Broadcast { number: self.latest, route, audience, frame });
    }

    /// The first one's walk is over, and with it those of all for the same audience that waited when it began.
    fn pop(&mut self) {
        let walked = self.waiting.pop_front().expect("the one that is walked waits");
        self.bytes -= walked.frame.as_bytes().len();
        let latest = self.walk.take().map_or(walked.number, |walk| walk.latest);
        while let Some(next) = self.waiting.front()
            && next.number <= latest
            && (next.route, &next.audience) == (walked.route, &walked.audience)
        {
            self.bytes -= next.frame.as_bytes().len();
            self.waiting.pop_front();
        }
    }

    /// Those that a client is owed who was served up to `served`.
    fn owed<'a>(
        &'a self,
        client: &'a Client,
        hub: &'a Hub,
        served: u32,
    ) -> impl Iterator<Item = &'a Frame> {
        let mut known: Option<(&Audience, bool)> = None;
        self.waiting
            .iter()
            .filter(move |one| one.number > served && one.route == client.route)
            .filter(move |one| match known {
                Some((audience, is_for_it)) if *audience == one.audience => is_for_it,
                _ => {
                    let is_for_it = one.audience.has(client, hub);
                    known = Some((&one.audience, is_for_it));
                    is_for_it
                }
            })
            .map(|one| &one.frame)
    }

    /// Whether one who was met on the walk is owed all that waits, as far as it is for the same audience. (A walk for all
    /// listeners goes along the slots, and meets also those who listen to nothing.)
    fn is_owed_all(&self, served: u32) -> bool {
        self.waiting.front().is_some_and(|first| {
            first.number > served && matches!(first.audience, Audience::Topics(_))
        })
    }

    /// The bytes of all that waits, if all of it has one audience and fits one write; `None` otherwise.
    fn run(&mut self) -> Option<&[u8]> {
        let first = self.waiting.front()?;
        if self.waiting.len() == 1 {
            return Some(first.frame.as_bytes());
        }
        let run = (first.number, self.latest);
        if self.run != run {
            let same =
                |one: &Broadcast| (one.route, &one.audience) == (first.route, &first.audience);
            self.run_bytes.clear();
            self.run = run;
            if self.bytes <= GATHERED_BYTES_MAX && self.waiting.iter().all(same) {
                let frames = self.waiting.iter().map(|one| one.frame.as_bytes());
                frames.for_each(|frame| self.run_bytes.extend_from_slice(frame));
            }
        }
        (!self.run_bytes.is_empty()).then_some(&self.run_bytes)
    }

    /// Gives back what a burst needed.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.waiting = VecDeque::new();
            self.run = (0, 0);
            self.run_bytes = Vec::new();
        }
    }
}

impl Audience {
    fn has(&self, client: &Client, hub: &Hub) -> bool {
        match self {
            Audience::Topics(topics) => hub.is_member(&client.memberships, topics),
            Audience::Listeners => hub.topics(&client.memberships).next().is_some(),
        }
    }
}

/// What came of offering a listener what it is owed.
pub(crate) enum Offered {
    /// So many bytes were written.
    Written(usize),
    /// It has something in flight, or is owed too much for one write: it stands in the queue now.
    Queued,
    /// The connection is gone.
    Gone,
}

impl Server {
    /// Has a frame dealt out to the members of these topics.
    pub(super) fn broadcast(&mut self, topics: &[u32], frame: Frame) {
        self.broadcasts.push(self.route, Audience::Topics(topics.into()), frame);
    }

    /// Has a frame dealt out to everyone of this route who listens to anything.
    pub fn send_to_listeners(&mut self, frame: Frame) {
        self.broadcasts.push(self.route, Audience::Listeners, frame);
    }

    /// Queues for a client the broadcasts that it is still owed. `false`: its backlog hit a bound.
    pub(crate) fn catch_up(&mut self, id: ConnId) -> bool {
        let latest = self.broadcasts.latest();
        let Some(client) = self.clients.get_mut(id.index) else { return true };
        if client.generation != id.generation || client.state() != State::Open {
            return true;
        }
        let served = client.serve(latest);
        if self.broadcasts.is_empty() || served == latest {
            return true;
        }
        let hub = &self.hubs[client.route as usize];
        let owed = self.broadcasts.owed(client, hub, served).cloned();
        let owed: Vec<Frame> = owed.collect();
        let mut fits = true;
        for frame in owed {
            fits = fits && client.queue(&frame, &self.backlog);
        }
        self.owe(id, crate::flush::Lane::Bulk);
        fits
    }

    /// The next listener of the broadcasts that wait who was not served yet. Each step of the walk counts as a visit, also to
    /// those who were; `None` when there are no visits left, or nothing waits.
    pub(crate) fn next_listener(&mut self, visits: &mut usize) -> Option<ConnId> {
        while *visits > 0 && !self.broadcasts.is_empty() {
            let Some((index, latest)) = self.walk_on(visits) else {
                self.broadcasts.pop();
                if self.broadcasts.is_empty() {
                    self.renumber(RENUMBER);
                }
                continue;
            };
            let Some(client) = self.clients.get(index) else { continue };
            if client.state() == State::Open && client.is_behind(latest) {
                return Some(ConnId { index, generation: client.generation });
            }
        }
        None
    }

    /// The slot of the next one of the first broadcast's audience, and up to where all whom this walk meets are served.
    fn walk_on(&mut self, visits: &mut usize) -> Option<(u32, u32)> {
        let first = self.broadcasts.waiting.front()?;
        let latest = self.broadcasts.latest;
        let walk = self.broadcasts.walk.get_or_insert(Walk { place: 0, latest });
        *visits -= 1;
        match &first.audience {
            Audience::Listeners => {
                let index = walk.place;
                walk.place += 1;
                (index < self.clients.end()).then_some((index, walk.latest))
            }
            Audience::Topics(topics) => {
                let hub = &mut self.hubs[first.route as usize];
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

    /// Writes to a listener all broadcasts that it is owed, at once if it has nothing else in flight.
    pub(crate) fn offer(&mut self, id: ConnId, gather: &mut Vec<u8>) -> Offered {
        let latest = self.broadcasts.latest();
        let client = self.clients.get_mut(id.index).expect("a listener was just met");
        if !client.is_hibernating() || self.broadcasts.bytes > GATHERED_BYTES_MAX {
            if !self.catch_up(id) {
                self.close(id, Close::SLOW);
            }
            return Offered::Queued;
        }
        let served = client.serve(latest);
        let is_for_all = self.broadcasts.is_owed_all(served);
        let hub = &self.hubs[client.route as usize];
        let bytes = match is_for_all.then(|| self.broadcasts.run()).flatten() {
            Some(run) => run,
            None => {
                gather.clear();
                let frames = self.broadcasts.owed(client, hub, served);
                frames.for_each(|frame| gather.extend_from_slice(frame.as_bytes()));
                &gather[..]
            }
        };
        if bytes.is_empty() {
            return Offered::Queued;
        }
        let all = bytes.len();
        let Ok(written) = client.write(id, bytes) else {
            self.bury(id);
            return Offered::Gone;
        };
        if written < all {
            let client = self.clients.get(id.index).expect("it was written to");
            let frames = self.broadcasts.owed(client, hub, served).cloned();
            let frames: Vec<Frame> = frames.collect();
            let client = self.clients.get_mut(id.index).expect("it was written to");
            client.keep_unwritten(frames.iter(), written);
        }
        Offered::Written(written)
    }

    /// Begins to number anew above so many numbers: once in 2 billion broadcasts every client is visited for it.
    fn renumber(&mut self, above: u32) {
        if self.broadcasts.latest > above {
            self.broadcasts.latest = 0;
            self.broadcasts.run = (0, 0);
            self.clients.iter_mut().for_each(|client| {
                client.serve(0);
            });
        }
    }
}
