//! What back ends have done with the connections of a route.
//!
//! What an order joins, a client hears until it disconnects, whatever newer tokens say. For good it is only in the
//! back end's own records, which the next token is made from: kept here as well, it would be a second authority beside
//! the token, and one that no other node knows of.

use super::Push;
use super::wire;
use crate::engine::client::frame::Close;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::Grant;
use crate::engine::server::Scope;
use crate::engine::slots::ConnId;
use crate::features::control::order::{Order, Target};

impl Push {
    /// Returns on how many clients it was carried out, or how many listen.
    pub(super) fn carry_out(&mut self, server: &mut Scope<'_>, order: &Order) -> usize {
        match order {
            Order::Kick { whom, reason } => {
                let close = match reason {
                    Some(reason) => Close::KICKED.because(wire::reason(reason)),
                    None => Close::KICKED,
                };
                let kicked = connections(server, whom);
                kicked.iter().for_each(|id| server.close(*id, close.clone()));
                kicked.len()
            }
            Order::Join { whom, topic } => {
                let joining = connections(server, whom).into_iter();
                joining.filter(|id| join(server, *id, topic)).count()
            }
            Order::Leave { whom, topic } => {
                let leaving = connections(server, whom).into_iter();
                leaving.filter(|id| leave(server, *id, topic)).count()
            }
            Order::Count { topic, .. } => server.subscribers(topic),
        }
    }
}

/// Those of this route.
fn connections(server: &Scope<'_>, whom: &Target) -> Vec<ConnId> {
    match whom {
        Target::User(own) => server.owners(own),
        Target::Connection(name) => server.connection(name).into_iter().collect(),
    }
}

/// Whether the client listens to it from now on because of the order. Another user's topic is never joined: an order that
/// names the wrong user must not show one user's messages to another.
fn join(server: &mut Scope<'_>, id: ConnId, topic: &Grant) -> bool {
    if topic.is_user() {
        return false;
    }
    let key = topic.key();
    if server.reason(id, key).is_some() {
        server.set_reason(id, key, Reason::Joined);
        return true;
    }
    if server.topics_len(id) >= server.bounds().topics_per_client_max {
        server.metrics().topics_refused += 1;
        return false;
    }
    server.subscribe(id, key, Reason::Joined)
}

/// Whether the client listened to it. Its own topic stays: whoever is to hear nothing is kicked.
fn leave(server: &mut Scope<'_>, id: ConnId, topic: &Grant) -> bool {
    // An admin's `*` is two.
    let keys = topic.keys(true);
    let left = keys
        .filter(|key| server.reason(id, key) != Some(Reason::Own) && server.unsubscribe(id, key));
    left.count() > 0
}
