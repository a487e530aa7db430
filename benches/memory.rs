//! User-space memory per idle connection, over a sweep of counts in one server.
//!
//! Each connection is authenticated, with a user of its own (a `sub` of 8 characters), that user's topic and one shared
//! topic. What counts is the server's anonymous memory against that of the empty server, per connection. The kernel's own
//! memory for a socket is the same for every server, and stands in no process.

mod support;

use serde_json::json;
use support::client::Client;
use support::process::{descriptors, wait_until};
use support::server::{Publisher, SHARED_TOPIC, Server};
use support::{Options, connections_max, grouped, rounded};

/// Counts above powers of two are among them: there a table that doubles has just doubled.
const COUNTS: [usize; 8] = [2_000, 2_100, 4_200, 8_300, 10_000, 13_000, 16_500, 19_000];

/// Those of `--quick`.
const QUICK_COUNTS: [usize; 3] = [200, 600, 1_100];

/// Clients that come, say something and leave before the empty server is measured, so that what the first client costs
/// once (pages of code and tables touched for the first time) is not counted as a cost of each.
const WARMING: usize = 16;

/// Bytes of the message that is sent to and received from each client.
const MESSAGE_BYTES: usize = 1024;

fn main() {
    let options = Options::read();
    let counts = match options.quick {
        true => &QUICK_COUNTS[..],
        false => &COUNTS[..],
    };
    let mut bench = Bench::start(counts);
    bench.sweep(counts);
    let after_inbound = bench.receive_from_each();
    let after_outbound = bench.send_to_each();
    let clients = bench.clients.len();
    let after_all_left = bench.leave();

    println!("remains after all {} have left", grouped(clients as i64));
    println!("{:>12}  {:>14}", "", grouped(after_all_left));
    let worst = bench.steps.iter().map(|step| step.1).fold(f64::MIN, f64::max);
    println!("worst of the sweep: {worst:.1} bytes per connection\n");
    let steps: Vec<_> = bench
        .steps
        .iter()
        .map(
            |(clients, bytes)| json!({"clients": clients, "bytes_per_connection": rounded(*bytes)}),
        )
        .collect();
    options.report(
        "memory",
        json!({
            "clients": clients,
            "message_bytes": MESSAGE_BYTES,
            "server_at_start_bytes": bench.at_start,
            "server_empty_bytes": bench.empty,
            "steps": steps,
            "worst_bytes_per_connection": rounded(worst),
            "after_a_message_from_each_bytes_per_connection": rounded(after_inbound),
            "after_a_message_to_each_bytes_per_connection": rounded(after_outbound),
            "after_all_left_bytes": after_all_left,
            "after_all_left_bytes_per_connection": rounded(after_all_left as f64 / clients as f64),
        }),
    );
    bench.server.stop();
}

struct Bench {
    server: Server,
    publisher: Publisher,
    /// Anonymous bytes before the first connection.
    at_start: i64,
    /// Anonymous bytes of the server without a client.
    empty: i64,
    /// Descriptors of the server without a client.
    descriptors: usize,
    clients: Vec<Client>,
    /// Counts and bytes per connection.
    steps: Vec<(usize, f64)>,
}

impl Bench {
    fn start(counts: &[usize]) -> Bench {
        connections_max(counts.iter().copied().max().unwrap_or(0));
        let server = Server::start(&[]);
        let at_start = server.memory().anonymous;
        let publisher = Publisher::connect(&server);
        let mut bench = Bench {
            descriptors: 0,
            server,
            publisher,
            at_start,
            empty: 0,
            clients: Vec::new(),
            steps: Vec::new(),
        };
        bench.publisher.settle();
        bench.descriptors = descriptors(bench.server.pid());
        bench.clients = Client::open(bench.server.clients, 0..WARMING);
        bench.ping_each();
        bench.publish_to_all();
        bench.leave();
        bench.empty = bench.settled();
        bench
    }

    /// Adds connections up to each count.
    fn sweep(&mut self, counts: &[usize]) {
        let most = connections_max(counts.iter().copied().max().unwrap_or(0));
        println!(
            "anonymous memory of the server: {} at start, {} empty, after {WARMING} clients came and left\n",
            grouped(self.at_start),
            grouped(self.empty)
        );
        println!("{:>12}  {:>14}  bytes per connection", "connections", "bytes more");
        for count in counts.iter().copied().filter(|count| *count <= most) {
            let more = Client::open(self.server.clients, self.clients.len()..count);
            self.clients.extend(more);
            let bytes = self.row(&grouped(count as i64));
            self.steps.push((count, bytes));
        }
    }

    /// What each is after it sent a message and got an answer.
    fn receive_from_each(&mut self) -> f64 {
        self.ping_each();
        println!("after a message of {MESSAGE_BYTES} bytes from each, answered");
        self.row("")
    }

    /// What each is after a broadcast.
    fn send_to_each(&mut self) -> f64 {
        self.publish_to_all();
        println!("after a broadcast of {MESSAGE_BYTES} bytes to all");
        self.row("")
    }

    fn ping_each(&mut self) {
        let ping = r#"{"op":"ping","ref":"1","padding":""}"#;
        let padding = "x".repeat(MESSAGE_BYTES - ping.len());
        let ping = ping.replace(r#":""}"#, &format!(r#":"{padding}"}}"#));
        // A part at a time: a busy server has that many answers waiting at once.
        for part in self.clients.chunks_mut(256) {
            part.iter_mut().for_each(|client| client.send(&ping));
            for client in part {
                assert_eq!(client.read(), r#"{"op":"pong","ref":"1"}"#);
            }
        }
    }

    fn publish_to_all(&mut self) {
        let payload = format!("{:?}", "x".repeat(MESSAGE_BYTES - 2));
        let reached = self.publisher.publish(SHARED_TOPIC, &payload, 1);
        assert_eq!(reached, [self.clients.len()], "everybody listens");
        for client in &mut self.clients {
            assert!(client.read().contains(&payload));
        }
    }

    /// All leave; returns the bytes that stay occupied.
    fn leave(&mut self) -> i64 {
        self.clients.clear();
        let (pid, before) = (self.server.pid(), self.descriptors);
        let gone = wait_until(|| descriptors(pid) == before);
        assert!(gone, "the server keeps connections that have ended");
        self.settled() - self.empty
    }

    /// Prints a row and returns the bytes per connection.
    fn row(&mut self, name: &str) -> f64 {
        let more = self.settled() - self.empty;
        let each = more as f64 / self.clients.len() as f64;
        println!("{name:>12}  {:>14}  {each:.1}", grouped(more));
        each
    }

    fn settled(&mut self) -> i64 {
        self.publisher.settle();
        self.server.memory().anonymous
    }
}
