//! Room where places are scarce: connections that have not shown yet what they came for lose theirs to newcomers.

use std::net::IpAddr;

use super::{ADMIN_ROUTE, Server};
use crate::clock::Millis;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::Response;
use crate::engine::client::{Reading, State};
use crate::engine::slots::ConnId;
use crate::engine::timers::{Tick, tick};
use crate::observe::complaints::{Origin, Weight};

/// Clients beyond `clients_max` that are let in only to be told so properly.
const TURNED_AWAY_MAX: usize = 16;

/// Connections to the admin listener.
const ADMINS_MAX: usize = 16;

/// Strangers that make room in one turn: each holds its descriptor to the end of the turn.
const VACATED_PER_TURN: usize = 4;

impl Server {
    /// Closes a client with 4501 after `auth_seconds` unless a token is shown: see [`Server::welcome`]. Until then it is a
    /// stranger, and makes room for others once `clients_max` is reached.
    pub fn await_token(&mut self, id: ConnId, address: IpAddr) {
        self.close_after(id, self.bounds.auth_seconds, Close::NO_TOKEN.code);
        if self.open_client(id).is_some() {
            self.unproven.enter(id, address, self.now.millis);
        }
    }

    /// A client has shown who it is.
    pub fn welcome(&mut self, id: ConnId) {
        self.unproven.leave(id);
    }

    /// Notes that a client sent something: those who have said nothing make room before it.
    pub(crate) fn note_spoken(&mut self, id: ConnId) {
        let Some((state, route)) = self.client(id).map(|one| (one.state(), one.route)) else {
            return;
        };
        match (state, route) {
            (State::Head, ADMIN_ROUTE) => self.admins.speak(id),
            (State::Head, _) => self.handshakes.speak(id),
            (State::Open, _) if !self.unproven.is_empty() => self.unproven.speak(id),
            _ => {}
        }
    }

    /// How many WebSockets there are.
    pub(crate) fn opened_len(&self) -> usize {
        self.clients_len() - self.handshakes.len() - self.ended
    }

    /// Whether `clients_max` are there that nobody can take the place of.
    pub(crate) fn is_full(&self) -> bool {
        self.opened_len() - self.unproven.len() >= self.bounds.clients_max
    }

    /// When the next handshake may begin, or is told that the server is full.
    pub(crate) fn room_at(&self) -> Millis {
        let now = self.now.millis;
        let is_crowded = self.handshakes.len() >= self.bounds.handshakes_max;
        if !is_crowded && !self.has_no_slot() {
            return now;
        }
        let has_room = (!is_crowded && self.lingers()) || self.silent_handshake(now).is_some();
        let is_vacant = has_room && self.dead.len() < VACATED_PER_TURN;
        // Handshakes that began in this turn, or wait to be read, have made room by the next one.
        if is_vacant || self.handshakes.is_empty() { now } else { now + 1 }
    }

    /// Whether a connection more needs the slot of another one.
    fn has_no_slot(&self) -> bool {
        self.clients_len() >= self.bounds.clients_max + TURNED_AWAY_MAX
    }

    /// The handshake that makes room for one that begins now. One whose bytes wait to be read keeps its place.
    fn silent_handshake(&self, now: Millis) -> Option<ConnId> {
        let waits = |id: &ConnId| self.clients[id.index].reading == Reading::Idle;
        self.handshakes.first(now).filter(waits)
    }

    /// Makes room for a connection to the clients' listener. Returns whether it has a slot.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.handshakes.len() >= self.bounds.handshakes_max {
            self.vacate(self.silent_handshake(self.now.millis), "handshakes_max");
        }
        !self.has_no_slot()
            || self.vacate_lingering()
            || self.vacate(self.silent_handshake(self.now.millis), "clients_max")
            || self.vacate_unproven()
    }

    /// Takes those that are gone off the front of the queue.
    pub(super) fn forget_lingering(&mut self) {
        while self.lingering.front().is_some_and(|id| !self.is_lingering(*id)) {
            self.lingering.pop_front();
        }
    }

    /// Whether a client is there that waits for nothing but its peer's end.
    fn lingers(&self) -> bool {
        self.lingering.iter().any(|id| self.is_lingering(*id))
    }

    fn is_lingering(&self, id: ConnId) -> bool {
        let client = self.clients.get(id);
        client.is_some_and(|client| client.state() == State::Lingering)
    }

    /// Drops the client that has lingered for longest. Returns whether there was one.
    fn vacate_lingering(&mut self) -> bool {
        while let Some(id) = self.lingering.pop_front() {
            if self.is_lingering(id) {
                self.terminate(id);
                return true;
            }
        }
        false
    }

    /// Makes room for a client by closing one that has shown no token yet. Returns whether there was one.
    pub(crate) fn vacate_unproven(&mut self) -> bool {
        self.vacate(self.unproven.first(self.now.millis + 1), "clients_max")
    }

    /// When the admin listener has room.
    pub(crate) fn admin_room_at(&self) -> Millis {
        let now = self.now.millis;
        let is_vacant = self.dead.len() < VACATED_PER_TURN && self.admins.first(now).is_some();
        if self.admins.len() < ADMINS_MAX || is_vacant { now } else { now + 1 }
    }

    /// Frees a descriptor at the end of the turn, where the process has no other one left.
    pub(crate) fn make_descriptor_room(&mut self) {
        if !self.vacate_lingering() {
            self.vacate(self.silent_handshake(self.now.millis), "descriptors");
        }
    }

    /// Makes room for a connection to the admin listener. Returns whether it has a slot.
    pub(crate) fn make_admin_room(&mut self) -> bool {
        self.admins.len() < ADMINS_MAX
            || self.vacate(self.admins.first(self.now.millis), "the admin listener's 16")
    }

    fn vacate(&mut self, stranger: Option<ConnId>, bound: &'static str) -> bool {
        let Some(id) = stranger else { return false };
        let Some(client) = self.client(id) else { return false };
        let (state, address) = (client.state(), client.transport.peer(id));
        self.metrics.strangers_vacated += 1;
        self.complain("place", Weight::Curable, Origin { path: None, address }, || {
            format!("all places are taken ({bound}): who has longest said nothing made room")
        });
        match state {
            State::Head => {
                let text = "others need this place: send the request at once";
                self.turn_away(id, &Response::text(503, text).with("Retry-After", "1"));
            }
            State::Open => {
                let close =
                    Close::busy(1000, "others need this place: show the token in the handshake");
                *self.metrics.closes.entry(close.code).or_default() += 1;
                self.hang_up(id, Frame::close(&close).as_bytes());
            }
            _ => self.give_up(id),
        }
        true
    }

    /// Whether a client owes the answer to a ping.
    pub(crate) fn owes_pong(&self, id: ConnId) -> bool {
        let now = tick(self.now.millis);
        let client = self.clients.get(id);
        client.is_some_and(|one| one.owes_pong_since(id.index, now, &self.clients.timing).is_some())
    }

    /// Closes the one of these clients that has owed the answer to a ping for longest, and for `patience` at least: it may have
    /// been dead since its phone changed the network. Returns it, if one owes any.
    pub(crate) fn vacate_dead(
        &mut self,
        clients: impl Iterator<Item = ConnId>,
        patience: Tick,
    ) -> Option<ConnId> {
        let now = tick(self.now.millis).saturating_sub(patience);
        let owing = clients.filter_map(|id| {
            let client = self.clients.get(id)?;
            client.owes_pong_since(id.index, now, &self.clients.timing).map(|since| (since, id))
        });
        let (_, id) = owing.min()?;
        self.metrics.strangers_vacated += 1;
        *self.metrics.closes.entry(Close::SILENT.code).or_default() += 1;
        self.complain_of_close(id, &Close::SILENT);
        self.hang_up(id, Frame::close(&Close::SILENT).as_bytes());
        Some(id)
    }
}
