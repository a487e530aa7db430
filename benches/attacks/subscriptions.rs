//! As many connections of one user as there are descriptors for, each of which subscribes to as many topics of its own choosing as
//! it may. The figure is the most that the server ever had in memory; a client that behaves is there all the time, and others
//! still come.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bystanders::ATTACKER;
use super::{ask, assert_at_most};
use crate::support::client::Client;
use crate::support::server::{Server, Tokens, is_another};
use crate::support::usage::peak;
use crate::support::{Options, connections};

const CLIENTS: usize = 18_500;
const QUICK_CLIENTS: usize = 2_000;

/// Topics of each, and bytes of a name: nobody else has it.
const TOPICS: usize = 126;
const TOPIC_BYTES: usize = 128;

/// Connections that are opened at once. They send what `commands_per_second_max` lets them in a second.
const AT_ONCE: usize = 2_000;
const COMMANDS: usize = 45;
const SECOND: Duration = Duration::from_millis(1_050);

/// The most that clients of one user may make the server hold, by default.
const BYTES_MAX: i64 = 64 << 20;

/// Lets all of them connect and subscribe.
pub fn run(options: &Options) -> Value {
    let clients = connections(options.pick(CLIENTS, QUICK_CLIENTS));
    let server = Server::start(&["--admin", "127.0.0.1:0", "--may", "room.*"]);
    let mut good = Client::open(server.clients, 0..1);
    let token = Tokens::new().token(ATTACKER);
    let mut all = Vec::with_capacity(clients);
    for first in (0..clients).step_by(AT_ONCE) {
        let numbers = first..clients.min(first + AT_ONCE);
        let asked = numbers.map(|number| Client::ask(server.clients, ATTACKER + number, &token));
        let mut some: Vec<Client> = asked.collect();
        some.iter_mut().for_each(|client| {
            client.read_welcome();
        });
        let topics: Vec<usize> = (0..TOPICS).collect();
        for topics in topics.chunks(COMMANDS) {
            let start = Instant::now();
            for (place, client) in some.iter_mut().enumerate() {
                let commands = topics.iter().map(|topic| subscribe(first + place, *topic));
                // The server may have closed it.
                let _ = client.try_send(commands);
            }
            ask(&mut good[0]);
            sleep(SECOND.saturating_sub(start.elapsed()));
        }
        all.extend(some);
    }
    let shed = (!is_another()).then(|| server.counter("memberships_shed_total"));
    let peak = peak(server.pid());
    Client::open(server.clients, 1..2);
    if !options.quick {
        assert_at_most(peak, BYTES_MAX, "bytes in memory");
    }
    json!({"clients": clients, "topics_each": TOPICS, "peak_bytes": peak, "closed": shed})
}

/// Asks for a topic without any other subscriber.
fn subscribe(client: usize, topic: usize) -> String {
    let name = format!("room.{client}.{topic}.");
    let rest = "x".repeat(TOPIC_BYTES - name.len());
    format!(r#"{{"op":"subscribe","topic":"{name}{rest}"}}"#)
}
