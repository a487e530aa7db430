//! The clients' part of each phase but the flush: accept, read, tick, reap.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use mio::Token;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::Response;
use crate::engine::client::transport::Transport;
use crate::engine::client::{AtEnd, Client, ClientDue, Head, Reading, State};
use crate::engine::handler::Message;
use crate::engine::pending_writes::Lane;
use crate::engine::reactor::Reactor;
use crate::engine::reactor::listeners::{Accepted, Purpose, turn_away};
use crate::engine::reactor::port::Port;
use crate::engine::reactor::token::Source;
use crate::engine::router::Router;
use crate::engine::server::{ADMIN_ROUTE, Server};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;

/// Bytes read from all clients together in a turn, so that pending writes leave in between.
const READ_BYTES_PER_TURN: usize = 1 << 20;

/// Further bytes for clients whose tokens may be checked, so that neither group delays the other: 3 ms.
const UNCHECKED_BYTES_PER_TURN: usize = READ_BYTES_PER_TURN / 4;

/// The price of each such client besides its bytes and its signature: 23 µs, for opening and welcoming it.
const UNCHECKED_BYTES: usize = 2048;

/// Deadlines handled in a turn, rounded to a page of slots.
const DEADLINES_PER_TURN: usize = 4096;

/// A change of a transport's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readiness {
    /// There is input to read.
    pub readable: bool,
    /// The end, or an error, has come.
    pub ending: bool,
    /// It accepts output again.
    pub writable: bool,
}

/// Returns when there is room for another connection.
fn room_at(port: &Option<Box<dyn Port>>, router: &Router, purpose: Purpose) -> Millis {
    let Server { places, clients, bounds, now, .. } = &router.server;
    match purpose {
        Purpose::Clients => places.next_handshake(clients, bounds, now.millis),
        Purpose::Admin => places.next_admin(clients, now.millis),
        Purpose::Port(_) => port.as_ref().map_or(now.millis, |port| port.room_at(now.millis)),
    }
}

impl Reactor {
    /// Accepts waiting connections, up to the turn's bound.
    pub(super) fn accept(&mut self) {
        let now = self.router.server.now.millis;
        for _ in 0..self.router.server.bounds.accepts_per_turn {
            let per_second = self.router.server.bounds.handshakes_per_second_max;
            let Reactor { listeners, port, router, .. } = self;
            let has_room = |purpose| room_at(port, router, purpose) == now;
            match listeners.accept(now, has_room, per_second) {
                Accepted::Stream(stream, address, Purpose::Port(_)) => {
                    let registry = self.poll.registry();
                    if let Some(port) = &mut self.port {
                        port.admit(&mut self.router.server, registry, stream, address);
                    }
                }
                Accepted::Stream(stream, address, purpose) => {
                    self.admit(stream, address.ip(), purpose);
                }
                Accepted::Nothing => return,
                Accepted::HeldBack => {
                    self.router.server.metrics.accepts_held_back += 1;
                    self.router.complain_of_queue();
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
        let room_at = |purpose| room_at(&self.port, &self.router, purpose);
        self.listeners.next(server.now.millis, room_at, server.bounds.handshakes_per_second_max)
    }

    fn admit(&mut self, stream: TcpStream, address: IpAddr, purpose: Purpose) {
        // The client behind a proxy is known, and counted, once the head has come.
        let is_proxy = self.router.addresses.proxies.is_proxy(address);
        let Router { addresses, server, .. } = &mut self.router;
        if purpose == Purpose::Clients && addresses.requires_header && !is_proxy {
            let why = "is not among proxies, and proxy_protocol is on";
            return addresses.count_unproxied(server, address, why);
        }
        if let Some(status) = self.refusal(address, is_proxy, purpose) {
            let metrics = &mut self.router.server.metrics;
            *metrics.responses.entry(status).or_default() += 1;
            metrics.handshakes_refused += u64::from(purpose == Purpose::Clients);
            if purpose == Purpose::Clients {
                self.router.complain_of_admission(status, address);
            }
            return turn_away(stream, purpose.refusal(status));
        }
        let server = &mut self.router.server;
        let route = if purpose == Purpose::Admin { ADMIN_ROUTE } else { 0 };
        let id = server.admit(Transport::Tcp(stream), address, route);
        let client = server.client(id).expect("it was just admitted");
        let token: Token = Source::Client(id).token();
        if client.transport.register(self.poll.registry(), token).is_err() {
            server.terminate(id);
        } else if purpose == Purpose::Clients && !is_proxy {
            self.router.addresses.enter(id, address);
        }
    }

    /// The status for a connection refused unread. Slightly above a bound, connections are accepted to get a proper response.
    fn refusal(&mut self, address: IpAddr, is_proxy: bool, purpose: Purpose) -> Option<u16> {
        let Router { server, addresses, .. } = &mut self.router;
        match purpose {
            Purpose::Clients if server.is_refusing => Some(503),
            Purpose::Clients if !is_proxy && addresses.is_crowded(address) => Some(429),
            Purpose::Clients if !server.make_room() => Some(503),
            Purpose::Admin if !server.make_admin_room() => Some(503),
            _ => None,
        }
    }

    /// Adds a connection without a socket, which the [far ends](crate::engine::client::in_memory) of this thread find by its id.
    /// No bound on handshakes or clients applies: the caller bounds them.
    pub fn attach(&mut self) -> ConnId {
        self.router.server.admit(Transport::Memory, Ipv4Addr::UNSPECIFIED.into(), 0)
    }

    /// Records an event of a client's socket.
    pub(super) fn on_client_ready(&mut self, id: ConnId, event: &mio::event::Event) {
        self.on_ready(
            id,
            Readiness {
                readable: event.is_readable(),
                ending: event.is_read_closed() || event.is_error(),
                writable: event.is_writable(),
            },
        );
    }

    /// Records a change of a client's transport.
    pub fn on_ready(&mut self, id: ConnId, readiness: Readiness) {
        let Some(client) = self.router.server.client(id) else { return };
        let is_unblocked = readiness.writable && client.unblock();
        if readiness.readable || readiness.ending {
            let was_idle = client.reading == Reading::Idle;
            if readiness.ending {
                client.reading = Reading::ToEnd;
            } else if was_idle {
                client.reading = Reading::Queued;
            }
            if was_idle {
                self.queue_for_reading(id);
            }
        }
        if readiness.readable {
            let Server { places, clients, .. } = &mut self.router.server;
            if let Some(client) = clients.get(id) {
                places.speak(id, client);
            }
        }
        if is_unblocked {
            self.router.server.schedule_flush(id, Lane::Urgent);
        }
    }

    /// Reads clients with input, those whose tokens may be checked last: the others do not wait for that.
    pub(super) fn read_clients(&mut self) {
        self.read_in_turn(|it| &mut it.ready, READ_BYTES_PER_TURN, 0);
        self.read_in_turn(|it| &mut it.unchecked, UNCHECKED_BYTES_PER_TURN, UNCHECKED_BYTES);
    }

    /// Reads each client in a queue once, until the bytes are used up; `beside` is added to the bytes of each.
    fn read_in_turn(
        &mut self,
        queue: fn(&mut Reactor) -> &mut VecDeque<ConnId>,
        mut left: usize,
        beside: usize,
    ) {
        for _ in 0..queue(self).len() {
            let Some(id) = queue(self).pop_front() else { return };
            let length = self.read_client(id);
            let costs = std::mem::take(&mut self.router.server.costs);
            left = left.saturating_sub(length + costs + beside);
            if left == 0 {
                return;
            }
        }
    }

    /// Queues a client for reading. The operator's requests wait for no check.
    fn queue_for_reading(&mut self, id: ConnId) {
        let Some(client) = self.router.server.client(id) else { return };
        let is_handshake = client.state() == State::Head && client.route != ADMIN_ROUTE;
        match is_handshake || client.has_deferred() {
            true => self.unchecked.push_back(id),
            false => self.ready.push_back(id),
        }
    }

    /// Reads once and handles the input. Returns the bytes read.
    fn read_client(&mut self, id: ConnId) -> usize {
        let now = tick(self.router.server.now.millis);
        let limit = self.router.server.bounds.read_bytes_per_turn.min(self.buffer.len());
        let backlog = self.router.server.backlog;
        let is_full = self.router.server.fanout.is_full(&backlog);
        let Some(client) = self.router.server.client(id) else { return 0 };
        if client.is_pressed(&backlog) || (is_full && client.has_input()) {
            // Messages caused by its last input are still waiting to be written.
            self.queue_for_reading(id);
            return 0;
        }
        let reading = std::mem::replace(&mut client.reading, Reading::Idle);
        let has_left = client.has_input() || client.has_deferred();
        let is_cut = client.state() == State::Open && has_left && !self.on_bytes(id, 0);
        if is_cut {
            // Reading more on top of input that was cut short would let it grow while the client sends. Its turn is over.
            self.read_on(id, reading);
            return limit;
        }
        let Some(client) = self.router.server.client(id) else { return 0 };
        match client.transport.read(id, &mut self.buffer[..limit]) {
            Ok(0) => {
                self.on_end(id);
                0
            }
            Ok(length) => {
                client.received(now);
                let metrics = &mut self.router.server.metrics;
                metrics.received_bytes += length as u64;
                metrics.reads_put_off += u64::from(length == limit);
                let is_whole = self.on_bytes(id, length);
                if length == limit || reading == Reading::ToEnd || !is_whole {
                    // There may be more, or an end that no further event reports: the next turn reads on.
                    self.read_on(id, reading);
                }
                length
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                self.router.server.terminate(id);
                0
            }
        }
    }

    /// Reads on in the next turn, after the others.
    fn read_on(&mut self, id: ConnId, reading: Reading) {
        if let Some(client) = self.router.server.client(id) {
            client.reading = reading;
            self.queue_for_reading(id);
        }
    }

    /// Handles the bytes at the start of the loop's buffer, behind the client's kept input. Returns `false` if it was cut short:
    /// the rest is handled in the next turn, or once pending messages are flushed.
    fn on_bytes(&mut self, id: ConnId, length: usize) -> bool {
        let buffer = std::mem::take(&mut self.buffer);
        let head = self.expected_head(id);
        let mut kept =
            self.router.server.client(id).map(|client| client.take_input()).unwrap_or_default();
        let is_fresh = kept.is_empty();
        if !is_fresh && length > 0 {
            // Growing by doubling would hold twice the unfinished input; growing by an eighth avoids a copy for each byte of a
            // client that sends byte by byte.
            kept.reserve_exact(length.max(kept.len() / 8));
            kept.extend_from_slice(&buffer[..length]);
        }
        let mut rest = if is_fresh { &buffer[..length] } else { &kept[..] };
        let deferred = self.router.server.client(id).and_then(Client::take_deferred);
        if let Some(text) = &deferred {
            self.router.on_message(id, Message::Deferred(text));
        }
        let backlog = self.router.server.backlog;
        let mut is_cut = false;
        let mut progressed = deferred.is_some();
        while let Some(client) = self.router.server.client(id) {
            is_cut = client.is_pressed(&backlog) || client.has_deferred();
            if is_cut {
                break;
            }
            let Some(event) = client.next(&mut rest, &mut self.codec, &head) else {
                break;
            };
            progressed = true;
            let latest = self.router.server.fanout.latest();
            self.router.on_event(id, event, self.codec.take_replies());
            // A handler that publishes clients' messages is a source like any other.
            let published = self.router.server.fanout.latest() != latest;
            is_cut = published && self.router.server.is_pressed();
            if is_cut {
                break;
            }
        }
        if let Some(replies) = self.codec.take_replies() {
            self.router.server.send(id, &Frame::ready(replies));
        }
        let left = rest.len();
        if let Some(client) = self.router.server.client(id) {
            let waits = matches!(client.state(), State::Head | State::Open);
            client.keep_input(match (waits, is_fresh) {
                (false, _) => Vec::new(),
                (true, true) => rest.to_vec(),
                (true, false) => {
                    kept.drain(..kept.len() - left);
                    kept
                }
            });
            self.router.server.recount(id, progressed);
        }
        if head.is_proxied {
            self.router.on_announced(id);
        }
        self.buffer = buffer;
        !is_cut
    }

    /// The expected start of a client's connection, and of the operator's.
    fn expected_head(&mut self, id: ConnId) -> Head {
        let bytes_max = self.router.server.bounds.head_bytes_max;
        let client = self.router.server.client(id);
        let is_clients = client.is_some_and(|client| client.route != ADMIN_ROUTE);
        Head { bytes_max, is_proxied: self.router.addresses.requires_header && is_clients }
    }

    /// Records that the peer has shut down its side.
    fn on_end(&mut self, id: ConnId) {
        let Some(client) = self.router.server.client(id) else { return };
        if !client.half_close() {
            self.router.server.terminate(id);
        }
    }

    /// Handles passed deadlines.
    pub(super) fn tick_clients(&mut self) {
        let now = tick(self.router.server.now.millis);
        let mut due = std::mem::take(&mut self.due);
        self.router.server.clients.timers.expire(now, DEADLINES_PER_TURN, &mut due);
        for index in due.drain(..) {
            let server = &mut self.router.server;
            let (id, client) = (server.clients.id(index), &server.clients[index]);
            match client.due(index, now, &server.clients.timing) {
                ClientDue::Nothing => {}
                ClientDue::Ping => {
                    server.metrics.pings += 1;
                    server.pending.push_ping(id);
                }
                ClientDue::Silent => server.close(id, Close::SILENT),
                ClientDue::Stalled => {
                    server.metrics.stalled += 1;
                    server.close(id, Close::SLOW);
                }
                ClientDue::End(AtEnd::Close(code) | AtEnd::Expire(code)) => {
                    self.router.on_timeout(id, code);
                }
                ClientDue::End(AtEnd::Timeout) => {
                    let text = "the request's head did not come in time";
                    let response = Response::text(408, text);
                    if server.clients[index].route != ADMIN_ROUTE {
                        self.router.complain_of_answer(id, None, &response);
                    }
                    self.router.server.respond(id, &response);
                }
                ClientDue::End(AtEnd::Drop) => server.run_out(id),
            }
            self.router.server.set_timer(index);
        }
        self.due = due;
    }

    /// Frees terminated connections after their handlers' `on_close`.
    pub(super) fn reap_clients(&mut self) {
        let freed = !self.router.server.clients.gone.is_empty();
        while let Some(id) = self.router.server.clients.gone.pop() {
            self.router.reap(id);
            self.burst += 1;
        }
        if freed {
            self.listeners.on_freed();
        }
    }
}
