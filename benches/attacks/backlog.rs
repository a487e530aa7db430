//! Clients that read nothing, each sent messages of its own. The figure is the most that the server ever had in memory.

use serde_json::{Value, json};

use super::{ask, assert_at_most};
use crate::support::Options;
use crate::support::client::Client;
use crate::support::publisher::Publisher;
use crate::support::server::{Server, own_topic};
use crate::support::usage::peak;

const CLIENTS: usize = 200;
const QUICK_CLIENTS: usize = 160;

/// Payloads that each is sent, and the bytes of one.
const PAYLOADS: usize = 10;
const PAYLOAD_BYTES: usize = 600_000;

/// A machine of 512 MB has room for this beside the kernel's part and its own programs.
const BYTES_MAX: i64 = 300 << 20;

/// Publishes to each of them, and asks for another client between two rounds.
pub fn run(options: &Options) -> Value {
    let clients = options.pick(CLIENTS, QUICK_CLIENTS);
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let mut publisher = Publisher::connect(&server);
    let mut good = Client::open(server.clients, clients..clients + 1);
    let silent = Client::open(server.clients, 0..clients);
    for round in 0..PAYLOADS {
        for client in 0..clients {
            let payload = format!("\"{round}{client:05}{}\"", "x".repeat(PAYLOAD_BYTES));
            publisher.publish(&own_topic(client), &payload, 1);
        }
        ask(&mut good[0]);
    }
    let closed = server.counter("closes_total{code=\"4000\"}");
    assert!(closed > 0, "no bound was near");
    let peak = peak(server.pid());
    assert_at_most(peak, BYTES_MAX, "bytes in memory");
    drop(silent);
    json!({"clients": clients, "sent_bytes_each": PAYLOADS * PAYLOAD_BYTES, "peak_bytes": peak})
}
