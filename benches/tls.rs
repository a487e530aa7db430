//! The costs of TLS: memory for a client, handshakes, deliveries, and what a storm of handshakes does to others.
//!
//! Each part compares within this run: with plain clients, with a proxy in front that speaks TLS, with a bare loop that does no
//! more than rustls' handshakes, with one that does no more than seal and send. `--only memory`, `machine`, `handshakes`,
//! `deliveries`, `storm` or `renewal` runs one part.

mod support;
mod tls_costs;

use serde_json::Map;
use support::{Options, bare_sender, bare_tls_acceptor, handshake_storm, receivers, report};

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some([role, rest @ ..]) if role == bare_sender::ROLE => bare_sender::run(rest),
        Some([role, rest @ ..]) if role == bare_tls_acceptor::ROLE => bare_tls_acceptor::run(rest),
        Some([role, rest @ ..]) if role == handshake_storm::ROLE => handshake_storm::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let only = options.value("--only");
    let mut found = Map::new();
    let mut missed = Vec::new();
    for (name, part) in tls_costs::ALL {
        if only.as_deref().is_none_or(|only| only == *name) {
            let part = part(options);
            found.insert((*name).to_owned(), part.figures);
            missed.extend(part.missed);
        }
    }
    assert!(!found.is_empty(), "there is no part of that name");
    report::print("tls", options, found.into());
    assert!(missed.is_empty(), "over the bound: {}", missed.join("; "));
}
