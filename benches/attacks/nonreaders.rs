//! Clients that come back for 8 MB each and read nothing. The figures are the bytes in the server's send queues, which the kernel
//! holds and no count of the server's shows: while the clients are there, and after the server has given them up.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::bystanders::ATTACKER;
use super::{ask, assert_at_most};
use crate::support::Options;
use crate::support::client::{Client, connect, head_for};
use crate::support::publisher::Publisher;
use crate::support::server::{SHARED_TOPIC, Server, Tokens, is_another};

const CLIENTS: usize = 200;
const QUICK_CLIENTS: usize = 50;

/// Messages that each has missed, 8 MB in all.
const PAYLOADS: usize = 13;
const PAYLOAD_BYTES: usize = 600_000;

/// The server's patience with a full socket, by default and in a hurry.
const STALLED_SECONDS: u64 = 20;
const QUICK_STALLED_SECONDS: u64 = 1;

/// From the close frame to the reset, and ten more seconds.
const GIVEN_UP_SECONDS: u64 = 15;

/// The most that 200 of them may make the kernel hold.
const BYTES_MAX: i64 = 64 << 20;

/// Lets all of them come, looks, waits, and looks again.
pub fn run(options: &Options) -> Value {
    let clients = options.pick(CLIENTS, QUICK_CLIENTS);
    let stalled = options.pick(STALLED_SECONDS as usize, QUICK_STALLED_SECONDS as usize) as u64;
    let seconds = stalled.to_string();
    let flags = ["--admin", "127.0.0.1:0", "--stalled-seconds", &seconds];
    // An older binary waits for ever.
    let server = Server::start(&flags[..if is_another() { 2 } else { 4 }]);
    let mut good = Client::open(server.clients, 0..1);
    let mut publisher = Publisher::connect(&server);
    let since = place(&mut publisher, &mut good[0]);
    for _ in 0..PAYLOADS {
        publisher.publish(SHARED_TOPIC, &format!("\"{}\"", "x".repeat(PAYLOAD_BYTES)), 1);
        good[0].read();
    }
    let start = Instant::now();
    let attackers = come_back(server.clients, clients, &since);
    let mut pinned = 0;
    while start.elapsed() < Duration::from_secs(stalled) {
        ask(&mut good[0]);
        pinned = pinned.max(queued(server.clients));
        sleep(Duration::from_millis(100));
    }
    assert_at_most(pinned, BYTES_MAX, "bytes in send queues");
    let end = Instant::now() + Duration::from_secs(GIVEN_UP_SECONDS);
    let mut left = queued(server.clients);
    while left > 0 && Instant::now() < end {
        sleep(Duration::from_millis(100));
        left = queued(server.clients);
    }
    assert_at_most(left, 0, "bytes in send queues of clients that were given up");
    drop(attackers);
    json!({"clients": clients, "pinned_bytes": pinned, "pinned_bytes_afterwards": left})
}

/// The cursor of a client that has received one message.
fn place(publisher: &mut Publisher, client: &mut Client) -> String {
    publisher.publish(SHARED_TOPIC, "0", 1);
    let message: Value = serde_json::from_str(&client.read()).expect("a message");
    message["id"].as_str().expect("a message has a place").to_owned()
}

/// Shakes hands as clients with an old cursor, and never reads.
fn come_back(server: SocketAddr, clients: usize, since: &str) -> Vec<TcpStream> {
    let tokens = Tokens::new();
    let path = format!("/ws?since={since}");
    let numbers = ATTACKER..ATTACKER + clients;
    let asked = numbers.map(|number| {
        let mut stream = connect(server, number);
        let head = head_for(&path, server, &tokens.token(number));
        stream.write_all(head.as_bytes()).expect("the server takes a head");
        stream
    });
    asked.collect()
}

/// Bytes that wait in the send queues of all sockets with this address, of closed ones too.
fn queued(server: SocketAddr) -> i64 {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
    let port = format!(":{:04X}", server.port());
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row[1].ends_with(&port));
    ours.map(|row| {
        let sending = row[4].split(':').next().unwrap_or_default();
        i64::from_str_radix(sending, 16).expect("a hexadecimal number")
    })
    .sum()
}
