//! Accepting connections of clients, the operator and ports.

use std::net::{IpAddr, Ipv4Addr};

use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::client::transport::Transport;
use crate::engine::reactor::Reactor;
use crate::engine::reactor::listeners::{Accepted, Purpose, turn_away};
use crate::engine::reactor::port::Ports;
use crate::engine::reactor::token::Source;
use crate::engine::router::{Router, refusals};
use crate::engine::server::{ADMIN_ROUTE, Server};
use crate::engine::slots::ConnId;
use crate::engine::tls::Acceptor;

/// Returns when there is room for another connection.
fn room_at(ports: &Ports, router: &Router, purpose: Purpose) -> Millis {
    let Server { places, clients, bounds, now, .. } = &router.server;
    match purpose {
        Purpose::Clients { .. } => places.next_handshake(clients, bounds, now.millis),
        Purpose::Admin => places.next_admin(clients, now.millis),
        Purpose::Port { number, .. } => ports.room_at(number, now.millis),
    }
}

impl Reactor {
    /// Accepts waiting connections, up to the turn's bound.
    pub(super) fn accept(&mut self) {
        let now = self.router.server.now.millis;
        for _ in 0..self.router.server.bounds.accepts_per_turn {
            let per_second = self.router.server.bounds.handshakes_per_second_max;
            let Reactor { listeners, ports, router, .. } = self;
            let has_room = |purpose| room_at(ports, router, purpose) == now;
            match listeners.accept(now, has_room, per_second) {
                Accepted::Stream(stream, address, Purpose::Port { number, .. }) => {
                    let registry = self.poll.registry();
                    ports.admit(number, &mut router.server, registry, (stream, address));
                }
                Accepted::Stream(stream, address, purpose) => {
                    self.admit(stream, address.ip(), purpose);
                }
                Accepted::Nothing => return,
                Accepted::HeldBack => {
                    self.router.server.metrics.accepts_held_back += 1;
                    refusals::of_queue(&mut self.router.server);
                    return;
                }
                Accepted::Exhausted => {
                    self.router.server.metrics.descriptors_exhausted += 1;
                    self.router.server.make_descriptor_room();
                    return;
                }
            }
        }
        self.router.server.metrics.accepts_put_off += 1;
    }

    /// Returns when waiting connections can be accepted: see
    /// [`Listeners::next`](crate::engine::reactor::listeners::Listeners::next).
    pub(super) fn next_accept(&self) -> Option<Millis> {
        let server = &self.router.server;
        let room_at = |purpose| room_at(&self.ports, &self.router, purpose);
        self.listeners.next(server.now.millis, room_at, server.bounds.handshakes_per_second_max)
    }

    fn admit(&mut self, stream: TcpStream, address: IpAddr, purpose: Purpose) {
        // The client behind a proxy is known, and counted, once the head has come.
        let is_proxy = self.router.addresses.proxies.is_proxy(address);
        let Router { addresses, server, .. } = &mut self.router;
        if purpose.is_clients() && addresses.requires_header && !is_proxy {
            let why = "is not among proxies, and proxy_protocol is on";
            return addresses.count_unproxied(server, address, why);
        }
        if let Some(status) = self.refusal(address, is_proxy, purpose) {
            let metrics = &mut self.router.server.metrics;
            metrics.responses.count(status);
            metrics.handshakes_refused += u64::from(purpose.is_clients());
            if purpose.is_clients() {
                let is_draining = self.router.health.draining;
                refusals::of_admission(&mut self.router.server, is_draining, status, address);
            }
            return turn_away(stream, purpose.refusal(status));
        }
        let server = &mut self.router.server;
        let route = if purpose == Purpose::Admin { ADMIN_ROUTE } else { 0 };
        let id = server.admit(Transport::Tcp(stream), address, route);
        if purpose == (Purpose::Clients { has_tls: true }) {
            server.clients.expect_tls(id);
        }
        let client = server.client(id).expect("it was just admitted");
        let token = Source::Client(id).token();
        if client.transport.register(self.poll.registry(), token).is_err() {
            server.terminate(id);
        } else if purpose.is_clients() && !is_proxy {
            self.router.addresses.enter(id, address);
        }
    }

    /// The status for a connection refused unread. Slightly above a bound, connections are accepted to get a proper response.
    fn refusal(&mut self, address: IpAddr, is_proxy: bool, purpose: Purpose) -> Option<u16> {
        let Router { server, addresses, .. } = &mut self.router;
        match purpose {
            Purpose::Clients { .. } if server.is_refusing => Some(503),
            Purpose::Clients { .. } if !is_proxy && addresses.is_crowded(address) => Some(429),
            Purpose::Clients { .. } if !server.make_room() => Some(503),
            Purpose::Admin if !server.make_admin_room() => Some(503),
            _ => None,
        }
    }

    /// Replaces the certificates for the handshakes to come.
    pub fn set_acceptor(&mut self, acceptor: Acceptor) {
        self.clients.acceptor = Some(acceptor);
    }

    /// Adds a connection without a socket, which the [far ends](crate::engine::client::in_memory) of this thread find by its id.
    /// No bound on handshakes or clients applies: the caller bounds them.
    pub fn attach(&mut self) -> ConnId {
        self.router.server.admit(Transport::Memory, Ipv4Addr::UNSPECIFIED.into(), 0)
    }

    /// Adds such a connection that begins with a TLS handshake.
    pub fn attach_tls(&mut self) -> ConnId {
        let id = self.attach();
        self.router.server.clients.expect_tls(id);
        id
    }
}
