//! A user with a good token who comes back again and again with 126 topics and an old cursor, while the history is full of
//! messages that are for somebody else: each return has all of it looked through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::bystanders::{ATTACKER, Bystanders};
use super::{assert_others_at_most, cursor};
use crate::support::Options;
use crate::support::client::{Client, head_for};
use crate::support::publisher::Publisher;
use crate::support::server::{Server, Tokens};

/// Topics of the attacker beside its own.
const TOPICS: usize = 126;

/// Nearly as many messages as the history holds by default: with those of the broadcast it stays within that.
const MESSAGES: usize = 64_000;

/// Messages published in one write.
const BURST: usize = 1_000;

/// The stay of a connection: as long as a return takes the server at best, or longer.
const STAY: Duration = Duration::from_millis(30);

/// Connections of the attacker, with topics or with patterns.
const SHAPES: [(&str, usize, &str); 3] =
    [("4", 4, "room.{}"), ("16", 16, "room.{}"), ("16_patterns", 16, "room.{}.*")];

/// Measures the others before and during each shape of the attack.
pub fn run(options: &Options) -> Value {
    let length = Duration::from_secs(if options.quick { 1 } else { 5 });
    let mut figures = Map::new();
    for (name, connections, pattern) in SHAPES {
        let server = Server::start(&["--admin", "127.0.0.1:0"]);
        let topics: Vec<String> =
            (0..TOPICS).map(|number| pattern.replace("{}", &number.to_string())).collect();
        let token = Tokens::new().token_for(ATTACKER, &topics);
        let since = cursor(server.clients, &token);
        let mut publisher = Publisher::connect(&server);
        for _ in 0..MESSAGES / BURST {
            publisher.publish("somebody.else", "1", BURST);
        }
        let mut others = Bystanders::open(&server);
        let quiet = others.wait(length);
        let stopped = Arc::new(AtomicBool::new(false));
        let attackers: Vec<_> = (0..connections)
            .map(|number| {
                let stopped = Arc::clone(&stopped);
                let head = head_for(&format!("/ws?since={since}"), server.clients, &token);
                thread::spawn(move || come_back(server.clients, ATTACKER + number, &head, &stopped))
            })
            .collect();
        let waits = others.wait(length);
        stopped.store(true, Ordering::Relaxed);
        let returns: usize = attackers.into_iter().map(|it| it.join().expect("it reads on")).sum();
        let mut found = Map::new();
        found.insert("returns".to_owned(), json!(returns));
        if let Value::Object(waits) = waits.beside(&quiet) {
            found.extend(waits);
        }
        if !options.quick {
            assert_others_at_most(&found);
        }
        figures.insert(name.to_owned(), Value::Object(found));
    }
    Value::Object(figures)
}

/// Comes and goes until it is stopped. Returns how often.
fn come_back(server: SocketAddr, number: usize, head: &str, stopped: &AtomicBool) -> usize {
    let mut returns = 0;
    while !stopped.load(Ordering::Relaxed) {
        let mut client = Client::ask_with(server, number, head);
        client.read_welcome();
        thread::sleep(STAY);
        returns += 1;
    }
    returns
}
