//! A user with a good token who comes back again and again, on several connections at once, with a cursor from before all
//! that the history holds, and reads what it is given. A request of 430 bytes is answered with 8 MB.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::bystanders::{ATTACKER, Bystanders};
use super::{assert_others_at_most, cursor};
use crate::support::Options;
use crate::support::client::{connect, head_for};
use crate::support::publisher::Publisher;
use crate::support::server::{Server, Tokens};

/// Connections of the attacker at one time.
const CONNECTIONS: usize = 8;

/// A topic of the attacker alone, the messages that the history holds of it, and the bytes of one.
const TOPIC: &str = "attack";
const MESSAGES: usize = 60_000;
const QUICK_MESSAGES: usize = 6_000;
const PAYLOAD_BYTES: usize = 100;

/// Messages published in one write.
const BURST: usize = 1_000;

/// Silence after which a client that came back has been given everything.
const CAUGHT_UP: Duration = Duration::from_millis(200);

/// Measures the others before and while the attacker comes back.
pub fn run(options: &Options) -> Value {
    let length = Duration::from_secs(if options.quick { 1 } else { 5 });
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let token = Tokens::new().token_for(ATTACKER, &[TOPIC.to_owned()]);
    let since = cursor(server.clients, &token);
    let mut publisher = Publisher::connect(&server);
    let payload = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES - 2));
    for _ in 0..options.pick(MESSAGES, QUICK_MESSAGES) / BURST {
        publisher.publish(TOPIC, &payload, BURST);
    }
    let mut others = Bystanders::open(&server);
    let quiet = others.wait(length);
    let attack = Attack::start(server.clients, &token, &since);
    let waits = others.wait(length);
    let (returns, bytes) = attack.stop();
    assert!(returns > 0 && bytes > 0, "nobody came back");
    let mut figures = Map::new();
    figures.insert("returns".to_owned(), json!(returns));
    figures.insert("bytes".to_owned(), json!(bytes));
    if let Value::Object(waits) = waits.beside(&quiet) {
        figures.extend(waits);
    }
    if !options.quick {
        assert_others_at_most(&figures);
    }
    Value::Object(figures)
}

/// The attacker's connections.
struct Attack {
    stopped: Arc<AtomicBool>,
    bytes: Arc<AtomicUsize>,
    connections: Vec<JoinHandle<usize>>,
}

impl Attack {
    fn start(server: SocketAddr, token: &str, since: &str) -> Attack {
        let (stopped, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let head = head_for(&format!("/ws?since={since}"), server, token);
        let connections = (0..CONNECTIONS).map(|number| {
            let (stopped, bytes, head) = (Arc::clone(&stopped), Arc::clone(&bytes), head.clone());
            thread::spawn(move || {
                let mut returns = 0;
                while !stopped.load(Ordering::Relaxed) {
                    come_back(server, ATTACKER + number, &head, &stopped, &bytes);
                    returns += 1;
                }
                returns
            })
        });
        let connections = connections.collect();
        Attack { stopped, bytes, connections }
    }

    /// Ends it. Returns how often it came back, and the bytes that it was given.
    fn stop(self) -> (usize, usize) {
        self.stopped.store(true, Ordering::Relaxed);
        let returns = self.connections.into_iter().map(|it| it.join().expect("it reads on")).sum();
        (returns, self.bytes.load(Ordering::Relaxed))
    }
}

/// Reads all that it is given, and goes.
fn come_back(
    server: SocketAddr,
    number: usize,
    head: &str,
    stopped: &AtomicBool,
    bytes: &AtomicUsize,
) {
    let mut stream = connect(server, number);
    stream.set_read_timeout(Some(CAUGHT_UP)).expect("a socket takes its options");
    stream.write_all(head.as_bytes()).expect("the server takes a head");
    let mut buffer = vec![0; 256 * 1024];
    while !stopped.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => _ = bytes.fetch_add(length, Ordering::Relaxed),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the attacker is cut off: {error}"),
        }
    }
}
