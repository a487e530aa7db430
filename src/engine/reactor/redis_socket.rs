//! The socket under a connection to Redis.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Waker};

use crate::clock::Millis;
use crate::engine::reactor::redis_protocol::RedisProtocol;
use crate::engine::reactor::resolver::Resolver;
use crate::engine::reactor::token::Source;
use crate::engine::redis::config::Address;
use crate::engine::router::Router;

/// The pause before the same failure is logged again.
const REPEAT: Millis = 60_000;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A protocol, its socket, and the attempt to get one.
pub struct RedisSocket {
    protocol: Box<dyn RedisProtocol>,
    /// Its place among the loop's connections to Redis.
    number: usize,
    attempt: ConnectAttempt,
    /// Attempts that did not come up.
    vain: usize,
    resolver: Resolver,
    /// The failure that was logged last, and when.
    logged: Option<(String, Millis)>,
    /// The source of chance for the waits between attempts.
    random: fn() -> u64,
}

/// An attempt to connect, and the connection that it led to.
#[derive(Default)]
struct ConnectAttempt {
    stream: Option<Stream>,
    /// The socket is connected, and the protocol knows.
    is_connected: bool,
    /// The socket may have bytes to read.
    is_readable: bool,
    /// The peer has closed, or an error came: the socket is read until that.
    is_ending: bool,
    /// A client has too much pending for the rest of the input.
    is_held_up: bool,
    /// The rest of the input.
    pending: Vec<u8>,
    /// Addresses that were not tried yet; the last one comes next.
    addresses: Vec<SocketAddr>,
}

impl RedisSocket {
    pub fn new(protocol: Box<dyn RedisProtocol>, number: usize, waker: Arc<Waker>) -> RedisSocket {
        RedisSocket {
            protocol,
            number,
            attempt: ConnectAttempt::default(),
            vain: 0,
            resolver: Resolver::new(waker),
            logged: None,
            random: || getrandom::u64().unwrap_or_default(),
        }
    }

    /// Replaces the system's source of chance.
    #[cfg(test)]
    pub fn without_chance(&mut self, random: fn() -> u64) {
        self.random = random;
    }

    /// Returns whether the next turn has work for it without an event.
    pub fn has_note(&self) -> bool {
        self.has_input() || self.protocol.has_lost()
    }

    /// Returns whether nothing is under way that the end of the process should wait for.
    pub fn is_settled(&self) -> bool {
        self.protocol.is_settled()
    }

    fn has_input(&self) -> bool {
        let ConnectAttempt { is_connected, is_readable, is_held_up, .. } = self.attempt;
        is_connected && (is_readable || is_held_up)
    }

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
                    self.attempt.addresses = vec![SocketAddr::new(address, *port)];
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
        self.attempt.addresses = in_turn(found, self.vain);
        self.try_next(registry, None)
    }

    /// Connects to the next address of this attempt.
    fn try_next(&mut self, registry: &Registry, failed: Option<io::Error>) -> Result<(), String> {
        let mut failed = failed;
        while let Some(address) = self.attempt.addresses.pop() {
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
        let token = Source::Redis(self.number).token();
        let stream = self.attempt.stream.insert(stream);
        let registered = match stream {
            Stream::Tcp(stream) => registry.register(stream, token, both),
            Stream::Unix(stream) => registry.register(stream, token, both),
        };
        registered.map_err(|error| format!("the socket to Redis cannot be watched: {error}"))
    }

    /// The socket is writable for the first time: it is connected, or it failed.
    fn on_writable(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        if self.attempt.is_connected {
            return Ok(());
        }
        let Some(stream) = &self.attempt.stream else {
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
                self.attempt.is_connected = true;
                self.protocol.session_mut().connected(now);
                Ok(())
            }
            Some(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Some(error) => {
                self.attempt.stream = None;
                self.try_next(registry, Some(error))
            }
        }
    }

    /// Begins an attempt, asks for a sign of life, or gives the connection up, each in its time.
    fn tick(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        if self.protocol.session().wants_connect(now) {
            self.begin(registry, now)
        } else if self.deadline().is_some_and(|deadline| deadline <= now) && !self.has_input() {
            self.protocol.on_time(now)
        } else {
            Ok(())
        }
    }

    /// Reads until nothing is left, or the turn's bound is hit, or a client has too much pending; the latter two leave a note.
    fn read(&mut self, router: &mut Router, buffer: &mut [u8], limit: usize) -> Result<(), String> {
        let pending = std::mem::take(&mut self.attempt.pending);
        self.take_in(router, &pending)?;
        let mut total = 0;
        while total < limit
            && self.attempt.is_readable
            && !self.attempt.is_held_up
            && !router.server.is_pressed()
        {
            let Some(stream) = &mut self.attempt.stream else { return Ok(()) };
            let room = buffer.len().min(limit - total);
            let read = match stream {
                Stream::Tcp(stream) => stream.read(&mut buffer[..room]),
                Stream::Unix(stream) => stream.read(&mut buffer[..room]),
            };
            match read {
                Ok(0) => return Err("Redis closed the connection".into()),
                Ok(length) => {
                    total += length;
                    // A short read empties the socket. But after its end no further event comes.
                    self.attempt.is_readable = length == room || self.attempt.is_ending;
                    self.take_in(router, &buffer[..length])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.attempt.is_readable = false
                }
                Err(error) => return Err(format!("the connection to Redis broke: {error}")),
            }
        }
        router.server.metrics().source_reads_put_off += u64::from(total >= limit);
        Ok(())
    }

    /// Hands input to the protocol, until a client has too much pending; the rest is kept.
    fn take_in(&mut self, router: &mut Router, mut input: &[u8]) -> Result<(), String> {
        self.attempt.is_held_up = !self.protocol.on_input(router, &mut input)?;
        self.attempt.pending = input.to_vec();
        Ok(())
    }

    fn write(&mut self) -> Result<(), String> {
        while self.attempt.is_connected && !self.protocol.session().output().is_empty() {
            let output = self.protocol.session().output();
            let written = match &mut self.attempt.stream {
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

    fn settle(&mut self, router: &mut Router, result: Result<(), String>) {
        if let Err(why) = result {
            self.fail(router, why);
        }
    }

    /// Ends the attempt or the connection. The next attempt comes after a pause.
    fn fail(&mut self, router: &mut Router, why: String) {
        let now = router.server.now.millis;
        self.attempt = ConnectAttempt::default();
        self.resolver.forget();
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

/// Orders the addresses of a name, the one to be tried first last. Each attempt in vain begins with another one: an address that
/// hangs takes all the time that an attempt has.
fn in_turn(mut addresses: Vec<SocketAddr>, vain: usize) -> Vec<SocketAddr> {
    if !addresses.is_empty() {
        let turn = vain % addresses.len();
        addresses.rotate_right(turn);
    }
    addresses
}

/// The connections to Redis, the subscription first: Redis disconnects it if it lags.
pub(super) struct RedisSockets(pub Vec<RedisSocket>);

impl RedisSockets {
    /// Returns whether bytes wait that the last turn did not get to.
    pub fn has_note(&self) -> bool {
        self.0.iter().any(RedisSocket::has_note)
    }

    /// Returns whether nothing is under way that the end of the process should wait for.
    pub fn is_settled(&self) -> bool {
        self.0.iter().all(RedisSocket::is_settled)
    }

    /// Returns the next deadline.
    pub fn deadline(&self) -> Option<Millis> {
        self.0.iter().filter_map(RedisSocket::deadline).min()
    }

    /// Notes what an event says about a connection.
    pub fn on_ready(
        &mut self,
        router: &mut Router,
        registry: &Registry,
        number: usize,
        event: &mio::event::Event,
    ) {
        let Some(socket) = self.0.get_mut(number) else { return };
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            socket.attempt.is_readable = true;
            socket.attempt.is_ending |= event.is_read_closed() || event.is_error();
        }
        if event.is_writable() || event.is_error() {
            let result = socket.on_writable(registry, router.server.now.millis);
            socket.settle(router, result);
        }
    }

    /// A host name was resolved.
    pub fn on_resolved(&mut self, router: &mut Router, registry: &Registry) {
        for socket in &mut self.0 {
            let result = socket.resolved(registry);
            socket.settle(router, result);
        }
    }

    /// Reads from Redis.
    pub fn read(&mut self, router: &mut Router, buffer: &mut [u8]) {
        let limit = router.server.bounds.source_read_bytes_per_turn;
        for socket in self.0.iter_mut().filter(|socket| socket.has_input()) {
            let result = socket.read(router, buffer, limit);
            socket.settle(router, result);
        }
    }

    /// Sends the requests of this turn to Redis. Without a connection for commands they are refused.
    pub fn hand_over_requests(&mut self, router: &mut Router) {
        if !self.0.iter_mut().any(|socket| socket.protocol.take_requests(router)) {
            router.refuse_requests();
        }
    }

    /// Handles passed deadlines.
    pub fn tick(&mut self, router: &mut Router, registry: &Registry) {
        for socket in &mut self.0 {
            let result = socket.tick(registry, router.server.now.millis);
            socket.settle(router, result);
        }
    }

    /// Writes pending output.
    pub fn flush(&mut self, router: &mut Router) {
        for socket in &mut self.0 {
            let result = socket.write();
            socket.settle(router, result);
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
