//! The clients' part of each phase: their readiness, reading, deadlines, and the end.

use std::collections::VecDeque;

use crate::engine::bounds::Bounds;
use crate::engine::client::codec::{Codec, InboundBounds};
use crate::engine::client::flight::saved::is_bound;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::Response;
use crate::engine::client::outbox::WriteSpace;
use crate::engine::client::proxy_protocol::{self, Header};
use crate::engine::client::tls::TlsInput;
use crate::engine::client::{AtEnd, Client, ClientDue, Head, Reading, State};
use crate::engine::handler::Message;
use crate::engine::pending_writes::Lane;
use crate::engine::reactor::trim::Trim;
use crate::engine::router::Router;
use crate::engine::server::{ADMIN_ROUTE, Server, demand};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;
use crate::engine::tls::{Acceptor, RecordsEnd};

/// Bytes read from all clients together in a turn, so that pending writes leave in between.
const READ_BYTES_PER_TURN: usize = 1 << 20;

/// Further bytes for clients whose tokens may be checked, so that neither group delays the other: 3 ms.
const UNCHECKED_BYTES_PER_TURN: usize = READ_BYTES_PER_TURN / 4;

/// The price of each such client besides its bytes and its signature: 23 µs, for opening and welcoming it.
const UNCHECKED_BYTES: usize = 2048;

/// The work that one client may cause in a turn beyond its bytes, in such bytes: 0.75 ms. What it has sent behind that waits for the
/// next turn. The client's last message may take longer.
const CLIENT_COSTS_PER_TURN: usize = READ_BYTES_PER_TURN / 16;

/// The price of a KeyUpdate of TLS, in bytes read: 9 µs, for deriving keys.
const KEY_UPDATE_BYTES: usize = 800;

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

impl Readiness {
    pub(super) fn of(event: &mio::event::Event) -> Readiness {
        Readiness {
            readable: event.is_readable(),
            ending: event.is_read_closed() || event.is_error(),
            writable: event.is_writable(),
        }
    }
}

/// The queues of clients to be read, and the space that reading and writing them shares.
pub(super) struct ClientIo {
    codec: Codec,
    /// Clients with input to read.
    ready: VecDeque<ConnId>,
    /// Clients with input to read whose tokens may be checked then.
    unchecked: VecDeque<ConnId>,
    /// Reused for the deadlines of a tick.
    due: Vec<u32>,
    /// Reused for each client's write.
    pub(super) space: WriteSpace,
    pub(super) ping: Frame,
    /// Accepts TLS handshakes, if a listener expects them.
    pub(super) acceptor: Option<Acceptor>,
}

impl ClientIo {
    pub fn new(bounds: &Bounds) -> ClientIo {
        ClientIo {
            codec: codec(bounds),
            ready: VecDeque::new(),
            unchecked: VecDeque::new(),
            due: Vec::new(),
            space: WriteSpace::default(),
            acceptor: None,
            ping: Frame::ping(),
        }
    }

    /// Applies other bounds.
    pub fn set_bounds(&mut self, bounds: &Bounds) {
        self.codec = codec(bounds);
    }

    /// Returns whether no client waits to be read.
    pub fn is_read(&self) -> bool {
        self.ready.is_empty() && self.unchecked.is_empty()
    }

    /// Frees the memory that a burst has filled.
    pub fn shrink(&mut self) {
        self.space = WriteSpace::default();
        self.due = Vec::new();
        self.ready.shrink_to_fit();
        self.unchecked.shrink_to_fit();
    }

    /// Records a change of a client's transport.
    pub fn on_ready(&mut self, router: &mut Router, id: ConnId, readiness: Readiness) {
        let Some(client) = router.server.client(id) else { return };
        let is_unblocked = readiness.writable && client.unblock();
        if readiness.readable || readiness.ending {
            let was_idle = client.reading == Reading::Idle;
            if readiness.ending {
                client.reading = Reading::ToEnd;
            } else if was_idle {
                client.reading = Reading::Queued;
            }
            if was_idle {
                self.queue_for_reading(router, id);
            }
        }
        if readiness.readable {
            let Server { places, clients, .. } = &mut router.server;
            if let Some(client) = clients.get(id) {
                places.speak(id, client);
            }
        }
        if is_unblocked {
            router.server.schedule_flush(id, Lane::Urgent);
        }
    }

    /// Reads clients with input, those whose tokens may be checked last: the others do not wait for that.
    pub fn read(&mut self, router: &mut Router, buffer: &mut [u8]) {
        for (is_checked, mut left, beside) in
            [(true, READ_BYTES_PER_TURN, 0), (false, UNCHECKED_BYTES_PER_TURN, UNCHECKED_BYTES)]
        {
            // Each once, until the bytes are used up.
            for _ in 0..self.queue(is_checked).len() {
                let Some(id) = self.queue(is_checked).pop_front() else { break };
                let length = self.read_client(router, id, buffer);
                let costs = std::mem::take(&mut router.server.costs);
                left = left.saturating_sub(length + costs + beside);
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// Reads those clients alone that have something under way that cannot be handed over.
    pub fn read_bound(&mut self, router: &mut Router, buffer: &mut [u8]) {
        for is_checked in [true, false] {
            for _ in 0..self.queue(is_checked).len() {
                let Some(id) = self.queue(is_checked).pop_front() else { break };
                match router.server.client(id).is_some_and(|client| is_bound(client)) {
                    true => _ = self.read_client(router, id, buffer),
                    false => self.queue(is_checked).push_back(id),
                }
            }
        }
        router.server.costs = 0;
    }

    fn queue(&mut self, is_checked: bool) -> &mut VecDeque<ConnId> {
        if is_checked { &mut self.ready } else { &mut self.unchecked }
    }

    /// Queues a client for reading. The operator's requests wait for no check.
    pub fn queue_for_reading(&mut self, router: &mut Router, id: ConnId) {
        let Some(client) = router.server.client(id) else { return };
        let is_handshake = client.state() == State::Head && client.route != ADMIN_ROUTE;
        let is_checked = !is_handshake && !client.has_deferred();
        self.queue(is_checked).push_back(id);
    }

    /// Reads once and handles the input. Returns the bytes read.
    fn read_client(&mut self, router: &mut Router, id: ConnId, buffer: &mut [u8]) -> usize {
        let now = tick(router.server.now.millis);
        let backlog = router.server.backlog;
        let is_full = router.server.fanout.is_full(&backlog);
        let Some(client) = router.server.client(id) else { return 0 };
        if demand::is_held(client) {
            // Its release queues it again.
            return 0;
        }
        if client.is_pressed(&backlog) || (is_full && client.has_input()) {
            // Messages caused by its last input are still waiting to be written.
            self.queue_for_reading(router, id);
            return 0;
        }
        let reading = std::mem::replace(&mut client.reading, Reading::Idle);
        let has_left = client.has_input() || client.has_deferred();
        let is_cut = client.state() == State::Open && has_left && !self.on_bytes(router, id, &[]);
        if is_cut {
            // Reading more on top of input that was cut short would let it grow while the client sends. Its turn is over.
            self.read_on(router, id, reading);
            return router.server.bounds.read_bytes_per_turn;
        }
        let limit = router.server.bounds.read_bytes_per_turn;
        let Some((client, tls)) = router.server.clients.wire(id) else { return 0 };
        if tls.as_ref().is_some_and(|tls| tls.is_closed_by_peer()) {
            // It was told while earlier input was cut short, and no further event comes.
            on_end(router, id, true);
            return 0;
        }
        let (has_tls, kept) = (tls.is_some(), client.record().len());
        buffer[..kept].copy_from_slice(client.record());
        let limit = limit.min(buffer.len() - kept);
        match client.transport.read(id, &mut buffer[kept..kept + limit]) {
            Ok(0) => {
                on_end(router, id, !has_tls);
                0
            }
            Ok(length) => {
                client.received(now);
                let metrics = &mut router.server.metrics;
                metrics.received_bytes += length as u64;
                metrics.reads_put_off += u64::from(length == limit);
                let received = &mut buffer[..kept + length];
                let is_whole = match has_tls {
                    true => self.on_records(router, id, received),
                    false => self.on_bytes(router, id, received),
                };
                if length == limit || reading == Reading::ToEnd || !is_whole {
                    // There may be more, or an end that no further event reports: the next turn reads on.
                    self.read_on(router, id, reading);
                }
                length
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(_) => {
                router.server.terminate(id);
                0
            }
        }
    }

    /// Reads on in the next turn, after the others.
    fn read_on(&mut self, router: &mut Router, id: ConnId, reading: Reading) {
        if let Some(client) = router.server.client(id) {
            client.reading = reading;
            self.queue_for_reading(router, id);
        }
    }

    /// Handles bytes from a client that speaks TLS. Returns as [`ClientIo::on_bytes`].
    fn on_records(&mut self, router: &mut Router, id: ConnId, mut received: &mut [u8]) -> bool {
        let is_shaking_hands = router.server.clients.is_shaking_hands(id);
        let is_proxied = expected_head(router, id).is_proxied;
        let Some(client) = router.server.client(id) else { return true };
        if is_proxied && is_shaking_hands && !client.has_handshake() {
            match proxy_header(client, received) {
                Some(rest) => received = rest,
                None => return self.on_bytes(router, id, &[]),
            }
            // An address that is far above its limit must not get the costly part of a handshake.
            router.on_announced(id);
        }
        let Some(acceptor) = &self.acceptor else { return true };
        let Some((client, Some(tls))) = router.server.clients.wire(id) else { return true };
        if client.state() == State::Terminated {
            return true;
        }
        let mut replies = Vec::new();
        let TlsInput { plain, is_answered, accepted, key_updates, end } =
            tls.open(client, acceptor, received, &mut replies);
        client.queue_raw(&replies);
        let server = &mut router.server;
        server.costs += key_updates as usize * KEY_UPDATE_BYTES;
        if is_answered {
            server.costs += acceptor.cost;
        }
        if !replies.is_empty() {
            server.schedule_flush(id, Lane::Urgent);
        }
        if let Some(facts) = accepted {
            let handshakes = &mut server.metrics.tls_handshakes;
            handshakes[usize::from(facts.is_resumed)].count(facts.version.name());
        }
        let is_whole = self.on_bytes(router, id, &received[..plain]);
        match end {
            Some(RecordsEnd::Closed) if is_whole => on_end(router, id, true),
            Some(RecordsEnd::Failed(failure)) => router.server.on_tls_failure(id, failure),
            Some(RecordsEnd::Closed) | None => {}
        }
        is_whole
    }

    /// Handles bytes from a client, behind its kept input. Returns `false` if it was cut short:
    /// the rest is handled in the next turn, or once pending messages are flushed.
    fn on_bytes(&mut self, router: &mut Router, id: ConnId, input: &[u8]) -> bool {
        let head = expected_head(router, id);
        let mut kept =
            router.server.client(id).map(|client| client.take_input()).unwrap_or_default();
        let is_fresh = kept.is_empty();
        if !is_fresh && !input.is_empty() {
            // Growing by doubling would hold twice the unfinished input; growing by an eighth avoids a copy for each byte of a
            // client that sends byte by byte.
            kept.reserve_exact(input.len().max(kept.len() / 8));
            kept.extend_from_slice(input);
        }
        let mut rest = if is_fresh { input } else { &kept[..] };
        let deferred = router.server.client(id).and_then(Client::take_deferred);
        if let Some(text) = &deferred {
            router.on_message(id, Message::Deferred(text));
        }
        let backlog = router.server.backlog;
        let mut is_cut = false;
        let mut progressed = deferred.is_some();
        while let Some(client) = router.server.client(id) {
            is_cut =
                client.is_pressed(&backlog) || client.has_deferred() || demand::is_held(client);
            if is_cut {
                break;
            }
            let Some(event) = client.next(&mut rest, &mut self.codec, &head) else {
                break;
            };
            progressed = true;
            router.server.costs += self.codec.take_costs();
            let latest = router.server.fanout.latest();
            router.on_event(id, event, self.codec.take_replies());
            // A handler that publishes clients' messages is a source like any other.
            let published = router.server.fanout.latest() != latest;
            let is_costly = router.server.costs >= CLIENT_COSTS_PER_TURN && !rest.is_empty();
            is_cut = is_costly || (published && router.server.is_pressed());
            if is_cut {
                break;
            }
        }
        if let Some(replies) = self.codec.take_replies() {
            router.server.send(id, &Frame::ready(replies));
        }
        let left = rest.len();
        if let Some(client) = router.server.client(id) {
            let waits = matches!(client.state(), State::Head | State::Open);
            client.keep_input(match (waits, is_fresh) {
                (false, _) => Vec::new(),
                (true, true) => rest.to_vec(),
                (true, false) => {
                    kept.drain(..kept.len() - left);
                    kept
                }
            });
            router.server.recount(id, progressed);
        }
        if head.is_proxied {
            router.on_announced(id);
        }
        !is_cut
    }

    /// Handles passed deadlines.
    pub fn tick(&mut self, router: &mut Router) {
        let now = tick(router.server.now.millis);
        router.server.clients.timers.expire(now, DEADLINES_PER_TURN, &mut self.due);
        for index in self.due.drain(..) {
            let server = &mut router.server;
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
                    router.on_timeout(id, code);
                }
                ClientDue::End(AtEnd::Timeout) => {
                    let text = "the request's head did not come in time";
                    let response = Response::text(408, text);
                    if server.clients[index].route != ADMIN_ROUTE {
                        router.complain_of_answer(id, None, &response);
                    }
                    router.server.respond(id, &response);
                }
                ClientDue::End(AtEnd::Drop) => server.run_out(id),
            }
            router.server.set_timer(index);
        }
    }

    /// Frees terminated connections after their handlers' `on_close`. Returns whether there were any.
    pub fn reap(&mut self, router: &mut Router, trim: &mut Trim) -> bool {
        let freed = !router.server.clients.gone.is_empty();
        while let Some(id) = router.server.clients.gone.pop() {
            router.reap(id);
            trim.burst += 1;
        }
        freed
    }
}

/// The peer has ended its side. Anyone on the way can cut a TCP connection: only an end that TLS tells is taken for one, and lets
/// the rest be written.
fn on_end(router: &mut Router, id: ConnId, is_authentic: bool) {
    let Some(client) = router.server.client(id) else { return };
    let is_open = client.state() == State::Open;
    // A client that is half closed has told its end already.
    if !is_authentic && client.state() != State::HalfClosed {
        router.server.metrics.tls_truncated += u64::from(is_open);
        return router.server.terminate(id);
    }
    if !client.half_close() {
        router.server.end(id);
    }
}

/// Takes a PROXY header, which stands before the handshake, and keeps it as the start of the client's input, where the request will
/// follow it. Returns the bytes behind it; `None` if it is incomplete or malformed.
fn proxy_header<'a>(client: &mut Client, received: &'a mut [u8]) -> Option<&'a mut [u8]> {
    let mut kept = client.take_input();
    kept.extend_from_slice(received);
    let rest = match proxy_protocol::parse(&kept) {
        Header::Whole { length, .. } => Some(kept.split_off(length).len()),
        Header::Partial | Header::Malformed => None,
    };
    client.keep_input(kept);
    let from = received.len() - rest?;
    Some(&mut received[from..])
}

fn codec(bounds: &Bounds) -> Codec {
    Codec::new(InboundBounds {
        message_bytes_max: bounds.message_bytes_max,
        fragments_max: bounds.fragments_max as u32,
    })
}

/// The expected start of a client's connection, and of the operator's.
fn expected_head(router: &mut Router, id: ConnId) -> Head {
    let bytes_max = router.server.bounds.head_bytes_max;
    let client = router.server.client(id);
    let is_clients = client.is_some_and(|client| client.route != ADMIN_ROUTE);
    Head { bytes_max, is_proxied: router.addresses.requires_header && is_clients }
}
