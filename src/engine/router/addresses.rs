//! Where clients come from, when proxies in front bring them.

use std::net::{IpAddr, Ipv4Addr};

use super::Router;
use crate::engine::client::State;
use crate::engine::client::forwarded::client_address;
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::slots::ConnId;
use crate::engine::timers::{TICKS_PER_SECOND, Tick};

/// How long a ping may be unanswered where the newcomer has shown no token.
const PATIENCE: Tick = 3 * TICKS_PER_SECOND;

/// Why an address is refused.
pub(super) const CROWDED: &str = "too many connections from this address";

impl Router {
    /// A request with the address that it comes from, which is counted from here on. Until then a client behind a proxy counts for
    /// no address: `handshakes_max` bounds those who never say theirs.
    pub(super) fn locate(&mut self, id: ConnId, request: Request) -> Request {
        let source = request.known_address().unwrap_or_else(|| self.peer(id));
        let address = client_address(&request, source, &self.proxies).unwrap_or_else(|| {
            self.server.metrics.forwarded_malformed += 1;
            self.log_proxy(
                source,
                "says no address in X-Forwarded-For: its client counts as the proxy",
            );
            source
        });
        if request.is_upgrade() && self.proxies.has(address) {
            self.server.metrics.forwarded_missing += 1;
        }
        self.place(id, address);
        request.from_address(Some(address))
    }

    /// Counts a client whose proxy has said where it comes from, and whose request is still to come: those of one address that
    /// never finish theirs must not hold every handshake.
    pub(crate) fn count_announced(&mut self, id: ConnId) {
        let client = self.server.client(id).filter(|client| client.state() == State::Head);
        let Some(address) = client.and_then(|client| client.announced()) else { return };
        // One that is listed itself may bring many.
        if !self.proxies.has(address) && !self.addresses.has(id) {
            self.place(id, address);
            if self.addresses.is_of_crowd(id) {
                self.refuse_crowd(id, Method::Get);
            }
        }
    }

    fn place(&mut self, id: ConnId, address: IpAddr) {
        self.addresses.enter(id, address);
        self.server.places.handshakes.locate(id, address);
    }

    /// Whether a connection of the same address owes the answer to a ping.
    pub(super) fn has_dead_twin(&self, id: ConnId) -> bool {
        let mut beside = self.addresses.beside(id).into_iter().flatten();
        beside.any(|twin| self.server.owes_pong(*twin))
    }

    /// Has such a one make room for a client that was let in. Returns whether there was one. A client that has shown no token takes
    /// no place of one that may only be slow to answer.
    pub(super) fn vacate_twin(&mut self, id: ConnId) -> bool {
        let client = self.server.clients.get(id);
        let is_user = client.and_then(|client| self.server.user_of(client)).is_some();
        let beside = self.addresses.beside(id).into_iter().flatten();
        let twin = self.server.vacate_dead(beside.copied(), if is_user { 0 } else { PATIENCE });
        twin.inspect(|twin| self.addresses.leave(*twin)).is_some()
    }

    /// Refuses one of an address that has far too many already: each that took a slot to be told so would take it from the clients
    /// of all others for as long as it lingers.
    pub(super) fn refuse_crowd(&mut self, id: ConnId, method: Method) {
        let response = Response::text(429, CROWDED).with("Retry-After", "5").answering(method);
        self.complain_of_answer(id, None, &response);
        self.server.turn_away(id, &response);
    }

    /// A connection that does not begin as one of a proxy in front has to.
    pub(super) fn refuse_unproxied(&mut self, id: ConnId) {
        let address = self.peer(id);
        self.unproxied(address, "sent no PROXY header of version 2, or one too long");
        self.server.terminate(id);
    }

    /// Counts a connection that is closed because it is none of a proxy in front.
    pub fn unproxied(&mut self, address: IpAddr, why: &str) {
        self.server.metrics.unproxied += 1;
        self.log_proxy(address, why);
    }

    fn log_proxy(&mut self, address: IpAddr, what: &str) {
        if self.proxies_logged.allow(self.server.now.millis) {
            log::warn!("{address} {what}");
        }
    }

    pub(super) fn peer(&mut self, id: ConnId) -> IpAddr {
        // During a handshake it is known from the accept, which saves a system call.
        let accepted =
            self.server.places.handshakes.address(id).filter(|one| !one.is_unspecified());
        let of_socket = || self.server.client(id)?.transport.peer(id);
        accepted.or_else(of_socket).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
    }
}
