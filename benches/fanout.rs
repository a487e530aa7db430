//! Server CPU per delivered message, against a bare loop that does nothing but `send` the same bytes.
//!
//! Both have as many receivers, of one kind, which read all that comes in processes of their own; the two take turns in
//! many short rounds, so that whatever else the machine does disturbs both alike. What counts is the CPU time of the
//! server's process and of the loop's, the kernel's work on their behalf included. Of several messages in flight the loop
//! makes one call per receiver, with all their bytes in a row: the least that any server could do.

mod support;

use serde_json::{Value, json};
use support::bare_sender::{self, BareSender};
use support::deliveries::{Load, Measured, PAYLOADS, measure};
use support::receivers::{self, Receivers};
use support::report::{self, median, rounded, rounded_to};
use support::tls::Security;
use support::{Options, connections};

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some([role, rest @ ..]) if role == bare_sender::ROLE => bare_sender::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let rounds = options.pick(60, 5);
    let load = |in_flight, bursts| Load { in_flight, bursts };
    let clients = connections(options.pick(10_000, 500));
    let many =
        PAYLOADS.map(|bytes| measure(Security::Plain, clients, bytes, rounds, &[load(1, 1)]));
    let loads = [load(1, 5), load(64, 2)];
    let few = connections(options.pick(1_000, 100));
    let deep = measure(Security::Plain, few, 128, rounds, &loads);
    let [cost, wait] = deep.second_to_first();
    println!("with 64 messages in flight, a delivery costs {cost:.3} of what it costs with one,");
    println!("and the last one comes after {wait:.2} times as long\n");
    let nodelay = compare_nodelay(connections(options.pick(2_000, 100)), rounds);
    println!("a send on a socket with TCP_NODELAY costs {nodelay:.3} of one on a socket without\n");
    report::print(
        "fanout",
        options,
        json!({
            "rounds": rounds,
            "many_clients": many.iter().map(Measured::json).collect::<Vec<Value>>(),
            "many_messages": deep.json(),
            "in_flight_64_to_1": rounded_to(cost, 4),
            "wait_64_to_1": rounded(wait),
            "nodelay_to_delay": rounded_to(nodelay, 4),
        }),
    );
}

/// The cost of TCP_NODELAY to a loop that does nothing but send: the ratio in the median round.
fn compare_nodelay(clients: usize, rounds: usize) -> f64 {
    let text = "x".repeat(150);
    let mut sides = [true, false].map(|nodelay| {
        let sender = BareSender::start(clients, &text, nodelay);
        let receivers = Receivers::start(sender.address, clients, true);
        sender.wait_for_all();
        (sender, receivers)
    });
    let ratios: Vec<f64> = (0..rounds + 1)
        .map(|round| {
            let mut used = [0.0; 2];
            for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
                let (sender, receivers) = &mut sides[at];
                let before = sender.cpu_time();
                receivers.expect(1);
                sender.send(1);
                receivers.wait();
                sender.wait();
                used[at] = sender.cpu_time().since(before).total as f64;
            }
            used[0] / used[1]
        })
        .collect();
    // The first round finds cold caches.
    median(&ratios[1..])
}
