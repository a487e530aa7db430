//! Costs besides reading are bounded per turn too: slow handlers, and copies of unfinished input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};

use crate::config::RouteConfig;
use crate::engine::client::frame::Close;
use crate::engine::client::http;
use crate::engine::client::in_memory::{FarEnds, install};
use crate::engine::handler::{Handler, Reject};
use crate::engine::pubsub::hub::Reason;
use crate::engine::reactor::tests::harness::{Far, TestLoop};
use crate::engine::reactor::tests::plan;
use crate::engine::reactor::*;
use crate::{Frame, Message, Request, Scope};

pub(super) const HEAD: &str = "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A handler that takes this many microseconds for a new client and for a message `slow`, and echoes messages.
pub(super) struct Costly(pub u32);

impl Handler for Costly {
    fn on_open(&mut self, server: &mut Scope<'_>, _: ConnId, _: &Request) -> Result<(), Reject> {
        server.count_costly(self.0);
        Ok(())
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        match message {
            Message::Text("slow") => server.defer(id, "slow"),
            Message::Text(text) => server.send(id, &Frame::text(text)),
            Message::Deferred(text) => {
                server.count_costly(self.0);
                server.send(id, &Frame::text(text));
            }
            Message::Binary(_) => unreachable!("texts come"),
        }
    }
}

/// Far ends that each send a head.
#[derive(Default)]
struct Heads(BTreeSet<ConnId>);

impl FarEnds for Heads {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.0.insert(id) {
            return Err(ErrorKind::WouldBlock.into());
        }
        buffer[..HEAD.len()].copy_from_slice(HEAD.as_bytes());
        Ok(HEAD.len())
    }

    fn write(&mut self, _: ConnId, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

const READABLE: Readiness = Readiness { readable: true, ending: false, writable: false };

#[test]
fn heads_that_end_at_once_are_checked_some_in_a_turn() {
    for (microseconds, most) in [(0, 128), (2, 128), (190, 16), (1500, 2), (6000, 1)] {
        install(Some(Box::new(Heads::default())));
        let costly = Costly(microseconds);
        let mut reactor = Reactor::new(plan(costly, |_| ())).expect("a port is free");
        for _ in 0..1000 {
            let id = reactor.attach();
            reactor.on_ready(id, READABLE);
        }
        let mut opened = 0;
        while opened < 1000 {
            reactor.read_clients();
            let more = reactor.metrics().opened - opened;
            assert!((1..=most).contains(&more), "{more} of {microseconds} µs in one turn");
            opened += more;
            reactor.flush();
            reactor.reap();
        }
    }
}

/// Far ends that each send the bytes they are given.
struct World {
    reactor: Reactor,
    far: Far,
}

impl World {
    fn new(microseconds: u32) -> World {
        let far = Far::default();
        install(Some(Box::new(far.clone())));
        let plan = plan(Costly(microseconds), |bounds| bounds.commands_per_second_max = 0);
        World { reactor: Reactor::new(plan).expect("a port is free"), far }
    }

    fn open(&mut self) -> ConnId {
        let id = self.reactor.attach();
        self.send(id, HEAD.as_bytes());
        self.turn();
        self.far.received(id);
        id
    }

    fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.far.0.borrow_mut().entry(id).or_default().sends.extend_from_slice(bytes);
        self.reactor.on_ready(id, READABLE);
    }

    fn turn(&mut self) {
        self.reactor.read_clients();
        self.reactor.flush();
        self.reactor.reap();
    }

    /// The number of these clients that received something in this turn.
    fn received(&mut self, ids: &[ConnId]) -> usize {
        self.turn();
        ids.iter().filter(|id| !self.far.received(**id).is_empty()).count()
    }
}

impl Far {
    /// The bytes that a client received since the last call.
    fn received(&self, id: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().entry(id).or_default().received)
    }
}

/// A masked text frame.
fn masked(text: &str) -> Vec<u8> {
    [&[0x81, 0x80 | text.len() as u8, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[test]
fn a_client_does_not_wait_for_heads() {
    let mut world = World::new(1500);
    let reader = world.open();
    let heads: Vec<ConnId> = (0..600).map(|_| world.reactor.attach()).collect();
    for id in &heads {
        world.send(*id, HEAD.as_bytes());
    }
    world.send(reader, &masked("quick"));
    assert_eq!(world.received(&[reader]), 1, "in the turn in which it asked");
    assert_eq!(world.reactor.metrics().opened, 1 + 2, "the reader, and two of them");
    assert_eq!(world.received(&heads), 2 + 2, "the others follow");
}

#[test]
fn heads_do_not_wait_for_clients() {
    let mut world = World::new(0);
    let readers: Vec<ConnId> = (0..40).map(|_| world.open()).collect();
    let frame = masked(&"x".repeat(100));
    for id in readers {
        world.send(id, &frame.repeat(60_000 / frame.len()));
    }
    let head = world.reactor.attach();
    world.send(head, HEAD.as_bytes());
    assert_eq!(world.received(&[head]), 1);
}

#[test]
fn a_client_does_not_wait_for_messages_that_take_long() {
    let mut world = World::new(1500);
    let (reader, slow) = (world.open(), (0..30).map(|_| world.open()).collect::<Vec<_>>());
    for id in &slow {
        world.send(*id, &masked("slow").repeat(2));
        world.send(*id, &masked("after"));
    }
    world.send(reader, &masked("quick"));
    assert_eq!(world.received(&[reader]), 1, "in the turn in which it asked");
    world.reactor.router.server.close(slow[0], Close::GOING_AWAY);
    assert!(
        world.reactor.router.server.clients.unfinished_bytes >= 4 * 27,
        "what waits is counted"
    );
    for _ in 0..60 {
        world.send(reader, &masked("quick"));
        assert_eq!(world.received(&[reader]), 1);
    }
    let unmasked = |text: &str| [&[0x81, text.len() as u8], text.as_bytes()].concat();
    for id in &slow[2..] {
        let expected = [unmasked("slow").repeat(2), unmasked("after")].concat();
        assert_eq!(world.far.received(*id), expected, "in the order sent");
    }
    assert_eq!(world.reactor.router.server.clients.unfinished_bytes, 0);
}

/// Far ends that send a text of 60,000 bytes except for its end, and then another byte per read.
#[derive(Default)]
struct Halves(BTreeMap<ConnId, usize>);

impl FarEnds for Halves {
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.entry(id).or_default();
        *read += 1;
        match *read {
            1 => {
                buffer[..HEAD.len()].copy_from_slice(HEAD.as_bytes());
                Ok(HEAD.len())
            }
            2..=5 => {
                let part = &mut buffer[..15_000];
                part.fill(b'x');
                if *read == 2 {
                    part[..8].copy_from_slice(&[0x81, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0]);
                }
                Ok(part.len())
            }
            _ => {
                buffer[0] = b'x';
                Ok(1)
            }
        }
    }

    fn write(&mut self, _: ConnId, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

#[test]
fn what_clients_leave_unfinished_is_not_copied_all_at_once() {
    install(Some(Box::new(Halves::default())));
    let mut reactor = Reactor::new(plan(Costly(190), |_| ())).expect("a port is free");
    let all: Vec<ConnId> = (0..400).map(|_| reactor.attach()).collect();
    let mut grew = 0;
    let unfinished = |reactor: &mut Reactor| -> Vec<usize> {
        all.iter()
            .map(|id| reactor.router.server.client(*id).map_or(0, |client| client.unfinished().0))
            .collect()
    };
    for _ in 0..2_000 {
        for id in &all {
            reactor.on_ready(*id, READABLE);
        }
        let before = unfinished(&mut reactor);
        reactor.read_clients();
        let after = unfinished(&mut reactor);
        let copied: usize = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| after > before)
            .map(|(before, _)| before)
            .sum();
        assert!(copied <= (1 << 20) + 65_536, "{copied} bytes in one turn");
        grew += usize::from(copied > 0);
        reactor.flush();
        reactor.reap();
    }
    assert!(grew > 10, "kept input grew in {grew} turns");
    assert!(unfinished(&mut reactor).iter().all(|held| *held > 60_000));
}

/// A client with 126 patterns resumes while the history is full of messages for others.
#[test]
fn a_step_of_a_replay_is_no_longer_than_it_is_given() {
    let mut test =
        TestLoop::new(RouteConfig::default(), |bounds| bounds.message_bytes_max = 1 << 20);
    let patterns: Vec<String> = (0..126).map(|number| format!("room.{number}.*")).collect();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let first = test.connect("42", &patterns);
    let since = test.received(first)[0]["id"].as_str().expect("a cursor").to_owned();
    test.cut(first);
    for _ in 0..30_000 {
        test.reactor.router.publish(b"pub.else.where.it.is", b"1");
    }
    let back = test.connect_at(&format!("/ws?since={since}"), "42", &patterns);
    let mut steps = 0;
    loop {
        let client = test.reactor.router.server.client(back).expect("it is there");
        if !client.is_replaying() {
            break;
        }
        // The keys are sorted for each step, which takes about three writes.
        let writes = test.reactor.router.replay(back, 8);
        assert!((1..=8 + 4).contains(&writes), "{writes}");
        steps += 1;
    }
    assert!(steps > 20, "{steps}");
}

#[test]
fn subscriptions_count_towards_the_bytes_of_a_turn() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    let id = test.connect("42", &[]);
    test.reactor.router.server.costs = 0;
    for number in 0..100 {
        test.reactor.router.server.scope(0).subscribe(id, &format!("room.{number}"), Reason::Asked);
    }
    test.reactor.router.server.scope(0).unsubscribe(id, "room.1");
    assert!(test.reactor.router.server.costs >= 101 * 100);
}

#[test]
fn a_list_of_topics_counts_towards_the_bytes_of_a_turn() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    let topics: Vec<String> = (0..120).map(|number| format!("room.{number}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let id = test.connect("42", &topics);
    test.reactor.router.server.costs = 0;
    test.reactor.router.on_message(id, Message::Text(r#"{"op":"topics"}"#));
    assert!(test.reactor.router.server.costs >= 120 * 40);
}

/// Nobody may have the whole history read for each of many topics by one short command.
#[test]
fn a_look_back_ends_and_counts_towards_the_bytes_of_a_turn() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    for number in 0..60_000 {
        let topic = if number == 0 { "pub.first" } else { "pub.hot" };
        test.reactor.router.publish(topic.as_bytes(), b"1");
    }
    let mut topics: Vec<String> = (0..126).map(|number| format!("silent.{number}")).collect();
    topics.extend(["hot".to_owned(), "first".to_owned()]);
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let server = &mut test.reactor.router.server;
    let (found, steps) = server.resume.newest(&topics);
    assert!(found[126].is_some() && found[127].is_none(), "it ended before the first");
    assert!((262_144..264_000).contains(&steps), "{steps}");
    server.costs = 0;
    server.scope(0).newest(ConnId { index: 0, generation: 0 }, &topics);
    assert!(server.costs >= 40_000, "{}", server.costs);
    let (found, steps) = server.resume.newest(&["first", "hot"]);
    assert!(found.iter().all(Option::is_some) && (60_000..61_000).contains(&steps), "{steps}");
    // A client that names a topic often has it looked for once.
    let id = test.connect("42", &["hot", "silent"]);
    let many = vec!["\"hot\""; 100].join(",");
    let command = format!(r#"{{"op":"subscribe","last":true,"topics":[{many},"silent"]}}"#);
    test.reactor.router.server.costs = 0;
    test.reactor.router.on_message(id, Message::Text(&command));
    let costs = test.reactor.router.server.costs;
    assert!(costs < 50_000, "{costs}");
}

#[test]
fn a_look_for_a_challenge_counts_towards_the_bytes_of_a_turn() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    let head = b"GET /.well-known/acme-challenge/a HTTP/1.1\r\nHost: h\r\n\r\n";
    let (request, _) = http::parse(head, 8192).unwrap().unwrap();
    let Router { challenges, server, .. } = &mut test.reactor.router;
    assert_eq!((challenges.answer(server, &request), server.costs), (None, 0));
    challenges.webroot = Some("/nowhere".into());
    assert_eq!(challenges.answer(server, &request), None);
    assert!(server.costs > 0);
}

#[test]
fn costly_messages_that_come_together_are_spread_over_turns() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| {
        bounds.commands_per_second_max = 1000;
    });
    let topics: Vec<String> = (0..120).map(|number| format!("room.{number}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let id = test.connect("42", &topics);
    let bystander = test.connect("43", &[]);
    test.received(id);
    test.received(bystander);
    const COUNT: usize = 40;
    test.say_at_once(id, &[r#"{"op":"topics"}"#; COUNT]);
    let (mut answers, mut most, mut turns) = (0, 0, 0);
    while answers < COUNT {
        let some = test.received(id).len();
        (answers, most, turns) = (answers + some, most.max(some), turns + 1);
        assert!(turns <= COUNT, "{answers} answers after {turns} turns");
        test.turn();
    }
    assert!(most < COUNT / 2, "{most} answers in one turn");
    assert_eq!((answers, test.received(bystander).len()), (COUNT, 0));
}

/// Two large topics that overlap, with clients that have many subscriptions.
#[test]
fn counting_subscribers_does_not_delay_others() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    let subscribers: Vec<ConnId> = (0..200)
        .map(|number| test.connect(&number.to_string(), &["room.7", "room.*", "a", "b", "c"]))
        .collect();
    let reached = test.publish("pub.room.7", "1");
    // A client is counted for both keys, as Redis does, and receives the message once.
    assert_eq!(reached, 400);
    for id in subscribers {
        let received = test.received(id);
        assert_eq!(received.iter().filter(|frame| frame["topic"] == "room.7").count(), 1);
    }
    // Small topics are counted exactly.
    let mut test = TestLoop::new(RouteConfig::default(), |_| ());
    let few: Vec<ConnId> =
        (0..50).map(|number| test.connect(&number.to_string(), &["room.7", "room.*"])).collect();
    assert_eq!(test.publish("pub.room.7", "1"), few.len());
}
