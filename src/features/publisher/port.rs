//! All connections of publishers: their admission, and their part of each phase of a turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use slab::Slab;
use socket2::{SockRef, TcpKeepalive};

use crate::clock::Millis;
use crate::engine::admission::strangers::Strangers;
use crate::engine::reactor::{OtherPorts, Port, PortRegistry, publish_beside, turn_away};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::features::publisher::connection::{Publisher, World};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::session::Peer;
use crate::features::publisher::settings::{Moment, Terms};
use crate::features::publisher::socket::{InputState, PeerState, PublisherSocket};
use crate::observe::complaints::{Origin, Weight};

/// A pool of back ends keeps its connections for hours; a connection whose machine is gone must not hold a place for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Strangers that make room in one turn: each holds its descriptor to the end of the turn.
const VACATED_PER_TURN: usize = 4;

/// The answer of Redis to a connection above `maxclients`.
const NO_ROOM: &[u8] = b"-ERR max number of clients reached\r\n";

/// The publishers' port.
pub struct PublisherPort {
    terms: Rc<Terms>,
    connections: Slab<PublisherSocket>,
    exchange: Exchange,
    /// Connections that may have bytes to be read.
    queue: VecDeque<usize>,
    /// Connections that were read or unblocked in this turn: to be written to, and closed if they are done.
    touched: Vec<usize>,
    ended: Vec<usize>,
    /// Connections of which no command was executed yet.
    strangers: Strangers<usize>,
    /// Ended connections whose places are taken already.
    vacated: usize,
    /// Connections since the start.
    admitted: u64,
}

impl PublisherPort {
    /// The setting that has its address.
    pub const NAME: &str = "publishers";

    pub fn new(terms: Terms) -> PublisherPort {
        PublisherPort {
            connections: Slab::new(),
            exchange: Exchange::new(terms.bounds.subscriptions_max, terms.bounds.backlog_bytes_max),
            terms: Rc::new(terms),
            queue: VecDeque::new(),
            touched: Vec::new(),
            ended: Vec::new(),
            strangers: Strangers::default(),
            vacated: 0,
            admitted: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.connections.len() - self.vacated >= self.terms.bounds.connections_max
    }
}

impl Port for PublisherPort {
    fn name(&self) -> &'static str {
        PublisherPort::NAME
    }

    fn connections(&self) -> usize {
        self.connections.len()
    }

    fn refusal(&self) -> &'static [u8] {
        NO_ROOM
    }

    fn room_at(&self, now: Millis) -> Millis {
        let is_vacant = self.vacated < VACATED_PER_TURN && self.strangers.first(now).is_some();
        let is_now = !self.is_full() || self.strangers.is_empty() || is_vacant;
        if is_now { now } else { now + 1 }
    }

    fn admit(
        &mut self,
        server: &mut Server,
        registry: PortRegistry<'_>,
        mut stream: TcpStream,
        address: SocketAddr,
    ) {
        if self.is_full() {
            let max = self.terms.bounds.connections_max;
            server.complain("publisher", Weight::Curable, Origin::default(), || {
                format!(
                    "turned away: publishers_max ({max}) are connected, and who sends no command goes first; back ends \
                     should share connections"
                )
            });
            let Some(number) = self.strangers.first(server.now().millis) else {
                server.metrics().publishers_refused += 1;
                return turn_away(stream, NO_ROOM);
            };
            self.strangers.leave(number);
            self.ended.push(number);
            self.vacated += 1;
            server.metrics().strangers_vacated += 1;
        }
        // Only an address that is gone is found by this; failing to set it costs a place in the worst case.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let entry = self.connections.vacant_entry();
        if registry.register(&mut stream, entry.key()).is_ok() {
            let since = server.now().millis;
            self.admitted += 1;
            self.strangers.enter(entry.key(), address.ip(), since);
            let peer = Peer { seat: entry.key(), id: self.admitted, address: Some(address), since };
            let publisher = Publisher::new(Rc::clone(&self.terms), peer);
            entry.insert(PublisherSocket::new(stream, publisher));
        }
    }

    fn on_ready(&mut self, number: usize, event: &Event) {
        let Some(socket) = self.connections.get_mut(number) else { return };
        let (is_readable, is_unblocked) = socket.note(event);
        if is_readable && socket.input != InputState::Queued {
            socket.input = InputState::Queued;
            self.queue.push_back(number);
            self.strangers.speak(number);
        }
        if is_unblocked {
            self.touched.push(number);
        }
    }

    /// A connection that was not read comes first in the next turn: the first one would be the only one, if each turn began with
    /// it. Only a transaction continues before anything else.
    fn read(
        &mut self,
        router: &mut Router,
        _others: OtherPorts<'_>,
        buffer: &mut [u8],
        bytes_max: usize,
    ) -> bool {
        let limit = bytes_max.div_ceil(self.queue.len().max(1));
        let have_waited = !self.queue.is_empty() && router.server.is_pressed();
        let connections = self.connections.len();
        for _ in 0..self.queue.len() {
            if router.server.is_pressed() {
                break;
            }
            let Some(number) = self.queue.pop_front() else { break };
            let Some(socket) = self.connections.get_mut(number) else { continue };
            let world = &mut PortWorld { router, exchange: &mut self.exchange, connections };
            let is_put_off = socket.read(world, buffer, limit);
            let publisher = &mut socket.publisher;
            router.server.metrics().source_reads_put_off += u64::from(is_put_off);
            for _ in 0..std::mem::take(&mut publisher.oversized) {
                router.oversized();
            }
            if let Some((sentence, count)) = publisher.refused.take() {
                router.server.metrics().publisher_commands_refused += u64::from(count);
                let address = socket.address().map(|address| address.ip());
                let origin = Origin { path: None, address };
                let weight = Weight::Curable;
                router.server.complain("publisher's command", weight, origin, || sentence.clone());
            }
            if socket.publisher.has_commanded {
                self.strangers.leave(number);
            }
            self.touched.push(number);
            if socket.publisher.is_executing() {
                self.queue.push_front(number);
                break;
            }
            if socket.input == InputState::Queued {
                self.queue.push_back(number);
            }
        }
        have_waited
    }

    fn deliver(&mut self, server: &mut Server, channel: &[u8], payload: &[u8]) -> usize {
        let subscribers = self.exchange.publish(channel, payload);
        server.metrics().subscriber_messages += subscribers as u64;
        subscribers
    }

    fn flush(&mut self, server: &mut Server) {
        let now = server.now().millis;
        for (number, socket) in &self.connections {
            // It holds a place that others need.
            if socket.deadline().is_some_and(|deadline| deadline <= now) {
                self.ended.push(number);
            }
        }
        for number in std::mem::take(&mut self.exchange.awaiting) {
            if let Some(socket) = self.connections.get_mut(number) {
                socket.publisher.collect(&mut self.exchange);
                self.touched.push(number);
            }
        }
        for number in std::mem::take(&mut self.touched) {
            let Some(socket) = self.connections.get_mut(number) else { continue };
            socket.write(now);
            self.exchange.settle(number, socket.publisher.output.messages, now);
            if socket.is_done() {
                self.ended.push(number);
            } else if socket.input == InputState::Stalled && socket.blocked_since.is_none() {
                socket.input = InputState::Queued;
                self.queue.push_back(number);
            }
        }
        for number in std::mem::take(&mut self.exchange.cut) {
            let Some(socket) = self.connections.get_mut(number) else { continue };
            socket.peer = PeerState::Failed;
            self.ended.push(number);
            server.metrics().subscribers_cut += 1;
            let address = socket.address().map_or("gone".to_owned(), |one| one.to_string());
            log::warn!(
                "a subscriber at the publishers' port, {address}, was cut off: more than \
                 publisher_backlog_bytes_max waited for it, or a quarter of that for a minute"
            );
        }
    }

    fn reap(&mut self) -> bool {
        let any = !self.ended.is_empty();
        for number in self.ended.drain(..) {
            self.connections.try_remove(number);
            self.exchange.leave(number);
            self.strangers.leave(number);
        }
        self.vacated = 0;
        any
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        let Exchange { awaiting, cut, .. } = &self.exchange;
        let is_idle = self.queue.is_empty() && self.touched.is_empty();
        if !is_idle || !awaiting.is_empty() || !cut.is_empty() {
            return Some(now);
        }
        self.connections.iter().filter_map(|(_, socket)| socket.deadline()).min()
    }

    fn close(&mut self, now: Millis) {
        self.connections.iter_mut().for_each(|(_, socket)| socket.write(now));
        self.connections.clear();
        self.queue.clear();
        self.touched.clear();
    }
}

/// Everything that commands touch: the clients of all routes, and the subscribers at the port.
struct PortWorld<'a> {
    router: &'a mut Router,
    exchange: &'a mut Exchange,
    connections: usize,
}

impl World for PortWorld<'_> {
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<usize, String> {
        let subscribers = self.exchange.publish(channel, payload);
        self.router.server.metrics().subscriber_messages += subscribers as u64;
        publish_beside(self.router, subscribers, channel, payload)
    }

    fn is_pressed(&self) -> bool {
        self.router.server.is_pressed()
    }

    fn exchange(&mut self) -> &mut Exchange {
        self.exchange
    }

    fn moment(&self) -> Moment {
        Moment { now: self.router.server.now(), connections: self.connections }
    }
}
