//! What all clients together may make the process hold: `unfinished_bytes_max`, `backlogs_bytes_max` and
//! `memberships_bytes_max`.
//!
//! Bounds on each client are no bound on many: 20,000 that leave 64 KiB of a message unfinished hold 1.3 GB. The sums are kept
//! as they change, so looking at them costs nothing, and only above a bound are the clients looked through. An eighth of the
//! bound is freed then, so it must fill again before that is done once more.

use std::cmp::Reverse;

use crate::clock::Millis;
use crate::engine::client::State;
use crate::engine::client::frame::{Close, frames_bytes};
use crate::engine::client::outbox::places_bytes;
use crate::engine::reactor::Reactor;
use crate::engine::reactor::costly::costliest;

/// When one who was closed for what it left unfinished may come back.
const RETRY: u64 = 5000;

/// When nobody could be closed, the clients are not looked through again for so long.
const PAUSE: Millis = 100;

/// The same is logged again after so long.
const REPEAT: Millis = 1000;

/// When the clients were looked through.
#[derive(Default)]
pub struct Sums {
    not_before: Millis,
    logged: Option<Millis>,
}

impl Reactor {
    /// Stays below all three bounds.
    pub(super) fn hold_sums(&mut self) {
        let now = self.router.server.now.millis;
        if now < self.sums.not_before {
            return;
        }
        let bounds = &self.router.server.bounds;
        let (unfinished_max, backlogs_max) =
            (bounds.unfinished_bytes_max, bounds.backlogs_bytes_max);
        let memberships_max = bounds.memberships_bytes_max;
        if self.router.server.clients.unfinished_bytes > unfinished_max {
            let closed = self.shed_unfinished(unfinished_max);
            self.router.server.metrics.unfinished_shed += closed;
            self.report_shed("unfinished_bytes_max", unfinished_max, closed);
        }
        if backlogs_bytes() > backlogs_max {
            let closed = self.shed_backlogs(backlogs_max);
            self.router.server.metrics.backlogs_shed += closed;
            self.report_shed("backlogs_bytes_max", backlogs_max, closed);
        }
        if self.router.server.memberships_bytes() > memberships_max {
            let closed = self.shed_memberships(memberships_max);
            self.router.server.metrics.memberships_shed += closed;
            self.report_shed("memberships_bytes_max", memberships_max, closed);
        }
    }

    /// Closes those whose head or message is unfinished the longest, but none who holds less than half of an equal share: the
    /// others hold at least half of the bound together. Whoever behaves is done within moments. Returns how many.
    fn shed_unfinished(&mut self, max: usize) -> u64 {
        let server = &mut self.router.server;
        let share = max / server.clients.len().max(1);
        let mut oldest: Vec<_> = server
            .clients
            .iter()
            .map(|(id, client)| (client.unfinished(), id))
            .filter(|((bytes, _), _)| *bytes > share / 2)
            .map(|((_, since), id)| (since, id))
            .collect();
        oldest.sort_unstable_by_key(|(since, _)| *since);
        let mut closed = 0;
        for (_, id) in oldest {
            if server.clients.unfinished_bytes <= max - max / 8 {
                break;
            }
            server.close(id, Close::busy(RETRY, "unfinished_bytes_max: send what you began"));
            closed += 1;
        }
        closed
    }

    /// Closes the deepest backlogs of those whose sockets are full. Returns how many.
    fn shed_backlogs(&mut self, max: usize) -> u64 {
        let server = &mut self.router.server;
        let mut deepest: Vec<_> = server
            .clients
            .iter()
            .filter(|(_, client)| client.is_blocked() && client.state() != State::Terminated)
            .map(|(id, client)| (client.backlog_bytes(), id))
            .collect();
        deepest.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        let mut closed = 0;
        // Freed at the end of the turn.
        let mut buried = 0;
        for (bytes, id) in deepest {
            if backlogs_bytes().saturating_sub(buried) <= max - max / 8 {
                break;
            }
            let is_open = server.client(id).is_some_and(|client| client.state() == State::Open);
            buried += if is_open { 0 } else { bytes };
            server.shed(id, Close::SLOW);
            closed += 1;
        }
        closed
    }

    /// Closes connections of the user whose memberships cost most, then of the next one. Returns how many.
    fn shed_memberships(&mut self, max: usize) -> u64 {
        let server = &mut self.router.server;
        let mut closed = 0;
        for (_, id) in costliest(server, 0, |client| server.memberships_bytes_of(client)) {
            if server.memberships_bytes() <= max - max / 8 {
                break;
            }
            server.close(id, Close::busy(RETRY, "memberships_bytes_max: listen to fewer topics"));
            closed += 1;
        }
        closed
    }

    fn report_shed(&mut self, setting: &str, max: usize, closed: u64) {
        let now = self.router.server.now.millis;
        if closed == 0 {
            self.sums.not_before = now + PAUSE;
        }
        if self.sums.logged.is_none_or(|logged| now >= logged + REPEAT) {
            self.sums.logged = Some(now);
            log::warn!("{setting} ({max} bytes) is exceeded: {closed} clients closed");
        }
    }
}

/// Bytes of all frames that wait, and of their places in the queues.
fn backlogs_bytes() -> usize {
    frames_bytes() + places_bytes()
}
