//! One loop and two: the CPU of all processes for a handshake and for a delivery, the time that a broadcast takes, the memory of
//! each process, and the cost of a message that no client receives.
//!
//! `cargo bench --bench loops`, and with `--quick` some hundred clients. The clients need CPU as well: two loops take half of the
//! time only where cores are left for them.

mod support;

use std::thread::available_parallelism;
use std::time::Instant;

use serde_json::{Value, json};
use support::process::wait_until;
use support::publisher::Publisher;
use support::receivers::{self, Receivers};
use support::report::{self, grouped, median, rounded};
use support::server::{SHARED_TOPIC, Server};
use support::usage::{children, cpu_time, memory};
use support::{Options, connections};

/// Messages for nobody, pipelined.
const UNHEARD: usize = 20_000;

const PAYLOAD: &str = r#"{"price":"101.25","size":3,"at":1718000000000}"#;

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let clients = connections(options.pick(15_000, 300));
    let rounds = options.pick(40, 4);
    let cores = available_parallelism().map_or(1, |cores| cores.get());
    println!(
        "{clients} clients, {rounds} broadcasts, {cores} cores\n\n{:<8}{:>16}{:>16}{:>16}{:>16}{:>16}",
        "loops", "µs/handshake", "ns/delivery", "ms/broadcast", "ns/unheard", "bytes at start"
    );
    let found: Vec<Value> = [1, 2].map(|loops| measure(loops, clients, rounds)).into();
    report::print(
        "loops",
        options,
        json!({"clients": clients, "rounds": rounds, "cores": cores, "payload_bytes": PAYLOAD.len(), "servers": found}),
    );
}

/// The processes of a server: its own, and one for each of several loops.
struct Processes(Vec<u32>);

impl Processes {
    fn of(server: &Server, loops: usize) -> Processes {
        let pid = server.pid();
        let expected = if loops > 1 { loops } else { 0 };
        assert!(wait_until(|| children(pid).len() == expected), "the loops are not there");
        Processes([vec![pid], children(pid)].concat())
    }

    /// Nanoseconds of CPU so far.
    fn cpu(&self) -> u64 {
        self.0.iter().map(|pid| cpu_time(*pid).total).sum()
    }

    /// Bytes that no other process shares, of each.
    fn private(&self) -> Vec<i64> {
        self.0.iter().map(|pid| memory(*pid).private).collect()
    }
}

fn measure(loops: usize, clients: usize, rounds: usize) -> Value {
    let server = Server::start(&["--loops", &loops.to_string()]);
    let processes = Processes::of(&server, loops);
    let mut publisher = Publisher::connect(&server);
    // The first loop to answer has begun to serve.
    let mut first = Receivers::start(server.clients, loops * 8, false);
    publisher.settle();
    let at_start = processes.private();
    let before = processes.cpu();
    let mut receivers = Receivers::start(server.clients, clients, false);
    let handshake = (processes.cpu() - before) as f64 / clients as f64;
    let before = processes.cpu();
    let mut millis = Vec::new();
    for _ in 0..rounds {
        first.expect(1);
        receivers.expect(1);
        let start = Instant::now();
        let reached = publisher.publish(SHARED_TOPIC, PAYLOAD, 1);
        receivers.wait();
        millis.push(start.elapsed().as_secs_f64() * 1000.0);
        first.wait();
        assert_eq!(reached, [clients + loops * 8], "the answer is the sum over all loops");
    }
    let delivery = (processes.cpu() - before) as f64 / (rounds * (clients + loops * 8)) as f64;
    let before = processes.cpu();
    publisher.publish("nobody.listens", PAYLOAD, UNHEARD);
    let unheard = (processes.cpu() - before) as f64 / UNHEARD as f64;
    let with_clients = processes.private();
    first.expect_end();
    receivers.expect_end();
    server.stop();
    let counts = [first.finish(), receivers.finish()];
    assert_eq!(counts, [(rounds, rounds); 2], "each message came once to each");
    println!(
        "{loops:<8}{:>16.1}{delivery:>16.0}{:>16.2}{unheard:>16.0}{:>16}",
        handshake / 1000.0,
        median(&millis),
        at_start.iter().map(|bytes| grouped(*bytes)).collect::<Vec<_>>().join(" "),
    );
    json!({
        "loops": loops,
        "handshake_micros": rounded(handshake / 1000.0),
        "delivery_nanos": rounded(delivery),
        "broadcast_millis": rounded(median(&millis)),
        "unheard_nanos": rounded(unheard),
        "private_bytes_at_start": at_start,
        "private_bytes_with_clients": with_clients,
    })
}
