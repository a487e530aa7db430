//! Users that come and go, noted for features that watch them. A client's user is the user of its own topic.

use crate::engine::client::State;
use crate::engine::pubsub::hub::{Hub, Reason};
use crate::engine::pubsub::topic::user_of;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// A client of a user came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserChange {
    pub user: Box<str>,
    pub has_come: bool,
    /// The client, and its route.
    pub id: ConnId,
    pub route: u8,
}

/// Changes that no feature was told yet.
#[derive(Debug, Default)]
pub struct UserChanges {
    /// `None`: no feature watches users.
    noted: Option<Vec<UserChange>>,
}

impl UserChanges {
    /// Begins to note changes, unless that has begun. A feature that begins while clients are there asks for [`users_there`].
    pub fn watch(&mut self) {
        self.noted.get_or_insert_default();
    }

    /// Stops noting changes. Clients that are sent away in a drain come back to other nodes: that is no event.
    pub fn ignore(&mut self) {
        self.noted = None;
    }

    pub(super) fn are_watched(&self) -> bool {
        self.noted.is_some()
    }

    /// Takes the changes since the last call, in their order.
    pub fn take(&mut self) -> Vec<UserChange> {
        self.noted.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Notes that a client begins or ends the subscription to its own topic.
    pub(super) fn note(&mut self, own: &str, has_come: bool, (id, route): (ConnId, u8)) {
        if let (Some(noted), Some(user)) = (&mut self.noted, user_of(own)) {
            noted.push(UserChange { user: user.into(), has_come, id, route });
        }
    }
}

/// The open clients of a hub's route whose own topic has this key, the latest first.
pub(super) fn owners_in<'a>(
    server: &'a Server,
    hub: &'a Hub,
    key: &'a str,
) -> impl Iterator<Item = ConnId> + 'a {
    let subscribers = hub.find(key).into_iter().flat_map(|topic| hub.subscribers(topic));
    let open = subscribers.filter(move |index| {
        let client = &server.clients[*index];
        client.state() == State::Open && hub.reason(&client.subscriptions, key) == Some(Reason::Own)
    });
    open.map(|index| server.clients.id(index))
}

/// The open clients of all users, as if they came now.
pub fn users_there(server: &Server) -> impl Iterator<Item = UserChange> {
    let open = server.clients.iter().filter(|(_, client)| client.state() == State::Open);
    open.filter_map(|(id, client)| {
        let hub = server.hubs.get(client.route as usize)?;
        let (own, _) = hub.topics(&client.subscriptions).find(|one| one.1 == Reason::Own)?;
        Some(UserChange { user: user_of(own)?.into(), has_come: true, id, route: client.route })
    })
}
