//! The race between replay and live: clients resume while messages are published and subscriptions change, over far ends that
//! accept arbitrary amounts, against a naive model, over thousands of seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::engine::client::State;
use crate::engine::client::encoding::Encoding;
use crate::engine::handler::Handler;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::Subject;
use crate::engine::random::Random;
use crate::engine::reactor::tests::{Shared, plan};
use crate::engine::reactor::*;
use crate::engine::server::{ReplayItem, Resumed};
use crate::{Frame, Message, RouteOptions, Scope};

/// A handler that sends the cursor, the topic and the payload of each message.
pub(super) struct Plain;

impl Handler for Plain {
    fn on_message(&mut self, _: &mut Scope<'_>, _: ConnId, _: Message<'_>) {}

    fn on_publish(
        &mut self,
        server: &mut Scope<'_>,
        subject: Subject<'_>,
        payload: &[u8],
    ) -> usize {
        server.publish(subject, |cursor| encode(cursor, subject.topic, payload))
    }

    fn options(&self) -> RouteOptions {
        let encode = |item: &ReplayItem<'_>| {
            Some(match item {
                ReplayItem::Message { cursor, subject, payload } => {
                    encode(cursor, subject.topic, payload)
                }
                ReplayItem::Gap { from } => Frame::text(&format!("gap {from}")),
            })
        };
        RouteOptions { encode, ..RouteOptions::default() }
    }
}

fn encode(cursor: &str, topic: &str, payload: &[u8]) -> Frame {
    Frame::text(&format!("{cursor} {topic} {}", String::from_utf8_lossy(payload)))
}

const TOPICS: [&str; 5] = ["a", "a.b", "c", "c.d", "user.7"];
const KEYS: [&str; 7] = ["a", "a.b", "a.\0", "c", "\0", "user.7", "user.\0"];

fn covers(key: &str, topic: &str) -> bool {
    match key.strip_suffix('\0') {
        Some("user.") => topic.starts_with("user."),
        Some(prefix) => topic.starts_with(prefix) && !topic.starts_with("user."),
        None => key == topic,
    }
}

/// The model of a client.
#[derive(Default)]
struct Modelled {
    keys: BTreeSet<&'static str>,
    /// For each topic covered by a key: the first message since which it is covered without a pause.
    covered: BTreeMap<&'static str, u64>,
    /// The periods during which a key covered a topic, by numbers of messages.
    past: Vec<(&'static str, Range<u64>)>,
    /// Messages received that are not in the history.
    unrecorded: Vec<String>,
}

impl Modelled {
    /// `next`: the number of the next message.
    fn change(&mut self, next: u64) {
        for topic in TOPICS {
            let is_covered = self.keys.iter().any(|key| covers(key, topic));
            if is_covered {
                self.covered.entry(topic).or_insert(next);
            } else if let Some(since) = self.covered.remove(topic) {
                self.past.push((topic, since..next));
            }
        }
    }

    fn covered_at(&self, topic: &str, number: u64) -> bool {
        let mut past = self.past.iter();
        self.covered.get(topic).is_some_and(|since| *since <= number)
            || past.any(|(of, numbers)| *of == topic && numbers.contains(&number))
    }
}

struct World {
    seed: u64,
    random: Random,
    reactor: Reactor,
    sockets: Shared,
    open: BTreeMap<ConnId, Modelled>,
    /// The topic and the cursor of each published message, by number.
    published: Vec<(&'static str, String)>,
    unrecorded: usize,
    replays: usize,
    /// Messages after which the fan-out was not finished.
    waited: usize,
    /// Nearly all clients subscribe to one topic.
    is_crowded: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let plan = plan(Plain, |bounds| {
            bounds.flush_clients_per_turn = 1 + random.below(30);
            // A slice of a replay is a quarter.
            bounds.backlog_frames_max = random.choose(&[4, 40, 100_000]);
            bounds.backlog_bytes_max = 1 << 30;
            bounds.history_messages_max = random.choose(&[30, 10_000, 10_000]);
        });
        let sockets = Shared::install(Random::new(seed + 1), random.below(5));
        let reactor = Reactor::new(plan).expect("a port is free");
        World {
            seed,
            random,
            reactor,
            sockets,
            open: BTreeMap::new(),
            published: Vec::new(),
            unrecorded: 0,
            replays: 0,
            waited: 0,
            is_crowded: seed.is_multiple_of(30),
        }
    }

    fn next(&self) -> u64 {
        self.published.len() as u64
    }

    /// Connects a client, new or with the cursor of a message.
    fn connect(&mut self) {
        let id = self.reactor.attach();
        let server = &mut self.reactor.router.server;
        server.open(id, 0, Encoding::WebSocket);
        let mut client = Modelled::default();
        for key in KEYS {
            let joins = match (self.is_crowded, key) {
                (true, "a") => self.random.below(10) > 0,
                _ => self.random.below(3) == 0,
            };
            if joins {
                server.scope(0).subscribe(id, key, Reason::Granted);
                client.keys.insert(key);
            }
        }
        let mut from = self.published.len() as u64;
        if from > 0 && self.random.below(4) > 0 {
            let since = from - 1 - self.random.below(from.min(60) as usize) as u64;
            match server.resume(id, &self.published[since as usize].1) {
                Resumed::From(cursor) => {
                    assert_eq!(cursor, self.published[since as usize].1);
                    self.replays += usize::from(since + 1 < from);
                    from = since + 1;
                }
                Resumed::No(oldest) => {
                    let oldest = self.published.iter().position(|one| one.1 == oldest);
                    assert!(oldest.is_some_and(|oldest| oldest as u64 > since), "{}", self.seed);
                }
            }
        }
        client.change(from);
        self.open.insert(id, client);
    }

    fn publish(&mut self) {
        let topic = self.random.choose(&TOPICS);
        let payload = "x".repeat(self.random.below(60));
        let is_for = |client: &&Modelled| client.covered.contains_key(topic);
        let expected = self.open.values().filter(is_for).count();
        let reached = self.reactor.router.publish(topic.as_bytes(), payload.as_bytes());
        self.published.push((topic, self.reactor.router.server.cursor()));
        self.waited += usize::from(!self.reactor.router.server.fanout.is_empty());
        let closed = self.let_go();
        let is_right = (expected - closed.min(expected)..=expected).contains(&reached);
        assert!(is_right, "seed {}: {topic} to {reached} of {expected}", self.seed);
    }

    /// Publishes a message of the handler's own, which is not in the history.
    fn publish_unrecorded(&mut self) {
        let topic = self.random.choose(&TOPICS);
        self.unrecorded += 1;
        let text = format!("aside {topic} {}", self.unrecorded);
        for client in self.open.values_mut().filter(|one| one.covered.contains_key(topic)) {
            client.unrecorded.push(text.clone());
        }
        self.reactor.router.server.scope(0).publish(topic, |_| Frame::text(&text));
        self.let_go();
    }

    /// Removes clients whose backlogs reached their bound: what they received must still be right. Returns how many.
    fn let_go(&mut self) -> usize {
        let clients = &self.reactor.router.server.clients;
        let is_open = |id: &ConnId| {
            clients.get(*id).is_some_and(|client| {
                client.generation == id.generation && client.state() == State::Open
            })
        };
        let gone: Vec<ConnId> = self.open.keys().filter(|id| !is_open(id)).copied().collect();
        for id in &gone {
            let client = self.open.remove(id).expect("it is there");
            self.check(*id, &client, false);
        }
        gone.len()
    }

    fn change(&mut self) {
        self.let_go();
        let next = self.next();
        let place = self.random.below(self.open.len().max(1));
        let Some((id, client)) = self.open.iter_mut().nth(place) else { return };
        let key = self.random.choose(&KEYS);
        let server = &mut self.reactor.router.server;
        if self.random.below(2) == 0 {
            assert_eq!(server.scope(0).subscribe(*id, key, Reason::Asked), client.keys.insert(key));
        } else {
            assert_eq!(server.scope(0).unsubscribe(*id, key), client.keys.remove(key));
        }
        client.change(next);
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..3 => self.connect(),
            3..14 => self.publish(),
            14..16 => self.publish_unrecorded(),
            16..22 => self.change(),
            22..27 => self.unblock(2),
            27 => self.check_one(),
            _ => self.turn(),
        }
    }

    fn unblock(&mut self, most: usize) {
        self.sockets.unblock(&mut self.reactor, most);
    }

    fn turn(&mut self) {
        self.reactor.flush();
        self.reactor.reap();
    }

    /// Closes a client, whatever is pending for it.
    fn check_one(&mut self) {
        let place = self.random.below(self.open.len().max(1));
        let Some(id) = self.open.keys().nth(place).copied() else { return };
        let client = self.open.remove(&id).expect("it is open");
        self.reactor.router.server.terminate(id);
        self.check(id, &client, false);
    }

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
        self.let_go();
        for (id, client) in &self.open {
            self.check(*id, client, true);
        }
        for client in self.reactor.router.server.clients.iter().map(|(_, client)| client) {
            assert!(
                client.state() != State::Open || client.is_hibernating(),
                "seed {}: nothing stays",
                self.seed
            );
        }
    }

    /// Checks that a client received only messages of its subscriptions at the time, in order, without repetition; `all`: every
    /// message of its subscriptions up to the end, except those that a `gap` announced.
    fn check(&self, id: ConnId, client: &Modelled, all: bool) {
        let seed = self.seed;
        let sockets = self.sockets.0.borrow();
        let (mut numbers, mut asides, mut whole_from) = (Vec::new(), Vec::new(), 0);
        for text in texts(sockets.got.get(&id).map(Vec::as_slice).unwrap_or_default()) {
            if text.starts_with("aside") {
                asides.push(text);
                continue;
            }
            if let Some(from) = text.strip_prefix("gap ") {
                let from = self.published.iter().position(|one| one.1 == from);
                whole_from = usize::MAX;
                assert!(from.is_some_and(|from| numbers.last().is_none_or(|last| *last <= from)));
                continue;
            }
            let (cursor, rest) = text.split_once(' ').expect("three words");
            let topic = rest.split(' ').next().expect("three words");
            let number = self.published.iter().position(|one| one.1 == cursor);
            let number = number.unwrap_or_else(|| panic!("seed {seed}: {text}"));
            assert_eq!(self.published[number].0, topic, "seed {seed}");
            assert!(client.covered_at(topic, number as u64), "seed {seed}, {id}: {text}");
            assert!(numbers.last().is_none_or(|last| *last < number), "seed {seed}: {text}");
            whole_from = if whole_from == usize::MAX { number } else { whole_from };
            numbers.push(number);
        }
        if all {
            assert_eq!(asides, client.unrecorded, "seed {seed}");
            let received: BTreeSet<usize> = numbers.into_iter().collect();
            for (number, (topic, _)) in self.published.iter().enumerate() {
                let since = client.covered.get(topic);
                let is_due = since.is_some_and(|since| *since <= number as u64);
                let is_due = is_due && number >= whole_from;
                assert!(!is_due || received.contains(&number), "seed {seed}, {id}: lost {number}");
            }
        }
    }
}

/// The texts of complete frames.
pub(super) fn texts(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let [0x81, length, rest @ ..] = bytes
        && rest.len() >= *length as usize
    {
        assert!(*length < 126);
        let (text, after) = rest.split_at(*length as usize);
        texts.push(String::from_utf8(text.to_vec()).expect("it is text"));
        bytes = after;
    }
    texts
}

#[test]
fn nothing_is_lost_or_sent_twice_between_replay_and_live() {
    let (mut replays, mut waited) = (0, 0);
    for seed in 1..=3_000 {
        let mut world = World::new(seed);
        let (clients, steps) = if world.is_crowded { (90, 400) } else { (3, 150) };
        for _ in 0..clients {
            world.connect();
        }
        for _ in 0..steps {
            world.step();
        }
        world.settle();
        replays += world.replays;
        waited += world.waited;
    }
    assert!(replays > 5_000, "few came back: {replays}");
    assert!(waited > 1_000, "few fan-outs took several turns: {waited}");
}

#[test]
fn nobody_waits_for_a_herd_that_comes_back() {
    const HERD: usize = 200;
    const MISSED: usize = 500;
    let sockets = Shared::install(Random::new(1), 0);
    let plan = plan(Plain, |bounds| bounds.flush_clients_per_turn = 64);
    let mut reactor = Reactor::new(plan).expect("a port is free");
    let since = reactor.router.server.cursor();
    for _ in 0..MISSED {
        reactor.router.publish(b"a", b"");
    }
    let mut come = |since: Option<&str>| {
        let id = reactor.attach();
        let server = &mut reactor.router.server;
        server.open(id, 0, Encoding::WebSocket);
        server.scope(0).subscribe(id, if since.is_some() { "a" } else { "c" }, Reason::Granted);
        since.into_iter().for_each(|since| _ = server.resume(id, since));
        server.send(id, &Frame::text("welcome"));
        id
    };
    let herd: Vec<ConnId> = (0..HERD).map(|_| come(Some(&since))).collect();
    let bystander = come(None);
    let received =
        |id: &ConnId| texts(sockets.0.borrow().got.get(id).map_or(&[][..], Vec::as_slice));
    // Each turn has 64 writes, of which replays take a quarter or slightly more.
    for _ in 0..=(HERD / 40) {
        reactor.flush();
    }
    assert_eq!(received(&bystander), ["welcome"]);
    let given = herd.iter().filter(|id| received(id).len() > 1).count();
    assert!((1..HERD / 2).contains(&given), "the herd goes on, and takes its time: {given}");
    while reactor.router.server.has_pending_writes() {
        reactor.flush();
    }
    assert!(herd.iter().all(|id| received(id).len() == 1 + MISSED), "no message is lost");
    assert_eq!(received(&bystander), ["welcome"], "it subscribes to something else");
}
