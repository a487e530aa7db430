//! The socket under a connection to Redis.

mod follow;
mod saved;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpStream, UnixStream};
use mio::{Registry, Waker};

use crate::clock::Millis;
use crate::engine::reactor::redis_protocol::RedisProtocol;
use crate::engine::reactor::redis_stream::{RedisRead, RedisStream, TlsStream};
use crate::engine::reactor::resolver::Resolver;
use crate::engine::reactor::token::Source;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::sentinel::is_sentinel;
use crate::engine::redis::tls::RedisTls;
use crate::engine::redis::url::Address;
use crate::engine::router::Router;

/// The pause before the same failure is logged again.
const REPEAT: Millis = 60_000;
/// The most failures that are told apart for that: several servers fail in several ways.
const FAILURES_MAX: usize = 32;

/// A protocol, its socket, and the attempt to get one.
pub struct RedisSocket {
    protocol: Box<dyn RedisProtocol>,
    /// Its place among the loop's connections to Redis.
    number: usize,
    attempt: ConnectAttempt,
    /// Attempts that did not come up.
    vain: usize,
    /// Attempts since one came up and stayed: the place of the next server in their order.
    turn: usize,
    resolver: Resolver,
    /// The failures that were logged lately, and when.
    logged: Vec<(String, Millis)>,
    /// The source of chance for the waits between attempts.
    random: fn() -> u64,
}

/// An attempt to connect, and the connection that it led to.
#[derive(Default)]
struct ConnectAttempt {
    stream: Option<RedisStream>,
    /// The socket is connected.
    is_connected: bool,
    /// The protocol has begun: at once, or with TLS after the handshake.
    is_open: bool,
    /// Data came.
    has_answered: bool,
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
            turn: 0,
            resolver: Resolver::new(waker),
            logged: Vec::new(),
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
        self.has_input() || self.protocol.has_lost() || self.protocol.has_news()
    }

    /// Returns whether nothing is under way that the end of the process should wait for.
    pub fn is_settled(&self) -> bool {
        self.protocol.is_settled()
    }

    /// Returns whether nothing is asked that would have to be answered before the state is handed over.
    pub fn is_at_rest(&self) -> bool {
        let is_plain = !matches!(self.attempt.stream, Some(RedisStream::Tls(_)));
        self.protocol.is_settled() && (self.protocol.is_quiet() || !is_plain)
    }

    fn has_input(&self) -> bool {
        let ConnectAttempt { is_connected, is_readable, is_held_up, .. } = self.attempt;
        is_connected && (is_readable || is_held_up)
    }

    pub fn deadline(&self) -> Option<Millis> {
        self.protocol.deadline()
    }

    fn config(&self) -> &RedisConfig {
        &self.protocol.session().config
    }

    fn address(&self) -> &Address {
        &self.config().server.address
    }

    /// Begins an attempt.
    fn begin(&mut self, registry: &Registry, now: Millis) -> Result<(), String> {
        let session = self.protocol.session_mut();
        session.config.choose(self.turn);
        session.connecting(now);
        match self.address() {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .map_err(|error| format!("cannot connect to {}: {error}", path.display()))?;
                self.watch(registry, RedisStream::Unix(stream))
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
        let found = found?.map_err(|error| {
            format!("{} cannot be resolved ({error}): check the setting redis", self.address())
        })?;
        self.attempt.addresses = in_turn(found, self.vain / self.config().servers.len().max(1));
        self.try_next(registry, None)
    }

    /// Connects to the next address of this attempt.
    fn try_next(&mut self, registry: &Registry, failed: Option<io::Error>) -> Result<(), String> {
        let mut failed = failed;
        while let Some(address) = self.attempt.addresses.pop() {
            match TcpStream::connect(address) {
                Ok(socket) => {
                    let stream = match &self.config().server.tls {
                        None => RedisStream::Tcp(socket),
                        Some(tls) => {
                            RedisStream::Tls(Box::new(TlsStream::new(socket, tls.begin()?)))
                        }
                    };
                    return self.watch(registry, stream);
                }
                Err(error) => failed = Some(error),
            }
        }
        let why = failed.map_or("it has no address".to_owned(), |error| error.to_string());
        let address = self.address();
        let who = if is_sentinel(self.config()) { "a Sentinel" } else { "Redis" };
        Err(format!("cannot connect to {address}: {why}; is {who} running there?"))
    }

    fn watch(&mut self, registry: &Registry, stream: RedisStream) -> Result<(), String> {
        let stream = self.attempt.stream.insert(stream);
        let registered = stream.register(registry, Source::Redis(self.number).token());
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
        match stream.check_connected() {
            Ok(()) => {
                self.attempt.is_connected = true;
                self.protocol.session_mut().securing();
                self.open(now);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Err(error) => {
                self.attempt.stream = None;
                self.try_next(registry, Some(error))
            }
        }
    }

    /// Begins the protocol as soon as the stream can carry it.
    fn open(&mut self, now: Millis) {
        let is_ready = self.attempt.stream.as_ref().is_some_and(RedisStream::is_open);
        if is_ready && !self.attempt.is_open {
            self.attempt.is_open = true;
            self.protocol.session_mut().connected(now);
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
            match stream.read(&mut buffer[..room]) {
                Ok(RedisRead::End) => return Err(self.explain(None)),
                Ok(RedisRead::Data(length)) => {
                    total += length;
                    self.attempt.has_answered = true;
                    // After the end of the socket no further event comes.
                    self.attempt.is_readable =
                        stream.may_hold_more(length, room) || self.attempt.is_ending;
                    self.open(router.server.now.millis);
                    self.take_in(router, &buffer[..length])?;
                }
                Ok(RedisRead::Overhead(length)) => {
                    total += length;
                    self.open(router.server.now.millis);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.attempt.is_readable = false
                }
                Err(error) => return Err(self.explain(Some(error))),
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
        let written = self.write_output();
        match written {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            written => written.map_err(|error| self.explain(Some(error))),
        }
    }

    fn write_output(&mut self) -> io::Result<()> {
        let Some(stream) = self.attempt.stream.as_mut().filter(|_| self.attempt.is_connected)
        else {
            return Ok(());
        };
        stream.flush()?;
        while !self.protocol.session().output().is_empty() {
            match stream.write(self.protocol.session().output()) {
                Ok(length) => self.protocol.session_mut().wrote(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Explains the end of the connection: an error, or none if Redis closed it in good order.
    fn explain(&self, error: Option<io::Error>) -> String {
        let ConnectAttempt { is_open, has_answered, .. } = self.attempt;
        let tls = self.config().server.tls.as_ref();
        let explained =
            error.as_ref().zip(tls).and_then(|(error, tls)| tls.explain(error, is_open));
        match (explained, error) {
            (Some(explained), _) => explained,
            (None, error)
                if tls.is_none() && !has_answered && error.as_ref().is_none_or(is_end) =>
            {
                advice::hung_up(self.config())
            }
            (None, None) if is_sentinel(self.config()) => {
                format!("the Sentinel at {} closed the connection", self.address())
            }
            (None, None) => "Redis closed the connection".to_owned(),
            (None, Some(error)) => format!("the connection to Redis broke: {error}"),
        }
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
        // No Sentinel is preferred to another.
        let has_stayed = self.protocol.session().has_stayed(now) && !is_sentinel(self.config());
        self.turn = if has_stayed { 0 } else { self.turn.wrapping_add(1) };
        let was_up = self.protocol.down(router, (self.random)());
        if was_up {
            self.logged.clear();
        } else {
            self.vain += 1;
        }
        self.logged.retain(|(_, at)| now < at + REPEAT);
        if self.logged.iter().all(|(logged, _)| *logged != why) {
            log::warn!("no {}: {why}", self.protocol.session().name);
            self.logged.truncate(FAILURES_MAX - 1);
            self.logged.push((why, now));
        }
    }
}

/// Returns whether the peer ended the connection; the error depends on the bytes under way.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
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
pub(super) use saved::{restore, save};

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

    /// Replaces the settings of TLS of connections that have it.
    pub fn set_tls(&mut self, tls: &RedisTls) {
        let configs = self.0.iter_mut().map(|socket| &mut socket.protocol.session_mut().config);
        configs.for_each(|config| config.set_tls(tls));
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

    /// Reads from Redis, by the latest word of its Sentinels; while the loop `rests`, answers alone.
    pub fn read(&mut self, router: &mut Router, buffer: &mut [u8], rests: bool) {
        // In every turn, also in those of a drain: news keep the loop awake.
        follow::follow(self, router);
        let limit = router.server.bounds.source_read_bytes_per_turn;
        let is_read =
            |socket: &&mut RedisSocket| socket.has_input() && !(rests && socket.is_at_rest());
        for socket in self.0.iter_mut().filter(is_read) {
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
