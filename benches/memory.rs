//! User-space memory per idle connection, over a sweep of counts in one server.
//!
//! Each connection is authenticated, with a user of its own (a `sub` of 8 characters), that user's topic and one shared
//! topic. What counts is the server's anonymous memory against that of the empty server, per connection. The kernel's own
//! memory for a socket is the same for every server, and stands in no process.

mod support;

use serde_json::{Value, json};
use support::client::Client;
use support::process::wait_until;
use support::publisher::Publisher;
use support::report::{self, grouped, rounded};
use support::server::{SHARED_TOPIC, Server};
use support::usage::descriptors;
use support::{Options, connections};

/// Counts just above powers of two are among them: there a table that doubles has just doubled.
const COUNTS: [usize; 8] = [2_000, 2_100, 4_200, 8_300, 10_000, 13_000, 16_500, 19_000];

/// Those of `--quick`.
const QUICK_COUNTS: [usize; 3] = [200, 600, 1_100];

/// Clients that come, say something and leave before the empty server is measured, so that what the first client costs
/// once (pages of tables and stack touched for the first time) is not counted as a cost of each.
const WARMING: usize = 16;

/// Clients that have sent something and not read the answer yet.
const PINGS: usize = 200;

/// Bytes of the message that each client sends, and of the one that each is sent.
const MESSAGE_BYTES: usize = 1024;

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
    let clients = bench.clients.len();
    bench.ping_each();
    let has_sent = bench.row(clients, "after each has sent 1 KB");
    bench.publish_to_all();
    let was_sent = bench.row(clients, "after each was sent 1 KB");
    bench.leave();
    let left = bench.row(clients, "after all have left");
    let worst = steps.iter().map(|step| step.1).fold(f64::MIN, f64::max);
    println!("\nworst of the sweep: {worst:.1} bytes per connection\n");
    let steps: Vec<Value> = steps
        .iter()
        .map(
            |(clients, bytes)| json!({"clients": clients, "bytes_per_connection": rounded(*bytes)}),
        )
        .collect();
    report::print(
        "memory",
        &options,
        json!({
            "clients": clients,
            "message_bytes": MESSAGE_BYTES,
            "at_start_bytes": bench.at_start,
            "empty_bytes": bench.empty,
            "steps": steps,
            "worst_bytes_per_connection": rounded(worst),
            "each_has_sent_bytes_per_connection": rounded(has_sent),
            "each_was_sent_bytes_per_connection": rounded(was_sent),
            "all_left_bytes_per_connection": rounded(left),
        }),
    );
    bench.server.stop();
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
        bench.ping_each();
        bench.publish_to_all();
        bench.leave();
        bench.empty = bench.server.memory().anonymous;
        bench
    }

    /// Adds connections up to this count; returns the bytes of each.
    fn grow(&mut self, count: usize) -> f64 {
        let more = Client::open(self.server.clients, self.clients.len()..count);
        self.clients.extend(more);
        self.row(count, "connected")
    }

    /// Each sends a message, and reads the answer.
    fn ping_each(&mut self) {
        let ping = r#"{"op":"ping","ref":"1","padding":""}"#;
        let padding = "x".repeat(MESSAGE_BYTES - ping.len());
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
    fn publish_to_all(&mut self) {
        let payload = format!("{:?}", "x".repeat(MESSAGE_BYTES - 2));
        let reached = self.publisher.publish(SHARED_TOPIC, &payload, 1);
        assert_eq!(reached, [self.clients.len()], "everybody listens");
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
