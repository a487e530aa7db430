//! A user with a good token who subscribes again and again, with a cursor from before all that the history holds, or with the
//! newest message of topics that it holds none of: as often as `commands_per_second_max` lets a client, on several connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::bystanders::{ATTACKER, Bystanders};
use super::{assert_others_at_most, cursor};
use crate::support::Options;
use crate::support::client::{Client, masked};
use crate::support::publisher::Publisher;
use crate::support::server::{Server, Tokens};

const CONNECTIONS: usize = 16;

/// Nearly as many messages as the history holds by default, and those published in one write.
const MESSAGES: usize = 64_000;
const BURST: usize = 1_000;

/// Time between two commands, of which a client may send 40 a second with a topic in each.
const PAUSE: Duration = Duration::from_millis(26);

/// Topics that the attacker asks for in turn.
const TOPICS: usize = 100;

/// The command, and the topic of every other message in the history.
const SHAPES: [(&str, &str, &str); 3] = [
    ("since_of_nothing", r#"{"op":"subscribe","topic":"room.{}","since":"{since}"}"#, "else.2"),
    ("since_of_half", r#"{"op":"subscribe","topic":"room.0","since":"{since}"}"#, "room.0"),
    ("last_of_nothing", r#"{"op":"subscribe","topic":"room.{}","last":true}"#, "else.2"),
];

/// Measures the others before and during each shape of the attack.
pub fn run(options: &Options) -> Value {
    let length = Duration::from_secs(if options.quick { 1 } else { 5 });
    let mut figures = Map::new();
    for (name, command, topic) in SHAPES {
        let server = Server::start(&["--admin", "127.0.0.1:0", "--may", "room.*"]);
        let token = Tokens::new().token(ATTACKER);
        let command = command.replace("{since}", &cursor(server.clients, &token));
        let mut publisher = Publisher::connect(&server);
        for number in 0..MESSAGES / BURST {
            publisher.publish(if number % 2 == 0 { "else.1" } else { topic }, "1", BURST);
        }
        let mut others = Bystanders::open(&server);
        let quiet = others.wait(length);
        let stopped = Arc::new(AtomicBool::new(false));
        let attackers: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                let mut client = Client::ask(server.clients, ATTACKER + number, &token);
                client.read_welcome();
                let (stopped, command) = (Arc::clone(&stopped), command.clone());
                thread::spawn(move || ask_on(client.into_stream(), &command, &stopped))
            })
            .collect();
        let waits = others.wait(length);
        stopped.store(true, Ordering::Relaxed);
        let (mut asked, mut bytes) = (0, 0);
        for attacker in attackers {
            let (commands, read) = attacker.join().expect("it is answered");
            (asked, bytes) = (asked + commands, bytes + read);
        }
        let mut found = Map::new();
        found.insert("commands".to_owned(), json!(asked));
        found.insert("bytes".to_owned(), json!(bytes));
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

/// Asks until it is stopped, and reads what it is given. Returns how often it asked, and the bytes.
fn ask_on(mut stream: TcpStream, command: &str, stopped: &AtomicBool) -> (usize, usize) {
    let (mut asked, mut bytes) = (0, 0);
    let mut buffer = vec![0; 256 * 1024];
    while !stopped.load(Ordering::Relaxed) {
        let command = command.replace("{}", &(asked % TOPICS).to_string());
        stream.write_all(&masked(command.as_bytes())).expect("the server takes a frame");
        asked += 1;
        let next = Instant::now() + PAUSE;
        while let Some(left) =
            next.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())
        {
            stream.set_read_timeout(Some(left)).expect("a socket takes its options");
            match stream.read(&mut buffer) {
                Ok(0) => panic!("the attacker is closed"),
                Ok(length) => bytes += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the attacker is cut off: {error}"),
            }
        }
    }
    (asked, bytes)
}
