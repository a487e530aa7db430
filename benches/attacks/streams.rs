//! A user who comes back again and again on many connections with a cursor from before a large stream, none of which is for it: once
//! with a cursor of its own making (`forged`), once with one that the server issued (`old_cursors`). Redis reads out what the server
//! asks for, and everybody's commands go to the same Redis.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bystanders::ATTACKER;
use super::{assert_at_most, cursor};
use crate::support::Options;
use crate::support::client::{connect, head_for, masked, whole_frame};
use crate::support::process::wait_until;
use crate::support::redis::{Redis, RedisAsker};
use crate::support::report::{quantile, rounded};
use crate::support::server::{Server, Tokens};
use crate::support::stream_publisher::STREAM;
use crate::support::usage::peak;

/// Connections of the attacker at one time, and how long one stays.
const CONNECTIONS: usize = 32;
const STAY: Duration = Duration::from_millis(300);

/// Entries of the stream, and the bytes of one.
const ENTRIES: usize = 200;
const QUICK_ENTRIES: usize = 60;
const ENTRY_BYTES: usize = 500_000;

/// The topic of all of them.
const TOPIC: &str = "room.1";

/// The numbers of the client that catches up, and of the one that sends.
const HONEST: usize = 1_900_000;
const SENDER: usize = 1_900_001;

/// Pages may make Redis' memory grow by so much.
const GROWN_BYTES_MAX: i64 = 48 << 20;

/// A place before all of every stream, at a process that never was.
const FORGED: &str = "0000000000000000000000000";

/// Measures with a cursor that nobody issued.
pub fn run_forged(options: &Options) -> Value {
    run(options, Some(FORGED))
}

/// Measures with a cursor that the attacker was welcomed with.
pub fn run_old(options: &Options) -> Value {
    run(options, None)
}

fn run(options: &Options, forged: Option<&str>) -> Value {
    let redis = Redis::start();
    let mut asker = RedisAsker::connect(&redis);
    let url = redis.url();
    let server = Server::start(&[
        "--redis",
        &url,
        "--streams",
        STREAM,
        "--upstream",
        "stream:up",
        "--admin",
        "127.0.0.1:0",
        "--commands-per-second-max",
        "0",
    ]);
    let is_up = || server.counter("stream_ups_total") == 1;
    assert!(wait_until(is_up), "the stream is not read");
    let (attacker, honest) = (Tokens::new().token(ATTACKER), Tokens::new());
    let honest = honest.token_for(HONEST, &[TOPIC.to_owned()]);
    add(&mut asker, &server, 1, 1);
    let old = cursor(server.clients, &attacker);
    let entries = options.pick(ENTRIES, QUICK_ENTRIES);
    add(&mut asker, &server, entries / 2, ENTRY_BYTES);
    let since = cursor(server.clients, &honest);
    add(&mut asker, &server, entries - entries / 2, ENTRY_BYTES);
    let missed = entries - entries / 2;

    let alone = catch_up(server.clients, &honest, &since, missed);
    let length = Duration::from_secs(if options.quick { 1 } else { 5 });
    let quiet = send_for(server.clients, length);
    let (before, sent) = (peak(redis.pid()), asker.number("total_net_output_bytes"));
    let read = server.counter("page_entries_total");
    let start = Instant::now();
    let attack = Attack::start(server.clients, &attacker, forged.unwrap_or(&old));
    thread::sleep(Duration::from_millis(200));
    let waits = send_for(server.clients, length);
    let rate =
        (asker.number("total_net_output_bytes") - sent) as f64 / start.elapsed().as_secs_f64();
    let (grown, read) = (peak(redis.pid()) - before, server.counter("page_entries_total") - read);
    let attacked = catch_up(server.clients, &honest, &since, missed);
    let returns = attack.stop();
    if !options.quick {
        assert_at_most(grown, GROWN_BYTES_MAX, "bytes more in the memory of Redis");
    }
    json!({
        "returns": returns,
        "stream_bytes": entries * ENTRY_BYTES,
        "page_entries": read,
        "redis_grown_bytes": grown,
        "redis_sent_mb_per_second": rounded(rate / 1e6),
        "send_ms_p50_alone": rounded(quantile(&quiet, 0.5)),
        "send_ms_p50": rounded(quantile(&waits, 0.5)),
        "send_ms_max_alone": rounded(quantile(&quiet, 1.0)),
        "send_ms_max": rounded(quantile(&waits, 1.0)),
        "caught_up_seconds_alone": rounded(alone.as_secs_f64()),
        "caught_up_seconds": rounded(attacked.as_secs_f64()),
    })
}

/// Adds entries, and waits until the server was told of them.
fn add(asker: &mut RedisAsker, server: &Server, count: usize, bytes: usize) {
    let told = server.counter("stream_entries_total");
    let data = format!("\"{}\"", "x".repeat(bytes));
    for _ in 0..count {
        asker.ask(&["XADD", STREAM, "*", "topic", TOPIC, "data", &data]);
    }
    let is_told = || server.counter("stream_entries_total") == told + count as u64;
    assert!(wait_until(is_told), "the server is not told of the stream");
}

/// Comes back, and reads until all that was missed has come. Returns how long that took.
fn catch_up(server: SocketAddr, token: &str, since: &str, missed: usize) -> Duration {
    let start = Instant::now();
    let mut stream = connect(server, HONEST);
    let head = head_for(&format!("/ws?since={since}"), server, token);
    stream.write_all(head.as_bytes()).expect("the server takes a head");
    let mut frames = Frames::default();
    let mut heard = 0;
    while heard < missed {
        frames.read(&mut stream, |text| {
            heard += usize::from(text.starts_with(br#"{"topic":"#));
            assert!(!text.windows(16).any(|it| it == br#""resumed":false,"#), "it is refused");
        });
    }
    start.elapsed()
}

/// Sends with one client, waits for the answer, and sends again. Returns the milliseconds of each.
fn send_for(server: SocketAddr, length: Duration) -> Vec<f64> {
    let mut stream = connect(server, SENDER);
    let head = head_for("/ws", server, &Tokens::new().token(SENDER));
    stream.write_all(head.as_bytes()).expect("the server takes a head");
    let mut frames = Frames::default();
    let mut wait_for = |stream: &mut std::net::TcpStream, op: &[u8]| {
        let mut is_there = false;
        while !is_there {
            frames.read(stream, |text| is_there |= text.starts_with(op));
        }
    };
    wait_for(&mut stream, br#"{"op":"welcome""#);
    let (begin, mut waits) = (Instant::now(), Vec::new());
    while begin.elapsed() < length {
        let start = Instant::now();
        stream.write_all(&masked(br#"{"op":"send","data":1}"#)).expect("the server takes a frame");
        wait_for(&mut stream, br#"{"op":"sent""#);
        waits.push(start.elapsed().as_secs_f64() * 1e3);
        thread::sleep(Duration::from_millis(5));
    }
    waits
}

/// Frames as they come behind the answer to a handshake.
#[derive(Default)]
struct Frames {
    held: Vec<u8>,
    is_upgraded: bool,
}

impl Frames {
    /// Reads once, and shows each text that is whole.
    fn read(&mut self, stream: &mut impl Read, mut show: impl FnMut(&[u8])) {
        let mut buffer = vec![0; 256 * 1024];
        let length = stream.read(&mut buffer).expect("the server answers in time");
        assert!(length > 0, "the server ends the connection");
        self.held.extend_from_slice(&buffer[..length]);
        if !self.is_upgraded {
            let Some(end) = self.held.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            assert!(self.held.starts_with(b"HTTP/1.1 101 "), "the handshake is refused");
            self.held.drain(..end + 4);
            self.is_upgraded = true;
        }
        let mut taken = 0;
        while self.held.len() > taken + 1
            && let Some((_, text, length)) = whole_frame(&self.held[taken..])
        {
            show(text);
            taken += length;
        }
        self.held.drain(..taken);
    }
}

/// The attacker's connections.
struct Attack {
    stopped: Arc<AtomicBool>,
    connections: Vec<JoinHandle<usize>>,
}

impl Attack {
    fn start(server: SocketAddr, token: &str, since: &str) -> Attack {
        let stopped = Arc::new(AtomicBool::new(false));
        let head = head_for(&format!("/ws?since={since}"), server, token);
        let connections = (0..CONNECTIONS).map(|number| {
            let (stopped, head) = (Arc::clone(&stopped), head.clone());
            thread::spawn(move || {
                let mut returns = 0;
                while !stopped.load(Ordering::Relaxed) {
                    stay(server, ATTACKER + number, &head);
                    returns += 1;
                }
                returns
            })
        });
        let connections = connections.collect();
        Attack { stopped, connections }
    }

    /// Ends it. Returns how often it came back.
    fn stop(self) -> usize {
        self.stopped.store(true, Ordering::Relaxed);
        self.connections.into_iter().map(|it| it.join().expect("it reads on")).sum()
    }
}

/// Comes back, reads what comes for a while, and goes.
fn stay(server: SocketAddr, number: usize, head: &str) {
    let mut stream = connect(server, number);
    stream.write_all(head.as_bytes()).expect("the server takes a head");
    stream.set_read_timeout(Some(STAY)).expect("a socket takes its options");
    let (start, mut buffer) = (Instant::now(), [0; 4096]);
    while start.elapsed() < STAY {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the attacker is cut off: {error}"),
        }
    }
}
