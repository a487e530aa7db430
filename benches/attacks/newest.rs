//! A thousand clients of a route that keeps the newest message of each topic, which read nothing: a thousand messages wait for
//! each, and one more is to take the place of one of them. The figure is what such a message costs the server.

use serde_json::{Value, json};

use super::assert_at_most;
use super::bystanders::ATTACKER;
use crate::support::Options;
use crate::support::client::Client;
use crate::support::publisher::Publisher;
use crate::support::report::rounded;
use crate::support::server::{Server, Tokens};

const CLIENTS: usize = 1_000;
const QUICK_CLIENTS: usize = 100;

/// Topics of which the newest waits: fewer than `backlog_frames_max`.
const TOPICS: usize = 1_000;

/// The bytes that fill the sockets of clients that do not read.
const FILLING: usize = 80;
const FILLING_BYTES: usize = 100_000;

/// Messages whose cost is measured.
const MESSAGES: usize = 200;

/// CPU time of a message for one of the clients, in nanoseconds: less than a write takes.
const NANOS_MAX: i64 = 1_500;

/// Fills the backlogs, then measures.
pub fn run(options: &Options) -> Value {
    let count = options.pick(CLIENTS, QUICK_CLIENTS);
    let flags = ["--admin", "127.0.0.1:0", "--slow", "keep-newest", "--stalled-seconds", "0"];
    let flags = if crate::support::server::is_another() { &flags[..4] } else { &flags[..] };
    let server = Server::start(flags);
    let tokens = Tokens::new();
    let topics = ["deep.*".to_owned()];
    let clients: Vec<Client> = (0..count)
        .map(|number| {
            let token = tokens.token_for(ATTACKER + number, &topics);
            let mut client = Client::ask(server.clients, ATTACKER + number, &token);
            client.read_welcome();
            client
        })
        .collect();
    let mut publisher = Publisher::connect(&server);
    for number in 0..FILLING {
        let payload = format!("\"{number}{}\"", "x".repeat(FILLING_BYTES));
        publisher.publish("deep.filling", &payload, 1);
        publisher.settle();
    }
    for number in 0..TOPICS {
        publisher.publish(&format!("deep.{number}"), "1", 1);
    }
    publisher.settle();
    let before = server.cpu_time();
    for number in 0..MESSAGES {
        publisher.publish(&format!("deep.{}", TOPICS - 1 - number % 100), "2", 1);
        publisher.settle();
    }
    let spent = server.cpu_time().since(before);
    let nanos = spent.total as f64 / (MESSAGES * count) as f64;
    if !options.quick {
        assert_at_most(nanos as i64, NANOS_MAX, "nanoseconds for a client");
    }
    let replaced = server.counter("messages_dropped_total");
    assert!(replaced >= (MESSAGES * count) as u64, "{replaced}: they read, or are gone");
    drop(clients);
    json!({"clients": count, "nanos_per_client": rounded(nanos), "micros_per_message": rounded(nanos * count as f64 / 1e3)})
}
