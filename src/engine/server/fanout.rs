//! How broadcasts are dealt out: to a part of the listeners in each turn.
//!
//! A message to few is queued for each of them at once. For a crowd that would be a turn as long as the crowd is large, and a
//! box for everyone; so a broadcast waits, and the flush phase walks along its listeners, as many in a turn as the turn has
//! writes for. Each that it comes to is offered all broadcasts that wait and are for it, in one write, mostly from one buffer
//! that all of them share.
//!
//! Nobody is given anything out of its order: whoever is sent something else, joins, leaves or is closed in the meantime
//! [catches up](Server::catch_up) first, and a walk passes those by who have been served already.

use crate::engine::client::State;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::outbox::GATHERED_BYTES_MAX;
use crate::engine::client::tally::DeliveryCount;
use crate::engine::pending_writes::Lane;
use crate::engine::server::Server;
use crate::engine::server::fanout_queue::{Audience, Walk};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;

/// What came of offering a listener what it is owed.
pub(crate) enum WriteOutcome {
    /// It was owed nothing.
    Nothing,
    /// So many bytes were written; `whole` if that is all, else the rest is kept in a box.
    Written { bytes: usize, whole: bool },
    /// It has something in flight, or is owed too much for one write: so many frames are queued for it now.
    Queued(usize),
    /// The connection is gone.
    Gone,
}

impl Server {
    /// Queues for a client the broadcasts that it is still owed. `None`: its backlog hit a bound; else how many frames that
    /// were.
    pub(crate) fn catch_up(&mut self, id: ConnId) -> Option<usize> {
        let latest = self.fanout.latest();
        let served = match self.open_client(id) {
            Some(client) if client.is_behind(latest) => client.serve(latest),
            _ => return Some(0),
        };
        let owed = self.owed(id, served);
        let slow = self.slow_policy(id);
        let client = self.clients.get_mut(id).expect("it was just found");
        let mut queued = 0;
        for frame in &owed {
            let Some(dropped) = client.queue(frame, &self.backlog, slow) else { break };
            self.metrics.messages_dropped += dropped as u64;
            queued += 1;
        }
        let fits = queued == owed.len();
        if queued > 0 {
            self.schedule_flush(id, Lane::Bulk);
        }
        fits.then_some(queued)
    }

    /// The same for one that is closed as slow if its backlog hit a bound. Whether it is open still.
    pub(crate) fn caught_up(&mut self, id: ConnId) -> bool {
        let fits = self.catch_up(id).is_some();
        if !fits {
            self.close(id, Close::SLOW);
        }
        fits
    }

    /// The frames that wait for a client which was served up to `served`.
    fn owed(&self, id: ConnId, served: u32) -> Vec<Frame> {
        let client = &self.clients[id.index];
        let hub = &self.hubs[client.route as usize];
        // Looked up for each of them; few clients listen to more than some topics.
        let mut topics: Vec<u32> = hub.topic_numbers(&client.subscriptions).collect();
        topics.sort_unstable();
        let is_for_it = |audience: &Audience| match audience {
            Audience::Topics(of) => of.iter().any(|topic| topics.binary_search(topic).is_ok()),
            Audience::Everyone => !topics.is_empty(),
        };
        let waiting = self.fanout.waiting.iter();
        let is_replaying = client.is_replaying();
        waiting
            .filter(|one| one.number > served && one.route == client.route)
            .filter(|one| is_for_it(&one.audience))
            .filter(|one| {
                // It comes to those in the history.
                let is_replayed = is_replaying && one.is_recorded;
                if is_replayed && let Some(tally) = one.frame.tally() {
                    tally.unmet();
                }
                !is_replayed
            })
            .map(|one| one.frame.clone())
            .collect()
    }

    /// The next listener of the broadcasts that wait who was not served yet. Each step of the walk counts as a visit, also to
    /// those who were; `None` when there are no visits left, or nothing waits.
    pub(crate) fn next_recipient(&mut self, visits: &mut usize) -> Option<ConnId> {
        while *visits > 0 && !self.fanout.is_empty() {
            *visits -= 1;
            let Some((index, latest)) = self.walk_on() else {
                self.fanout.pop();
                if self.fanout.renumber() {
                    // Once in two billion broadcasts: 10 ms at a million clients.
                    self.clients.iter_mut().for_each(|client| {
                        client.serve(0);
                    });
                }
                continue;
            };
            let Some((id, client)) = self.clients.at(index) else { continue };
            if client.state() == State::Open && client.is_behind(latest) {
                return Some(id);
            }
        }
        None
    }

    /// The slot of the next one of the first broadcast's audience, and up to where all whom this walk meets are served.
    fn walk_on(&mut self) -> Option<(u32, u32)> {
        let first = self.fanout.waiting.front()?;
        let latest = self.fanout.latest;
        let walk = self.fanout.walk.get_or_insert(Walk { place: 0, latest });
        match &first.audience {
            Audience::Everyone => {
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

    /// Writes to a listener whom the walk has met all broadcasts that it is owed, at once if it has nothing else in flight.
    pub(crate) fn offer(&mut self, id: ConnId, gather: &mut Vec<u8>) -> WriteOutcome {
        let latest = self.fanout.latest();
        let is_much = self.fanout.bytes() > GATHERED_BYTES_MAX;
        let served = match self.open_client(id) {
            None => return WriteOutcome::Nothing,
            Some(client) if is_much || !client.is_hibernating() => {
                return self.offer_queued(id);
            }
            Some(client) => client.serve(latest),
        };
        // A walk along the slots meets also those who listen to nothing.
        let is_owed_all = self.fanout.waiting.front().is_some_and(|first| {
            first.number > served && matches!(first.audience, Audience::Topics(_))
        });
        if is_owed_all && let Some(all) = self.fanout.gathered() {
            let client = self.clients.get_mut(id).expect("it was just found");
            let (length, written) = (all.len(), client.write(id, all));
            return self.keep(id, served, length, written);
        }
        gather.clear();
        self.owed(id, served).iter().for_each(|frame| gather.extend_from_slice(frame.as_bytes()));
        if gather.is_empty() {
            return WriteOutcome::Nothing;
        }
        let client = self.clients.get_mut(id).expect("it was just found");
        let written = client.write(id, gather);
        self.keep(id, served, gather.len(), written)
    }

    fn offer_queued(&mut self, id: ConnId) -> WriteOutcome {
        match self.catch_up(id) {
            Some(frames) => WriteOutcome::Queued(frames),
            None => {
                self.close(id, Close::SLOW);
                WriteOutcome::Queued(1)
            }
        }
    }

    /// Keeps for a client what its socket did not take of what it was owed.
    fn keep(
        &mut self,
        id: ConnId,
        served: u32,
        length: usize,
        written: std::io::Result<usize>,
    ) -> WriteOutcome {
        let Ok(written) = written else {
            self.terminate(id);
            return WriteOutcome::Gone;
        };
        let whole = written == length;
        let now = tick(self.now.millis);
        if !whole || self.fanout.are_counted() {
            let owed = self.owed(id, served);
            if whole {
                owed.iter().filter_map(Frame::tally).for_each(DeliveryCount::wrote_at_once);
            } else {
                let client = self.clients.get_mut(id).expect("it was written to");
                client.keep_unwritten(owed.iter(), written, now);
                self.set_timer(id.index);
            }
        }
        WriteOutcome::Written { bytes: written, whole }
    }
}
