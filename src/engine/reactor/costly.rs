//! Who makes the process hold most: the connections of a user count together, so that nobody costs less by having more of them.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::engine::client::Client;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// Lists the clients that cost at least `least` bytes together with their user's others: the costliest user's first, and of each
/// user the costliest first.
pub(super) fn costliest(
    server: &Server,
    least: usize,
    cost: impl Fn(&Client) -> usize,
) -> Vec<(usize, ConnId)> {
    let all = server.clients.iter().map(|(id, client)| {
        // One without a user is alone.
        let user =
            server.user_of(client).map_or((None, id.index), |user| (Some(client.route), user));
        (user, cost(client), id)
    });
    let all: Vec<_> = all.filter(|(_, bytes, _)| *bytes > 0).collect();
    let mut sums: HashMap<(Option<u8>, u32), usize> = HashMap::new();
    for (user, bytes, _) in &all {
        *sums.entry(*user).or_default() += bytes;
    }
    let with_sums = all.into_iter().map(|(user, bytes, id)| (sums[&user], user, bytes, id));
    let mut found: Vec<_> = with_sums.filter(|(sum, ..)| *sum >= least).collect();
    found.sort_unstable_by_key(|(sum, user, bytes, id)| Reverse((*sum, *user, *bytes, *id)));
    found.into_iter().map(|(_, _, bytes, id)| (bytes, id)).collect()
}
