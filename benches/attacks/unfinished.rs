//! As many clients as there are descriptors for, each with a message that it does not finish. The figure is the most that the
//! server ever had in memory; a client that behaves is there all the time, and is answered.

use std::io::Write;

use serde_json::{Value, json};

use super::{ask, assert_at_most};
use crate::support::client::{Client, begun};
use crate::support::server::Server;
use crate::support::usage::peak;
use crate::support::{Options, connections};

const CLIENTS: usize = 19_900;
const QUICK_CLIENTS: usize = 2_000;

/// Bytes of the message, all but the last of which come: `message_bytes_max` is 64 KiB.
const BEGUN: usize = 65_000;

/// A machine of 512 MB has room for this beside the kernel's part and its own programs.
const BYTES_MAX: i64 = 300 << 20;

/// Each client sends a message without its end.
pub fn run(options: &Options) -> Value {
    let clients = connections(options.pick(CLIENTS, QUICK_CLIENTS));
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let mut good = Client::open(server.clients, clients..clients + 1);
    let text = "x".repeat(BEGUN);
    let mut all = Vec::with_capacity(clients);
    for first in (0..clients).step_by(200) {
        for client in Client::open(server.clients, first..clients.min(first + 200)) {
            let mut stream = client.into_stream();
            // The server may close it before all is sent.
            let _ = stream.write_all(&begun(text.as_bytes()));
            all.push(stream);
        }
        ask(&mut good[0]);
    }
    let shed = server.counter("unfinished_shed_total");
    assert!(shed > 0, "the bound was never near");
    let peak = peak(server.pid());
    assert_at_most(peak, BYTES_MAX, "bytes in memory");
    json!({"clients": clients, "begun_bytes": BEGUN, "peak_bytes": peak})
}
