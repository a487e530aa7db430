//! The seam to listeners whose connections are not clients: a feature admits, reads and writes them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry};

use crate::clock::Millis;
use crate::engine::reactor::token::Source;
use crate::engine::redis::request::Answer;
use crate::engine::router::Router;
use crate::engine::router::sources::Receivers;
use crate::engine::server::Server;
use crate::engine::server::requests::Publication;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, Successor, VALUES_MAX};

/// A feature's connections, and its listener if it has one, called in fixed phases of a turn.
pub trait Port {
    /// Returns the setting that has its address.
    fn name(&self) -> &'static str;

    /// Returns the number of connections.
    fn connections(&self) -> usize;

    /// Returns the number of clients elsewhere that this process answers for.
    fn clients(&self) -> usize {
        0
    }

    /// Returns the answer to a connection for which there is no room.
    fn refusal(&self) -> &'static [u8] {
        b""
    }

    /// Returns when one more connection can be admitted, or refused with an answer.
    fn room_at(&self, now: Millis) -> Millis {
        now
    }

    /// Admits a connection to its listener, or refuses it.
    fn admit(&mut self, _: &mut Server, _: PortRegistry<'_>, _: TcpStream, _: SocketAddr) {
        unreachable!("it has no listener");
    }

    /// Notes an event of the connection with this number.
    fn on_ready(&mut self, number: usize, event: &Event);

    /// Reads connections, together about `bytes_max`, until a client has too much pending. What they publish goes to connections of
    /// the `others` as well. Returns whether a client had too much pending already, so that no connection that waits was read.
    fn read(
        &mut self,
        router: &mut Router,
        others: OtherPorts<'_>,
        buffer: &mut [u8],
        bytes_max: usize,
    ) -> bool;

    /// Delivers a message from elsewhere to connections that receive it. Returns the number of receivers.
    fn deliver(&mut self, server: &mut Server, channel: &[u8], payload: &[u8]) -> usize;

    /// Takes note that a message under this number has so many receivers elsewhere: see
    /// [`SourceObserver`](crate::engine::router::sources::SourceObserver). The numbers come in order.
    fn on_counted(&mut self, _number: u64, _receivers: usize) {}

    /// Takes over messages of handlers that are to be published elsewhere.
    fn take_publications(&mut self, _publications: &mut Vec<Publication>) {}

    /// Does what is due, once in each turn when all events are dispatched.
    fn tick(&mut self, _router: &mut Router, _others: OtherPorts<'_>, _registry: PortRegistry<'_>) {
    }

    /// Takes the next order to the loop itself.
    fn take_order(&mut self) -> Option<LoopOrder> {
        None
    }

    /// Returns whether clients are served as far as the port is concerned. Once they are, that is not asked again.
    fn is_ready(&self) -> bool {
        true
    }

    /// The settings were read again, and taken over.
    fn on_reload(&mut self) {}

    /// Writes to connections, and ends those whose time is over.
    fn flush(&mut self, server: &mut Server);

    /// Frees the connections that have ended. Returns whether there were any.
    fn reap(&mut self) -> bool;

    /// Returns when the loop must turn again even if nothing happens: `now` if work is left.
    fn deadline(&self, now: Millis) -> Option<Millis>;

    /// Ends all connections after one write to each.
    fn close(&mut self, now: Millis);

    /// Returns whether nothing is under way that has to end before a handover. `None`: its connections are handed over as they are, and
    /// not read while the loop comes to rest.
    fn is_at_rest(&self, _router: &Router) -> Option<bool> {
        None
    }

    /// Takes part in a step of a handover.
    ///
    /// # Errors
    /// A sentence why there can be none.
    fn on_handover(&mut self, _step: HandoverStep, _now: Millis) -> Result<(), String> {
        Ok(())
    }

    /// Writes the part of its state that another process needs to begin.
    fn save_ahead<'a>(&'a self, _writer: &mut StateWriter<'a>) {}

    /// Returns the connections that can be handed over to another process, each with its state. The others end with this one.
    fn portable(&self) -> Vec<(BorrowedFd<'_>, Vec<u8>)> {
        Vec::new()
    }

    /// Goes on with a connection of the process whose place this one takes.
    ///
    /// # Errors
    /// The state is malformed.
    fn take_over(
        &mut self,
        _server: &mut Server,
        _registry: PortRegistry<'_>,
        _stream: TcpStream,
        _state: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        Ok(())
    }
}

/// A step of a handover, in which processes that work together act alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverStep {
    /// Another process has started, and needs the first part of the state.
    Prepare,
    /// The other process, or this one, is not ready yet.
    Wait,
    /// The loop comes to rest.
    Rest,
    /// It is at rest, and waits for an order.
    AtRest,
    /// The state is about to be written.
    HandOver,
    /// The handover failed.
    GoOn,
}

/// An order to the loop, which a port may have from someone entitled to it. A signal would say the same.
pub enum LoopOrder {
    /// Read the settings again.
    Reload,
    /// Drain, and leave the first time slot and all but each `of`th one behind it to others that drain as well.
    Drain { place: u64, of: u64 },
    /// End at once.
    End,
    /// Give this process the first part of the state.
    Prepare(Box<Successor>),
    /// Come to rest.
    Rest,
    /// Hand over.
    HandOver,
    /// Go on as before.
    GoOn,
}

/// The way of a port's connections into the poll.
pub struct PortRegistry<'a> {
    registry: &'a Registry,
    port: usize,
}

impl PortRegistry<'_> {
    /// Registers the connection with this number.
    ///
    /// # Errors
    /// The errors of `epoll_ctl`: a lack of memory.
    pub fn register(&self, stream: &mut TcpStream, number: usize) -> io::Result<()> {
        let token = Source::Port { port: self.port, number }.token();
        self.registry.register(stream, token, Interest::READABLE | Interest::WRITABLE)
    }
}

/// The ports beside the one that is read.
pub struct OtherPorts<'a>([&'a mut [Box<dyn Port>]; 2]);

impl OtherPorts<'_> {
    /// Delivers a message to their connections that receive it. Returns the number of receivers.
    pub fn deliver(&mut self, server: &mut Server, channel: &[u8], payload: &[u8]) -> usize {
        let ports = self.0.iter_mut().flat_map(|ports| ports.iter_mut());
        ports.map(|port| port.deliver(server, channel, payload)).sum()
    }

    /// Brings them the number of receivers elsewhere.
    pub fn on_counted(&mut self, number: u64, receivers: usize) {
        let ports = self.0.iter_mut().flat_map(|ports| ports.iter_mut());
        ports.for_each(|port| port.on_counted(number, receivers));
    }
}

/// The ports, by the numbers in the purposes of their listeners and in the tokens of their connections.
#[derive(Default)]
pub(super) struct Ports {
    ports: Vec<Box<dyn Port>>,
    /// The port that is read first. It changes with each turn: a port that fills the clients' backlogs must not keep another one
    /// from being read.
    first: usize,
    /// Connections were not read in the last turn: a client had too much pending.
    pub have_waited: bool,
}

impl Ports {
    /// Adds a port. Returns its number.
    pub fn add(&mut self, port: Box<dyn Port>) -> usize {
        self.ports.push(port);
        self.ports.len() - 1
    }

    /// Returns the number of connections of all ports.
    pub fn connections(&self) -> usize {
        self.ports.iter().map(|port| port.connections()).sum()
    }

    /// Returns the number of clients, with those elsewhere that ports tell of.
    pub fn clients(&self, server: &Server) -> usize {
        self.ports.iter().map(|port| port.clients()).sum::<usize>() + server.clients_len()
    }

    /// Returns when a port can admit one more connection, or refuse it with an answer.
    pub fn room_at(&self, port: usize, now: Millis) -> Millis {
        self.ports[port].room_at(now)
    }

    /// Admits a connection at a port, or refuses it.
    pub fn admit(
        &mut self,
        port: usize,
        server: &mut Server,
        registry: &Registry,
        (stream, address): (TcpStream, SocketAddr),
    ) {
        self.ports[port].admit(server, PortRegistry { registry, port }, stream, address);
    }

    /// Notes an event of a connection.
    pub fn on_ready(&mut self, port: usize, number: usize, event: &Event) {
        self.ports[port].on_ready(number, event);
    }

    /// Reads the connections of all ports; while the loop `rests`, those that are not handed over.
    pub fn read(&mut self, router: &mut Router, buffer: &mut [u8], rests: bool) {
        let bytes_max = router.server.bounds.source_read_bytes_per_turn;
        let count = self.ports.len();
        self.have_waited = false;
        self.first = (self.first + 1) % count.max(1);
        for step in 0..count {
            let (before, rest) = self.ports.split_at_mut((self.first + step) % count);
            let (port, behind) = rest.split_first_mut().expect("its number is below the count");
            if rests && port.is_at_rest(router).is_none() {
                continue;
            }
            let others = OtherPorts([before, behind]);
            self.have_waited |= port.read(router, others, buffer, bytes_max);
        }
    }

    /// Publishes the messages of handlers, to clients and at the ports; not while a client has too much pending.
    pub fn publish_for_handlers(&mut self, router: &mut Router) {
        let mut publications = std::mem::take(&mut router.server.requests.publications);
        if !publications.is_empty() {
            self.ports.iter_mut().for_each(|port| port.take_publications(&mut publications));
        }
        for Publication { channel, payload, ticket } in publications {
            if router.server.is_pressed() {
                router.on_answer(ticket, Answer::Unavailable);
                continue;
            }
            let (channel, payload) = (channel.as_bytes(), payload.as_bytes());
            let mut ports = OtherPorts([&mut self.ports, &mut []]);
            let others = ports.deliver(&mut router.server, channel, payload);
            let result = publish_beside(router, others, channel, payload);
            let answer =
                result.map_or_else(Answer::Refused, |found| Answer::Integer(found.here as i64));
            router.on_answer(ticket, answer);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, router: &mut Router, registry: &Registry) {
        for number in 0..self.ports.len() {
            let (before, rest) = self.ports.split_at_mut(number);
            let (port, behind) = rest.split_first_mut().expect("its number is below the count");
            let registry = PortRegistry { registry, port: number };
            port.tick(router, OtherPorts([before, behind]), registry);
        }
    }

    /// Takes the next order to the loop.
    pub fn take_order(&mut self) -> Option<LoopOrder> {
        self.ports.iter_mut().find_map(|port| port.take_order())
    }

    /// Returns whether all of them serve.
    pub fn are_ready(&self) -> bool {
        self.ports.iter().all(|port| port.is_ready())
    }

    /// The settings were taken over.
    pub fn on_reload(&mut self) {
        self.ports.iter_mut().for_each(|port| port.on_reload());
    }

    /// Writes to connections, and ends those whose time is over.
    pub fn flush(&mut self, server: &mut Server) {
        self.ports.iter_mut().for_each(|port| port.flush(server));
    }

    /// Frees the connections that have ended. Returns whether there were any.
    pub fn reap(&mut self) -> bool {
        self.ports.iter_mut().fold(false, |any, port| port.reap() | any)
    }

    /// Returns when the loop must turn again even if nothing happens.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        self.ports.iter().filter_map(|port| port.deadline(now)).min()
    }

    /// Returns whether nothing is under way that has to end before a handover.
    pub fn are_at_rest(&self, router: &Router) -> bool {
        self.ports.iter().all(|port| port.is_at_rest(router) != Some(false))
    }

    /// Takes a step of a handover.
    ///
    /// # Errors
    /// A sentence why there can be none.
    pub fn on_handover(&mut self, step: HandoverStep, now: Millis) -> Result<(), String> {
        self.ports.iter_mut().try_for_each(|port| port.on_handover(step, now))
    }

    /// Writes the first part of the state.
    pub fn save_ahead<'a>(&'a self, writer: &mut StateWriter<'a>) {
        self.ports.iter().for_each(|port| port.save_ahead(writer));
    }

    /// Writes the connections that can be handed over.
    pub fn save<'a>(&'a self, writer: &mut StateWriter<'a>) {
        writer.len(self.ports.len());
        for port in &self.ports {
            writer.text(port.name());
            let portable = port.portable();
            writer.len(portable.len());
            for (descriptor, state) in portable {
                writer.descriptor(descriptor);
                writer.bytes(&state);
            }
        }
    }

    /// Takes over connections. Those of a port that is no more end.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restore(
        &mut self,
        server: &mut Server,
        registry: &Registry,
        reader: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        for _ in 0..reader.len(VALUES_MAX)? {
            let name = reader.text(BYTES_MAX)?;
            let number = self.ports.iter().position(|port| port.name() == name);
            for _ in 0..reader.len(VALUES_MAX)? {
                let stream = TcpStream::from(reader.descriptor()?);
                let state = reader.bytes(BYTES_MAX)?;
                let Some(port) = number else { continue };
                let of = PortRegistry { registry, port };
                let mut nothing = ();
                let mut state = StateReader::new(state, &mut nothing);
                self.ports[port].take_over(server, of, stream, &mut state)?;
            }
        }
        Ok(())
    }

    /// Ends all connections after one write to each.
    pub fn close(&mut self, now: Millis) {
        self.ports.iter_mut().for_each(|port| port.close(now));
    }
}

/// Publishes to clients a message that ports have delivered to `others`. Returns the number of all receivers.
///
/// # Errors
/// The reason why nobody can receive from that channel.
pub fn publish_beside(
    router: &mut Router,
    others: usize,
    channel: &[u8],
    payload: &[u8],
) -> Result<Receivers, String> {
    let subscribers = Receivers { here: others, elsewhere: None };
    if others > 0 && router.refusal_of(channel).is_some() {
        return Ok(subscribers);
    }
    let dropped = router.server.metrics().messages_malformed;
    let receivers = router.publish_from(channel, payload, true);
    if router.server.metrics().messages_malformed == dropped {
        return Ok(Receivers { here: receivers.here + others, ..receivers });
    }
    // The reason is looked for only if the message was dropped.
    router.refusal_of(channel).map_or(Ok(subscribers), Err)
}
