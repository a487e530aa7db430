//! The addresses of clients: the peer's or the one that a trusted proxy gives, and the limit on connections from each.

use std::net::{IpAddr, Ipv4Addr};

use super::Router;
use crate::engine::admission::address_counts::AddressLoad;
use crate::engine::client::State;
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::slots::ConnId;
use crate::engine::timers::{TICKS_PER_SECOND, Tick};

/// The time for which a ping may be unanswered before a newcomer without a token takes the client's place.
const PATIENCE: Tick = 3 * TICKS_PER_SECOND;

/// The reason given to a client of an address above its limit.
pub(super) const CROWDED: &str = "too many connections from this address";

/// The trust in proxies in front of the server.
pub trait ProxyPolicy {
    /// Returns whether a peer is trusted to bring clients of other addresses.
    fn is_proxy(&self, peer: IpAddr) -> bool;

    /// Returns the address of the client whose request came from `peer`; `None`: a proxy gives one that cannot be read.
    fn client_address(&self, peer: IpAddr, request: &Request) -> Option<IpAddr>;
}

impl Router {
    /// Returns a request with its client's address, under which the client counts from here on. Until then a client behind a
    /// proxy counts under no address: `handshakes_max` limits clients that never give theirs.
    pub(super) fn locate(&mut self, id: ConnId, request: Request) -> Request {
        let peer = request.known_address().unwrap_or_else(|| self.peer(id));
        let address = self.proxies.client_address(peer, &request).unwrap_or_else(|| {
            self.server.metrics.forwarded_malformed += 1;
            let what = "says no address in X-Forwarded-For: its client counts as the proxy";
            self.log_proxy(peer, what);
            peer
        });
        if request.is_upgrade() && self.proxies.is_proxy(address) {
            self.server.metrics.forwarded_missing += 1;
        }
        self.count(id, address);
        request.from_address(Some(address))
    }

    /// Counts a client under the address of its PROXY header before its request is complete: clients of one address that never
    /// complete theirs must not hold every handshake.
    pub(crate) fn count_announced(&mut self, id: ConnId) {
        let client = self.server.client(id).filter(|client| client.state() == State::Head);
        let Some(address) = client.and_then(|client| client.announced()) else { return };
        // Another proxy may bring many clients.
        if !self.proxies.is_proxy(address) && !self.addresses.has(id) {
            self.count(id, address);
            if self.addresses.load(id) == AddressLoad::FarAbove {
                self.refuse_crowded(id, Method::Get);
            }
        }
    }

    fn count(&mut self, id: ConnId, address: IpAddr) {
        self.addresses.enter(id, address);
        self.server.places.handshakes.locate(id, address);
    }

    /// Returns whether a client of the same address owes the answer to a ping.
    pub(super) fn has_unresponsive_neighbour(&self, id: ConnId) -> bool {
        self.addresses.beside(id).any(|other| self.server.owes_pong(other))
    }

    /// Closes such a client in favour of one that was let in. Returns whether there was one. A client without a token does not
    /// replace one that may only be slow to answer.
    pub(super) fn replace_unresponsive(&mut self, id: ConnId) -> bool {
        let client = self.server.clients.get(id);
        let is_user = client.and_then(|client| self.server.user_of(client)).is_some();
        let patience = if is_user { 0 } else { PATIENCE };
        let replaced = self.server.vacate_dead(self.addresses.beside(id), patience);
        replaced.inspect(|other| self.addresses.leave(*other)).is_some()
    }

    /// Refuses a connection of an address that is far above its limit, and frees its slot at once: while it lingers it would
    /// take the slot from the clients of all others.
    pub(super) fn refuse_crowded(&mut self, id: ConnId, method: Method) {
        let response = Response::text(429, CROWDED).with("Retry-After", "5").answering(method);
        self.complain_of_answer(id, None, &response);
        self.server.turn_away(id, &response);
    }

    /// Closes a connection that does not begin with a PROXY header.
    pub(super) fn refuse_unproxied(&mut self, id: ConnId) {
        let address = self.peer(id);
        self.count_unproxied(address, "sent no PROXY header of version 2, or one too long");
        self.server.terminate(id);
    }

    /// Counts a connection that is closed because it does not come by a proxy, and logs why.
    pub fn count_unproxied(&mut self, address: IpAddr, why: &str) {
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
