//! The addresses of clients: the peer's or the one that a trusted proxy gives, and the limit on connections from each.

use std::net::{IpAddr, Ipv4Addr};

use crate::clock::RateLimit;
use crate::engine::admission::address_counts::{AddressCounts, AddressLoad};
use crate::engine::client::State;
use crate::engine::client::frame::Close;
use crate::engine::client::http::Request;
use crate::engine::server::Server;
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

/// Connections per address, and the proxies that are believed.
pub struct ClientAddresses {
    pub proxies: Box<dyn ProxyPolicy>,
    /// Whether clients connect by proxies alone, each with a PROXY header.
    pub requires_header: bool,
    pub counts: AddressCounts,
    /// For words of proxies that cannot be understood.
    logged: RateLimit,
}

impl ClientAddresses {
    /// `max`: connections of one address; 0: any number.
    pub fn new(
        proxies: Box<dyn ProxyPolicy>,
        requires_header: bool,
        max: usize,
    ) -> ClientAddresses {
        let (counts, logged) = (AddressCounts::new(max), RateLimit::default());
        ClientAddresses { proxies, requires_header, counts, logged }
    }

    /// Counts a connection whose client is its peer.
    pub fn enter(&mut self, id: ConnId, address: IpAddr) {
        self.counts.enter(id, address);
    }

    /// Returns the address under which a connection is counted.
    pub fn counted(&self, id: ConnId) -> Option<IpAddr> {
        self.counts.address(id)
    }

    /// Forgets a connection that is gone.
    pub fn leave(&mut self, id: ConnId) {
        self.counts.leave(id);
    }

    /// Returns the load of the address of a connection that is counted.
    pub fn load(&self, id: ConnId) -> AddressLoad {
        self.counts.load(id)
    }

    /// Returns whether an address is so far above its limit that one more connection of it is not even read.
    pub fn is_crowded(&self, address: IpAddr) -> bool {
        self.counts.load_with_another(address) == AddressLoad::FarAbove
    }

    /// Returns a request that knows whether a proxy sent it and which client's it is. From here on the client counts under its
    /// address. Until then a client behind a proxy counts under none: `handshakes_max` limits clients that never give theirs.
    pub fn locate(&mut self, server: &mut Server, id: ConnId, request: Request) -> Request {
        let peer = request.known_address().unwrap_or_else(|| peer(server, id));
        let is_from_proxy = self.proxies.is_proxy(peer);
        let address = self.proxies.client_address(peer, &request).unwrap_or_else(|| {
            server.metrics.forwarded_malformed += 1;
            let what = "says no address in X-Forwarded-For: its client counts as the proxy";
            self.log(server, peer, what);
            peer
        });
        if request.is_upgrade() && self.proxies.is_proxy(address) {
            server.metrics.forwarded_missing += 1;
        }
        self.count(server, id, address);
        request.from_address(Some(address)).from_proxy(is_from_proxy)
    }

    /// Counts a client under the address of its PROXY header before its request is complete: clients of one address that never
    /// complete theirs must not hold every handshake. Returns whether that address is far above its limit.
    pub fn count_announced(&mut self, server: &mut Server, id: ConnId) -> bool {
        let client = server.client(id).filter(|client| client.state() == State::Head);
        let Some(address) = client.and_then(|client| client.announced()) else { return false };
        // Another proxy may bring many clients.
        if self.proxies.is_proxy(address) || self.counts.has(id) {
            return false;
        }
        self.count(server, id, address);
        self.load(id) == AddressLoad::FarAbove
    }

    fn count(&mut self, server: &mut Server, id: ConnId, address: IpAddr) {
        self.counts.enter(id, address);
        server.places.handshakes.locate(id, address);
    }

    /// Returns whether a client of the same address owes the answer to a ping.
    pub fn has_unresponsive_neighbour(&self, server: &Server, id: ConnId) -> bool {
        self.counts.beside(id).any(|other| server.awaits_pong(other))
    }

    /// Closes an open client if its address has more than it may, and no other one makes room. Returns whether it counts.
    pub fn leave_crowd(&mut self, server: &mut Server, id: ConnId) -> bool {
        let counts = self.counts.has(id);
        let is_above = self.load(id) > AddressLoad::Within && server.open_client(id).is_some();
        if is_above && !self.replace_unresponsive(server, id) {
            server.close(id, Close::busy(1000, CROWDED));
        }
        counts
    }

    /// Closes such a client in favour of one that was let in. Returns whether there was one. A client without a token does not
    /// replace one that may only be slow to answer.
    pub fn replace_unresponsive(&mut self, server: &mut Server, id: ConnId) -> bool {
        let is_user = server.clients.get(id).and_then(|client| server.user_of(client)).is_some();
        let patience = if is_user { 0 } else { PATIENCE };
        let replaced = server.vacate_unresponsive(self.counts.beside(id), patience);
        replaced.inspect(|other| self.counts.leave(*other)).is_some()
    }

    /// Counts a connection that is closed because it does not come by a proxy, and logs why.
    pub fn count_unproxied(&mut self, server: &mut Server, address: IpAddr, why: &str) {
        server.metrics.unproxied += 1;
        self.log(server, address, why);
    }

    fn log(&mut self, server: &Server, address: IpAddr, what: &str) {
        if self.logged.allow(server.now.millis) {
            log::warn!("{address} {what}");
        }
    }
}

/// Returns the address of a connection's peer.
pub(super) fn peer(server: &mut Server, id: ConnId) -> IpAddr {
    // During a handshake it is known from the accept, which saves a system call.
    let accepted = server.places.handshakes.address(id).filter(|one| !one.is_unspecified());
    let of_socket = || server.client(id)?.transport.peer(id);
    accepted.or_else(of_socket).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
}
