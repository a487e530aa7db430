//! All connections of publishers: their admission, and their part of each phase of a turn.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::{
    InputState, OtherPorts, PeerState, Port, PortConnection, PortConnections, PortRegistry,
    publish_beside, turn_away,
};
use crate::engine::router::Router;
use crate::engine::router::sources::Receivers;
use crate::engine::server::Server;
use crate::features::publisher::connection::Publisher;
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::session::Peer;
use crate::features::publisher::settings::{Moment, Terms};
use crate::features::publisher::socket::PublisherSocket;
use crate::features::publisher::world::World;
use crate::observe::complaints::{Origin, Weight};
use crate::upgrade::{StateError, StateReader};

/// The answer of Redis to a connection above `maxclients`.
const NO_ROOM: &[u8] = b"-ERR max number of clients reached\r\n";

/// The publishers' port.
pub struct PublisherPort {
    terms: Rc<Terms>,
    /// A stranger among them is one of which no command was executed yet.
    connections: PortConnections<PublisherSocket>,
    exchange: Exchange,
    /// Messages whose receivers elsewhere are still counted, by their numbers, and the connections that published them.
    uncounted: VecDeque<(u64, usize)>,
    /// Connections since the start.
    admitted: u64,
}

impl PublisherPort {
    /// The setting that has its address.
    pub const NAME: &str = "publishers";

    pub fn new(terms: Terms) -> PublisherPort {
        PublisherPort {
            connections: PortConnections::new(terms.bounds.connections_max),
            exchange: Exchange::new(terms.bounds.subscriptions_max, terms.bounds.backlog_bytes_max),
            terms: Rc::new(terms),
            uncounted: VecDeque::new(),
            admitted: 0,
        }
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
        self.connections.room_at(now)
    }

    fn admit(
        &mut self,
        server: &mut Server,
        registry: PortRegistry<'_>,
        stream: TcpStream,
        address: SocketAddr,
    ) {
        if self.connections.is_full() {
            let max = self.terms.bounds.connections_max;
            server.complain("publisher", Weight::Curable, Origin::default(), || {
                format!(
                    "turned away: publishers_max ({max}) are connected, and who sends no command goes first; back ends \
                     should share connections"
                )
            });
            if !self.connections.vacate(server) {
                server.metrics().publishers_refused += 1;
                return turn_away(stream, NO_ROOM);
            }
        }
        let since = server.now().millis;
        let PublisherPort { terms, admitted, .. } = self;
        self.connections.enter(registry, stream, address, since, |seat, socket| {
            *admitted += 1;
            let peer = Peer { seat, id: *admitted, address: Some(address), since };
            PublisherSocket { socket, publisher: Publisher::new(Rc::clone(terms), peer) }
        });
    }

    fn on_ready(&mut self, number: usize, event: &Event) {
        self.connections.on_ready(number, event);
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
        let PublisherPort { connections, exchange, uncounted, .. } = self;
        let limit = bytes_max.div_ceil(connections.queue.len().max(1));
        let have_waited = !connections.queue.is_empty() && router.server.is_pressed();
        let count = connections.len();
        for _ in 0..connections.queue.len() {
            if router.server.is_pressed() {
                break;
            }
            let Some(number) = connections.queue.pop_front() else { break };
            let Some(connection) = connections.get_mut(number) else { continue };
            let world =
                &mut PortWorld { router, exchange, uncounted, seat: number, connections: count };
            let is_put_off = connection.read(world, buffer, limit);
            let PublisherSocket { socket, publisher } = connection;
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
            let (has_commanded, is_executing) = (publisher.has_commanded, publisher.is_executing());
            let is_queued = socket.input == InputState::Queued;
            if has_commanded {
                connections.prove(number);
            }
            connections.touched.push(number);
            if is_executing {
                connections.queue.push_front(number);
                break;
            }
            if is_queued {
                connections.queue.push_back(number);
            }
        }
        have_waited
    }

    fn deliver(&mut self, server: &mut Server, channel: &[u8], payload: &[u8]) -> usize {
        let subscribers = self.exchange.publish(channel, payload);
        server.metrics().subscriber_messages += subscribers as u64;
        subscribers
    }

    fn on_counted(&mut self, number: u64, receivers: usize) {
        while let Some((next, seat)) = self.uncounted.front().copied().filter(|one| one.0 <= number)
        {
            self.uncounted.pop_front();
            if let Some(connection) = self.connections.get_mut(seat).filter(|_| next == number) {
                connection.publisher.output.uncounted().on_counted(number, receivers);
                if self.connections.touched.last() != Some(&seat) {
                    self.connections.touched.push(seat);
                }
            }
        }
    }

    fn flush(&mut self, server: &mut Server) {
        let PublisherPort { connections, exchange, .. } = self;
        let now = server.now().millis;
        connections.end_overdue(now);
        for number in std::mem::take(&mut exchange.awaiting) {
            if let Some(connection) = connections.get_mut(number) {
                connection.publisher.collect(exchange);
                connections.touched.push(number);
            }
        }
        for number in std::mem::take(&mut connections.touched) {
            let Some(connection) = connections.get_mut(number) else { continue };
            connection.publisher.output.settle();
            connection.write(now);
            exchange.settle(number, connection.publisher.output.messages, now);
            // A count that comes touches the connection again.
            if !connection.publisher.output.awaits_counts() || connection.is_done() {
                connections.settle(number);
            }
        }
        for number in std::mem::take(&mut exchange.cut) {
            let Some(PublisherSocket { socket, .. }) = connections.get_mut(number) else {
                continue;
            };
            socket.peer = PeerState::Failed;
            server.metrics().subscribers_cut += 1;
            let address = socket.address().map_or("gone".to_owned(), |one| one.to_string());
            log::warn!(
                "a subscriber at the publishers' port, {address}, was cut off: more than \
                 publisher_backlog_bytes_max waited for it, or a quarter of that for a minute"
            );
            connections.ended.push(number);
        }
    }

    fn reap(&mut self) -> bool {
        let ended = self.connections.reap();
        ended.iter().for_each(|number| self.exchange.leave(*number));
        !ended.is_empty()
    }

    fn deadline(&self, now: Millis) -> Option<Millis> {
        let Exchange { awaiting, cut, .. } = &self.exchange;
        if !awaiting.is_empty() || !cut.is_empty() {
            return Some(now);
        }
        self.connections.next_deadline(now)
    }

    fn portable(&self) -> Vec<(BorrowedFd<'_>, Vec<u8>)> {
        let state = |one: &'_ PublisherSocket| one.publisher.portable(&self.exchange);
        let all = self.connections.iter();
        all.filter_map(|one| Some((one.socket.descriptor(), state(one)?))).collect()
    }

    fn take_over(
        &mut self,
        _: &mut Server,
        registry: PortRegistry<'_>,
        stream: TcpStream,
        state: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        let address = stream.peer_addr().ok();
        let PublisherPort { terms, connections, exchange, admitted, .. } = self;
        connections.take_over(registry, stream, |seat, socket| {
            let peer = Peer { seat, address, ..Peer::default() };
            let publisher = Publisher::restored(Rc::clone(terms), peer, exchange, state)?;
            *admitted = (*admitted).max(publisher.id());
            Ok(PublisherSocket { socket, publisher })
        })
    }

    fn close(&mut self, now: Millis) {
        self.connections.close(|connection| connection.write(now));
    }
}

/// Everything that commands touch: the clients of all routes, and the subscribers at the port.
struct PortWorld<'a> {
    router: &'a mut Router,
    exchange: &'a mut Exchange,
    uncounted: &'a mut VecDeque<(u64, usize)>,
    /// The connection that is read.
    seat: usize,
    connections: usize,
}

impl World for PortWorld<'_> {
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<Receivers, String> {
        let subscribers = self.exchange.publish(channel, payload);
        self.router.server.metrics().subscriber_messages += subscribers as u64;
        let receivers = publish_beside(self.router, subscribers, channel, payload)?;
        self.uncounted.extend(receivers.elsewhere.map(|number| (number, self.seat)));
        Ok(receivers)
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
