//! The clients' part of the flush phase: which clients are written to in a turn, and how much of it each takes.

use crate::engine::client::State;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::Written;
use crate::engine::pending_writes::Lane;
use crate::engine::reactor::clients::ClientIo;
use crate::engine::reactor::trim::Trim;
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::engine::server::deflating;
use crate::engine::server::direct_write::{self, WriteOutcome};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;

/// Subscribers already served that the fan-out may pass for each write of a turn.
const VISITS_PER_WRITE: usize = 32;

/// The share of a turn's writes that replays may use in addition, so that a reconnect storm cannot delay live messages.
const REPLAYS_SHARE: usize = 4;

/// The length of a replay's step, in writes; then it is the next user's turn.
const REPLAY_STEP: usize = 16;

impl ClientIo {
    /// Writes to clients with pending writes, once each, up to the turn's bound: the flush queue, replays, the fan-out and pings
    /// take turns.
    pub fn flush(&mut self, router: &mut Router, trim: &mut Trim) {
        let mut left = router.server.bounds.flush_clients_per_turn;
        let mut replays =
            if router.server.requests.are_held() { 0 } else { left.div_ceil(REPLAYS_SHARE) };
        let mut visits = left.saturating_mul(VISITS_PER_WRITE);
        while left > 0 {
            let queued = router.server.pending.pop();
            let mut writes = queued.map_or(0, |id| self.flush_client(router, id));
            let back = (replays > 0).then(|| router.server.pending.pop_replay()).flatten();
            let step = replays.min(REPLAY_STEP);
            let replayed = back.map_or(0, |id| self.replay_client(router, id, step));
            let Server { fanout, clients, hubs, .. } = &mut router.server;
            let recipient = fanout.next_recipient(clients, hubs, &mut visits);
            writes += recipient.map_or(0, |id| self.offer(router, id, &mut visits, trim));
            let pinged = router.server.pending.pop_ping();
            writes += pinged.map_or(0, |id| self.ping(router, id));
            writes += deflating::settle(&mut router.server);
            if queued.or(back).or(recipient).or(pinged).is_none() {
                break;
            }
            replays = replays.saturating_sub(replayed);
            left = left.saturating_sub(writes);
        }
        router.server.metrics.flushes_put_off += u64::from(router.server.has_pending_writes());
    }

    /// Writes a subscriber's pending messages of the fan-out. Returns the number of writes. Queueing for a blocked client takes
    /// visits instead.
    fn offer(
        &mut self,
        router: &mut Router,
        id: ConnId,
        visits: &mut usize,
        trim: &mut Trim,
    ) -> usize {
        match direct_write::offer(&mut router.server, id, &mut self.space) {
            WriteOutcome::Nothing => 0,
            WriteOutcome::Written { bytes, whole } => {
                trim.burst += usize::from(!whole);
                router.server.metrics.writes += 1;
                router.server.metrics.sent_bytes += bytes as u64;
                router.server.close_worn(id);
                1
            }
            WriteOutcome::Queued(frames) => {
                *visits = visits.saturating_sub(frames);
                trim.burst += 1;
                self.flush_client(router, id)
            }
            WriteOutcome::Gone => 1,
        }
    }

    /// Pings a client, without allocating if nothing is in flight. Returns the number of writes.
    fn ping(&mut self, router: &mut Router, id: ConnId) -> usize {
        let server = &mut router.server;
        let now = tick(server.now.millis);
        let ping = self.ping_for(server, id);
        let Some((client, tls)) = server.clients.wire(id) else { return 0 };
        if client.state() != State::Open {
            return 0;
        }
        if !client.is_hibernating() {
            let is_queued = server.queue(id, &ping, Lane::Bulk);
            return if is_queued { self.flush_client(router, id) } else { 0 };
        }
        let bytes = client.encoding().of(&ping).as_bytes();
        match client.write(id, bytes, tls, &mut self.space.sealed) {
            Ok(write) => {
                server.metrics.writes += 1;
                server.metrics.sent_bytes += write.sent as u64;
                if !write.is_whole {
                    client.keep_unwritten([&ping].into_iter(), write, now);
                    server.set_timer(id.index);
                }
            }
            Err(_) => server.terminate(id),
        }
        1
    }

    /// The ping for a client. One that cannot ask for its cursor is told it, so that it does not come back with a stale one.
    fn ping_for(&self, server: &mut Server, id: ConnId) -> Frame {
        let is_one_way = server.client(id).is_some_and(|client| client.encoding().is_one_way());
        let cursor = is_one_way.then(|| server.place_of(id)).flatten();
        cursor.map_or_else(|| self.ping.clone(), |cursor| Frame::heartbeat(&cursor))
    }

    /// Continues a client's replay for about the time of `writes` writes. Returns how many it took: finding messages and encoding
    /// frames takes time as well.
    fn replay_client(&mut self, router: &mut Router, id: ConnId, writes: usize) -> usize {
        router.server.caught_up(id);
        let replayed = router.replay(id, writes);
        self.flush_client(router, id) + replayed
    }

    /// Writes once to a client. Returns the number of writes.
    fn flush_client(&mut self, router: &mut Router, id: ConnId) -> usize {
        router.server.caught_up(id);
        let server = &mut router.server;
        let now = tick(server.now.millis);
        let Some((client, tls)) = server.clients.wire(id) else {
            return 0;
        };
        let result = client.flush(id, now, tls, &mut self.space);
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
                    (Written::All, State::HalfClosed) => server.end(id),
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
        server.close_worn(id);
        writes
    }
}
