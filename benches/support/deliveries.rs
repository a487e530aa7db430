//! Server CPU per delivered message, against a bare loop that does nothing but send the same bytes.
//!
//! Both have as many receivers, of one kind, which read all that comes in processes of their own; the two take turns in many
//! short rounds, so that whatever else the machine does disturbs both alike.

use std::time::Instant;

use serde_json::{Value, json};

use super::bare_sender::BareSender;
use super::client::{Client, unmasked};
use super::publisher::Publisher;
use super::receivers::Receivers;
use super::report::{grouped, median, quantile, rounded};
use super::server::{SHARED_TOPIC, Server};
use super::tls::Security;
use super::usage::CpuTime;

/// The messages of one round: `bursts` times, `in_flight` messages at once, the next ones when everybody has got these.
#[derive(Clone, Copy)]
pub struct Load {
    pub in_flight: usize,
    pub bursts: usize,
}

/// Bytes of the messages that go to many clients one at a time.
pub const PAYLOADS: [usize; 3] = [100, 1024, 10_240];

/// The usage of one side in a load's rounds.
#[derive(Default)]
pub struct Used {
    /// Nanoseconds per delivery, for each round.
    pub rounds: Vec<f64>,
    sum: CpuTime,
    /// Milliseconds from a publish to the last receiver's last message, for each burst.
    pub waits: Vec<f64>,
}

/// Both sides under one load.
pub struct Comparison {
    load: Load,
    pub server: Used,
    pub bare: Used,
}

/// Loads on one server and one loop with the same number of receivers.
pub struct Measured {
    clients: usize,
    payload_bytes: usize,
    frame_bytes: usize,
    pub comparisons: Vec<Comparison>,
}

/// Measures the loads with so many clients that come plainly or over TLS.
pub fn measure(
    security: Security,
    clients: usize,
    payload_bytes: usize,
    rounds: usize,
    loads: &[Load],
) -> Measured {
    let mut arena = Arena::open(security, clients, payload_bytes);
    let mut comparisons: Vec<Comparison> = loads
        .iter()
        .map(|load| Comparison { load: *load, server: Used::default(), bare: Used::default() })
        .collect();
    for load in loads {
        // Not counted: the first round finds cold caches and small socket buffers.
        arena.serve(load, &mut Vec::new());
        arena.send_bare(load, &mut Vec::new());
    }
    for round in 0..rounds {
        for comparison in &mut comparisons {
            let load = comparison.load;
            let deliveries = load.in_flight * load.bursts * clients;
            // The second side finds the machine as the first one left it.
            for server_is_next in [round % 2 == 0, round % 2 == 1] {
                match server_is_next {
                    true => {
                        let used = arena.serve(&load, &mut comparison.server.waits);
                        comparison.server.add(used, deliveries);
                    }
                    false => {
                        let used = arena.send_bare(&load, &mut comparison.bare.waits);
                        comparison.bare.add(used, deliveries);
                    }
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
    served: Receivers,
    sender: BareSender,
    unserved: Receivers,
    /// Messages that every receiver of each side has got.
    served_messages: usize,
    bare_messages: usize,
}

impl Arena {
    fn open(security: Security, clients: usize, payload_bytes: usize) -> Arena {
        let server = Server::start_for(security, &[]);
        let mut publisher = Publisher::connect(&server);
        let payload = format!("{:?}", "x".repeat(payload_bytes - 2));
        // A message to one client shows which bytes the bare loop has to send.
        let mut first = Client::open_by(security, server.clients, 0..1).remove(0);
        assert_eq!(publisher.publish(SHARED_TOPIC, &payload, 1), [1]);
        let text = first.read();
        drop(first);

        let served = Receivers::start_by(security, server.clients, clients, false);
        let sender = BareSender::start_for(security, clients, &text);
        let unserved = Receivers::start_by(security, sender.address, clients, true);
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

    fn serve(&mut self, load: &Load, waits: &mut Vec<f64>) -> CpuTime {
        let before = self.server.cpu_time();
        for _ in 0..load.bursts {
            self.served.expect(load.in_flight);
            let start = Instant::now();
            let reached = self.publisher.publish(SHARED_TOPIC, &self.payload, load.in_flight);
            assert_eq!(reached, vec![self.clients; load.in_flight]);
            self.served.wait();
            waits.push(start.elapsed().as_secs_f64() * 1e3);
        }
        self.publisher.settle();
        self.served_messages += load.bursts * load.in_flight;
        self.server.cpu_time().since(before)
    }

    fn send_bare(&mut self, load: &Load, waits: &mut Vec<f64>) -> CpuTime {
        let before = self.sender.cpu_time();
        for _ in 0..load.bursts {
            self.unserved.expect(load.in_flight);
            let start = Instant::now();
            self.sender.send(load.in_flight);
            self.unserved.wait();
            waits.push(start.elapsed().as_secs_f64() * 1e3);
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
    pub fn ratios(&self) -> [f64; 3] {
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
            println!(
                "{:<16}{:>16}{:>10}{:>10}{:>16}",
                "", "ns per delivery", "user", "system", "ms to the last"
            );
            for (name, used) in [("oneloop", &comparison.server), ("bare loop", &comparison.bare)] {
                let [all, user, system] = used.parts();
                let wait = median(&used.waits);
                println!("{name:<16}{all:>16.0}{user:>10.0}{system:>10.0}{wait:>16.2}");
            }
            let [low, ratio, high] = comparison.ratios();
            println!("{:<16}{ratio:>16.2}   half of the rounds: {low:.2} to {high:.2}\n", "ratio");
        }
    }

    /// The second load in terms of the first: the server's cost of a delivery, and the time until the last one.
    pub fn second_to_first(&self) -> [f64; 2] {
        let [first, second] = [0, 1].map(|at| &self.comparisons[at].server);
        let cost = median(&second.rounds) / median(&first.rounds);
        [cost, median(&second.waits) / median(&first.waits)]
    }

    pub fn json(&self) -> Value {
        let side = |used: &Used| {
            let [all, user, system] = used.parts().map(rounded);
            let wait = rounded(median(&used.waits));
            json!({"ns_per_delivery": all, "user_ns": user, "system_ns": system, "ms_to_the_last": wait})
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
