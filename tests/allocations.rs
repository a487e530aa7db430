//! Budgets of the allocator: how often the loop asks it for memory, and what stays.
//!
//! A whole loop turns in this process, on the thread of the test, whose allocations are counted: a Redis that is played by
//! the test feeds it, and its clients are connections without a socket.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use allocation_counter::{AllocationInfo, measure};
use mio::Events;
use oneloop::ConnId;
use oneloop::config::{Config, Proxies};
use oneloop::engine::client::in_memory::{FarEnds, install};
use oneloop::engine::handler::Route;
use oneloop::engine::pubsub::hub::LARGE_TOPIC;
use oneloop::engine::reactor::{Listen, Plan, Reactor, Readiness, UnixAccess};
use oneloop::engine::redis::config::RedisConfig;
use oneloop::engine::redis::subscriber::{RedisSubscriber, SubscriptionEvent};
use oneloop::engine::resume::cursor::Signer;
use oneloop::features::overload::Overload;
use oneloop::push::Push;
use oneloop::push::token::Keys;

const SECRET: &[u8] = b"a secret for tests alone, long enough";

/// The answers of Redis until the subscription is up: to HELLO, CLIENT SETNAME and PSUBSCRIBE.
const GREETING: &str =
    "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n+OK\r\n>3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n";

/// The text of the message's cursor; its frame twice, as it is written and as it is shared; for a large topic its subscribers.
const PER_MESSAGE: u64 = 4;

/// Of few: one for the box of what is in flight to a client and one for its queue. It hibernated, and does so again when all
/// is written. A large topic needs neither.
fn per_listener(clients: usize) -> u64 {
    if clients > LARGE_TOPIC { 0 } else { 2 }
}

fn published(channel: &str, payload: &str) -> Vec<u8> {
    let (length, bytes) = (channel.len(), payload.len());
    format!(
        ">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n${length}\r\n{channel}\r\n${bytes}\r\n{payload}\r\n"
    )
    .into_bytes()
}

/// Clients that send one head, and count what comes.
#[derive(Default)]
struct Peers {
    heads: Vec<Vec<u8>>,
    received_bytes: usize,
    writes: usize,
}

struct Far(Rc<RefCell<Peers>>);

impl FarEnds for Far {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        let head = std::mem::take(&mut peers.heads[id.index()]);
        if head.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        buffer[..head.len()].copy_from_slice(&head);
        Ok(head.len())
    }

    fn write(&mut self, _: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        peers.received_bytes += bytes.len();
        peers.writes += 1;
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

struct World {
    reactor: Reactor,
    events: Events,
    redis: TcpStream,
    peers: Rc<RefCell<Peers>>,
}

impl World {
    /// A loop whose subscription is up, with `clients` clients, all subscribed to `news`.
    fn new(clients: usize) -> World {
        let keys = Rc::new(Keys::from_secret(SECRET).expect("the secret is good"));
        let config = Config::default();
        let handler = Push::new(Rc::clone(&keys), &config.routes[0]).expect("the grants are good");
        let route = &config.routes[0];
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port can be had");
        let address = listener.local_addr().expect("it is bound");
        let link = RedisConfig::from_url(&format!("redis://{address}")).expect("a good URL");
        let mut bounds = config.bounds.clone();
        (bounds.clients_max, bounds.ping_seconds) = (clients, 0);
        let plan = Plan {
            listen: vec![Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into())],
            listeners: Vec::new(),
            unix: UnixAccess::default(),
            proxies: Box::new(Proxies::default()),
            proxy_protocol: false,
            ports: Vec::new(),
            admin: None,
            subscriber: Some(RedisSubscriber::new(link, 0)),
            commands: None,
            streams: None,
            expects_channels: true,
            demand: None,
            routes: vec![Route {
                path: route.path.clone(),
                origins: route.origins.clone(),
                handler: Box::new(handler),
            }],
            features: vec![Box::new(Overload::new(None))],
            prefix: config.prefix.clone(),
            signer: Signer::derived(SECRET, None),
            bounds,
            handover: Default::default(),
            trim: None,
        };
        let mut reactor = Reactor::new(plan).expect("a loopback port is free");
        let mut events = Events::with_capacity(16);
        // The connection waits in the listener's queue already when it is accepted.
        reactor.turn(&mut events, Some(Duration::ZERO)).expect("the loop turns");
        let (redis, _) = listener.accept().expect("the link connects");
        let peers = Rc::new(RefCell::new(Peers::default()));
        install(Some(Box::new(Far(Rc::clone(&peers)))));
        let mut world = World { reactor, events, redis, peers };
        world.redis.write_all(GREETING.as_bytes()).expect("the connection takes it");
        for number in 0..clients {
            world.connect(number, &keys);
        }
        world
    }

    fn connect(&mut self, number: usize, keys: &Keys) {
        let unix = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
        let sub = format!("u{number:07}");
        let token = keys.issue(&sub, &["news".to_owned()], &[], false, unix, 3600);
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            token.expect("the claims are good")
        );
        self.peers.borrow_mut().heads.push(head.into_bytes());
        let id = self.reactor.attach();
        assert_eq!(id.index(), number, "places are taken in their order");
        self.reactor.on_ready(id, Readiness { readable: true, writable: true, ending: false });
        let opened = self.reactor.metrics().opened;
        self.turn_until(|world| world.reactor.metrics().opened > opened);
    }

    fn turn_until(&mut self, done: impl Fn(&World) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < Duration::from_secs(20), "it does not come to that");
            let turned = self.reactor.turn(&mut self.events, Some(Duration::from_millis(1)));
            turned.expect("the loop turns");
        }
    }

    /// Redis sends messages; what the loop allocates until they are processed and all is written.
    fn deliver(&mut self, messages: &[u8], count: u64) -> AllocationInfo {
        let target = self.reactor.metrics().messages + count;
        self.redis.write_all(messages).expect("the connection takes it");
        measure(|| self.turn_until(|world| world.reactor.metrics().messages == target))
    }
}

#[test]
fn a_message_that_nobody_listens_to_allocates_nothing() {
    let mut world = World::new(10);
    let message = published("pub.room.7.chat", &"x".repeat(100));
    world.deliver(&message, 1);
    let many = message.repeat(100);
    let allocated = world.deliver(&many, 100);
    // The redis crate's parser takes five for each.
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
    assert_eq!(world.reactor.metrics().deliveries, 0);
}

#[test]
fn a_message_allocates_a_constant_and_so_much_for_each_listener() {
    for clients in [1, LARGE_TOPIC, LARGE_TOPIC + 1, 300] {
        let mut world = World::new(clients);
        let message = published("pub.news", &format!("{:?}", "x".repeat(98)));
        // The first one makes room that all later ones use: the queue of pending writes, the text's buffer.
        world.deliver(&message, 1);
        let (writes, deliveries) =
            (world.peers.borrow().writes, world.reactor.metrics().deliveries);
        let allocated = world.deliver(&message, 1);
        assert_eq!(world.peers.borrow().writes - writes, clients, "one write for each");
        assert_eq!(world.reactor.metrics().deliveries - deliveries, clients as u64);
        let most = PER_MESSAGE + per_listener(clients) * clients as u64;
        assert!(allocated.count_total <= most, "{clients} clients: {allocated:?}");
        assert_eq!(allocated.bytes_current, 0, "{clients} clients hibernate again: {allocated:?}");
    }
}

#[test]
fn a_link_that_swallowed_a_large_payload_holds_no_more_than_before() {
    let config = RedisConfig::from_url("redis://localhost").expect("a good URL");
    let most = config.payload_bytes_max;
    let mut link = RedisSubscriber::new(config, 0);
    link.session.connecting(0);
    link.session.connected(0);
    assert_eq!(feed(&mut link, GREETING.as_bytes()), [0, 1, 0], "it is up");
    link.session.wrote(usize::MAX);
    let (large, too_large) =
        (published("pub.a", &"x".repeat(most)), published("pub.a", &"x".repeat(8 * most)));
    let mut events = [0; 3];
    let taken = measure(|| events = feed(&mut link, &large));
    assert_eq!(events, [1, 0, 0], "it is delivered");
    assert_eq!(taken.bytes_current, 0, "nothing stays: {taken:?}");
    assert!(taken.bytes_max < most as u64 * 11 / 10, "it is held once: {taken:?}");
    let refused = measure(|| events = feed(&mut link, &too_large));
    assert_eq!(events, [0, 0, 1], "it is dropped");
    assert_eq!(refused.bytes_current, 0, "nothing stays: {refused:?}");
    assert!(refused.bytes_max < 128 * 1024, "it is never held: {refused:?}");
}

/// Feeds the link as a socket would, 64 KiB at a time; counts messages, `Up` and `Oversized`.
fn feed(link: &mut RedisSubscriber, stream: &[u8]) -> [usize; 3] {
    let mut events = [0; 3];
    for mut piece in stream.chunks(64 * 1024) {
        while let Some(event) = link.next(&mut piece, 1).expect("Redis is sound") {
            match event {
                SubscriptionEvent::Message(_) => events[0] += 1,
                SubscriptionEvent::Up => events[1] += 1,
                SubscriptionEvent::Oversized => events[2] += 1,
                SubscriptionEvent::Changed(_) => unreachable!("it does not subscribe on demand"),
            }
        }
    }
    events
}
