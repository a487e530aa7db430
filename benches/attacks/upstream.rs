//! A user on ten connections that sends as much as it can to the back end, by way of a stream in Redis. The figure is what
//! Redis takes in a second.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bystanders::ATTACKER;
use crate::support::Options;
use crate::support::client::{Client, masked};
use crate::support::redis::Redis;
use crate::support::report::rounded;
use crate::support::server::{Server, Tokens};

const CONNECTIONS: usize = 10;

/// Bytes of one message: nearly all of `message_bytes_max`.
const DATA_BYTES: usize = 65_000;

/// Counts what is acknowledged.
pub fn run(options: &Options) -> Value {
    let redis = Redis::start();
    let admin = ["--admin", "127.0.0.1:0"];
    let server = Server::start(
        &[&admin[..], &["--redis", &redis.url(), "--upstream", "stream:up"]].concat(),
    );
    server.wait_for_redis();
    let length = Duration::from_secs(if options.quick { 1 } else { 10 });
    let token = Tokens::new().token(ATTACKER);
    let text = format!(r#"{{"op":"send","data":"{}"}}"#, "x".repeat(DATA_BYTES));
    let mut connections: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let mut client = Client::ask(server.clients, ATTACKER + number, &token);
            client.read_welcome();
            let stream = client.into_stream();
            stream.set_nonblocking(true).expect("a socket takes its options");
            stream
        })
        .collect();
    // Below `commands_per_second_max`, beyond which a connection is closed.
    let (start, mut sent, mut buffer) = (Instant::now(), 0, vec![0; 64 * 1024]);
    let frame = masked(text.as_bytes());
    while start.elapsed() < length {
        for stream in &mut connections {
            stream.set_nonblocking(false).expect("a socket takes its options");
            stream.write_all(&frame).expect("the server takes a message");
            stream.set_nonblocking(true).expect("a socket takes its options");
            sent += acknowledged(stream, &mut buffer);
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    let seconds = start.elapsed().as_secs_f64();
    json!({"sent": sent, "bytes_per_second": rounded(sent as f64 * DATA_BYTES as f64 / seconds)})
}

/// Reads what there is, and counts the messages that Redis has.
fn acknowledged(stream: &mut impl Read, buffer: &mut [u8]) -> usize {
    match stream.read(buffer) {
        Ok(length) => {
            assert!(length > 0, "the attacker is cut off");
            String::from_utf8_lossy(&buffer[..length]).matches(r#""op":"sent""#).count()
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("the attacker is cut off: {error}"),
    }
}
