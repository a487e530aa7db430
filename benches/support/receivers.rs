//! The receivers of a broadcast, in a process of their own: they read all that comes, open it if it is sealed, and count the
//! messages of each.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::ClientConnection;

use super::client::{Client, payload_length};
use super::client_stream::ClientStream;
use super::process::{Helper, orders};
use super::tls::Security;
use super::{DEADLINE, connections_max};

/// The name of this part.
pub const ROLE: &str = "receive";

/// The kind of a receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection that gets frames unasked.
    Bare,
    WebSocket,
    /// A WebSocket that asked for compression.
    Deflated,
}

impl Kind {
    const ALL: [(Kind, &str); 3] =
        [(Kind::Bare, "bare"), (Kind::WebSocket, "websocket"), (Kind::Deflated, "deflated")];

    fn name(self) -> &'static str {
        Kind::ALL.iter().find(|one| one.0 == self).expect("all are named").1
    }

    fn of(name: &str) -> Kind {
        Kind::ALL.iter().find(|one| one.1 == name).expect("a kind").0
    }
}

/// The receivers, as the bench sees them.
pub struct Receivers(Helper);

impl Receivers {
    /// Opens `clients` authenticated WebSockets, or as many connections that get frames unasked if `bare`.
    pub fn start(server: SocketAddr, clients: usize, bare: bool) -> Receivers {
        Receivers::start_by(Security::Plain, server, clients, bare)
    }

    /// The same over TLS, or not.
    pub fn start_by(
        security: Security,
        server: SocketAddr,
        clients: usize,
        bare: bool,
    ) -> Receivers {
        let kind = if bare { Kind::Bare } else { Kind::WebSocket };
        Receivers::start_as(kind, security, server, clients)
    }

    /// The same of any kind.
    pub fn start_as(
        kind: Kind,
        security: Security,
        server: SocketAddr,
        clients: usize,
    ) -> Receivers {
        let (server, clients) = (server.to_string(), clients.to_string());
        let helper = Helper::start(ROLE, &[&server, &clients, kind.name(), security.name()]);
        assert_eq!(helper.hear(), "open");
        Receivers(helper)
    }

    /// Says how many messages each of them is to get now. Comes before they are sent.
    pub fn expect(&mut self, messages: usize) {
        self.0.tell(&format!("expect {messages}"));
    }

    /// Says how many messages more than what is expected may come to each meanwhile.
    pub fn allow_ahead(&mut self, messages: usize) {
        self.0.tell(&format!("ahead {messages}"));
    }

    /// Waits until each of them has got what was expected.
    pub fn wait(&mut self) {
        assert_eq!(self.0.hear(), "done");
    }

    /// Says that the senders are about to end.
    pub fn expect_end(&mut self) {
        self.0.tell("end");
    }

    /// Waits until every connection has ended, and returns how many messages came on each over its whole life: the fewest
    /// and the most.
    pub fn finish(self) -> (usize, usize) {
        let line = self.0.hear();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["ended", fewest, most] => {
                (fewest.parse().expect("a number"), most.parse().expect("a number"))
            }
            _ => panic!("unexpected: {line}"),
        }
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [server, clients, kind, security] = arguments else {
        panic!("the receivers are told a server, a number of clients, their kind and security");
    };
    let server: SocketAddr = server.parse().expect("an address");
    let clients: usize = clients.parse().expect("a number");
    connections_max();
    let security = Security::of(security);
    let streams = match Kind::of(kind) {
        Kind::Bare => {
            let config = security.clients();
            let connect = |number| {
                let mut stream = ClientStream::connect(server, number, config.as_ref());
                stream.shake_hands();
                stream.into_parts()
            };
            (0..clients).map(connect).collect()
        }
        kind => Client::open_as(kind, security, server, 0..clients)
            .into_iter()
            .map(Client::into_parts)
            .collect::<Vec<_>>(),
    };
    let mut receivers = ReceiverLoop::new(streams);
    println!("open");
    for order in orders() {
        match order.split_once(' ') {
            Some(("expect", messages)) => {
                receivers.read_until_done(messages.parse().expect("a number"));
                println!("done");
            }
            Some(("ahead", messages)) => receivers.ahead = messages.parse().expect("a number"),
            _ => {
                let (fewest, most) = receivers.read_to_end();
                println!("ended {fewest} {most}");
            }
        }
    }
}

struct Receiver {
    stream: TcpStream,
    tls: Option<Box<ClientConnection>>,
    counter: Counter,
    ended: bool,
}

struct ReceiverLoop {
    poll: Poll,
    events: Events,
    all: Vec<Receiver>,
    buffer: Vec<u8>,
    plain: Vec<u8>,
    /// The number of messages that each is to have got, over its whole life.
    target: usize,
    /// The number of messages that it may have got beyond that.
    ahead: usize,
    /// The number of receivers that have got all of it.
    complete: usize,
    /// The number of connections that have ended.
    ended: usize,
}

impl ReceiverLoop {
    fn new(streams: Vec<(std::net::TcpStream, Option<ClientConnection>)>) -> ReceiverLoop {
        let poll = Poll::new().expect("an epoll descriptor can be had");
        let mut all = Vec::with_capacity(streams.len());
        for (number, (stream, tls)) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true).expect("a socket takes its options");
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(number), Interest::READABLE)
                .expect("a socket can be registered");
            let tls = tls.map(Box::new);
            all.push(Receiver { stream, tls, counter: Counter::default(), ended: false });
        }
        ReceiverLoop {
            poll,
            events: Events::with_capacity(1024),
            all,
            buffer: vec![0; 64 * 1024],
            plain: Vec::new(),
            target: 0,
            ahead: 0,
            complete: 0,
            ended: 0,
        }
    }

    /// Reads until each has got so many messages more.
    fn read_until_done(&mut self, messages: usize) {
        self.target += messages;
        let target = self.target;
        let complete = self.all.iter().filter(|receiver| receiver.counter.messages >= target);
        self.complete = complete.count();
        self.read_while(|receivers| receivers.complete < receivers.all.len());
        assert_eq!(self.ended, 0, "a connection ended in the middle");
    }

    fn read_to_end(&mut self) -> (usize, usize) {
        self.read_while(|receivers| receivers.ended < receivers.all.len());
        let messages = || self.all.iter().map(|receiver| receiver.counter.messages);
        (messages().min().unwrap_or(0), messages().max().unwrap_or(0))
    }

    fn read_while(&mut self, wanted: impl Fn(&ReceiverLoop) -> bool) {
        let start = Instant::now();
        while wanted(self) {
            let left = DEADLINE.checked_sub(start.elapsed()).unwrap_or_else(|| {
                panic!(
                    "of {} clients, {} have got message {}, {} have ended",
                    self.all.len(),
                    self.complete,
                    self.target,
                    self.ended
                )
            });
            let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => result.expect("epoll_wait works"),
            }
            for event in &events {
                self.read(event.token().0);
            }
            self.events = events;
        }
    }

    /// Reads one connection until nothing is left: events come for edges alone.
    fn read(&mut self, number: usize) {
        let receiver = &mut self.all[number];
        let before = receiver.counter.messages;
        while !receiver.ended {
            match receiver.stream.read(&mut self.buffer) {
                Ok(0) => {
                    receiver.ended = true;
                    self.ended += 1;
                    // The server waits for our end too.
                    let _ = receiver.stream.shutdown(std::net::Shutdown::Both);
                }
                Ok(length) => receiver.take(&self.buffer[..length], &mut self.plain),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("client {number}: {error}"),
            }
        }
        let after = receiver.counter.messages;
        assert!(after <= self.target + self.ahead, "client {number} got a message too many");
        self.complete += usize::from(before < self.target && after >= self.target);
    }
}

impl Receiver {
    /// Counts the messages in bytes that have come; `plain` is room to open records.
    fn take(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) {
        let Some(tls) = &mut self.tls else {
            return self.counter.add(bytes);
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).expect("there is room for a record");
            let state = tls.process_new_packets().expect("records are the server's");
            plain.resize(state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(plain).expect("it was announced");
            self.counter.add(plain);
        }
    }
}

/// The bit of a frame's first byte that says that its message is compressed (RFC 7692 section 6).
const COMPRESSED: u8 = 0x40;

/// Counts the text messages in a stream that comes in pieces.
#[derive(Default)]
struct Counter {
    messages: usize,
    header: [u8; 10],
    held: usize,
    payload_left: u64,
}

impl Counter {
    fn add(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let taken = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= taken;
                bytes = &bytes[taken as usize..];
            } else {
                self.header[self.held] = *first;
                self.held += 1;
                bytes = rest;
                let Some(length) = payload_length(&self.header[..self.held]) else {
                    continue;
                };
                self.payload_left = length;
                self.held = 0;
            }
            // The header of this frame stays until the next one begins.
            let is_text = self.header[0] & !COMPRESSED == 0x81;
            self.messages += usize::from(self.is_whole() && is_text);
        }
    }

    fn is_whole(&self) -> bool {
        self.payload_left == 0 && self.held == 0
    }
}
