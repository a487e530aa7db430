//! State without a race: clients take a cursor, load a state, and subscribe from the cursor on, while messages are published, other
//! topics are replayed and sockets are full. Each time their state is right, from thousands of seeds against a naive model.

use std::collections::BTreeMap;

use serde_json::json;

use crate::config::RouteConfig;
use crate::engine::client::State;
use crate::engine::client::encoding::Encoding;
use crate::engine::pubsub::hub::Reason;
use crate::engine::random::Random;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::reactor::tests::replay::{Plain, texts};
use crate::engine::reactor::tests::{Shared, plan};
use crate::engine::reactor::*;
use crate::engine::server::Resumed;

/// Topics that clients hear from their connection on.
const HEARD: [&str; 3] = ["h", "p.1", "p.2"];
/// Topics whose state they load.
const LOADED: [&str; 4] = ["s", "s.1", "user.7", "q"];
const KEYS: [&str; 2] = ["h", "p.\0"];

/// A topic that a client hears: its messages behind the first `since`.
struct Heard {
    since: usize,
}

/// The model of a client.
#[derive(Default)]
struct Loader {
    heard: BTreeMap<&'static str, Heard>,
    /// Cursors that it took, by the number of messages there were: a load is under way for each.
    loads: BTreeMap<&'static str, (usize, String)>,
    /// The answers of the server that messages were not held.
    refused: usize,
}

struct World {
    seed: u64,
    random: Random,
    reactor: Reactor,
    sockets: Shared,
    open: BTreeMap<ConnId, Loader>,
    published: Vec<(&'static str, String)>,
    first: String,
    resumed: usize,
    refused: usize,
    gaps: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let plan = plan(Plain, |bounds| {
            bounds.flush_clients_per_turn = 1 + random.below(30);
            bounds.backlog_frames_max = random.choose(&[8, 40, 100_000]);
            bounds.backlog_bytes_max = 1 << 30;
            bounds.history_messages_max = random.choose(&[30, 10_000, 10_000, 10_000]);
        });
        let sockets = Shared::install(Random::new(seed + 1), random.below(5));
        let reactor = Reactor::new(plan).expect("a port is free");
        let first = reactor.router.server.cursor();
        World {
            seed,
            random,
            reactor,
            sockets,
            open: BTreeMap::new(),
            published: Vec::new(),
            first,
            resumed: 0,
            refused: 0,
            gaps: 0,
        }
    }

    /// The cursor behind so many messages.
    fn cursor_behind(&self, count: usize) -> String {
        count.checked_sub(1).map_or(&self.first, |last| &self.published[last].1).clone()
    }

    /// Connects a client, new or with the cursor of a message.
    fn connect(&mut self) {
        let id = self.reactor.attach();
        let now = self.published.len();
        let since = now - self.random.below(now.min(60) + 1);
        let cursor = self.cursor_behind(since);
        let server = &mut self.reactor.router.server;
        server.open(id, 0, Encoding::WebSocket);
        for key in KEYS {
            server.scope(0).subscribe(id, key, Reason::Granted);
        }
        let resumed =
            self.random.below(2) == 0 && matches!(server.resume(id, &cursor), Resumed::From(_));
        let since = if resumed { since } else { now };
        let heard = HEARD.into_iter().map(|topic| (topic, Heard { since })).collect();
        self.open.insert(id, Loader { heard, ..Loader::default() });
    }

    fn publish(&mut self) {
        let topic = match self.random.below(2) {
            0 => self.random.choose(&HEARD),
            _ => self.random.choose(&LOADED),
        };
        let payload = "x".repeat(self.random.below(40));
        self.reactor.router.publish(topic.as_bytes(), payload.as_bytes());
        self.published.push((topic, self.reactor.router.server.cursor()));
        self.let_go();
    }

    fn someone(&mut self) -> Option<ConnId> {
        self.let_go();
        let place = self.random.below(self.open.len().max(1));
        self.open.keys().nth(place).copied()
    }

    /// A client takes its cursor and begins to load a topic's state.
    fn begin_load(&mut self) {
        let Some(id) = self.someone() else { return };
        let topic = self.random.choose(&LOADED);
        let count = self.published.len();
        let cursor = self.cursor_behind(count);
        let loader = self.open.get_mut(&id).expect("it is open");
        if !loader.heard.contains_key(topic) {
            loader.loads.entry(topic).or_insert((count, cursor));
        }
    }

    /// A load ends: the client subscribes from its cursor on.
    fn end_load(&mut self) {
        let Some(id) = self.someone() else { return };
        let now = self.published.len();
        let loader = self.open.get_mut(&id).expect("it is open");
        let Some((topic, (since, cursor))) = loader.loads.pop_first() else { return };
        let mut scope = self.reactor.router.server.scope(0);
        if !scope.subscribe(id, topic, Reason::Asked) {
            return self.let_go();
        }
        let since = match scope.resume_topic(id, topic, &cursor) {
            Resumed::From(_) => {
                self.resumed += 1;
                since
            }
            Resumed::No(_) => {
                self.refused += 1;
                loader.refused += 1;
                now
            }
        };
        loader.heard.insert(topic, Heard { since });
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..3 => self.connect(),
            3..14 => self.publish(),
            14..20 => self.begin_load(),
            20..26 => self.end_load(),
            26..30 => self.sockets.unblock(&mut self.reactor, 2),
            _ => self.turn(),
        }
    }

    fn turn(&mut self) {
        self.reactor.flush();
        self.reactor.reap();
    }

    /// Removes clients whose backlogs reached their bound: what they received must still be right.
    fn let_go(&mut self) {
        let clients = &self.reactor.router.server.clients;
        let is_open = |id: &ConnId| {
            clients.get(*id).is_some_and(|client| {
                client.generation == id.generation && client.state() == State::Open
            })
        };
        let gone: Vec<ConnId> = self.open.keys().filter(|id| !is_open(id)).copied().collect();
        for id in gone {
            let loader = self.open.remove(&id).expect("it is there");
            self.check(id, &loader, false);
        }
    }

    fn settle(&mut self) {
        self.sockets.0.borrow_mut().cut = 0;
        for _ in 0..100_000 {
            self.sockets.unblock(&mut self.reactor, usize::MAX);
            self.turn();
            let server = &self.reactor.router.server;
            if server.pending.is_empty() && server.fanout.is_empty() {
                break;
            }
        }
        self.let_go();
        for (id, loader) in std::mem::take(&mut self.open) {
            self.check(id, &loader, true);
        }
    }

    /// Checks that a client received of each topic the messages since its cursor, in order and once; `all`: up to the last one.
    fn check(&mut self, id: ConnId, loader: &Loader, all: bool) {
        let seed = self.seed;
        let sockets = self.sockets.0.borrow();
        let mut received: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut gaps = 0;
        for text in texts(sockets.got.get(&id).map(Vec::as_slice).unwrap_or_default()) {
            if text.starts_with("gap ") {
                gaps += 1;
                continue;
            }
            let cursor = text.split(' ').next().expect("three words");
            let number = self.published.iter().position(|one| one.1 == cursor);
            let number = number.unwrap_or_else(|| panic!("seed {seed}: {text}"));
            received.entry(self.published[number].0).or_default().push(number);
        }
        for topic in HEARD.into_iter().chain(LOADED) {
            let got = received.remove(topic).unwrap_or_default();
            let Some(Heard { since }) = loader.heard.get(topic) else {
                assert!(got.is_empty(), "seed {seed}, {id}: {topic} is not for it");
                continue;
            };
            let of_topic = |number: &usize| self.published[*number].0 == topic;
            let due: Vec<usize> = (*since..self.published.len()).filter(of_topic).collect();
            if gaps == 0 {
                let due = if all { &due[..] } else { &due[..got.len().min(due.len())] };
                assert_eq!(got, due, "seed {seed}, {id}: {topic} since {since}");
            } else {
                // It loads again. Until then it was given nothing twice, and nothing of before its cursor.
                assert!(got.is_sorted_by(|a, b| a < b), "seed {seed}, {id}: {topic}: {got:?}");
                assert!(got.iter().all(|number| due.contains(number)), "seed {seed}, {id}");
            }
        }
        drop(sockets);
        self.gaps += gaps;
    }
}

#[test]
fn a_state_that_was_loaded_at_any_moment_is_right() {
    let (mut resumed, mut refused, mut gaps) = (0, 0, 0);
    for seed in 1..=3_000 {
        let mut world = World::new(seed);
        (0..3).for_each(|_| world.connect());
        (0..150).for_each(|_| world.step());
        world.settle();
        resumed += world.resumed;
        refused += world.refused;
        gaps += world.gaps;
    }
    assert!(resumed > 10_000 && refused > 50 && gaps > 50, "{resumed} {refused} {gaps}");
}

/// A client that asks again and again has the history read for the one topic alone, and its other topics once.
#[test]
fn going_back_repeats_nothing_of_other_topics() {
    let mut world = World::new(1);
    world.sockets.0.borrow_mut().cut = 0;
    let start = world.first.clone();
    world.connect();
    let id = *world.open.keys().next().expect("it was connected");
    for topic in [HEARD[0], LOADED[0], HEARD[1], LOADED[1]] {
        world.reactor.router.publish(topic.as_bytes(), b"1");
    }
    for topic in [LOADED[0], LOADED[1], LOADED[0]] {
        let mut scope = world.reactor.router.server.scope(0);
        scope.subscribe(id, topic, Reason::Asked);
        assert!(matches!(scope.resume_topic(id, topic, &start), Resumed::From(_)));
        (0..20).for_each(|_| world.turn());
    }
    let sockets = world.sockets.0.borrow();
    let got = texts(&sockets.got[&id]);
    let topics: Vec<&str> = got.iter().filter_map(|text| text.split(' ').nth(1)).collect();
    assert_eq!(topics, ["h", "p.1", "s", "s.1", "s"], "the third question was for one topic again");
}

/// While the connection to Redis was down, a newer one may have been lost.
#[test]
fn the_newest_message_from_before_a_gap_is_not_given() {
    let route = RouteConfig { may: vec!["room.*".to_owned()], ..RouteConfig::default() };
    let mut test = TestLoop::new(route, |_| {});
    let bystander = test.connect("43", &["room.8"]);
    for topic in ["room.7", "room.8"] {
        test.publish(&format!("pub.{topic}"), "1");
    }
    test.reactor.router.on_source(false);
    test.reactor.router.on_source(true);
    test.turn();
    test.received(bystander);
    let last = |test: &mut TestLoop, sub| {
        let client = test.connect(sub, &[]);
        test.received(client);
        test.say(client, r#"{"op":"subscribe","topic":"room.7","last":true}"#);
        test.received(client)
    };
    let answer = |last: bool| json!({"op": "subscribed", "topic": "room.7", "last": last});
    assert_eq!(last(&mut test, "42"), [answer(false)]);
    test.publish("pub.room.7", "2");
    let received = last(&mut test, "44");
    assert_eq!((received.len(), &received[0], &received[1]["data"]), (2, &answer(true), &json!(2)));
    assert!(test.received(bystander).is_empty());
}
