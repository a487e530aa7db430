//! Server CPU per message delivered over TLS, against a bare loop that seals the same bytes for each client and sends them.

use serde_json::{Value, json};

use super::support::deliveries::{Load, Measured, PAYLOADS, measure};
use super::support::report::rounded_to;
use super::support::tls::Security;
use super::support::{Options, connections};
use super::{Part, hold};

/// At most so many times the cost at the bare loop.
const BOUND: f64 = 1.1;

pub fn run(options: &Options) -> Part {
    let rounds = options.pick(30, 3);
    let load = |in_flight, bursts| Load { in_flight, bursts };
    let clients = connections(options.pick(10_000, 300));
    let security = Security::Tls13;
    println!("Deliveries over {}\n", security.name());
    let many = PAYLOADS.map(|bytes| measure(security, clients, bytes, rounds, &[load(1, 1)]));
    let few = connections(options.pick(1_000, 100));
    let deep = measure(security, few, 128, rounds, &[load(1, 5), load(64, 2)]);
    let [cost, wait] = deep.second_to_first();
    println!("with 64 messages in flight, a delivery costs {cost:.3} of what it costs with one,");
    println!("and the last one comes after {wait:.2} times as long\n");
    let mut missed = Vec::new();
    if !options.quick {
        for (bytes, measured) in PAYLOADS.iter().zip(&many) {
            let [_, ratio, _] = measured.comparisons[0].ratios();
            hold(&mut missed, &format!("{bytes} bytes, times the bare loop"), ratio, BOUND);
        }
    }
    let figures = json!({
        "security": security.name(),
        "rounds": rounds,
        "many_clients": many.iter().map(Measured::json).collect::<Vec<Value>>(),
        "many_messages": deep.json(),
        "in_flight_64_to_1": rounded_to(cost, 4),
        "wait_64_to_1": rounded_to(wait, 2),
    });
    Part { figures, missed }
}
