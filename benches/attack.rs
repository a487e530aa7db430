//! What clients can make a server with its default settings hold, all of them together: as many as there are descriptors for,
//! each with a message that it does not finish, or a hundred that read nothing of what is sent to them.
//!
//! The figure is the most that the process ever had in memory. A client that behaves is there all the time, and is answered.

mod support;

use std::io::Write;

use serde_json::json;
use support::client::Client;
use support::publisher::Publisher;
use support::report::{self, grouped};
use support::server::{Server, own_topic};
use support::usage::peak;
use support::{Options, connections};

/// Clients that begin a message.
const UNFINISHED: usize = 19_900;
const QUICK_UNFINISHED: usize = 2_000;

/// Bytes of the message, all but the last of which come: `message_bytes_max` is 64 KiB.
const BEGUN: usize = 65_000;

/// Clients that do not read, and the payloads that each is sent: the kernel takes some 4 MB of them over.
const SILENT: usize = 200;
const QUICK_SILENT: usize = 160;
const PAYLOADS: usize = 10;
const PAYLOAD_BYTES: usize = 600_000;

/// A machine of 512 MB has room for this beside the kernel's part and its own programs.
const MOST: i64 = 300 << 20;

fn main() {
    let options = Options::read();
    let unfinished = connections(if options.quick { QUICK_UNFINISHED } else { UNFINISHED });
    let silent = if options.quick { QUICK_SILENT } else { SILENT };
    let by_input = begin_messages(unfinished);
    println!(
        "{} clients, each with {BEGUN} bytes of a message begun: {} bytes at most",
        grouped(unfinished as i64),
        grouped(by_input)
    );
    let by_output = read_nothing(silent);
    println!(
        "{silent} clients that do not read, each sent {PAYLOADS} payloads of {PAYLOAD_BYTES} bytes: {} bytes at most",
        grouped(by_output)
    );
    report::print(
        "attack",
        &options,
        json!({"unfinished_clients": unfinished, "unfinished_peak_bytes": by_input, "silent_clients": silent, "silent_peak_bytes": by_output}),
    );
    assert!(by_input <= MOST && by_output <= MOST, "above {MOST} bytes");
}

/// Each client sends a message without its end. Returns the most that the server had in memory.
fn begin_messages(clients: usize) -> i64 {
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let mut good = Client::open(server.clients, clients..clients + 1);
    let text = "x".repeat(BEGUN);
    let mut all = Vec::with_capacity(clients);
    for first in (0..clients).step_by(200) {
        for client in Client::open(server.clients, first..clients.min(first + 200)) {
            let mut stream = client.into_stream();
            // The server may close it before all is sent.
            let _ = stream.write_all(&support::client::begun(text.as_bytes()));
            all.push(stream);
        }
        answered(&mut good[0]);
    }
    let shed = server.counter("unfinished_shed_total");
    assert!(shed > 0, "the bound was never near");
    let peak = peak(server.pid());
    drop(all);
    peak
}

/// Each client is sent messages of its own and reads none. Returns the most that the server had in memory.
fn read_nothing(clients: usize) -> i64 {
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let mut publisher = Publisher::connect(&server);
    let mut good = Client::open(server.clients, clients..clients + 1);
    let silent = Client::open(server.clients, 0..clients);
    for round in 0..PAYLOADS {
        for client in 0..clients {
            let payload = format!("\"{round}{client:05}{}\"", "x".repeat(PAYLOAD_BYTES));
            publisher.publish(&own_topic(client), &payload, 1);
        }
        answered(&mut good[0]);
    }
    let closed = server.counter("closes_total{code=\"4000\"}");
    assert!(closed > 0, "no bound was near");
    let peak = peak(server.pid());
    drop(silent);
    peak
}

/// One that behaves is answered.
fn answered(client: &mut Client) {
    client.send(r#"{"op":"ping"}"#);
    assert_eq!(client.read(), r#"{"op":"pong"}"#);
}
