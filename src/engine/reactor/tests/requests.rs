//! Requests to Redis over a real socket: each gets an answer, even if the connection fails.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::engine::reactor::tests::{Silent, plan};
use crate::engine::reactor::*;
use crate::engine::redis::command_connection::CommandConnection;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::request::{REQUEST_BYTES_MAX, REQUESTS_MAX, ReplyForm, Ticket, command};

/// A ticket whose answer is ignored.
fn nobody() -> Ticket {
    Ticket::of_feature("test", u64::MAX)
}

/// The loop, and the Redis it uses.
struct World {
    reactor: Reactor,
    events: Events,
    listener: UnixListener,
    path: PathBuf,
}

impl World {
    fn new(name: &str) -> World {
        let path = std::env::temp_dir().join(format!("oneloop-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket can be made");
        let url = format!("unix:{}", path.display());
        let config = RedisConfig::from_url(&url).expect("the path is a URL");
        let mut plan = plan(Silent, |_| {});
        plan.commands = Some(CommandConnection::new(config, 0));
        let reactor = Reactor::new(plan).expect("a port is free");
        World { reactor, events: Events::with_capacity(64), listener, path }
    }

    fn turn(&mut self) {
        let short = Some(Duration::from_millis(1));
        self.reactor.turn(&mut self.events, short).expect("the loop turns");
    }

    fn turn_until(&mut self, what: &str, is_so: impl Fn(&Reactor) -> bool) {
        let turns = (0..20_000).find(|_| {
            self.turn();
            is_so(&self.reactor)
        });
        turns.unwrap_or_else(|| panic!("it does not happen: {what}"));
    }

    /// Accepts the loop's next connection, and completes its handshake.
    fn accept(&mut self) -> UnixStream {
        self.listener.set_nonblocking(true).expect("a socket takes its options");
        let mut accepted = None;
        for _ in 0..20_000 {
            self.turn();
            if let Ok((stream, _)) = self.listener.accept() {
                accepted = Some(stream);
                break;
            }
        }
        let mut stream = accepted.expect("the loop connects");
        stream.write_all(b"+OK\r\n+PONG\r\n").expect("the loop is connected");
        self.turn_until("ready", |reactor| !reactor.router.health.no_commands);
        stream
    }

    fn ask(&mut self, word: &str) {
        self.reactor.router.server.ask(command(&[word.as_bytes()]), nobody());
    }

    /// The number of requests, and of those that were unavailable.
    fn counted(&self) -> (u64, u64) {
        let metrics = self.reactor.metrics();
        (metrics.requests, metrics.requests_unavailable)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[test]
fn without_a_redis_everything_is_unavailable_in_the_turn_in_which_it_is_asked() {
    let mut reactor = Reactor::new(plan(Silent, |_| {})).expect("a port is free");
    let mut events = Events::with_capacity(4);
    for _ in 0..2 {
        reactor.router.server.ask(command(&[b"A"]), nobody());
    }
    reactor.router.server.resume.read_streams(vec!["s".to_owned()]);
    let server = &mut reactor.router.server;
    server.ask_for(command(&[b"A"]), nobody(), ReplyForm::Page { stream: 0 });
    server.ask_for(command(&[b"A"]), nobody(), ReplyForm::StreamInfo { stream: 0 });
    assert!(reactor.next_wake(5) == Some(5), "a pending request keeps the loop awake");
    reactor.turn(&mut events, Some(Duration::ZERO)).expect("the loop turns");
    assert_eq!(reactor.metrics().requests, 4);
    assert_eq!(reactor.metrics().requests_unavailable, 4);
    assert_eq!(reactor.router.server.requests.len(), 0);
    assert!(!reactor.router.health.no_commands, "no command needs a connection");
}

#[test]
fn a_request_is_answered_by_redis_or_unavailable_once_the_connection_is_gone() {
    let mut world = World::new("asking");
    world.ask("EARLY");
    let mut redis = world.accept();
    world.ask("A");
    redis.set_nonblocking(true).expect("a socket takes its options");
    let mut received = Vec::new();
    for _ in 0..20_000 {
        world.turn();
        let mut buffer = [0; 4096];
        if let Ok(length) = redis.read(&mut buffer) {
            received.extend_from_slice(&buffer[..length]);
        }
        if received.ends_with(b"*1\r\n$5\r\nEARLY\r\n*1\r\n$1\r\nA\r\n") {
            break;
        }
    }
    assert!(received.ends_with(b"$1\r\nA\r\n"), "{:?}", String::from_utf8_lossy(&received));
    assert!(!world.reactor.redis.0[0].is_settled());
    redis.write_all(b":1\r\n:2\r\n").expect("the loop is connected");
    world.turn_until("the answers", |reactor| reactor.redis.0[0].is_settled());
    assert_eq!(world.counted(), (2, 0));
    world.ask("B");
    world.ask("C");
    world.turn();
    drop(redis);
    world.turn_until("the end", |reactor| reactor.metrics().requests_unavailable == 2);
    assert!(world.reactor.router.health.no_commands && world.reactor.redis.0[0].is_settled());
    world.ask("D");
    world.turn();
    assert_eq!(world.counted(), (5, 3), "it waits for nothing");
    let _redis = world.accept();
    assert!(!world.reactor.router.health.no_commands, "it reconnects by itself");
}

#[test]
fn above_the_bounds_only_whose_it_is_is_held() {
    let mut reactor = Reactor::new(plan(Silent, |_| {})).expect("a port is free");
    let server = &mut reactor.router.server;
    server.ask(vec![b'x'; REQUEST_BYTES_MAX], nobody());
    server.ask(vec![b'x'; 1], nobody());
    assert_eq!(server.requests.pop().map(|one| one.command.len()), Some(REQUEST_BYTES_MAX));
    assert_eq!(server.requests.pop().map(|one| one.command.len()), Some(0));
    (0..=REQUESTS_MAX).for_each(|_| server.ask(vec![b'x'; 1], nobody()));
    let held = std::iter::from_fn(|| server.requests.pop()).map(|one| one.command.len());
    assert_eq!(held.sum::<usize>(), REQUESTS_MAX);
}
