//! Overload protection: limits on the memory of all clients together, and the choice of those that are closed at a limit.
//!
//! A client is closed for what it makes the process hold. The connections of a user count together, so that nobody is cheaper by
//! having more of them.

mod memory_limit;
mod total_limits;

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::clock::Millis;
use crate::engine::client::Client;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::server::Server;
use crate::engine::slots::ConnId;
use memory_limit::MemoryLimit;
use total_limits::TotalLimits;

/// Milliseconds after which a client that was closed at a limit may come back.
const RETRY_MILLIS: u64 = 5000;

/// The limits `memory_max`, `unfinished_total_bytes_max`, `backlog_total_bytes_max` and `subscriptions_bytes_max`.
pub struct Overload {
    memory: MemoryLimit,
    totals: TotalLimits,
}

impl Overload {
    /// `trim` makes the allocator return free memory to the system.
    pub fn new(trim: Option<fn()>) -> Overload {
        Overload { memory: MemoryLimit::new(trim), totals: TotalLimits::default() }
    }
}

impl Feature for Overload {
    fn name(&self) -> &'static str {
        "overload"
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        if let FeatureEvent::Tick = event {
            self.totals.hold(server);
            self.memory.hold(server);
        }
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        self.memory.deadline(server)
    }
}

/// Bytes that a client holds, and its id.
type Holder = (usize, ConnId);

/// Closes clients in this order until `is_enough`, which is given the bytes that `close` reported. Returns the number closed.
fn close_until(
    server: &mut Server,
    order: Vec<Holder>,
    close: impl Fn(&mut Server, Holder) -> usize,
    is_enough: impl Fn(&Server, usize) -> bool,
) -> u64 {
    let (mut closed, mut reported) = (0, 0);
    for holder in order {
        if is_enough(server, reported) {
            break;
        }
        reported += close(server, holder);
        closed += 1;
    }
    closed
}

/// Lists the clients whose users hold at least `least` bytes: the largest user's first, and of each user the largest first.
/// A client without a user stands alone.
fn largest(server: &Server, least: usize, bytes: impl Fn(&Client) -> usize) -> Vec<Holder> {
    let holders = server.clients.iter().map(|(id, client)| {
        let user = server.user_of(client).map(|user| (client.route, user));
        (user.ok_or(id), bytes(client), id)
    });
    let holders: Vec<_> = holders.filter(|(_, bytes, _)| *bytes > 0).collect();
    let mut sums: HashMap<Result<(u8, u32), ConnId>, usize> = HashMap::new();
    for (user, bytes, _) in &holders {
        *sums.entry(*user).or_default() += bytes;
    }
    let with_sums = holders.into_iter().map(|(user, bytes, id)| (sums[&user], user, bytes, id));
    let mut found: Vec<_> = with_sums.filter(|(sum, ..)| *sum >= least).collect();
    found.sort_unstable_by_key(|(sum, user, bytes, id)| Reverse((*sum, *user, *bytes, *id)));
    found.into_iter().map(|(_, _, bytes, id)| (bytes, id)).collect()
}
