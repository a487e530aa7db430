//! Three thousand connections of one user with a pattern over two large rooms, and 125 topics more: clients that are
//! subscribed by both must be found anew for each message.

use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::assert_others_at_most;
use super::bystanders::{ATTACKER, Bystanders};
use crate::support::Options;
use crate::support::client::Client;
use crate::support::publisher::Publisher;
use crate::support::server::{Server, Tokens};

/// Subscribers of both rooms, connections of the attacker, and messages to the rooms in turn.
const SUBSCRIBERS: usize = 3_200;
const ATTACKERS: usize = 3_000;
const MESSAGES: usize = 1_000;
const QUICK_PART: usize = 10;

const ROOMS: [&str; 2] = ["room.7", "room.8"];

/// Topics of the attacker beside the pattern: with its own, as many as it may have.
const TOPICS: usize = 125;

/// Handshakes under way at one time.
const HANDSHAKES: usize = 100;

/// Measures the others before and while the messages are published, and the cost of a message without the attacker.
pub fn run(options: &Options) -> Value {
    let part = if options.quick { QUICK_PART } else { 1 };
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let rooms = ROOMS.map(str::to_owned);
    let mut topics: Vec<String> = (0..TOPICS).map(|number| format!("own.{number}")).collect();
    topics.push("room.*".to_owned());
    let subscribers = open(&server, ATTACKER + 100_000, SUBSCRIBERS / part, &rooms);
    let attackers = open(&server, ATTACKER, ATTACKERS / part, &topics);
    let mut others = Bystanders::open(&server);
    let length = Duration::from_secs(if options.quick { 1 } else { 3 });
    let quiet = others.wait(length);
    let mut publisher = Publisher::connect(&server);
    let attack = thread::spawn(move || {
        let messages = (0..MESSAGES / part).map(|number| (ROOMS[number % 2], number as u64));
        publisher.publish_all(&messages.collect::<Vec<_>>());
    });
    let waits = others.wait(length);
    attack.join().expect("all is published");
    let mut figures = Map::new();
    figures.insert("listeners".to_owned(), json!(subscribers.len()));
    figures.insert("attackers".to_owned(), json!(attackers.len()));
    if let Value::Object(waits) = waits.beside(&quiet) {
        figures.extend(waits);
    }
    if !options.quick {
        assert_others_at_most(&figures);
    }
    Value::Object(figures)
}

/// Clients of one user, or of users of their own, with these topics.
fn open(server: &Server, first: usize, count: usize, topics: &[String]) -> Vec<Client> {
    let tokens = Tokens::new();
    let is_attacker = first == ATTACKER;
    let mut clients: Vec<Client> = Vec::with_capacity(count);
    for start in (0..count).step_by(HANDSHAKES) {
        let numbers = first + start..first + count.min(start + HANDSHAKES);
        let from = clients.len();
        clients.extend(numbers.map(|number| {
            let user = if is_attacker { ATTACKER } else { number };
            Client::ask(server.clients, number, &tokens.token_for(user, topics))
        }));
        clients[from..].iter_mut().for_each(|client| _ = client.read_welcome());
    }
    clients
}
