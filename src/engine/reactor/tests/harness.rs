//! A loop for tests of back ends and clients: its clients are far ends that record what they receive, and its Redis is the test
//! itself, which takes requests and answers at will.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::rc::Rc;

use serde_json::Value;

use crate::config::RouteConfig;
use crate::engine::bounds::Bounds;
use crate::engine::client::in_memory::{FarEnds, install};
use crate::engine::reactor::tests::plan;
use crate::engine::reactor::*;
use crate::engine::redis::request::{Answer, RedisRequest};
use crate::engine::tls::tests::peers;
use crate::features::control::Control;
use crate::push::Push;
use crate::push::token::Keys;

const SECRET: &[u8] = b"a secret for tests alone, long enough";

/// The input and output of a client.
#[derive(Default)]
pub struct FarEnd {
    pub sends: Vec<u8>,
    pub received: Vec<u8>,
    /// The socket accepts this many bytes more.
    room: Option<usize>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// The client has ended its side.
    pub has_ended: bool,
    /// The server has closed the socket.
    pub is_closed: bool,
}

#[derive(Clone, Default)]
pub struct Far(pub Rc<RefCell<HashMap<ConnId, FarEnd>>>);

impl FarEnds for Far {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let end = ends.entry(id).or_default();
        let sends = &mut end.sends;
        let length = sends.len().min(buffer.len());
        if length == 0 {
            return if end.has_ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        buffer[..length].copy_from_slice(&sends[..length]);
        sends.drain(..length);
        Ok(length)
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut ends = self.0.borrow_mut();
        let end = ends.entry(id).or_default();
        let length = end.room.unwrap_or(usize::MAX).min(bytes.len());
        end.room = end.room.map(|room| room - length);
        end.received.extend_from_slice(&bytes[..length]);
        if length == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(length) }
    }

    fn peer(&self, id: ConnId) -> Option<IpAddr> {
        self.0.borrow().get(&id)?.peer
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, id: ConnId) {
        self.0.borrow_mut().entry(id).or_default().is_closed = true;
    }
}

pub struct TestLoop {
    pub reactor: Reactor,
    keys: Rc<Keys>,
    far: Far,
    /// Requests for revocations that were not asked for yet.
    exchanges: Vec<(Vec<String>, RedisRequest)>,
}

fn is_exchange((words, _): &(Vec<String>, RedisRequest)) -> bool {
    words[0] == "EVAL"
}

impl TestLoop {
    /// A loop with one route of these settings.
    pub fn new(route: RouteConfig, change: impl FnOnce(&mut Bounds)) -> TestLoop {
        TestLoop::with_routes(&[route], change)
    }

    /// A loop with several routes, each at a path of its own.
    pub fn with_routes(routes: &[RouteConfig], change: impl FnOnce(&mut Bounds)) -> TestLoop {
        let keys = Rc::new(Keys::from_secret(SECRET).expect("the secret is good"));
        let push = |route| Push::new(Rc::clone(&keys), route).expect("the grants are good");
        let mut plan = plan(push(&routes[0]), change);
        plan.routes[0].path.clone_from(&routes[0].path);
        for route in &routes[1..] {
            let (path, handler) = (route.path.clone(), Box::new(push(route)));
            let origins = route.origins.clone();
            plan.routes.push(crate::engine::handler::Route { path, origins, handler });
        }
        plan.prefix = "pub.".to_owned();
        let far = Far::default();
        install(Some(Box::new(far.clone())));
        let mut reactor = Reactor::new(plan).expect("a port is free");
        reactor.set_acceptor(peers::acceptor(true));
        reactor.router.add_feature(|server| Control::new(server, "ctl".to_owned(), true));
        TestLoop { reactor, keys, far, exchanges: Vec::new() }
    }

    /// Connects a client to the first route with a token for these topics, and reads its `welcome`.
    pub fn connect(&mut self, sub: &str, topics: &[&str]) -> ConnId {
        self.connect_at("/ws", sub, topics)
    }

    pub fn connect_at(&mut self, path: &str, sub: &str, topics: &[&str]) -> ConnId {
        let token = self.token(sub, topics);
        self.open(path, &format!("Authorization: Bearer {token}\r\n"))
    }

    /// Connects a client that offers extensions, with a token for these topics.
    pub fn connect_offering(&mut self, offer: &str, topics: &[&str]) -> ConnId {
        let token = self.token("9", topics);
        self.open("/ws", &format!("{offer}Authorization: Bearer {token}\r\n"))
    }

    /// Connects a client without a token.
    pub fn connect_anonymous(&mut self) -> ConnId {
        self.open("/ws", "")
    }

    pub fn token(&self, sub: &str, topics: &[&str]) -> String {
        self.token_that(sub, topics, &[])
    }

    /// A token with the claim `may`.
    pub fn token_that(&self, sub: &str, topics: &[&str], may: &[&str]) -> String {
        let owned = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        let unix = self.reactor.router.server.now.unix;
        let issued = self.keys.issue(sub, &owned(topics), &owned(may), false, unix, 3600);
        issued.expect("the claims are good")
    }

    fn open(&mut self, path: &str, line: &str) -> ConnId {
        let id = self.reactor.attach();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{line}\r\n"
        );
        self.far.0.borrow_mut().entry(id).or_default().sends = head.into_bytes();
        self.read(id);
        let mut ends = self.far.0.borrow_mut();
        let received = &mut ends.get_mut(&id).expect("it is there").received;
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a response");
        assert!(received.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(received));
        received.drain(..end + 4);
        id
    }

    /// Sends a message from the client, and turns the loop.
    pub fn say(&mut self, id: ConnId, text: &str) {
        self.say_at_once(id, &[text]);
    }

    /// The same with several messages that come together.
    pub fn say_at_once(&mut self, id: ConnId, texts: &[&str]) {
        for text in texts {
            let mut frame = vec![0x81];
            match text.len() {
                length @ 0..126 => frame.push(0x80 | length as u8),
                length => {
                    frame.push(0x80 | 126);
                    frame.extend((length as u16).to_be_bytes());
                }
            }
            frame.extend([0; 4]);
            frame.extend(text.as_bytes());
            self.far.0.borrow_mut().entry(id).or_default().sends.extend(frame);
        }
        self.read(id);
    }

    /// Lets the client send these bytes, below TLS if it speaks that.
    pub fn send_raw(&mut self, id: ConnId, bytes: &[u8]) {
        self.put_raw(id, bytes);
        self.turn();
    }

    /// The same without a turn of the loop.
    pub fn put_raw(&mut self, id: ConnId, bytes: &[u8]) {
        self.far.0.borrow_mut().entry(id).or_default().sends.extend_from_slice(bytes);
        self.reactor.on_ready(id, Readiness { readable: true, writable: false, ending: false });
    }

    /// Lets the client end its side of TCP.
    pub fn end(&mut self, id: ConnId) {
        self.far.0.borrow_mut().entry(id).or_default().has_ended = true;
        self.reactor.on_ready(id, Readiness { readable: true, writable: false, ending: true });
        self.turn();
    }

    /// Returns whether the server has closed the client's socket.
    pub fn is_closed(&self, id: ConnId) -> bool {
        self.far.0.borrow().get(&id).is_some_and(|end| end.is_closed)
    }

    fn read(&mut self, id: ConnId) {
        self.reactor.on_ready(id, Readiness { readable: true, writable: false, ending: false });
        self.turn();
    }

    /// Turns the loop. Requests to Redis wait for [`TestLoop::asked`].
    pub fn turn(&mut self) {
        self.reactor.read_clients();
        self.reactor.tick();
        self.reactor.flush();
        self.reactor.reap();
    }

    /// Publishes on a channel. Returns the answer to the publisher.
    pub fn publish(&mut self, channel: &str, payload: &str) -> usize {
        let reached = self.reactor.router.publish(channel.as_bytes(), payload.as_bytes());
        self.turn();
        reached
    }

    /// The bytes that the client received since the last call.
    pub fn received_bytes(&mut self, id: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.far.0.borrow_mut().entry(id).or_default().received)
    }

    /// The frames that the client received since the last call, as JSON or `{"close":code,"reason":…}`.
    pub fn received(&mut self, id: ConnId) -> Vec<Value> {
        let bytes = self.received_bytes(id);
        let mut rest = &bytes[..];
        let mut received = Vec::new();
        while let [first, length, ..] = *rest {
            let (at, length) = match length {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                length => (2, usize::from(length)),
            };
            let payload = &rest[at..at + length];
            received.push(match first {
                0x88 => serde_json::json!({
                    "close": u16::from_be_bytes([payload[0], payload[1]]),
                    "reason": serde_json::from_slice::<Value>(&payload[2..]).ok(),
                }),
                _ => serde_json::from_slice(payload).expect("clients receive JSON"),
            });
            rest = &rest[at + length..];
        }
        received
    }

    /// The requests to Redis since the last call, each as its words; without those for revocations, which a node always makes.
    pub fn asked(&mut self) -> Vec<(Vec<String>, RedisRequest)> {
        let requests = self.requests().into_iter();
        let (exchanges, others): (Vec<_>, Vec<_>) = requests.partition(is_exchange);
        self.exchanges.extend(exchanges);
        others
    }

    /// The requests for revocations since the last call.
    pub fn exchanges(&mut self) -> Vec<(Vec<String>, RedisRequest)> {
        let mut found = std::mem::take(&mut self.exchanges);
        found.extend(self.requests().into_iter().filter(is_exchange));
        found
    }

    fn requests(&mut self) -> Vec<(Vec<String>, RedisRequest)> {
        let server = &mut self.reactor.router.server;
        let requests: Vec<RedisRequest> = std::iter::from_fn(|| server.requests.pop()).collect();
        let words = |request: &RedisRequest| {
            let text = String::from_utf8(request.command.clone()).expect("tests ask in UTF-8");
            text.split("\r\n").skip(2).step_by(2).map(str::to_owned).collect()
        };
        requests.into_iter().map(|request| (words(&request), request)).collect()
    }

    /// Lets the client's socket accept this many bytes more; `None`: all.
    pub fn narrow(&mut self, id: ConnId, room: Option<usize>) {
        self.far.0.borrow_mut().entry(id).or_default().room = room;
        if room != Some(0) {
            self.reactor.on_ready(id, Readiness { readable: false, writable: true, ending: false });
        }
    }

    /// Advances the clock.
    pub fn pass(&mut self, millis: Millis) {
        self.reactor.router.server.now.millis += millis;
        self.turn();
    }

    /// Cuts the client's connection.
    pub fn cut(&mut self, id: ConnId) {
        self.reactor.router.server.terminate(id);
        self.turn();
    }

    /// Answers a request as Redis.
    pub fn answer(&mut self, request: RedisRequest, answer: Answer) {
        self.reactor.router.on_answer(request.ticket, answer);
        self.turn();
    }
}
