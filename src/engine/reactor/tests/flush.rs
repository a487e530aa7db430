//! The flush phase against a naive model: the clients it serves and their order, from seeds, over far ends that accept arbitrary
//! amounts. Some are WebSockets, which get long messages compressed or as they are, the others event streams.

use std::collections::{BTreeMap, BTreeSet};

use crate::Frame;
use crate::engine::client::State;
use crate::engine::client::encoding::Encoding;
use crate::engine::client::frame::Close;
use crate::engine::pubsub::hub::{LARGE_TOPIC, Reason};
use crate::engine::random::Random;
use crate::engine::reactor::tests::{Shared, Silent, plan};
use crate::engine::reactor::*;

/// The model of a client.
struct Modelled {
    encoding: Encoding,
    topics: BTreeSet<&'static str>,
    expected: Vec<u8>,
}

impl Modelled {
    fn expect(&mut self, frame: &Frame) {
        self.expected.extend_from_slice(self.encoding.of(frame).as_bytes());
    }
}

struct World {
    seed: u64,
    random: Random,
    reactor: Reactor,
    sockets: Shared,
    open: BTreeMap<ConnId, Modelled>,
    closed: Vec<(ConnId, Vec<u8>)>,
    published: usize,
    /// Messages after which the fan-out was not finished.
    waited: usize,
}

const KEYS: [&str; 6] = ["a", "a.b", "a.\0", "c", "c.d", "\0"];
const TOPICS: [&str; 5] = ["a", "a.b", "a.z", "c", "c.d"];

impl World {
    fn new(seed: u64, flush_clients_per_turn: usize, cut: usize) -> World {
        let plan = plan(Silent, |bounds| {
            bounds.flush_clients_per_turn = flush_clients_per_turn;
            bounds.backlog_frames_max = 1_000_000;
            bounds.backlog_bytes_max = 1 << 30;
        });
        let sockets = Shared::install(Random::new(seed + 1), cut);
        World {
            seed,
            random: Random::new(seed),
            reactor: Reactor::new(plan).expect("a port is free"),
            sockets,
            open: BTreeMap::new(),
            closed: Vec::new(),
            published: 0,
            waited: 0,
        }
    }

    fn connect(&mut self) {
        let id = self.reactor.attach();
        let encoding = self.random.choose(&Encoding::ALL);
        self.reactor.router.server.open(id, 0, encoding);
        let mut client = Modelled { encoding, topics: BTreeSet::new(), expected: Vec::new() };
        for key in KEYS {
            if self.random.below(3) == 0 {
                self.reactor.router.server.scope(0).subscribe(id, key, Reason::Granted);
                client.topics.insert(key);
            }
        }
        self.open.insert(id, client);
    }

    fn some_client(&mut self) -> ConnId {
        let place = self.random.below(self.open.len());
        *self.open.keys().nth(place).expect("there are clients")
    }

    fn publish(&mut self) {
        let topic = self.random.choose(&TOPICS);
        self.published += 1;
        let padding = "x".repeat(self.random.choose(&[0, 0, 0, 500]));
        let frame = Frame::text(&format!("{topic} {}{padding}", self.published));
        let frame = self.reactor.router.server.deflatable(frame);
        let subscribes = |key: &str| match key.strip_suffix('\0') {
            Some(prefix) => topic.starts_with(prefix),
            None => key == topic,
        };
        let (mut reached, mut by_keys) = (0, 0);
        for client in self.open.values_mut() {
            let keys = client.topics.iter().filter(|key| subscribes(key)).count();
            if keys > 0 {
                client.expect(&frame);
                reached += 1;
            }
            by_keys += keys;
        }
        let answered = self.reactor.router.server.scope(0).publish(topic, |_| frame);
        // Large topics that overlap are counted as Redis counts, if an exact count would cost others.
        let is_right = answered == reached || (reached > LARGE_TOPIC && answered == by_keys);
        assert!(is_right, "seed {}: {topic}: {answered}, not {reached}", self.seed);
        self.waited += usize::from(!self.reactor.router.server.fanout.is_empty());
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..30 => self.publish(),
            30..60 => {
                let id = self.some_client();
                let key = self.random.choose(&KEYS);
                let client = self.open.get_mut(&id).expect("it is open");
                let joins = self.random.below(3) > 0;
                if joins && client.topics.insert(key) {
                    assert!(self.reactor.router.server.scope(0).subscribe(id, key, Reason::Asked));
                } else if !joins && client.topics.remove(key) {
                    assert!(self.reactor.router.server.scope(0).unsubscribe(id, key));
                }
            }
            60..70 => {
                let id = self.some_client();
                let frame = Frame::text(&format!("to one {}", self.published));
                self.reactor.router.server.send(id, &frame);
                let client = self.open.get_mut(&id).expect("it is open");
                client.expect(&frame);
            }
            70..72 => {
                let frame = Frame::text(&format!("to all {}", self.published));
                for client in self.open.values_mut().filter(|client| !client.topics.is_empty()) {
                    client.expect(&frame);
                }
                self.reactor.router.server.scope(0).send_to_subscribers(frame);
            }
            72..74 => {
                let id = self.some_client();
                let mut client = self.open.remove(&id).expect("it is open");
                self.reactor.router.server.close(id, Close::BUSY);
                client.expect(&Frame::close(&Close::BUSY));
                self.closed.push((id, client.expected));
                self.connect();
            }
            74..84 => self.unblock(3),
            _ => self.turn(),
        }
    }

    /// Makes some full sockets writable again.
    fn unblock(&mut self, most: usize) {
        self.sockets.unblock(&mut self.reactor, most);
    }

    fn turn(&mut self) {
        self.reactor.flush();
        self.reactor.reap();
    }

    /// Writes everything, and compares what each client received with the model.
    fn settle(&mut self) {
        self.sockets.0.borrow_mut().cut = 0;
        for _ in 0..100_000 {
            self.unblock(usize::MAX);
            self.turn();
            let server = &self.reactor.router.server;
            if server.pending.is_empty() && server.fanout.is_empty() {
                break;
            }
        }
        let sockets = self.sockets.0.borrow();
        let open = self.open.iter().map(|(id, client)| (id, &client.expected));
        for (id, expected) in open.chain(self.closed.iter().map(|(id, expected)| (id, expected))) {
            let got = sockets.got.get(id).map(Vec::as_slice).unwrap_or_default();
            let [got, expected] = [got, expected].map(String::from_utf8_lossy);
            assert_eq!(got, expected, "seed {}, client {id}", self.seed);
        }
        for client in self.reactor.router.server.clients.iter().map(|(_, client)| client) {
            assert!(client.state() != State::Open || client.is_hibernating(), "nothing stays");
        }
    }
}

fn run(seed: u64, clients: usize, steps: usize) -> usize {
    let mut random = Random::new(seed);
    let mut world = World::new(seed, 1 + random.below(40), random.below(6));
    for _ in 0..clients {
        world.connect();
    }
    for step in 0..steps {
        world.step();
        if step % (steps / 2) == steps / 2 - 1 {
            world.settle();
            world.sockets.0.borrow_mut().cut = random.below(6);
        }
    }
    world.settle();
    world.waited
}

#[test]
fn everyone_is_offered_what_the_model_says_in_its_order() {
    let mut waited = 0;
    for seed in 1..=150 {
        waited += run(seed, 40 + seed as usize, 1_200);
    }
    assert!(waited > 20_000, "few fan-outs took several turns: {waited}");
}

#[test]
fn broadcasts_are_renumbered_before_their_numbers_overflow() {
    let mut world = World::new(7, 10, 0);
    for _ in 0..2 * LARGE_TOPIC {
        world.connect();
    }
    for (id, client) in &mut world.open {
        if client.topics.insert("a") {
            world.reactor.router.server.scope(0).subscribe(*id, "a", Reason::Asked);
        }
    }
    world.reactor.router.server.fanout.skip_numbers(u32::MAX - 40);
    for _ in 0..400 {
        if !world.reactor.router.server.is_pressed() {
            world.publish();
        }
        world.turn();
    }
    assert!(world.published > 100, "the sources waited for ever");
    world.settle();
    assert!(world.reactor.router.server.fanout.latest() < 1_000);
}
