//! Server CPU per delivered message, against a bare loop that does nothing but `send` the same bytes.
//!
//! Both have as many receivers, of one kind, which read all that comes in processes of their own; the two take turns in
//! many short rounds, so that whatever else the machine does disturbs both alike. What counts is the CPU time of the
//! server's process and of the loop's, the kernel's work on their behalf included. Of several messages in flight the loop
//! makes one call per receiver, with all their bytes in a row: the least that any server could do.

mod support;

use serde_json::{Value, json};
use support::client::{Client, unmasked};
use support::drain::{self, Drain};
use support::publisher::Publisher;
use support::report::{self, grouped, median, quantile, rounded, rounded_to};
use support::sender::{self, Sender};
use support::server::{SHARED_TOPIC, Server};
use support::usage::CpuTime;
use support::{Options, connections};

/// What is published in one round: `bursts` times, `in_flight` messages at once, the next ones when everybody has got these.
#[derive(Clone, Copy)]
struct Load {
    in_flight: usize,
    bursts: usize,
}

/// What one side used in a load's rounds.
#[derive(Default)]
struct Used {
    /// Nanoseconds per delivery, for each round.
    rounds: Vec<f64>,
    sum: CpuTime,
}

/// Both sides under one load.
struct Comparison {
    load: Load,
    server: Used,
    bare: Used,
}

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == drain::ROLE => drain::run(rest),
        Some([role, rest @ ..]) if role == sender::ROLE => sender::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let rounds = options.pick(100, 10);
    let load = |in_flight, bursts| Load { in_flight, bursts };
    let many = measure(connections(options.pick(10_000, 500)), 100, rounds, &[load(1, 1)]);
    let deep =
        measure(connections(options.pick(1_000, 100)), 128, rounds, &[load(1, 5), load(64, 2)]);
    let per_delivery = |at: usize| median(&deep.comparisons[at].server.rounds);
    let ratio = per_delivery(1) / per_delivery(0);
    println!("with 64 messages in flight, a delivery costs {ratio:.3} of what it costs with one\n");
    report::print(
        "fanout",
        options,
        json!({
            "rounds": rounds,
            "many_clients": many.json(),
            "many_messages": deep.json(),
            "in_flight_64_to_1": rounded_to(ratio, 4),
        }),
    );
}

/// Loads on one server and one loop with the same number of receivers.
struct Measured {
    clients: usize,
    payload_bytes: usize,
    frame_bytes: usize,
    comparisons: Vec<Comparison>,
}

fn measure(clients: usize, payload_bytes: usize, rounds: usize, loads: &[Load]) -> Measured {
    let mut arena = Arena::open(clients, payload_bytes);
    let mut comparisons: Vec<Comparison> = loads
        .iter()
        .map(|load| Comparison { load: *load, server: Used::default(), bare: Used::default() })
        .collect();
    for load in loads {
        // Not counted: the first round finds cold caches and small socket buffers.
        arena.serve(load);
        arena.send_bare(load);
    }
    for round in 0..rounds {
        for comparison in &mut comparisons {
            let load = comparison.load;
            let deliveries = load.in_flight * load.bursts * clients;
            // Whoever comes second finds the machine as the first one left it.
            for server_is_next in [round % 2 == 0, round % 2 == 1] {
                match server_is_next {
                    true => comparison.server.add(arena.serve(&load), deliveries),
                    false => comparison.bare.add(arena.send_bare(&load), deliveries),
                }
            }
        }
    }
    let frame_bytes = arena.frame_bytes;
    arena.close();
    let measured = Measured { clients, payload_bytes, frame_bytes, comparisons };
    measured.print(rounds);
    measured
}

/// The two sides, each with its receivers.
struct Arena {
    clients: usize,
    payload: String,
    frame_bytes: usize,
    server: Server,
    publisher: Publisher,
    served: Drain,
    sender: Sender,
    unserved: Drain,
    /// Messages that every receiver of each side has got.
    served_messages: usize,
    bare_messages: usize,
}

impl Arena {
    fn open(clients: usize, payload_bytes: usize) -> Arena {
        let server = Server::start(&[]);
        let mut publisher = Publisher::connect(&server);
        let payload = format!("{:?}", "x".repeat(payload_bytes - 2));
        // One message to one client shows what the bare loop has to send.
        let mut first = Client::open(server.clients, 0..1).remove(0);
        assert_eq!(publisher.publish(SHARED_TOPIC, &payload, 1), [1]);
        let text = first.read();
        drop(first);

        let served = Drain::start(server.clients, clients, false);
        let sender = Sender::start(clients, &text);
        let unserved = Drain::start(sender.address, clients, true);
        sender.wait_for_all();
        Arena {
            clients,
            payload,
            frame_bytes: unmasked(text.as_bytes()).len(),
            server,
            publisher,
            served,
            sender,
            unserved,
            served_messages: 0,
            bare_messages: 0,
        }
    }

    fn serve(&mut self, load: &Load) -> CpuTime {
        let before = self.server.cpu_time();
        for _ in 0..load.bursts {
            self.served.expect(load.in_flight);
            let reached = self.publisher.publish(SHARED_TOPIC, &self.payload, load.in_flight);
            assert_eq!(reached, vec![self.clients; load.in_flight]);
            self.served.wait();
        }
        self.publisher.settle();
        self.served_messages += load.bursts * load.in_flight;
        self.server.cpu_time().since(before)
    }

    fn send_bare(&mut self, load: &Load) -> CpuTime {
        let before = self.sender.cpu_time();
        for _ in 0..load.bursts {
            self.unserved.expect(load.in_flight);
            self.sender.send(load.in_flight);
            self.unserved.wait();
            self.sender.wait();
        }
        self.bare_messages += load.bursts * load.in_flight;
        self.sender.cpu_time().since(before)
    }

    /// Ends both sides: nobody got one message too many or too few.
    fn close(mut self) {
        self.served.expect_end();
        self.unserved.expect_end();
        self.server.stop();
        drop(self.sender);
        let sent = (self.served_messages, self.bare_messages);
        assert_eq!(self.served.finish(), (sent.0, sent.0));
        assert_eq!(self.unserved.finish(), (sent.1, sent.1));
    }
}

impl Used {
    fn add(&mut self, used: CpuTime, deliveries: usize) {
        self.rounds.push(used.total as f64 / deliveries as f64);
        self.sum = self.sum.plus(used);
    }

    /// Nanoseconds per delivery in the median round: all of them, the user's part, the system's.
    fn parts(&self) -> [f64; 3] {
        let all = median(&self.rounds);
        let user = all * self.sum.user_share();
        [all, user, all - user]
    }
}

impl Comparison {
    /// The server's cost in terms of the loop's: the quartiles of the rounds' ratios.
    fn ratios(&self) -> [f64; 3] {
        let pairs = self.server.rounds.iter().zip(&self.bare.rounds);
        let all: Vec<f64> = pairs.map(|(server, bare)| server / bare).collect();
        [0.25, 0.5, 0.75].map(|share| quantile(&all, share))
    }
}

impl Measured {
    fn print(&self, rounds: usize) {
        for comparison in &self.comparisons {
            let in_flight = comparison.load.in_flight;
            let messages = in_flight * comparison.load.bursts;
            println!(
                "{} clients, {} bytes ({} on the wire), {in_flight} in flight, {rounds} rounds of {messages}",
                grouped(self.clients as i64),
                self.payload_bytes,
                self.frame_bytes,
            );
            println!("{:<16}{:>16}{:>10}{:>10}", "", "ns per delivery", "user", "system");
            for (name, used) in [("oneloop", &comparison.server), ("bare loop", &comparison.bare)] {
                let [all, user, system] = used.parts();
                println!("{name:<16}{all:>16.0}{user:>10.0}{system:>10.0}");
            }
            let [low, ratio, high] = comparison.ratios();
            println!("{:<16}{ratio:>16.2}   half of the rounds: {low:.2} to {high:.2}\n", "ratio");
        }
    }

    fn json(&self) -> Value {
        let side = |used: &Used| {
            let [all, user, system] = used.parts().map(rounded);
            json!({"ns_per_delivery": all, "user_ns": user, "system_ns": system})
        };
        let loads: Vec<Value> = self
            .comparisons
            .iter()
            .map(|comparison| {
                json!({
                    "in_flight": comparison.load.in_flight,
                    "messages_per_round": comparison.load.in_flight * comparison.load.bursts,
                    "server": side(&comparison.server),
                    "bare": side(&comparison.bare),
                    "ratio_quartiles": comparison.ratios().map(rounded),
                })
            })
            .collect();
        json!({
            "clients": self.clients,
            "payload_bytes": self.payload_bytes,
            "frame_bytes": self.frame_bytes,
            "loads": loads,
        })
    }
}
