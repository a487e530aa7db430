//! One loop and two: the CPU of all processes for a handshake and for a delivery, the time that a broadcast takes, the memory of
//! each process, and the cost of a message that no client receives.
//!
//! `cargo bench --bench loops`, and with `--quick` some hundred clients. Both servers run all the time and are measured in turns, of
//! which the first one counts for nothing: it touches the memory that the others use again. The clients need CPU as well: two loops
//! take half of the time only where cores are left for them.

mod support;

use std::thread::available_parallelism;
use std::time::Instant;

use serde_json::{Value, json};
use support::process::wait_until;
use support::publisher::Publisher;
use support::receivers::{self, Receivers};
use support::report::{self, grouped, median, rounded};
use support::server::{SHARED_TOPIC, Server};
use support::usage::{children, context_switches, cpu_time, memory};
use support::{Options, connections};

/// Messages for nobody, pipelined, in a turn.
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
    let (turns, rounds) = (options.pick(5, 2), options.pick(10, 2));
    let cores = available_parallelism().map_or(1, |cores| cores.get());
    let mut subjects = [1, 2].map(Subject::start);
    for turn in 0..=turns {
        for subject in &mut subjects {
            subject.take_turn(clients, rounds);
            if turn == 0 {
                subject.costs = Costs::default();
            }
        }
    }
    println!(
        "{clients} clients, {turns} turns of {rounds} broadcasts, {cores} cores\n\n{:<8}{:>16}{:>16}{:>16}{:>16}{:>16}",
        "loops", "µs/handshake", "ns/delivery", "ms/broadcast", "ns/unheard", "bytes at start"
    );
    let found: Vec<Value> = subjects.into_iter().map(Subject::finish).collect();
    let ratio = |name: &str| {
        let of = |place: usize| found[place][name]["total"].as_f64().expect("a number");
        rounded(of(1) / of(0))
    };
    let ratios =
        ["handshake_nanos", "delivery_nanos", "unheard_nanos"].map(|name| (name, ratio(name)));
    println!("\ntwo loops against one: {ratios:?}");
    report::print(
        "loops",
        options,
        json!({"clients": clients, "turns": turns, "rounds": rounds, "cores": cores, "payload_bytes": PAYLOAD.len(), "servers": found}),
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

    /// The use of each so far.
    fn used(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|pid| (cpu_time(*pid).total, context_switches(*pid))).collect()
    }

    /// Bytes that no other process shares, of each.
    fn private(&self) -> Vec<i64> {
        self.0.iter().map(|pid| memory(*pid).private).collect()
    }
}

/// The costs of one thing in each turn, for one of a kind.
#[derive(Default)]
struct Cost {
    /// Nanoseconds of all processes together, of the first one, and switches of all.
    turns: Vec<(f64, f64, f64)>,
}

impl Cost {
    fn add(&mut self, processes: &Processes, before: &[(u64, u64)], count: usize) {
        let after = processes.used();
        let used = |of: &[(u64, u64)]| of.iter().map(|one| one.0).sum::<u64>() as f64;
        let switched = |of: &[(u64, u64)]| of.iter().map(|one| one.1).sum::<u64>() as f64;
        let count = count as f64;
        let first = (after[0].0 - before[0].0) as f64;
        let switches = switched(&after) - switched(before);
        self.turns.push(((used(&after) - used(before)) / count, first / count, switches / count));
    }

    fn total(&self) -> f64 {
        median(&self.turns.iter().map(|turn| turn.0).collect::<Vec<_>>())
    }

    fn report(&self) -> Value {
        let of = |part: fn(&(f64, f64, f64)) -> f64| {
            rounded(median(&self.turns.iter().map(part).collect::<Vec<_>>()))
        };
        json!({"total": of(|one| one.0), "first_process": of(|one| one.1), "switches": of(|one| one.2)})
    }
}

#[derive(Default)]
struct Costs {
    handshake: Cost,
    delivery: Cost,
    unheard: Cost,
    broadcast_millis: Vec<f64>,
}

/// A server of so many loops.
struct Subject {
    loops: usize,
    server: Server,
    processes: Processes,
    publisher: Publisher,
    at_start: Vec<i64>,
    with_clients: Vec<i64>,
    costs: Costs,
}

impl Subject {
    fn start(loops: usize) -> Subject {
        let server = Server::start(&["--loops", &loops.to_string()]);
        let processes = Processes::of(&server, loops);
        let mut publisher = Publisher::connect(&server);
        // The first loop to answer has begun to serve.
        drop(Receivers::start(server.clients, loops * 8, false));
        publisher.settle();
        let at_start = processes.private();
        let (with_clients, costs) = (Vec::new(), Costs::default());
        Subject { loops, server, processes, publisher, at_start, with_clients, costs }
    }

    fn take_turn(&mut self, clients: usize, rounds: usize) {
        let Subject { processes, publisher, costs, .. } = self;
        let before = processes.used();
        let mut receivers = Receivers::start(self.server.clients, clients, false);
        costs.handshake.add(processes, &before, clients);
        self.with_clients = processes.private();
        let before = processes.used();
        for _ in 0..rounds {
            receivers.expect(1);
            let start = Instant::now();
            let reached = publisher.publish(SHARED_TOPIC, PAYLOAD, 1);
            receivers.wait();
            costs.broadcast_millis.push(start.elapsed().as_secs_f64() * 1000.0);
            assert_eq!(reached, [clients], "the answer is the sum over all loops");
        }
        costs.delivery.add(processes, &before, rounds * clients);
        let before = processes.used();
        publisher.publish("nobody.listens", PAYLOAD, UNHEARD);
        costs.unheard.add(processes, &before, UNHEARD);
        drop(receivers);
        let has_gone = || publisher.publish(SHARED_TOPIC, PAYLOAD, 1) == [0];
        assert!(wait_until(has_gone), "the clients are still there");
    }

    fn finish(self) -> Value {
        let Subject { loops, server, costs, at_start, with_clients, .. } = self;
        server.stop();
        println!(
            "{loops:<8}{:>16.1}{:>16.0}{:>16.2}{:>16.0}{:>16}",
            costs.handshake.total() / 1000.0,
            costs.delivery.total(),
            median(&costs.broadcast_millis),
            costs.unheard.total(),
            at_start.iter().map(|bytes| grouped(*bytes)).collect::<Vec<_>>().join(" "),
        );
        json!({
            "loops": loops,
            "handshake_nanos": costs.handshake.report(),
            "delivery_nanos": costs.delivery.report(),
            "broadcast_millis": rounded(median(&costs.broadcast_millis)),
            "unheard_nanos": costs.unheard.report(),
            "private_bytes_at_start": at_start,
            "private_bytes_with_clients": with_clients,
        })
    }
}
