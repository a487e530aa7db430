//! The sockets of publishers that are connected to us.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use slab::Slab;
use socket2::{SockRef, TcpKeepalive};

use crate::clock::Millis;
use crate::engine::admission::strangers::Strangers;
use crate::engine::bounds::Bounds;
use crate::engine::reactor::listeners::{Purpose, turn_away};
use crate::engine::reactor::token::Source;
use crate::engine::redis::request::Answer;
use crate::engine::router::Router;
use crate::engine::server::requests::Publication;
use crate::features::publisher::connection::{Moment, Peer, Publish, Publisher, Terms};
use crate::features::publisher::exchange::Exchange;

/// A pool of back ends keeps its connections for hours; one whose machine is gone must not hold a place for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Strangers that make room in one turn: each holds its descriptor to the end of the turn.
const VACATED_PER_TURN: usize = 4;

/// Parts of a write: a large message is one of its own.
const PARTS: usize = 16;

/// How long one may leave its answers unread while the socket is full.
const BLOCKED_MAX: Millis = 60_000;

struct Connection {
    stream: TcpStream,
    publisher: Publisher,
    /// When it came.
    since: Millis,
    /// Read, and kept while a client is owed enough.
    pending: Vec<u8>,
    /// It stands among the noted ones.
    noted: bool,
    /// The socket takes nothing since then; it will say when it does.
    blocked_since: Option<Millis>,
    /// It left too many answers unread: what it sent is taken up again when they are written.
    stalled: bool,
    /// Its end has come, or an error: it is read until that.
    is_ending: bool,
    /// A command of it was carried out, with the password if one is asked for.
    has_commanded: bool,
    /// It has ended its side.
    closed: bool,
    /// Its socket failed.
    broken: bool,
}

/// All connected publishers.
pub struct Publishers {
    connections: Slab<Connection>,
    /// Those that may have bytes to be read.
    noted: VecDeque<usize>,
    /// Those that were read or unblocked in this turn: to be answered, and closed if they are done.
    touched: Vec<usize>,
    ended: Vec<usize>,
    /// Connections of which no command was carried out yet.
    strangers: Strangers<usize>,
    /// Of the ended ones, those whose places are taken already.
    vacated: usize,
    /// None of the noted ones was read in this turn: a client was owed enough before it was their turn.
    waited: bool,
    terms: Rc<Terms>,
    /// Who of them subscribes to what.
    exchange: Exchange,
    /// How many there were.
    admitted: u64,
    /// How long one may take to give the password: `auth_seconds`, as for clients.
    stranger_max: Millis,
}

impl Publishers {
    pub fn new(password: Option<Vec<u8>>, bounds: &Bounds) -> Publishers {
        Publishers {
            connections: Slab::new(),
            noted: VecDeque::new(),
            touched: Vec::new(),
            ended: Vec::new(),
            strangers: Strangers::default(),
            vacated: 0,
            waited: false,
            terms: Rc::new(Terms {
                password: password.map(Rc::from),
                payload_bytes_max: bounds.payload_bytes_max,
                transaction_commands_max: bounds.transaction_commands_max,
                transaction_bytes_max: bounds.transaction_bytes_max,
                connections_max: bounds.publishers_max,
                backlog_bytes_max: bounds.publisher_backlog_bytes_max,
            }),
            exchange: Exchange::new(
                bounds.publisher_subscriptions_max,
                bounds.publisher_backlog_bytes_max,
            ),
            admitted: 0,
            stranger_max: Millis::from(bounds.auth_seconds) * 1000,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether some have bytes that the last turn did not get to, or answers.
    pub fn has_note(&self) -> bool {
        !self.noted.is_empty() || !self.touched.is_empty() || self.exchange.has_note()
    }

    /// Takes a connection in, or turns it away when there are too many that have shown what they came for.
    pub fn admit(
        &mut self,
        mut stream: TcpStream,
        address: SocketAddr,
        registry: &Registry,
        router: &mut Router,
    ) {
        if !self.make_room(router) {
            router.server.metrics().publishers_refused += 1;
            router.complain_of_publisher(self.terms.connections_max);
            return turn_away(stream, Purpose::Publishers, 503);
        }
        // Only an address that is gone is found by this; failing to set it costs a place in the worst case.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let entry = self.connections.vacant_entry();
        let token = Source::Publisher(entry.key()).token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, token, both).is_ok() {
            let since = router.server.now().millis;
            self.admitted += 1;
            self.strangers.enter(entry.key(), address.ip(), since);
            let peer = Peer { seat: entry.key(), id: self.admitted, address: Some(address), since };
            let publisher = Publisher::new(Rc::clone(&self.terms), peer);
            entry.insert(Connection {
                stream,
                publisher,
                since,
                noted: false,
                stalled: false,
                is_ending: false,
                pending: Vec::new(),
                blocked_since: None,
                has_commanded: false,
                closed: false,
                broken: false,
            });
            router.publishers = self.connections.len();
        }
    }

    /// When one more can be taken in, or is to be told that all places are taken.
    pub fn room_at(&self, now: Millis) -> Millis {
        let is_vacant = self.vacated < VACATED_PER_TURN && self.strangers.first(now).is_some();
        let is_now = !self.is_full() || self.strangers.is_empty() || is_vacant;
        if is_now { now } else { now + 1 }
    }

    fn is_full(&self) -> bool {
        self.connections.len() - self.vacated >= self.terms.connections_max
    }

    /// Returns whether there is a place for one more, which a stranger may have to give up.
    fn make_room(&mut self, router: &mut Router) -> bool {
        if !self.is_full() {
            return true;
        }
        let Some(number) = self.strangers.first(router.server.now().millis) else { return false };
        self.strangers.leave(number);
        self.ended.push(number);
        self.vacated += 1;
        router.server.metrics().strangers_vacated += 1;
        router.complain_of_publisher(self.terms.connections_max);
        true
    }

    /// Notes what an event says.
    pub fn note(&mut self, number: usize, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        if readable && !connection.noted {
            connection.noted = true;
            self.noted.push_back(number);
            self.strangers.speak(number);
        }
        connection.is_ending |= event.is_read_closed() || event.is_error();
        if event.is_writable() && connection.blocked_since.take().is_some() {
            self.touched.push(number);
        }
    }

    /// Whether Redis led to so much in this turn that nobody here was read.
    pub fn have_waited(&self) -> bool {
        self.waited
    }

    /// Reads the noted ones, together up to the bound, until a client is owed enough. What is left keeps its note, and whoever
    /// was not read comes first in the next turn: the first one would be the only one, if each turn began with it. Only a
    /// transaction goes on before anything else.
    pub fn read(&mut self, router: &mut Router, buffer: &mut [u8], limit: usize) {
        let limit = limit.div_ceil(self.noted.len().max(1));
        self.waited = !self.noted.is_empty() && router.server.is_pressed();
        let moment = Moment { now: router.server.now(), connections: self.connections.len() };
        for _ in 0..self.noted.len() {
            if router.server.is_pressed() {
                return;
            }
            let Some(number) = self.noted.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            let mut hall = Hall { router, exchange: &mut self.exchange, moment };
            connection.noted = connection.read(&mut hall, buffer, limit);
            if connection.has_commanded {
                self.strangers.leave(number);
            }
            self.touched.push(number);
            if let Some((name, count)) = connection.publisher.take_refused() {
                router.server.metrics().publisher_commands_refused += u64::from(count);
                let address = connection.stream.peer_addr().ok();
                router.complain_of_command(&name, address.map(|address| address.ip()));
            }
            if connection.publisher.is_executing() {
                return self.noted.push_front(number);
            }
            if connection.noted {
                self.noted.push_back(number);
            }
        }
    }

    /// Publishes what handlers asked for, as if it came by this port; not while a client is owed enough.
    pub fn publish_for_handlers(&mut self, router: &mut Router) {
        let moment = Moment { now: router.server.now(), connections: self.connections.len() };
        for Publication { channel, payload, ticket } in router.server.take_publications() {
            let answer = if router.server.is_pressed() {
                Answer::Unavailable
            } else {
                let mut hall = Hall { router, exchange: &mut self.exchange, moment };
                match hall.publish(channel.as_bytes(), payload.as_bytes()) {
                    Ok(count) => Answer::Integer(count as i64),
                    Err(why) => Answer::Refused(why),
                }
            };
            router.on_answer(ticket, answer);
        }
    }

    /// Writes the answers, and messages to those who subscribe to them.
    pub fn flush(&mut self, router: &mut Router) {
        let now = router.server.now().millis;
        for number in self.exchange.take_awaiting() {
            if let Some(connection) = self.connections.get_mut(number) {
                connection.publisher.collect(&mut self.exchange);
                self.touched.push(number);
            }
        }
        for number in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            connection.write(now);
            self.exchange.settle(number, connection.publisher.unwritten_messages(), now);
            if connection.is_done() {
                self.ended.push(number);
            } else if connection.stalled && connection.blocked_since.is_none() && !connection.noted
            {
                connection.noted = true;
                self.noted.push_back(number);
            }
        }
        self.end_cut(router);
    }

    /// Ends subscribers that are too far behind.
    fn end_cut(&mut self, router: &mut Router) {
        for number in self.exchange.take_cut() {
            if let Some(connection) = self.connections.get_mut(number) {
                connection.broken = true;
                self.ended.push(number);
                router.server.metrics().subscribers_cut += 1;
                log::warn!(
                    "a subscriber at the publishers' port, {}, was cut off: more than \
                     publisher_backlog_bytes_max waited for it, or a quarter of that for a minute",
                    connection.address()
                );
            }
        }
    }

    /// Frees those that are done. Whether there were any.
    pub fn reap(&mut self, router: &mut Router) -> bool {
        let any = !self.ended.is_empty();
        for number in self.ended.drain(..) {
            self.connections.try_remove(number);
            self.exchange.leave(number);
            self.strangers.leave(number);
        }
        self.vacated = 0;
        router.publishers = self.connections.len();
        any
    }

    /// When somebody's time is up.
    pub fn deadline(&self) -> Option<Millis> {
        self.connections.iter().filter_map(|(_, one)| one.ends(self.stranger_max)).min()
    }

    /// Ends those whose time is up: they hold a place that others need.
    pub fn tick(&mut self, now: Millis) {
        for (number, connection) in &self.connections {
            if connection.ends(self.stranger_max).is_some_and(|ends| ends <= now) {
                self.ended.push(number);
            }
        }
    }

    /// Ends all of them, after what they are owed was written as far as that goes.
    pub fn close(&mut self, now: Millis) {
        for (_, connection) in &mut self.connections {
            connection.write(now);
        }
        self.connections.clear();
        self.noted.clear();
        self.touched.clear();
    }
}

/// Where a publisher's message goes: to clients, and to those who subscribe at this port.
struct Hall<'a> {
    router: &'a mut Router,
    exchange: &'a mut Exchange,
    moment: Moment,
}

impl Hall<'_> {
    /// Returns to how many it went.
    ///
    /// # Errors
    /// No client can hear that channel, and no subscriber does.
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<usize, String> {
        let subscribers = self.exchange.publish(channel, payload);
        if subscribers > 0 {
            self.router.server.metrics().subscriber_messages += subscribers as u64;
            if self.router.refusal_of(channel).is_some() {
                return Ok(subscribers);
            }
        }
        let dropped = self.router.server.metrics().messages_malformed;
        let clients = self.router.publish(channel, payload);
        if self.router.server.metrics().messages_malformed == dropped {
            return Ok(clients + subscribers);
        }
        // Why is looked into only for what was dropped.
        self.router.refusal_of(channel).map_or(Ok(0), Err)
    }
}

impl Connection {
    /// Whether there is more to be read.
    fn read(&mut self, hall: &mut Hall<'_>, buffer: &mut [u8], limit: usize) -> bool {
        self.stalled = false;
        let pending = std::mem::take(&mut self.pending);
        self.take_in(hall, &pending);
        let mut total = 0;
        let mut is_empty = false;
        while !self.closed && !self.broken {
            if !self.publisher.wants_input() {
                self.stalled = !self.publisher.is_ending();
                return false;
            }
            let is_over = total >= limit;
            if is_over || self.is_put_off() || hall.router.server.is_pressed() {
                hall.router.server.metrics().source_reads_put_off += u64::from(is_over);
                return true;
            }
            if is_empty {
                return false;
            }
            let room = buffer.len().min(limit - total);
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.closed = true,
                Ok(length) => {
                    total += length;
                    self.take_in(hall, &buffer[..length]);
                    // A short read empties the socket, unless its end is behind it, of which no further event would tell.
                    is_empty = length < room && !self.is_ending;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => self.broken = true,
            }
        }
        self.is_put_off()
    }

    /// Whether something that was read is still to be carried out.
    fn is_put_off(&self) -> bool {
        !self.pending.is_empty() || self.publisher.is_executing()
    }

    /// Publishes what was read, until a client is owed enough; the rest is kept.
    fn take_in(&mut self, hall: &mut Hall<'_>, mut input: &[u8]) {
        while !hall.router.server.is_pressed() {
            let next = self.publisher.next(&mut input, hall.exchange, &hall.moment);
            let Some(Publish { channel, payload }) = next else { break };
            self.has_commanded = true;
            match hall.publish(channel, payload) {
                Ok(receivers) => self.publisher.published(receivers),
                Err(why) => self.publisher.refused(&why),
            }
        }
        self.pending = input.to_vec();
        // An answer before the password was given is an error.
        self.has_commanded |= self.publisher.is_authenticated() && self.publisher.has_output();
        for _ in 0..self.publisher.take_oversized() {
            hall.router.oversized();
        }
    }

    fn address(&self) -> String {
        self.stream.peer_addr().map_or_else(|_| "gone".to_owned(), |address| address.to_string())
    }

    fn write(&mut self, now: Millis) {
        while self.publisher.has_output() && self.blocked_since.is_none() && !self.broken {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for (slot, part) in parts.iter_mut().zip(self.publisher.output()) {
                *slot = IoSlice::new(part);
                count += 1;
            }
            match self.stream.write_vectored(&parts[..count]) {
                Ok(length) => self.publisher.wrote(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked_since = Some(now)
                }
                Err(_) => self.broken = true,
            }
        }
    }

    /// When its time is up, if it leaves its answers unread, or has not given the password yet.
    fn ends(&self, stranger_max: Millis) -> Option<Millis> {
        let unread = self.blocked_since.map(|since| since + BLOCKED_MAX);
        let is_stranger = !self.publisher.is_authenticated();
        let stranger = is_stranger.then_some(self.since + stranger_max);
        unread.into_iter().chain(stranger).min()
    }

    /// Whether nothing is left to be said, or nobody to say it to.
    fn is_done(&self) -> bool {
        let no_more =
            (self.closed && !self.stalled && !self.is_put_off()) || self.publisher.is_ending();
        // A transaction is carried out though its publisher has gone.
        let is_lost = self.broken && !self.publisher.is_executing();
        is_lost || (no_more && !self.publisher.has_output())
    }
}
