//! What it takes to start: the size of the binary, the time to the first connection, the memory before it.

mod support;

use std::fs;
use std::time::Duration;

use serde_json::json;
use support::Options;
use support::client::Client;
use support::report::{self, grouped, median, rounded};
use support::server::{BINARY, Server};
use support::usage::Memory;

fn main() {
    let options = Options::read();
    let starts = options.pick(20, 5);
    let binary = fs::metadata(BINARY).expect("the binary was built").len();
    let (mut listening, mut accepted) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let (first, second) = time_one();
        listening.push(first);
        accepted.push(second);
    }
    let memory = memory_after_start(starts);

    println!("binary             {:>12} bytes", grouped(binary as i64));
    println!("starts             {starts:>12}");
    let times = [("to its lines", &listening), ("to the first client", &accepted)];
    for (name, all) in times {
        let [median, least, most] = spread(all);
        println!("{name:<19}{median:>12.2} ms, {least:.2} to {most:.2}");
    }
    for (name, bytes) in [
        ("resident", memory.resident),
        ("of these private", memory.private),
        ("of these anonymous", memory.anonymous),
    ] {
        println!("{name:<19}{:>12} bytes", grouped(bytes));
    }
    println!();
    report::print(
        "start",
        &options,
        json!({
            "clients": 1,
            "binary_bytes": binary,
            "starts": starts,
            "listening_ms": spread(&listening).map(rounded),
            "first_client_ms": spread(&accepted).map(rounded),
            "resident_bytes": memory.resident,
            "private_bytes": memory.private,
            "anonymous_bytes": memory.anonymous,
        }),
    );
}

/// Milliseconds from the fork to the lines that say where it listens, and to the welcome of a first client: the handshake
/// and its token are checked by then.
fn time_one() -> (f64, f64) {
    let server = Server::start(&[]);
    let listening = server.started.elapsed();
    let clients = Client::open(server.clients, 0..1);
    let accepted = server.started.elapsed();
    drop(clients);
    server.stop();
    (milliseconds(listening), milliseconds(accepted))
}

/// Of a server that has heard of nobody yet: the one in the middle by resident memory.
fn memory_after_start(starts: usize) -> Memory {
    let mut all: Vec<Memory> = (0..starts)
        .map(|_| {
            let server = Server::start(&[]);
            let memory = server.memory();
            server.stop();
            memory
        })
        .collect();
    all.sort_by_key(|memory| memory.resident);
    all[starts / 2]
}

/// The median, the least and the most.
fn spread(values: &[f64]) -> [f64; 3] {
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    [median(values), least, most]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
