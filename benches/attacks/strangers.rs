//! Connections that never say what they came for, at each place of which there are few. The figures are how many of those who say
//! it at once get in meanwhile, and how long that takes them.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::assert_at_most;
use super::bystanders::ATTACKER;
use crate::support::Options;
use crate::support::client::{begin_to_connect, connect, head};
use crate::support::report::{quantile, rounded};
use crate::support::server::{Server, Tokens};

/// Connections of the attacker, at one time and in a second.
const OPEN: usize = 8_400;
const QUICK_OPEN: usize = 500;
const PER_SECOND: u32 = 2_000;

/// The number of addresses that they come from: each has ports for ten seconds of them.
const ADDRESSES: usize = 4;

const SECONDS: usize = 10;
const QUICK_SECONDS: usize = 2;

/// Between two of those who behave.
const PAUSE: Duration = Duration::from_millis(50);

/// The longest that one of those waits before it gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// They get in within a second.
const WAIT_MS_MAX: i64 = 1_000;

const PASSWORD: &str = "a password for benches alone";

/// Silence at the clients' port.
pub fn run_silent(options: &Options) -> Value {
    let server = Server::start(&[]);
    let token = Tokens::new().token(0);
    let asked = head(server.clients, &token);
    flooded(options, server.clients, b"", server.clients, asked.as_bytes(), "\"welcome\"")
}

/// WebSockets that never show a token, where a thousand clients may be.
pub fn run_unproven(options: &Options) -> Value {
    let server = Server::start(&["--clients-max", "1000"]);
    let token = Tokens::new().token(0);
    let asked = head(server.clients, &token);
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let word = asked.replace(&bearer, "");
    let to = server.clients;
    flooded(options, to, word.as_bytes(), to, asked.as_bytes(), "\"welcome\"")
}

/// Silence at the publishers' port, which asks for a password.
pub fn run_publishers(options: &Options) -> Value {
    let file = std::env::temp_dir().join(format!("oneloop-bench-{}", std::process::id()));
    std::fs::write(&file, PASSWORD).expect("a file can be written");
    let path = file.to_str().expect("its name is text");
    let flags = ["--publishers-password-file", path, "--publishers-max", "64"];
    let server = Server::start_as_it_comes(&flags);
    std::fs::remove_file(&file).expect("the file is still there");
    let asked = format!("AUTH \"{PASSWORD}\"\r\n");
    flooded(options, server.publishers, b"", server.publishers, asked.as_bytes(), "+OK")
}

/// Silence at the operator's port.
pub fn run_admin(options: &Options) -> Value {
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let admin = server.admin.expect("it was asked for");
    let asked = format!("GET /healthz HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    flooded(options, admin, b"", admin, asked.as_bytes(), " 200 OK")
}

/// Measures how clients that behave fare while the attacker's connections come.
fn flooded(
    options: &Options,
    attacked: SocketAddr,
    word: &[u8],
    server: SocketAddr,
    asked: &[u8],
    expected: &str,
) -> Value {
    let open = options.pick(OPEN, QUICK_OPEN);
    let length = Duration::from_secs(options.pick(SECONDS, QUICK_SECONDS) as u64);
    let stopped = AtomicBool::new(false);
    let mut waits = Vec::new();
    let mut tried = 0;
    let came = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(attacked, open, word, &stopped));
        // The places are taken before anybody else comes.
        thread::sleep(length / 2);
        let start = Instant::now();
        while start.elapsed() < length {
            tried += 1;
            waits.extend(try_once(server, asked, expected));
            thread::sleep(PAUSE);
        }
        stopped.store(true, Ordering::Relaxed);
        flood.join().expect("the flood ends by itself")
    });
    assert_at_most((tried - waits.len()) as i64, 0, "of those who behave, turned away");
    let longest = waits.iter().copied().fold(0.0, f64::max);
    if !options.quick {
        assert_at_most(longest as i64, WAIT_MS_MAX, "milliseconds until one is let in");
    }
    let median = if waits.is_empty() { 0.0 } else { quantile(&waits, 0.5) };
    json!({
        "attackers": came,
        "tried": tried,
        "let_in": waits.len(),
        "wait_ms_p50": rounded(median),
        "wait_ms_max": rounded(longest),
    })
}

/// Connects at a steady pace, says `word`, and keeps so many open. Returns how many there were.
fn flood(to: SocketAddr, open: usize, word: &[u8], stopped: &AtomicBool) -> usize {
    let mut held: VecDeque<TcpStream> = VecDeque::new();
    let start = Instant::now();
    let mut count = 0;
    while !stopped.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(PER_SECOND)) as usize;
        while count < due {
            count += 1;
            let number = ATTACKER + count % ADDRESSES * 10_000;
            let Ok(mut stream) = begin_to_connect(to, number) else { continue };
            // A socket that is not connected yet stays silent.
            let _ = stream.write(word);
            held.push_back(stream);
            if held.len() > open {
                held.pop_front();
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    count
}

/// Connects, asks, and returns after how many milliseconds the answer had come; `None`: it did not.
fn try_once(server: SocketAddr, asked: &[u8], expected: &str) -> Option<f64> {
    let start = Instant::now();
    // From an address of the attackers too.
    let mut stream = connect(server, ATTACKER);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes its options");
    stream.write_all(asked).ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    while !String::from_utf8_lossy(&answer).contains(expected) {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => answer.extend_from_slice(&buffer[..length]),
            _ => return None,
        }
    }
    Some(start.elapsed().as_secs_f64() * 1e3)
}
