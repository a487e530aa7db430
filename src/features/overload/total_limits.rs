//! Limits on sums over all clients: `unfinished_total_bytes_max`, `backlog_total_bytes_max` and `subscriptions_bytes_max`.
//!
//! A limit on each client is none on many: 20,000 clients that leave 64 KiB of a message unfinished hold 1.3 GB. The sums are
//! kept as they change, so a look at them costs nothing; all clients are visited only above a limit. An eighth of the limit is
//! freed then, so that it must fill again before the next visit.

use std::cmp::Reverse;

use super::{Holder, RETRY_MILLIS, close_until, largest};
use crate::clock::{Millis, RateLimit};
use crate::engine::client::State;
use crate::engine::client::frame::{Close, frames_bytes};
use crate::engine::client::queued_frame::places_bytes;
use crate::engine::client::sealed::sealed_bytes;
use crate::engine::server::Server;
use crate::observe::metrics::Metrics;

/// Milliseconds until the next visit if no client could be closed.
const PAUSE: Millis = 100;

/// A limit on a sum over all clients.
struct TotalLimit {
    setting: &'static str,
    max: fn(&Server) -> usize,
    held: fn(&Server) -> usize,
    /// The clients in the order in which they are closed, at a limit of that many bytes.
    order: fn(&Server, usize) -> Vec<Holder>,
    /// Closes a client. Returns the bytes that stay in the sum until the end of the turn.
    close: fn(&mut Server, Holder) -> usize,
    closed: fn(&mut Metrics) -> &mut u64,
}

const TOTAL_LIMITS: [TotalLimit; 3] = [
    TotalLimit {
        setting: "unfinished_total_bytes_max",
        max: |server| server.bounds().unfinished_total_bytes_max,
        held: |server| server.clients.unfinished_bytes,
        order: longest_unfinished,
        close: |server, (_, id)| {
            // The start of a record cannot be given up: what follows it could not be opened, not even the client's close frame.
            let has_record = server.client(id).is_some_and(|client| !client.record().is_empty());
            if has_record {
                server.abort(id);
            } else {
                let text = "unfinished_total_bytes_max: send what you began";
                server.close(id, Close::busy(RETRY_MILLIS, text));
            }
            server.client(id).map_or(0, |client| client.unfinished().0)
        },
        closed: |metrics| &mut metrics.unfinished_shed,
    },
    TotalLimit {
        setting: "backlog_total_bytes_max",
        max: |server| server.bounds().backlog_total_bytes_max,
        // All frames that wait, their places in the queues, and records that were sealed from them.
        held: |_| frames_bytes() + places_bytes() + sealed_bytes(),
        order: deepest_backlogs,
        close: |server, (bytes, id)| {
            let is_open = server.client(id).is_some_and(|client| client.state() == State::Open);
            server.shed(id, Close::SLOW);
            if is_open { 0 } else { bytes }
        },
        closed: |metrics| &mut metrics.backlogs_shed,
    },
    TotalLimit {
        setting: "subscriptions_bytes_max",
        max: |server| server.bounds().subscriptions_bytes_max,
        held: Server::subscriptions_bytes,
        order: |server, _| largest(server, 0, |client| server.subscriptions_bytes_of(client)),
        close: |server, (_, id)| {
            let text = "subscriptions_bytes_max: listen to fewer topics";
            server.close(id, Close::busy(RETRY_MILLIS, text));
            0
        },
        closed: |metrics| &mut metrics.memberships_shed,
    },
];

/// The pace of visits and of log lines.
#[derive(Default)]
pub struct TotalLimits {
    not_before: Millis,
    logged: RateLimit,
}

impl TotalLimits {
    /// Stays below all limits.
    pub fn hold(&mut self, server: &mut Server) {
        let now = server.now().millis;
        if now < self.not_before {
            return;
        }
        for limit in &TOTAL_LIMITS {
            let max = (limit.max)(server);
            if (limit.held)(server) <= max {
                continue;
            }
            let order = (limit.order)(server, max);
            let closed = close_until(server, order, limit.close, |server, later| {
                (limit.held)(server).saturating_sub(later) <= max - max / 8
            });
            *(limit.closed)(server.metrics()) += closed;
            if closed == 0 {
                self.not_before = now + PAUSE;
            }
            if self.logged.allow(now) {
                log::warn!("{} ({max} bytes) is exceeded: {closed} clients closed", limit.setting);
            }
        }
    }
}

/// The clients whose head or message is unfinished the longest, but none that holds less than half of an equal share: the others
/// hold at least half of the limit together. A client that behaves is done within moments.
fn longest_unfinished(server: &Server, max: usize) -> Vec<Holder> {
    let share = max / server.clients.len().max(1);
    let unfinished = server.clients.iter().map(|(id, client)| (client.unfinished(), id));
    let mut found: Vec<_> = unfinished.filter(|((bytes, _), _)| *bytes > share / 2).collect();
    found.sort_unstable_by_key(|((_, since), _)| *since);
    found.into_iter().map(|((bytes, _), id)| (bytes, id)).collect()
}

/// The clients with full sockets, the deepest backlog first.
fn deepest_backlogs(server: &Server, _: usize) -> Vec<Holder> {
    let full = server
        .clients
        .iter()
        .filter(|(_, client)| client.is_blocked() && client.state() != State::Terminated);
    let mut found: Vec<_> = full.map(|(id, client)| (client.backlog_bytes(), id)).collect();
    found.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
    found
}
