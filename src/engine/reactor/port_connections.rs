//! The connections of a port: their places, and the part of each phase of a turn that is the same for all protocols.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use slab::Slab;
use socket2::{SockRef, TcpKeepalive};

use crate::clock::Millis;
use crate::engine::admission::strangers::Strangers;
use crate::engine::reactor::port::PortRegistry;
use crate::engine::reactor::port_socket::{InputState, PortSocket};
use crate::engine::server::Server;
use crate::upgrade::StateError;

/// A pool of back ends keeps its connections for hours; a connection whose machine is gone must not hold a place for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Strangers that make room in one turn: each holds its descriptor to the end of the turn.
const VACATED_PER_TURN: usize = 4;

/// A protocol and the socket on which it is spoken.
pub trait PortConnection {
    fn socket(&mut self) -> &mut PortSocket;

    /// Returns when the peer's time is over.
    fn deadline(&self) -> Option<Millis>;

    /// Returns whether nothing is left to be done for the peer.
    fn is_done(&self) -> bool;
}

/// All connections of a port, by their numbers.
pub struct PortConnections<C> {
    most: usize,
    connections: Slab<C>,
    /// Connections that may have bytes to be read.
    pub queue: VecDeque<usize>,
    /// Connections that were read or unblocked in this turn: to be written to, and closed if they are done.
    pub touched: Vec<usize>,
    /// Connections to be freed at the end of the turn.
    pub ended: Vec<usize>,
    /// Connections that have yet to show their purpose.
    strangers: Strangers<usize>,
    /// Ended connections whose places are taken already.
    vacated: usize,
}

impl<C: PortConnection> PortConnections<C> {
    /// Room for `most` connections.
    pub fn new(most: usize) -> PortConnections<C> {
        PortConnections {
            most,
            connections: Slab::new(),
            queue: VecDeque::new(),
            touched: Vec::new(),
            ended: Vec::new(),
            strangers: Strangers::default(),
            vacated: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// All connections.
    pub fn iter(&self) -> impl Iterator<Item = &C> {
        self.connections.iter().map(|(_, connection)| connection)
    }

    /// Adds a connection of another process, made from its number and its socket. It is no stranger, and may have input that was read and
    /// not taken.
    ///
    /// # Errors
    /// The errors of `make`, and a lack of memory.
    pub fn take_over(
        &mut self,
        registry: PortRegistry<'_>,
        mut stream: TcpStream,
        make: impl FnOnce(usize, PortSocket) -> Result<C, StateError>,
    ) -> Result<(), StateError> {
        let entry = self.connections.vacant_entry();
        let number = entry.key();
        let registered = registry.register(&mut stream, number);
        registered.map_err(|_| StateError::Malformed("a socket"))?;
        let connection = entry.insert(make(number, PortSocket::new(stream))?);
        connection.socket().input = InputState::Queued;
        self.queue.push_back(number);
        self.touched.push(number);
        Ok(())
    }

    pub fn get_mut(&mut self, number: usize) -> Option<&mut C> {
        self.connections.get_mut(number)
    }

    /// Returns whether there is no place left, unless a stranger makes room.
    pub fn is_full(&self) -> bool {
        self.connections.len() - self.vacated >= self.most
    }

    /// Returns when one more connection can be admitted, or refused with an answer.
    pub fn room_at(&self, now: Millis) -> Millis {
        let is_vacant = self.vacated < VACATED_PER_TURN && self.strangers.first(now).is_some();
        let is_now = !self.is_full() || self.strangers.is_empty() || is_vacant;
        if is_now { now } else { now + 1 }
    }

    /// Ends a stranger to make room. Returns whether there was one.
    pub fn vacate(&mut self, server: &mut Server) -> bool {
        let Some(number) = self.strangers.first(server.now().millis) else { return false };
        self.strangers.leave(number);
        self.ended.push(number);
        self.vacated += 1;
        server.metrics().strangers_vacated += 1;
        true
    }

    /// Adds a connection, made from its number and its socket, as a stranger.
    pub fn enter(
        &mut self,
        registry: PortRegistry<'_>,
        mut stream: TcpStream,
        address: SocketAddr,
        now: Millis,
        make: impl FnOnce(usize, PortSocket) -> C,
    ) {
        // Only an address that is gone is found by this; failing to set it costs a place in the worst case.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let entry = self.connections.vacant_entry();
        let number = entry.key();
        if registry.register(&mut stream, number).is_ok() {
            self.strangers.enter(number, address.ip(), now);
            entry.insert(make(number, PortSocket::new(stream)));
            self.touched.push(number);
        }
    }

    /// Takes note that a connection has shown its purpose: it keeps its place.
    pub fn prove(&mut self, number: usize) {
        self.strangers.leave(number);
    }

    /// Notes an event of the connection with this number.
    pub fn on_ready(&mut self, number: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let socket = connection.socket();
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

    /// Ends connections whose time is over: they hold places that others need. Returns their number.
    pub fn end_overdue(&mut self, now: Millis) -> usize {
        let before = self.ended.len();
        let is_overdue = |one: &C| one.deadline().is_some_and(|deadline| deadline <= now);
        let overdue = self.connections.iter().filter(|(_, one)| is_overdue(one));
        self.ended.extend(overdue.map(|(number, _)| number));
        self.ended.len() - before
    }

    /// Ends a connection that was written to if it is done, and lets it be read again if it was stalled.
    pub fn settle(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        if connection.is_done() {
            return self.ended.push(number);
        }
        let socket = connection.socket();
        if socket.input == InputState::Stalled && socket.blocked_since.is_none() {
            socket.input = InputState::Queued;
            self.queue.push_back(number);
        }
    }

    /// Frees the connections that have ended, and returns their numbers, some of them twice.
    pub fn reap(&mut self) -> Vec<usize> {
        for number in &self.ended {
            self.connections.try_remove(*number);
            self.strangers.leave(*number);
        }
        self.vacated = 0;
        std::mem::take(&mut self.ended)
    }

    /// Returns when the loop must turn again even if nothing happens: `now` if work is left.
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        if !self.queue.is_empty() || !self.touched.is_empty() {
            return Some(now);
        }
        self.connections.iter().filter_map(|(_, connection)| connection.deadline()).min()
    }

    /// Ends all connections, after `last` of each.
    pub fn close(&mut self, last: impl Fn(&mut C)) {
        self.connections.iter_mut().for_each(|(_, connection)| last(connection));
        self.connections.clear();
        self.queue.clear();
        self.touched.clear();
    }
}
