//! A large topic must not disturb others: case by case, over far ends that record each write.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::rc::Rc;

use crate::engine::client::encoding::Encoding;
use crate::engine::client::in_memory::{FarEnds, install};
use crate::engine::handler::Handler;
use crate::engine::pubsub::hub::{LARGE_TOPIC, Reason};
use crate::engine::reactor::tests::{Silent, plan};
use crate::engine::reactor::*;
use crate::{Frame, Message, Scope};

/// The far ends.
#[derive(Default)]
struct Log {
    writes: Vec<ConnId>,
    /// The bytes that each client received.
    received: BTreeMap<ConnId, Vec<u8>>,
    full: bool,
    broken: BTreeSet<ConnId>,
    /// Writes to sockets that had failed before.
    afterlife: usize,
    /// Bytes that every client sends whenever it is read.
    sends: Vec<u8>,
}

#[derive(Clone, Default)]
struct Far(Rc<RefCell<Log>>);

impl FarEnds for Far {
    fn read(&mut self, _: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        let sends = &self.0.borrow().sends;
        if sends.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let whole = buffer.len() / sends.len() * sends.len();
        buffer[..whole].chunks_mut(sends.len()).for_each(|part| part.copy_from_slice(sends));
        Ok(whole)
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut log = self.0.borrow_mut();
        log.writes.push(id);
        match (log.broken.contains(&id), log.full) {
            (true, _) => {
                log.afterlife += log.writes.iter().filter(|to| **to == id).count() - 1;
                Err(ErrorKind::BrokenPipe.into())
            }
            (false, true) => Err(ErrorKind::WouldBlock.into()),
            (false, false) => {
                log.received.entry(id).or_default().extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}

fn start(plan: Plan) -> (Reactor, Far) {
    let far = Far::default();
    install(Some(Box::new(far.clone())));
    (Reactor::new(plan).expect("a port is free"), far)
}

/// Connects `count` clients that subscribe to these keys.
fn join(reactor: &mut Reactor, count: usize, keys: &[&str]) -> Vec<ConnId> {
    let join = |_| {
        let id = reactor.attach();
        reactor.router.server.open(id, 0, Encoding::WebSocket);
        for key in keys {
            assert!(reactor.router.server.scope(0).subscribe(id, key, Reason::Granted));
        }
        id
    };
    (0..count).map(join).collect()
}

fn publish(reactor: &mut Reactor, topic: &str) -> usize {
    reactor.router.server.scope(0).publish(topic, |_| Frame::text(topic))
}

fn turn(reactor: &mut Reactor) {
    reactor.tick();
    reactor.flush();
    reactor.reap();
}

fn turn_to_the_end(reactor: &mut Reactor) {
    while reactor.router.server.has_pending_writes() {
        turn(reactor);
    }
}

/// Publishes to a topic with `subscribers`, of which one is subscribed by a pattern as well, one unsubscribes and one is lost before
/// anything is written. Returns how many messages waited for the fan-out.
fn publish_to_topic_of(subscribers: usize) -> usize {
    let (mut reactor, far) = start(plan(Silent, |_| {}));
    let bystanders = join(&mut reactor, 2, &["room.8", "news"]);
    let twice = join(&mut reactor, 1, &["room.7", "room.\0"])[0];
    let once = join(&mut reactor, subscribers - 1, &["room.7"]);
    assert_eq!(publish(&mut reactor, "room.7"), subscribers);
    let waiting = reactor.router.server.fanout.len();
    let (leaver, lost) = (once[0], once[1]);
    assert!(reactor.router.server.scope(0).unsubscribe(leaver, "room.7"));
    far.0.borrow_mut().broken.insert(lost);
    reactor.router.server.terminate(lost);
    let late = join(&mut reactor, 1, &["room.7"])[0];
    turn_to_the_end(&mut reactor);
    let received = std::mem::take(&mut far.0.borrow_mut().received);
    let frame = Frame::text("room.7").as_bytes().to_vec();
    for id in [twice, leaver].iter().chain(&once[2..]) {
        assert_eq!(received.get(id), Some(&frame), "one copy for {id:?}");
    }
    for id in bystanders.iter().chain([&lost, &late]) {
        assert_eq!(received.get(id), None, "nothing for {id:?}");
    }
    // One has left, one is lost, one came.
    assert_eq!(publish(&mut reactor, "room.7"), subscribers - 1);
    turn_to_the_end(&mut reactor);
    let received = &far.0.borrow().received;
    assert_eq!(received.len(), subscribers - 1);
    for id in [twice, late].iter().chain(&once[2..]) {
        assert_eq!(received.get(id), Some(&frame), "one copy for {id:?}");
    }
    waiting
}

#[test]
fn each_of_64_subscribers_is_queued_the_message() {
    assert_eq!(publish_to_topic_of(LARGE_TOPIC), 0);
}

#[test]
fn a_message_to_65_subscribers_waits_for_the_fan_out() {
    assert_eq!(publish_to_topic_of(LARGE_TOPIC + 1), 1);
}

#[test]
fn a_message_and_a_broadcast_in_one_turn_are_one_write() {
    let (mut reactor, far) = start(plan(Silent, |_| {}));
    let ids = join(&mut reactor, 2 * LARGE_TOPIC, &["news"]);
    reactor.router.server.send(ids[0], &Frame::text("to you"));
    publish(&mut reactor, "news");
    turn_to_the_end(&mut reactor);
    assert_eq!(far.0.borrow().writes.iter().filter(|to| **to == ids[0]).count(), 1);
}

#[test]
fn a_subscriber_does_not_wait_for_a_large_pattern_above_its_topic() {
    let (mut reactor, far) = start(plan(Silent, |bounds| bounds.flush_clients_per_turn = 10));
    join(&mut reactor, 5_000, &["news"]);
    join(&mut reactor, LARGE_TOPIC + 1, &["room.\0"]);
    let one = join(&mut reactor, 1, &["room.7"])[0];
    publish(&mut reactor, "news");
    publish(&mut reactor, "room.7");
    turn(&mut reactor);
    assert!(far.0.borrow().writes.contains(&one));
}

#[test]
fn sources_do_not_wait_for_large_topics_with_small_backlogs() {
    let (mut reactor, _far) = start(plan(Silent, |bounds| bounds.flush_clients_per_turn = 100));
    join(&mut reactor, 5_000, &["news"]);
    for room in 0..10 {
        join(&mut reactor, LARGE_TOPIC + 1, &[&format!("room.{room}")]);
    }
    publish(&mut reactor, "news");
    for number in 0..1_000 {
        publish(&mut reactor, &format!("room.{}", number % 10));
        assert!(!reactor.router.server.is_pressed(), "after {number}");
    }
    for _ in 0..512 {
        publish(&mut reactor, "news");
    }
    assert!(reactor.router.server.is_pressed(), "a subscriber's whole backlog waits");
    turn_to_the_end(&mut reactor);
    assert!(!reactor.router.server.is_pressed());
}

#[test]
fn subscribers_with_full_sockets_take_their_share_of_a_turn() {
    let (mut reactor, far) = start(plan(Silent, |_| {}));
    join(&mut reactor, 5_000, &["news"]);
    far.0.borrow_mut().full = true;
    publish(&mut reactor, "news");
    turn_to_the_end(&mut reactor);
    for _ in 0..500 {
        publish(&mut reactor, "news");
    }
    turn(&mut reactor);
    let server = &reactor.router.server;
    let latest = server.fanout.latest();
    let served = server.clients.iter().filter(|(_, client)| !client.is_behind(latest)).count();
    assert!((1..100).contains(&served), "{served} clients were given 500 frames in one turn");
}

#[test]
fn a_socket_that_failed_is_not_written_to_again() {
    let (mut reactor, far) = start(plan(Silent, |_| {}));
    let last = join(&mut reactor, 2 * LARGE_TOPIC, &["news"])[2 * LARGE_TOPIC - 1];
    reactor.router.server.send(last, &Frame::text("to you"));
    far.0.borrow_mut().broken.insert(last);
    publish(&mut reactor, "news");
    turn_to_the_end(&mut reactor);
    assert_eq!(far.0.borrow().afterlife, 0);
}

#[test]
fn bytes_count_as_sent_when_they_are() {
    let (mut reactor, far) = start(plan(Silent, |_| {}));
    let id = join(&mut reactor, 1, &["news"])[0];
    far.0.borrow_mut().full = true;
    reactor.router.server.pending.push_ping(id);
    turn(&mut reactor);
    assert_eq!(reactor.metrics().sent_bytes, 0);
    far.0.borrow_mut().full = false;
    reactor.on_ready(id, Readiness { writable: true, ..Readiness::default() });
    turn(&mut reactor);
    assert_eq!(reactor.metrics().sent_bytes, Frame::ping().as_bytes().len() as u64);
}

/// Small topics, pings, and flights of subscribers with full sockets: memory is returned after each.
#[test]
fn whatever_many_clients_needed_is_given_back() {
    let (mut reactor, far) = start(plan(Silent, |bounds| bounds.silence_seconds = 0));
    let ids = join(&mut reactor, 20_000, &["news"]);
    let mut now = 0;
    let mut rest = |reactor: &mut Reactor, what: &str| {
        turn_to_the_end(reactor);
        assert!(reactor.trim.at.is_some(), "{what}");
        now += 1_100;
        reactor.router.server.now.millis = now;
        turn(reactor);
        assert!(reactor.trim.at.is_none(), "{what}");
        let server = &reactor.router.server;
        assert!(server.pending.capacity() < 1024, "{what}");
    };
    ids.iter().for_each(|id| reactor.router.server.send(*id, &Frame::text("x")));
    rest(&mut reactor, "messages to each");
    ids.iter().for_each(|id| reactor.router.server.pending.push_ping(*id));
    rest(&mut reactor, "pings");
    far.0.borrow_mut().full = true;
    publish(&mut reactor, "news");
    turn_to_the_end(&mut reactor);
    far.0.borrow_mut().full = false;
    for some in ids.chunks(500) {
        for id in some {
            reactor.on_ready(*id, Readiness { writable: true, ..Readiness::default() });
        }
        turn(&mut reactor);
    }
    rest(&mut reactor, "subscribers with full sockets");
}

/// A handler that sends each message to all clients.
struct Chat;

impl Handler for Chat {
    fn on_message(&mut self, server: &mut Scope<'_>, _: ConnId, message: Message<'_>) {
        let Message::Text(text) = message else { unreachable!("texts come") };
        server.publish("news", |_| Frame::text(text));
    }
}

#[test]
fn what_a_handler_publishes_for_its_clients_is_bounded_too() {
    let (mut reactor, far) = start(plan(Chat, |bounds| bounds.commands_per_second_max = 0));
    let ids = join(&mut reactor, 2_000, &["news"]);
    // A text frame, masked with zeros.
    far.0.borrow_mut().sends = [&[0x81, 0x84, 0, 0, 0, 0][..], b"text"].concat();
    reactor.on_ready(ids[0], Readiness { readable: true, ..Readiness::default() });
    for _ in 0..50 {
        reactor.read_clients();
        turn(&mut reactor);
        assert!(reactor.router.server.fanout.len() <= 1024);
    }
    assert!(reactor.metrics().commands > 500, "it goes on");
}
