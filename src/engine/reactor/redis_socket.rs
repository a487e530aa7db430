//! The socket under a connection to Redis.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Waker};

use crate::clock::Millis;
use crate::engine::reactor::Reactor;
use crate::engine::reactor::redis_protocol::RedisProtocol;
use crate::engine::reactor::resolver::Resolver;
use crate::engine::reactor::token::Source;
use crate::engine::redis::config::Address;
use crate::engine::router::Router;

/// The same failure is logged again after so long.
const REPEAT: Millis = 60_000;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A protocol, its socket, and the attempt to get one.
pub struct RedisSocket {
    protocol: Box<dyn RedisProtocol>,
    /// Its place among the loop's links.
    number: usize,
    stream: Option<Stream>,
    /// The socket is connected, and the protocol knows.
    connected: bool,
    /// It may have bytes to be read.
    readable: bool,
    /// Its end has come, or an error: it is read until that.
    is_ending: bool,
    /// Not all that follows from what was read is done, since a client is owed enough.
    is_behind: bool,
    /// The part of it that was not looked at.
    pending: Vec<u8>,
    /// Addresses of this attempt that were not tried yet; the last one comes next.
    addresses: Vec<SocketAddr>,
    /// Attempts that did not come up.
    vain: usize,
    resolver: Resolver,
    /// The failure that was logged last, and when.
    logged: Option<(String, Millis)>,
    /// For the waits between attempts.
    random: fn() -> u64,
}

impl RedisSocket {
    pub fn new(protocol: Box<dyn RedisProtocol>, number: usize, waker: Arc<Waker>) -> RedisSocket {
        RedisSocket {
            protocol,
            number,
            stream: None,
            connected: false,
            readable: false,
            is_ending: false,
            is_behind: false,
            pending: Vec::new(),
            addresses: Vec::new(),
            vain: 0,
            resolver: Resolver::new(waker),
            logged: None,
            random: || getrandom::u64().unwrap_or_default(),
        }
    }

    /// Takes this in the place of the system's chance.
    #[cfg(test)]
    pub fn without_chance(&mut self, random: fn() -> u64) {
        self.random = random;
    }

    /// Whether bytes wait that the last turn did not get to.
    pub fn has_note(&self) -> bool {
        self.has_input() || self.protocol.has_lost()
    }

    /// Whether nothing is under way that the end of the process should wait for.
    pub fn is_settled(&self) -> bool {
        self.protocol.is_settled()
    }

    fn has_input(&self) -> bool {
        self.connected && (self.readable || self.is_behind)
    }

    /// When it wants to be asked.
    pub fn deadline(&self) -> Option<Millis> {
        self.protocol.session().deadline()
    }

    fn address(&self) -> &Address {
        &self.protocol.session().config.address
    }

    /// Begins an attempt.
    fn begin(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        self.protocol.session_mut().connecting(now);
        match self.address() {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .map_err(|error| format!("cannot connect to {}: {error}", path.display()))?;
                self.watch(registry, Stream::Unix(stream))
            }
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(address) => {
                    self.addresses = vec![SocketAddr::new(address, *port)];
                    self.try_next(registry, None)
                }
                Err(_) => {
                    let (host, port) = (host.clone(), *port);
                    self.resolver.begin(host, port)
                }
            },
        }
    }

    fn resolved(&mut self, registry: &Registry) -> Result<(), String> {
        let Some(found) = self.resolver.take() else {
            return Ok(());
        };
        let found = found.map_err(|error| {
            format!("{} cannot be resolved ({error}): check the setting redis", self.address())
        })?;
        self.addresses = in_turn(found, self.vain);
        self.try_next(registry, None)
    }

    /// Connects to the next address of this attempt.
    fn try_next(&mut self, registry: &Registry, failed: Option<io::Error>) -> Result<(), String> {
        let mut failed = failed;
        while let Some(address) = self.addresses.pop() {
            match TcpStream::connect(address) {
                Ok(stream) => return self.watch(registry, Stream::Tcp(stream)),
                Err(error) => failed = Some(error),
            }
        }
        let why = failed.map_or("it has no address".to_owned(), |error| error.to_string());
        let address = self.address();
        Err(format!("cannot connect to {address}: {why}; is Redis running there?"))
    }

    fn watch(&mut self, registry: &Registry, stream: Stream) -> Result<(), String> {
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Source::RedisSubscriber(self.number).token();
        let stream = self.stream.insert(stream);
        let registered = match stream {
            Stream::Tcp(stream) => registry.register(stream, token, both),
            Stream::Unix(stream) => registry.register(stream, token, both),
        };
        registered.map_err(|error| format!("the socket to Redis cannot be watched: {error}"))
    }

    /// The socket is writable for the first time: it is connected, or it failed.
    fn on_writable(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        if self.connected {
            return Ok(());
        }
        let Some(stream) = &self.stream else {
            return Ok(());
        };
        let failure = match stream {
            Stream::Tcp(stream) => match stream.take_error() {
                Ok(None) => stream.peer_addr().err(),
                Ok(Some(error)) | Err(error) => Some(error),
            },
            Stream::Unix(stream) => match stream.take_error() {
                Ok(None) => None,
                Ok(Some(error)) | Err(error) => Some(error),
            },
        };
        match failure {
            None => {
                self.connected = true;
                self.protocol.session_mut().connected(now);
                Ok(())
            }
            Some(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Some(error) => {
                self.stream = None;
                self.try_next(registry, Some(error))
            }
        }
    }

    /// Begins an attempt, asks whether Redis lives, or gives it up, each in its time.
    fn tick(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        if self.protocol.session().wants_connect(now) {
            self.begin(registry, now)
        } else if self.deadline().is_some_and(|deadline| deadline <= now) && !self.has_input() {
            self.protocol.on_time(now)
        } else {
            Ok(())
        }
    }

    /// Reads until nothing is left, or the turn's bound is hit, or a client is owed enough; the latter two leave a note.
    fn read(&mut self, router: &mut Router, buffer: &mut [u8], limit: usize) -> Result<(), String> {
        let pending = std::mem::take(&mut self.pending);
        self.take_in(router, &pending)?;
        let mut total = 0;
        while total < limit && self.readable && !self.is_behind && !router.server.is_pressed() {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            let room = buffer.len().min(limit - total);
            let read = match stream {
                Stream::Tcp(stream) => stream.read(&mut buffer[..room]),
                Stream::Unix(stream) => stream.read(&mut buffer[..room]),
            };
            match read {
                Ok(0) => return Err("Redis closed the connection".into()),
                Ok(length) => {
                    total += length;
                    // A short read empties the socket, unless its end is behind it, of which no further event would tell.
                    self.readable = length == room || self.is_ending;
                    self.take_in(router, &buffer[..length])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) => return Err(format!("the connection to Redis broke: {error}")),
            }
        }
        router.server.metrics().source_reads_put_off += u64::from(total >= limit);
        Ok(())
    }

    /// Takes in what was read, until a client is owed enough; the rest is kept.
    fn take_in(&mut self, router: &mut Router, mut input: &[u8]) -> Result<(), String> {
        self.is_behind = !self.protocol.on_input(router, &mut input)?;
        self.pending = input.to_vec();
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        while self.connected && !self.protocol.session().output().is_empty() {
            let output = self.protocol.session().output();
            let written = match &mut self.stream {
                Some(Stream::Tcp(stream)) => stream.write(output),
                Some(Stream::Unix(stream)) => stream.write(output),
                None => return Ok(()),
            };
            match written {
                Ok(length) => self.protocol.session_mut().wrote(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(format!("the connection to Redis broke: {error}")),
            }
        }
        Ok(())
    }

    /// The attempt or the connection is over. The next attempt comes after a pause.
    fn fail(&mut self, router: &mut Router, why: String) {
        let now = router.server.now.millis;
        self.stream = None;
        self.connected = false;
        self.readable = false;
        self.is_ending = false;
        self.is_behind = false;
        self.pending = Vec::new();
        self.resolver.forget();
        self.addresses = Vec::new();
        let was_up = self.protocol.down(router, (self.random)());
        if was_up {
            self.logged = None;
        } else {
            self.vain += 1;
        }
        let is_news =
            self.logged.as_ref().is_none_or(|(last, at)| *last != why || now >= at + REPEAT);
        if is_news {
            log::warn!("no {}: {why}", self.protocol.session().name);
            self.logged = Some((why, now));
        }
    }
}

/// Addresses of a name, those that earlier attempts began with behind the others: one that hangs takes all the time that an
/// attempt has, and the others must have their turn.
fn in_turn(mut addresses: Vec<SocketAddr>, vain: usize) -> Vec<SocketAddr> {
    if !addresses.is_empty() {
        let turn = vain % addresses.len();
        addresses.rotate_right(turn);
    }
    addresses
}

impl Reactor {
    /// Notes what an event says about a link's socket.
    pub(super) fn on_link_ready(&mut self, number: usize, event: &mio::event::Event) {
        let registry = self.poll.registry();
        let now = self.router.server.now.millis;
        let Some(link) = self.links.get_mut(number) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            link.readable = true;
            link.is_ending |= event.is_read_closed() || event.is_error();
        }
        if (event.is_writable() || event.is_error())
            && let Err(why) = link.on_writable(registry, now)
        {
            link.fail(&mut self.router, why);
        }
    }

    /// A host name was resolved.
    pub(super) fn on_resolved(&mut self) {
        for link in &mut self.links {
            if let Err(why) = link.resolved(self.poll.registry()) {
                link.fail(&mut self.router, why);
            }
        }
    }

    /// Reads what Redis sent.
    pub(super) fn read_links(&mut self) {
        let limit = self.router.server.bounds.source_read_bytes_per_turn;
        for link in &mut self.links {
            if link.has_input()
                && let Err(why) = link.read(&mut self.router, &mut self.buffer, limit)
            {
                link.fail(&mut self.router, why);
            }
        }
    }

    /// Hands over what was asked of Redis in this turn; without a connection for commands nothing of it is available.
    pub(super) fn hand_over_requests(&mut self) {
        let router = &mut self.router;
        if !self.links.iter_mut().any(|link| link.protocol.take_requests(router)) {
            router.refuse_requests();
        }
    }

    /// Does what is due on the connections to Redis.
    pub(super) fn tick_links(&mut self) {
        let now = self.router.server.now.millis;
        if self.router.health.draining {
            return;
        }
        for link in &mut self.links {
            if let Err(why) = link.tick(self.poll.registry(), now) {
                link.fail(&mut self.router, why);
            }
        }
    }

    /// Writes what there is to say to Redis.
    pub(super) fn flush_links(&mut self) {
        for link in &mut self.links {
            if let Err(why) = link.write() {
                link.fail(&mut self.router, why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_hangs_does_not_keep_the_others_from_their_turn() {
        let address = |last| SocketAddr::from(([10, 0, 0, last], 6379));
        let found = vec![address(1), address(2), address(3)];
        let first = |vain| in_turn(found.clone(), vain).pop();
        assert_eq!([0, 1, 2, 3].map(first), [3, 2, 1, 3].map(|last| Some(address(last))));
        assert_eq!(in_turn(Vec::new(), 5), []);
    }
}
