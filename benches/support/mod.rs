//! Support for the benches: arguments, deadlines, limits of connections.
//!
//! A bench starts the real binary ([`server`]), opens clients by the thousand ([`client`], [`receivers`]) and a publisher
//! ([`publisher`], or [`redis`]), reads what the server uses ([`usage`]), prints a table for people, then one line of JSON ([`report`]),
//! and draws what is a curve ([`chart`]).
//! Every wait is for a condition, and has a deadline. Linux only: the figures come from `/proc`, and the clients from many
//! addresses of the loopback network.

// Each bench uses a part of it.
#![allow(dead_code)]

pub mod admin;
pub mod bare_acceptor;
pub mod bare_sender;
pub mod bare_tls_acceptor;
pub mod bars;
pub mod chart;
pub mod checking_clients;
pub mod client;
pub mod client_stream;
pub mod connection_churn;
pub mod deliveries;
pub mod delivery_check;
pub mod echo;
pub mod footprint;
pub mod handshake_storm;
pub mod handshakes;
pub mod idle_clients;
pub mod kernel_sockets;
pub mod latency_probe;
pub mod memory_peers;
pub mod numbered_publisher;
pub mod picture;
/// The same signatures as in the library's tests.
#[path = "../../src/push/token/private_key.rs"]
pub mod private_key;
pub mod process;
pub mod proxy;
pub mod publisher;
/// The same generator as in the library's tests.
#[path = "../../src/engine/random.rs"]
pub mod random;
pub mod receivers;
pub mod reconnecting_client;
pub mod reconnecting_clients;
pub mod redis;
pub mod report;
pub mod server;
pub mod signer;
pub mod steady_clients;
pub mod stream_publisher;
pub mod symbols;
pub mod tls;
pub mod usage;

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

/// For whatever a healthy process does at once: a wait that lasts longer ends the bench with a panic.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Descriptors of a process that are not the clients of a bench. The server alone sets 65 aside when it is told to expect
/// one publisher.
const DESCRIPTORS_RESERVED: usize = 80;

/// The first argument of a copy of a bench that plays another part; the part's name follows.
pub const ROLE: &str = "--role";

/// The arguments of a bench.
pub struct Options {
    /// Small counts: it ends within seconds, and its figures say little.
    pub quick: bool,
    /// The part that this process plays, with what it was told, if it is not the bench itself.
    pub role: Option<Vec<String>>,
}

impl Options {
    /// From the arguments (`--quick`, and `--bench`, which cargo adds) and the variable `ONELOOP_BENCH_QUICK`.
    pub fn read() -> Options {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let role = match arguments.split_first() {
            Some((first, rest)) if first == ROLE => Some(rest.to_vec()),
            _ => None,
        };
        let variable = std::env::var("ONELOOP_BENCH_QUICK").unwrap_or_default();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        Options { quick: quick || !["", "0"].contains(&variable.as_str()), role }
    }

    /// The argument that follows a name, as 5 does in `--minutes 5`.
    pub fn value(&self, name: &str) -> Option<String> {
        std::env::args().skip_while(|argument| argument != name).nth(1)
    }

    /// Returns `quick` in the quick mode, else `full`.
    pub fn pick(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

/// Raises the soft limit of descriptors to the hard one, and returns how many connections that allows to a process.
pub fn connections_max() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard one");
    let most = limit.maximum.map_or(usize::MAX, |most| most as usize);
    most.saturating_sub(DESCRIPTORS_RESERVED)
}

/// Returns `wanted`, or the number of connections that a process may hold: then it says so.
pub fn connections(wanted: usize) -> usize {
    let most = connections_max();
    if most < wanted {
        println!("only {most} connections instead of {wanted}: raise `ulimit -Hn` for more");
    }
    wanted.min(most)
}
