//! Places where they are scarce: connections that have not shown yet what they came for lose theirs to newcomers.

use std::collections::VecDeque;

use crate::clock::Millis;
use crate::engine::admission::strangers::Strangers;
use crate::engine::bounds::Bounds;
use crate::engine::client::{Client, Reading, State};
use crate::engine::server::ADMIN_ROUTE;
use crate::engine::server::clients::Clients;
use crate::engine::slots::ConnId;
use crate::engine::timers::{Tick, tick};

/// Clients beyond `clients_max` that are let in only to be told so properly.
const TURNED_AWAY_MAX: usize = 16;

/// Connections to the admin listener.
const ADMINS_MAX: usize = 16;

/// Connections that make room in one turn: each holds its descriptor to the end of the turn.
const VACATED_PER_TURN: usize = 4;

/// The connections that count against a bound, or may make room for others.
#[derive(Default)]
pub(crate) struct Places {
    /// Connections of clients whose head is still read.
    pub handshakes: Strangers<ConnId>,
    /// Open clients that have shown no token yet, where one is expected.
    pub unproven: Strangers<ConnId>,
    /// Connections to the admin listener.
    pub admins: Strangers<ConnId>,
    /// Clients whose end has begun, and that are not gone yet.
    pub ending: usize,
    /// The clients among them that have been written everything, in that order; some are gone since.
    lingering: VecDeque<ConnId>,
}

impl Places {
    /// Notes that a connection sent something: a connection that has sent nothing makes room before it.
    pub fn speak(&mut self, id: ConnId, client: &Client) {
        match (client.state(), client.route) {
            (State::Head, ADMIN_ROUTE) => self.admins.speak(id),
            (State::Head, _) => self.handshakes.speak(id),
            (State::Open, _) if !self.unproven.is_empty() => self.unproven.speak(id),
            _ => {}
        }
    }

    /// Notes that a client waits for its peer's end alone.
    pub fn linger(&mut self, id: ConnId) {
        self.lingering.push_back(id);
    }

    /// A connection is gone.
    pub fn leave(&mut self, id: ConnId) {
        self.handshakes.leave(id);
        self.unproven.leave(id);
        self.admins.leave(id);
    }

    /// Gives the memory of a burst back.
    pub fn shrink(&mut self) {
        self.lingering.shrink_to_fit();
    }

    /// WebSockets that are open.
    pub fn opened_len(&self, clients: &Clients) -> usize {
        self.clients_len(clients) - self.handshakes.len() - self.ending
    }

    /// Clients in any state but gone.
    pub fn clients_len(&self, clients: &Clients) -> usize {
        clients.len() - clients.gone.len() - self.admins.len()
    }

    /// Returns whether `clients_max` clients are open that make room for nobody.
    pub fn is_full(&self, clients: &Clients, bounds: &Bounds) -> bool {
        self.settled_len(clients) >= bounds.clients_max
    }

    /// Open clients that make room for nobody.
    pub fn settled_len(&self, clients: &Clients) -> usize {
        self.opened_len(clients) - self.unproven.len()
    }

    /// Returns when the next handshake may begin, or is told that the server is full.
    pub fn next_handshake(&self, clients: &Clients, bounds: &Bounds, now: Millis) -> Millis {
        let is_crowded = self.handshakes.len() >= bounds.handshakes_max;
        if !is_crowded && !self.has_no_slot(clients, bounds) {
            return now;
        }
        let lingers = || self.lingering.iter().any(|id| is_lingering(clients, *id));
        let has_room = (!is_crowded && lingers()) || self.silent_handshake(clients, now).is_some();
        let is_vacant = has_room && clients.gone.len() < VACATED_PER_TURN;
        // Handshakes that began in this turn, or wait to be read, have made room by the next one.
        if is_vacant || self.handshakes.is_empty() { now } else { now + 1 }
    }

    /// Returns whether one connection more needs the slot of another one.
    pub fn has_no_slot(&self, clients: &Clients, bounds: &Bounds) -> bool {
        self.clients_len(clients) >= bounds.clients_max + TURNED_AWAY_MAX
    }

    /// The handshake that makes room for one that begins now. A handshake whose bytes wait to be read keeps its place.
    pub fn silent_handshake(&self, clients: &Clients, now: Millis) -> Option<ConnId> {
        let is_idle = |id: &ConnId| clients[id.index].reading == Reading::Idle;
        self.handshakes.first(now).filter(is_idle)
    }

    /// Takes the client that has lingered for longest.
    pub fn take_lingering(&mut self, clients: &Clients) -> Option<ConnId> {
        std::iter::from_fn(|| self.lingering.pop_front()).find(|id| is_lingering(clients, *id))
    }

    /// Takes clients that are gone off the front of the queue.
    pub fn forget_lingering(&mut self, clients: &Clients) {
        while self.lingering.front().is_some_and(|id| !is_lingering(clients, *id)) {
            self.lingering.pop_front();
        }
    }

    /// Returns when the admin listener has room.
    pub fn next_admin(&self, clients: &Clients, now: Millis) -> Millis {
        let is_vacant = clients.gone.len() < VACATED_PER_TURN && self.admins.first(now).is_some();
        if self.has_admin_room() || is_vacant { now } else { now + 1 }
    }

    pub fn has_admin_room(&self) -> bool {
        self.admins.len() < ADMINS_MAX
    }
}

fn is_lingering(clients: &Clients, id: ConnId) -> bool {
    clients.get(id).is_some_and(|client| client.state() == State::Lingering)
}

/// The client whose ping is unanswered for longest, and for at least `patience`: its phone may have changed the network.
pub(super) fn longest_unanswered(
    clients: &Clients,
    of: impl Iterator<Item = ConnId>,
    now: Millis,
    patience: Tick,
) -> Option<ConnId> {
    let now = tick(now).saturating_sub(patience);
    let owing = of.filter_map(|id| {
        let since = clients.get(id)?.pong_awaited_since(id.index, now, &clients.timing)?;
        Some((since, id))
    });
    owing.min().map(|(_, id)| id)
}
