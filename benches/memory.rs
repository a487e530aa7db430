//! User-space memory per idle connection, over a sweep of counts in one server, and what stays behind of them.
//!
//! Each connection is authenticated, with a user of its own (a `sub` of 8 characters), that user's topic and one shared
//! topic. What counts is the server's anonymous memory against that of the empty server, per connection. The kernel's own
//! memory for a socket is the same for every server, and stands in no process.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::chart::{Axis, Chart};
use support::client::Client;
use support::process::wait_until;
use support::publisher::Publisher;
use support::report::{self, grouped, rounded};
use support::server::{SHARED_TOPIC, Server};
use support::usage::descriptors;
use support::{DEADLINE, Options, connections};

/// Counts just above powers of two are among them: there a table that doubles has just doubled.
const COUNTS: [usize; 12] =
    [1_100, 2_000, 2_100, 3_000, 4_200, 6_000, 8_300, 10_000, 13_000, 16_500, 18_000, 19_900];

/// The counts of `--quick`.
const QUICK_COUNTS: [usize; 3] = [600, 1_100, 4_200];

/// At most so many bytes for each connection, in a sweep from [`BUDGETED_FROM`] connections on: below it the 50 KB that the
/// last handshakes needed, and that the next ones will, are not spread wide enough.
const BUDGET: f64 = 160.0;
const BUDGETED_FROM: usize = 4_000;

/// At most so many bytes more than at the start may be left when everybody has gone.
const LEFT_MAX: i64 = 2_000_000;

/// Clients that come, say something and leave before the empty server is measured, as many as have handshakes under way at one
/// time later: what these cost once (buffers, pages of stack touched for the first time) is no cost of each connection.
const WARMING: usize = 200;

/// Clients that have sent something and not read the answer yet.
const PINGS: usize = 200;

/// Bytes of the messages that each client sends, and of those that each is sent.
const MESSAGES: [usize; 2] = [1024, 4096];

/// The server gives memory back a second after a burst: it is at rest when nothing has changed for so long.
const REST: Duration = Duration::from_millis(1500);

fn main() {
    let options = Options::read();
    let counts = if options.quick { &QUICK_COUNTS[..] } else { &COUNTS[..] };
    let most = connections(*counts.last().expect("there are counts"));
    let mut counts: Vec<usize> = counts.iter().map(|count| *count.min(&most)).collect();
    counts.dedup();
    let mut bench = Bench::start();
    println!(
        "the server has {} bytes of anonymous memory at start, {} after {WARMING} clients came and left\n",
        grouped(bench.at_start),
        grouped(bench.empty)
    );
    println!("{:<44}{:>12}{:>16}", "", "bytes more", "per connection");
    let steps: Vec<(usize, f64)> =
        counts.iter().map(|count| (*count, bench.grow(*count))).collect();
    let stages = bench.exchange(most);
    let left = bench.leave_and_return(most);
    let worst = steps.iter().filter(|(clients, _)| *clients >= BUDGETED_FROM);
    let worst = worst.map(|step| step.1).fold(f64::MIN, f64::max);
    draw(&options, &steps);
    println!("\nworst of the sweep: {worst:.1} bytes per connection, of {BUDGET} at most\n");
    let per_step = |(clients, bytes): &(usize, f64)| json!({"clients": clients, "bytes_per_connection": rounded(*bytes)});
    let per_stage = |(name, bytes): &(String, f64)| json!({"after": name, "bytes_per_connection": rounded(*bytes)});
    report::print(
        "memory",
        &options,
        json!({
            "clients": most,
            "at_start_bytes": bench.at_start,
            "empty_bytes": bench.empty,
            "steps": steps.iter().map(per_step).collect::<Vec<Value>>(),
            "worst_bytes_per_connection": rounded(worst),
            "stages": stages.iter().map(per_stage).collect::<Vec<Value>>(),
            "left_bytes": left,
        }),
    );
    bench.server.stop();
    assert!(worst <= BUDGET, "{worst} bytes per connection");
    for (name, bytes) in &stages {
        assert!(*bytes <= BUDGET, "{bytes} bytes per connection {name}");
    }
    assert!(left.iter().all(|left| *left <= LEFT_MAX), "{left:?} bytes are left behind");
}

fn draw(options: &Options, steps: &[(usize, f64)]) {
    let x = Axis::linear("idle connections");
    let y = Axis::linear("bytes per connection, user space");
    let points = steps.iter().map(|(clients, bytes)| (*clients as f64, *bytes)).collect();
    let bound = [steps[0].0, steps[steps.len() - 1].0].map(|count| (count as f64, BUDGET));
    Chart::new("Memory of an idle, authenticated connection with two topics", x, y)
        .with("oneloop", points)
        .with("the bound it must stay below", bound.to_vec())
        .write("memory", options);
}

struct Bench {
    server: Server,
    publisher: Publisher,
    clients: Vec<Client>,
    /// Anonymous memory before the first connection.
    at_start: i64,
    /// The same without a client, but after some.
    empty: i64,
    /// Descriptors of the server without a client.
    descriptors: usize,
}

impl Bench {
    fn start() -> Bench {
        let server = Server::start(&[]);
        let at_start = server.memory().anonymous;
        let mut publisher = Publisher::connect(&server);
        publisher.settle();
        let descriptors = descriptors(server.pid());
        let clients = Client::open(server.clients, 0..WARMING);
        let mut bench = Bench { server, publisher, clients, at_start, empty: 0, descriptors };
        for bytes in MESSAGES {
            bench.each_sends(bytes);
            bench.each_is_sent(bytes);
        }
        bench.leave();
        bench.rest();
        bench.empty = bench.server.memory().anonymous;
        bench
    }

    /// Adds connections up to this count; returns the bytes of each.
    fn grow(&mut self, count: usize) -> f64 {
        let more = Client::open(self.server.clients, self.clients.len()..count);
        self.clients.extend(more);
        self.row(count, "connected")
    }

    /// Messages of each size in both directions: what stays of them, per connection.
    fn exchange(&mut self, clients: usize) -> Vec<(String, f64)> {
        let mut stages = Vec::new();
        for bytes in MESSAGES {
            self.each_sends(bytes);
            self.rest();
            let name = format!("after each has sent {bytes} bytes");
            stages.push((name.clone(), self.row(clients, &name)));
            self.each_is_sent(bytes);
            self.rest();
            let name = format!("after each was sent {bytes} bytes");
            stages.push((name.clone(), self.row(clients, &name)));
        }
        stages
    }

    /// All leave, and come and leave once more: what is left above the start each time, in bytes.
    fn leave_and_return(&mut self, clients: usize) -> [i64; 2] {
        [(); 2].map(|()| {
            if self.clients.is_empty() {
                self.grow(clients);
            }
            self.leave();
            self.rest();
            let left = self.server.memory().anonymous - self.at_start;
            println!("{:<44}{:>12}", format!("{:>6} all have left", 0), grouped(left));
            left
        })
    }

    /// Each sends a message, and reads the answer.
    fn each_sends(&mut self, bytes: usize) {
        let ping = r#"{"op":"ping","ref":"1","padding":""}"#;
        let padding = "x".repeat(bytes - ping.len());
        let ping = ping.replace(r#""""#, &format!("{padding:?}"));
        for part in self.clients.chunks_mut(PINGS) {
            for client in &mut *part {
                client.send(&ping);
            }
            for client in part {
                assert_eq!(client.read(), r#"{"op":"pong","ref":"1"}"#);
            }
        }
    }

    /// All read one broadcast.
    fn each_is_sent(&mut self, bytes: usize) {
        let payload = format!("{:?}", "x".repeat(bytes - 2));
        let reached = self.publisher.publish(SHARED_TOPIC, &payload, 1);
        assert_eq!(reached, [self.clients.len()], "everybody is subscribed");
        for client in &mut self.clients {
            assert!(client.read().contains(&payload));
        }
    }

    /// All leave, and the server has noticed it.
    fn leave(&mut self) {
        self.clients.clear();
        let (pid, before) = (self.server.pid(), self.descriptors);
        let gone = wait_until(|| descriptors(pid) == before);
        assert!(gone, "the server keeps connections that have ended");
        self.publisher.settle();
    }

    /// Waits until the server's memory changes no more.
    fn rest(&mut self) {
        let start = Instant::now();
        let mut last = (self.server.memory().anonymous, Instant::now());
        while last.1.elapsed() < REST {
            std::thread::sleep(Duration::from_millis(50));
            let memory = self.server.memory().anonymous;
            if memory != last.0 {
                last = (memory, Instant::now());
            }
            assert!(start.elapsed() < DEADLINE, "the server never rests");
        }
    }

    /// Prints what the server occupies beyond the empty one; returns the bytes for each of so many clients.
    fn row(&mut self, clients: usize, what: &str) -> f64 {
        self.publisher.settle();
        let more = self.server.memory().anonymous - self.empty;
        let each = more as f64 / clients as f64;
        let name = format!("{:>6} {what}", grouped(clients as i64));
        println!("{name:<44}{:>12}{each:>16.1}", grouped(more));
        each
    }
}
