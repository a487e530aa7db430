//! Server CPU for a TLS handshake, full and resumed, against a bare rustls loop, and against nginx.
//!
//! The sides take turns, each round with as many clients. Each step is done by all of them while the server stands still: the
//! ClientHellos, what answers the server's flight, and at oneloop the request for a WebSocket. What counts is its CPU time from
//! when it runs on until it is at rest, the kernel's work on its behalf included.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};

use super::support::bare_tls_acceptor::BareTlsAcceptor;
use super::support::client::{Client, head};
use super::support::handshakes::{HandshakeClient, Tickets};
use super::support::process::{freeze, thaw, wait_for_rest};
use super::support::proxy::Proxy;
use super::support::report::{grouped, median, quantile, rounded};
use super::support::server::{Server, Tokens};
use super::support::tls::{Certificate, Security};
use super::support::usage::cpu_time;
use super::support::{Options, connections};
use super::{Part, hold};

/// Clients of one round: they wait in the listener's queue.
const CLIENTS: usize = 300;

/// The factor for a round of the cheapest kind, whose handshakes would be over before the caches are warm.
const CHEAP: usize = 4;

/// At most so many times the cost at the bare loop.
const BOUND: f64 = 1.1;

/// The kinds of handshakes.
#[derive(Clone, Copy)]
struct Kind {
    certificate: Certificate,
    security: Security,
    is_resumed: bool,
}

/// A process that shakes hands.
struct Side {
    name: &'static str,
    pid: u32,
    address: SocketAddr,
    clients: Arc<ClientConfig>,
    speaks_websocket: bool,
    /// Nanoseconds for a handshake, in each round.
    handshake_ns: Vec<f64>,
    /// The same with the request and `welcome`.
    welcome_ns: Vec<f64>,
}

pub fn run(options: &Options) -> Part {
    let clients = connections(options.pick(CLIENTS, 40));
    let rounds = options.pick(12, 2);
    println!(
        "CPU of the server for a TLS handshake, {} clients, {rounds} rounds\n",
        grouped(clients as i64)
    );
    println!(
        "{:<34}{:>12}{:>12}{:>8}{:>20}{:>12}{:>16}",
        "us for a handshake",
        "oneloop",
        "bare rustls",
        "ratio",
        "half of the rounds",
        "nginx",
        "with welcome"
    );
    let mut missed = Vec::new();
    let mut figures = Vec::new();
    let mut numbers = 0;
    for certificate in Certificate::ALL {
        for security in [Security::Tls13, Security::Tls12] {
            for is_resumed in [false, true] {
                let kind = Kind { certificate, security, is_resumed };
                let mut contest = Contest::open(kind, options.quick, clients);
                contest.number = numbers;
                contest.run(rounds);
                numbers = contest.number;
                figures.push(contest.report(options.quick, &mut missed));
            }
        }
    }
    println!();
    let figures = json!({"clients": clients, "rounds": rounds, "kinds": figures});
    Part { figures, missed }
}

/// The sides that do handshakes of one kind.
struct Contest {
    kind: Kind,
    clients: usize,
    sides: Vec<Side>,
    tokens: Tokens,
    /// Clients so far: the next one comes from an address and a port that nobody had.
    number: usize,
    server: Server,
    _bare: BareTlsAcceptor,
    _nginx: Option<Proxy>,
}

impl Kind {
    fn name(&self) -> String {
        let how = if self.is_resumed { "resumed" } else { "full" };
        format!("{}, {}, {how}", self.certificate.name(), self.security.name())
    }

    fn side(&self, name: &'static str, pid: u32, address: SocketAddr) -> Side {
        let clients = match self.is_resumed {
            true => self.security.returning_clients(Arc::new(Tickets::default())),
            false => self.security.clients().expect("a version of TLS"),
        };
        let (handshake_ns, welcome_ns) = (Vec::new(), Vec::new());
        let speaks_websocket = name == "oneloop";
        Side { name, pid, address, clients, speaks_websocket, handshake_ns, welcome_ns }
    }
}

impl Contest {
    fn open(kind: Kind, is_quick: bool, clients: usize) -> Contest {
        let is_cheap = kind.is_resumed && kind.security == Security::Tls12;
        let clients = if is_cheap { connections(CHEAP * clients) } else { clients };
        let server = Server::start_tls(kind.certificate, &[]);
        let bare = BareTlsAcceptor::start(kind.certificate);
        let mut sides = vec![
            kind.side("oneloop", server.pid(), server.clients),
            kind.side("bare rustls", bare.pid(), bare.address),
        ];
        // Nobody gets as far as to be passed on.
        let is_compared = kind.certificate == Certificate::P256 && !kind.is_resumed && !is_quick;
        let nginx = is_compared.then(|| Proxy::nginx(server.clients, kind.certificate));
        if let Some(nginx) = &nginx {
            sides.push(kind.side("nginx", nginx.pid(), nginx.address));
        }
        let tokens = Tokens::new();
        Contest { kind, clients, sides, tokens, number: 0, server, _bare: bare, _nginx: nginx }
    }

    fn run(&mut self, rounds: usize) {
        for round in 0..=rounds {
            for place in 0..self.sides.len() {
                // The second side finds the machine as the first one left it.
                let side = (place + round) % self.sides.len();
                // Not resumed and not counted: the first round earns tickets, and finds cold caches and tables that grow.
                self.shake_hands(side, round > 0);
            }
        }
    }

    fn shake_hands(&mut self, side: usize, counts: bool) {
        let numbers = self.number..self.number + self.clients;
        self.number = numbers.end;
        let side = &mut self.sides[side];
        let is_resumed = self.kind.is_resumed && counts;
        freeze(side.pid);
        let begun =
            numbers.map(|number| HandshakeClient::begin(side.address, number, &side.clients));
        let mut clients: Vec<HandshakeClient> = begun.collect();
        let mut used = run_on(side.pid);
        freeze(side.pid);
        clients.iter_mut().for_each(HandshakeClient::answer);
        used += run_on(side.pid);
        clients.iter_mut().for_each(|client| client.conclude(is_resumed));
        if counts {
            side.handshake_ns.push(used as f64 / self.clients as f64);
        }
        if side.speaks_websocket {
            freeze(side.pid);
            let ask = |(number, client): (usize, HandshakeClient)| {
                let head = head(side.address, &self.tokens.token(number));
                Client::ask_over(client.into_stream(), &head)
            };
            let mut clients: Vec<Client> = clients.into_iter().enumerate().map(ask).collect();
            used += run_on(side.pid);
            for client in &mut clients {
                client.read_welcome();
            }
            if counts {
                side.welcome_ns.push(used as f64 / self.clients as f64);
            }
            drop(clients);
        } else {
            drop(clients);
        }
        wait_for_rest(side.pid);
    }

    fn report(self, is_quick: bool, missed: &mut Vec<String>) -> Value {
        let name = self.kind.name();
        let [ours, bare] = [0, 1].map(|at| &self.sides[at]);
        let ratios: Vec<f64> = ours
            .handshake_ns
            .iter()
            .zip(&bare.handshake_ns)
            .map(|(ours, bare)| ours / bare)
            .collect();
        let [low, ratio, high] = [0.25, 0.5, 0.75].map(|share| quantile(&ratios, share));
        let [us, bare_us] = [ours, bare].map(|side| median(&side.handshake_ns) / 1e3);
        let nginx_us = self.sides.get(2).map(|side| median(&side.handshake_ns) / 1e3);
        let nginx = nginx_us.map_or("-".to_owned(), |us| format!("{us:.1}"));
        let welcome_us = median(&ours.welcome_ns) / 1e3;
        println!(
            "{name:<34}{us:>12.1}{bare_us:>12.1}{ratio:>8.2}{:>20}{nginx:>12}{welcome_us:>16.1}",
            format!("{low:.2} to {high:.2}")
        );
        if !is_quick {
            hold(missed, &format!("{name}, times the bare loop"), ratio, BOUND);
        }
        self.server.stop();
        let side = |side: &Side| {
            let us = median(&side.handshake_ns) / 1e3;
            let least = quantile(&side.handshake_ns, 0.0) / 1e3;
            json!({"name": side.name, "us": rounded(us), "least_us": rounded(least)})
        };
        let quartiles = [low, ratio, high].map(rounded);
        json!({
            "kind": name,
            "sides": self.sides.iter().map(side).collect::<Vec<Value>>(),
            "ratio_quartiles": quartiles,
            "with_welcome_us": rounded(welcome_us),
        })
    }
}

/// Lets a process run on until it is at rest, and returns the CPU time that it used, in nanoseconds.
fn run_on(pid: u32) -> u64 {
    let before = cpu_time(pid);
    thaw(pid);
    wait_for_rest(pid);
    cpu_time(pid).since(before).total
}
