//! The sockets of publishers that are connected to us.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use slab::Slab;
use socket2::{SockRef, TcpKeepalive};

use crate::clock::Millis;
use crate::config::Bounds;
use crate::reactor::doors::{Purpose, turn_away};
use crate::reactor::token::Source;
use crate::site::Site;
use crate::source::publisher::Publisher;

/// A pool of back ends keeps its connections for hours; one whose machine is gone must not hold a place for ever.
const KEEPALIVE: Duration = Duration::from_secs(60);

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
    /// None of the noted ones was read in this turn: a client was owed enough before it was their turn.
    waited: bool,
    max: usize,
    payload_bytes_max: usize,
    password: Option<Rc<[u8]>>,
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
            waited: false,
            max: bounds.publishers_max,
            payload_bytes_max: bounds.payload_bytes_max,
            password: password.map(Rc::from),
            stranger_max: Millis::from(bounds.auth_seconds) * 1000,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Whether some have bytes that the last turn did not get to, or answers.
    pub fn has_note(&self) -> bool {
        !self.noted.is_empty() || !self.touched.is_empty()
    }

    /// Takes a connection in, or turns it away when there are too many.
    pub fn admit(&mut self, mut stream: TcpStream, registry: &Registry, site: &mut Site) {
        if self.connections.len() >= self.max {
            site.server.metrics().publishers_refused += 1;
            site.complain_of_publisher(self.max);
            return turn_away(stream, Purpose::Publishers, 503);
        }
        // Only an address that is gone is found by this; failing to set it costs a place in the worst case.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        let entry = self.connections.vacant_entry();
        let token = Source::Publisher(entry.key()).token();
        let both = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, token, both).is_ok() {
            let publisher = Publisher::new(self.payload_bytes_max, self.password.clone());
            entry.insert(Connection {
                stream,
                publisher,
                since: site.server.now().millis,
                noted: false,
                stalled: false,
                is_ending: false,
                pending: Vec::new(),
                blocked_since: None,
                closed: false,
                broken: false,
            });
            site.publishers = self.connections.len();
        }
    }

    /// Notes what an event says.
    pub fn note(&mut self, number: usize, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(number) else { return };
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        if readable && !connection.noted {
            connection.noted = true;
            self.noted.push_back(number);
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
    /// was not read comes first in the next turn: the first one would be the only one, if each turn began with it.
    pub fn read(&mut self, site: &mut Site, buffer: &mut [u8], limit: usize) {
        let limit = limit.div_ceil(self.noted.len().max(1));
        self.waited = !self.noted.is_empty() && site.server.is_pressed();
        for _ in 0..self.noted.len() {
            if site.server.is_pressed() {
                return;
            }
            let Some(number) = self.noted.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            connection.noted = connection.read(site, buffer, limit);
            if connection.noted {
                self.noted.push_back(number);
            }
            self.touched.push(number);
        }
    }

    /// Writes the answers.
    pub fn flush(&mut self, now: Millis) {
        for number in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(number) else {
                continue;
            };
            connection.write(now);
            if connection.is_done() {
                self.ended.push(number);
            } else if connection.stalled && connection.blocked_since.is_none() && !connection.noted
            {
                connection.noted = true;
                self.noted.push_back(number);
            }
        }
    }

    /// Frees those that are done. Whether there were any.
    pub fn reap(&mut self, site: &mut Site) -> bool {
        let any = !self.ended.is_empty();
        for number in self.ended.drain(..) {
            self.connections.try_remove(number);
        }
        site.publishers = self.connections.len();
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

impl Connection {
    /// Whether there is more to be read.
    fn read(&mut self, site: &mut Site, buffer: &mut [u8], limit: usize) -> bool {
        self.stalled = false;
        let pending = std::mem::take(&mut self.pending);
        self.take_in(site, &pending);
        let mut total = 0;
        let mut is_empty = false;
        while !self.closed && !self.broken {
            if !self.publisher.wants_input() {
                self.stalled = !self.publisher.is_ending();
                return false;
            }
            let is_over = total >= limit;
            if is_over || !self.pending.is_empty() || site.server.is_pressed() {
                site.server.metrics().source_reads_put_off += u64::from(is_over);
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
                    self.take_in(site, &buffer[..length]);
                    // A short read empties the socket, unless its end is behind it, of which no further event would tell.
                    is_empty = length < room && !self.is_ending;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(_) => self.broken = true,
            }
        }
        !self.pending.is_empty()
    }

    /// Publishes what was read, until a client is owed enough; the rest is kept.
    fn take_in(&mut self, site: &mut Site, mut input: &[u8]) {
        while !site.server.is_pressed() {
            let Some(publish) = self.publisher.next(&mut input) else { break };
            let receivers = site.publish(publish.channel, publish.payload);
            self.publisher.published(receivers);
        }
        self.pending = input.to_vec();
        for _ in 0..self.publisher.take_oversized() {
            site.oversized();
        }
    }

    fn write(&mut self, now: Millis) {
        while !self.publisher.output().is_empty() && self.blocked_since.is_none() && !self.broken {
            match self.stream.write(self.publisher.output()) {
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
            (self.closed && !self.stalled && self.pending.is_empty()) || self.publisher.is_ending();
        self.broken || (no_more && self.publisher.output().is_empty())
    }
}
