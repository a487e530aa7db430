//! User-space memory of an idle, authenticated client with its own topic and a shared one, over TLS and plainly.

use serde_json::{Value, json};

use super::support::footprint::Footprint;
use super::support::report::{grouped, rounded};
use super::support::tls::Security;
use super::support::{Options, connections};
use super::{Part, hold};

const CLIENTS: usize = 15_000;

/// Enough that what the last handshakes needed is spread wide.
const QUICK_CLIENTS: usize = 4_200;

/// At most so many bytes for each client over TLS.
const BUDGET: f64 = 340.0;

/// At most so many bytes more than at the start may be left when everybody has gone.
const LEFT_MAX: f64 = 2_000_000.0;

pub fn run(options: &Options) -> Part {
    let clients = connections(options.pick(CLIENTS, QUICK_CLIENTS));
    let securities = [Security::Plain, Security::Tls13, Security::Tls12];
    let measured = if options.quick { &securities[1..2] } else { &securities[..] };
    let mut missed = Vec::new();
    println!("Memory of {} idle clients\n", grouped(clients as i64));
    let figures =
        measured.iter().map(|security| measure(*security, clients, &mut missed)).collect();
    println!();
    Part { figures: Value::Array(figures), missed }
}

fn measure(security: Security, clients: usize, missed: &mut Vec<String>) -> Value {
    let name = security.name();
    println!("{name:<44}{:>12}{:>16}", "bytes more", "per connection");
    let mut footprint = Footprint::start(security);
    let connected = footprint.grow(clients);
    let mut stages = vec![("connected".to_owned(), connected)];
    stages.extend(footprint.exchange(clients));
    let left = footprint.leave_and_return(clients);
    footprint.server.stop();
    if security != Security::Plain {
        for (stage, bytes) in &stages {
            hold(missed, &format!("{name}, {stage}, bytes for each client"), *bytes, BUDGET);
        }
        for left in left {
            hold(missed, &format!("{name}, bytes left"), left as f64, LEFT_MAX);
        }
    }
    let stage = |(name, bytes): &(String, f64)| json!({"stage": name, "bytes_per_connection": rounded(*bytes)});
    json!({
        "security": name,
        "clients": clients,
        "stages": stages.iter().map(stage).collect::<Vec<Value>>(),
        "left_bytes": left,
    })
}
