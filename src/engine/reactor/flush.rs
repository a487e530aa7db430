//! The clients' part of the flush phase: who is written to in a turn, and how much of it each takes.

use crate::engine::client::State;
use crate::engine::client::outbox::Written;
use crate::engine::pending_writes::Lane;
use crate::engine::reactor::Reactor;
use crate::engine::server::{Server, WriteOutcome};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;

/// Listeners of broadcasts that were served already and are passed by, for each write that a turn has.
const VISITS_PER_WRITE: usize = 32;

/// Those who came back have as much time of a turn as a part of its writes take, beside these: a herd of them holds nobody up.
const REPLAYS_SHARE: usize = 4;

/// What one of them is given at a time takes about as long as so many writes; then the next user's has its turn.
const REPLAY_STEP: usize = 16;

impl Reactor {
    /// Writes to those who are owed bytes, once each, up to the turn's bound: those who stand in the queue, those who came back,
    /// the listeners of broadcasts, and those who are to be pinged, in turns.
    pub(super) fn flush_clients(&mut self) {
        let mut left = self.router.server.bounds.flush_clients_per_turn;
        let mut replays = left.div_ceil(REPLAYS_SHARE);
        let mut visits = left.saturating_mul(VISITS_PER_WRITE);
        while left > 0 {
            let queued = self.router.server.pending.pop();
            let mut writes = queued.map_or(0, |id| self.flush_client(id));
            let back = (replays > 0).then(|| self.router.server.pending.pop_replay()).flatten();
            let step = replays.min(REPLAY_STEP);
            let replayed = back.map_or(0, |id| self.replay_client(id, step));
            let Server { fanout, clients, hubs, .. } = &mut self.router.server;
            let recipient = fanout.next_recipient(clients, hubs, &mut visits);
            writes += recipient.map_or(0, |id| self.offer(id, &mut visits));
            let pinged = self.router.server.pending.pop_ping();
            writes += pinged.map_or(0, |id| self.ping(id));
            if queued.or(back).or(recipient).or(pinged).is_none() {
                break;
            }
            replays = replays.saturating_sub(replayed);
            left = left.saturating_sub(writes);
        }
        self.router.server.metrics.flushes_put_off += u64::from(self.has_pending_writes());
    }

    /// Writes the broadcasts that a listener is owed. Returns how many writes there were. What is queued for one whose socket is
    /// full takes visits instead.
    fn offer(&mut self, id: ConnId, visits: &mut usize) -> usize {
        match self.router.server.offer(id, &mut self.gather) {
            WriteOutcome::Nothing => 0,
            WriteOutcome::Written { bytes, whole } => {
                self.burst += usize::from(!whole);
                self.router.server.metrics.writes += 1;
                self.router.server.metrics.sent_bytes += bytes as u64;
                1
            }
            WriteOutcome::Queued(frames) => {
                *visits = visits.saturating_sub(frames);
                self.burst += 1;
                self.flush_client(id)
            }
            WriteOutcome::Gone => 1,
        }
    }

    /// Pings a client, without a box for the two bytes if it has none. Returns how many writes there were.
    fn ping(&mut self, id: ConnId) -> usize {
        let server = &mut self.router.server;
        let now = tick(server.now.millis);
        let Some(client) = server.client(id) else { return 0 };
        if client.state() != State::Open {
            return 0;
        }
        if !client.is_hibernating() {
            let is_queued = server.queue(id, &self.ping, Lane::Bulk);
            return if is_queued { self.flush_client(id) } else { 0 };
        }
        match client.write(id, self.ping.as_bytes()) {
            Ok(bytes) => {
                if bytes < self.ping.as_bytes().len() {
                    client.keep_unwritten([&self.ping].into_iter(), bytes, now);
                    server.set_timer(id.index);
                }
                server.metrics.writes += 1;
                server.metrics.sent_bytes += bytes as u64;
            }
            Err(_) => server.terminate(id),
        }
        1
    }

    /// The next part of what one missed that came back, as much as takes the time of so many `writes`. Returns how many it took
    /// the place of: to find messages, and to make frames again, takes time as well.
    fn replay_client(&mut self, id: ConnId, writes: usize) -> usize {
        self.router.server.caught_up(id);
        let replayed = self.router.replay(id, writes);
        self.flush_client(id) + replayed
    }

    /// One write. Returns how many there were.
    fn flush_client(&mut self, id: ConnId) -> usize {
        self.router.server.caught_up(id);
        let server = &mut self.router.server;
        let now = tick(server.now.millis);
        let Some(client) = server.client(id) else {
            return 0;
        };
        let result = client.flush(id, now, &mut self.gather);
        let (state, is_replaying) = (client.state(), client.is_replaying());
        let mut writes = 0;
        match result {
            Ok(None) => {}
            Ok(Some((bytes, written))) => {
                writes = 1;
                server.metrics.writes += 1;
                server.metrics.sent_bytes += bytes as u64;
                match (written, state) {
                    (Written::All, State::Leaving) => server.await_answer(id),
                    (Written::All, State::Closing) => server.linger(id),
                    (Written::All, State::HalfClosed) => server.terminate(id),
                    (Written::Some, _) => server.schedule_flush(id, Lane::Bulk),
                    (Written::Blocked, State::Open) => server.set_timer(id.index),
                    _ => {}
                }
            }
            Err(_) => {
                server.terminate(id);
                return 1;
            }
        }
        if is_replaying && state == State::Open {
            server.schedule_flush(id, Lane::Replay);
        }
        writes
    }
}
