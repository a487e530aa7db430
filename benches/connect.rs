//! Server CPU per accepted, authenticated and welcomed connection, against bare loops that do the least of it.
//!
//! The first loop accepts and checks a token and does nothing else; the other does all that a welcomed client cannot do without:
//! accept, read the head, check the token in it, answer with as many bytes. Both check with the server's own code and keep
//! nothing but the socket. All three take turns, each round with as many clients, which have connected and said all they say
//! before it begins: the server stands still meanwhile. So what is compared is work, not who slept when. The same again when
//! the clients leave.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use support::bare_acceptor::{self, BareAcceptor};
use support::client::{Client, connect, head};
use support::process::wait_until;
use support::publisher::Publisher;
use support::report::{self, grouped, median, quantile, rounded};
use support::server::Server;
use support::signer::Signer;
use support::usage::{CpuTime, descriptors};
use support::{Options, connections};

const ALGORITHMS: [&str; 4] = ["HS256", "ES256", "EdDSA", "RS256"];

/// Clients of one round: they wait in the listener's queue, which holds 4,096.
const CLIENTS: usize = 2_000;

/// The sides, in the order of the table.
const NAMES: [&str; 3] = ["oneloop", "accept, check", "accept, read, check, answer"];

/// The cost of a connection to a side in each round, in nanoseconds.
#[derive(Default)]
struct Costs {
    open: Vec<f64>,
    close: Vec<f64>,
    sum: CpuTime,
}

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == bare_acceptor::ROLE => bare_acceptor::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let clients = connections(options.pick(CLIENTS, 200));
    let rounds = options.pick(30, 3);
    let found: Vec<Value> =
        ALGORITHMS.iter().map(|algorithm| measure(algorithm, clients, rounds)).collect();
    report::print(
        "connect",
        options,
        json!({"clients": clients, "rounds": rounds, "algorithms": found}),
    );
}

fn measure(algorithm: &str, clients: usize, rounds: usize) -> Value {
    let mut arena = Arena::open(algorithm, clients);
    let mut sides: [Costs; 3] = Default::default();
    for round in 0..=rounds {
        for place in 0..sides.len() {
            // The second side finds the machine as the first one left it.
            let side = (place + round) % sides.len();
            let (open, close) = match side {
                0 => arena.serve(),
                1 => arena.check(),
                _ => arena.answer(),
            };
            // Not counted: the first round finds cold caches and tables that grow.
            if round > 0 {
                sides[side].add(open, close, clients);
            }
        }
    }
    arena.check_counts(rounds + 1);
    let answer_bytes = arena.answer_bytes;
    arena.server.stop();
    print(algorithm, &sides, clients, rounds);
    json!({
        "algorithm": algorithm,
        "answer_bytes": answer_bytes,
        "sides": NAMES.iter().zip(&sides).map(|(name, costs)| costs.json(name)).collect::<Vec<_>>(),
        "ratio_to_check_quartiles": ratios(&sides[0].open, &sides[1].open).map(rounded),
        "ratio_to_answer_quartiles": ratios(&sides[0].open, &sides[2].open).map(rounded),
        "close_ratio_quartiles": ratios(&sides[0].close, &sides[2].close).map(rounded),
    })
}

/// The server and the bare loop, with the tokens of the clients of one round.
struct Arena {
    tokens: Vec<String>,
    server: Server,
    publisher: Publisher,
    bare: BareAcceptor,
    answer_bytes: usize,
    /// A client that stays: without any client the server would clean up.
    _resident: Client,
    /// Descriptors of the server without the clients of a round.
    descriptors: usize,
    /// Clients so far: the next one comes from an address and a port that nobody had.
    opened: usize,
    /// The server's counters before the first round.
    before: Counters,
}

/// The server's counters.
#[derive(Clone, Copy)]
struct Counters {
    opened: u64,
    writes: u64,
    sent_bytes: u64,
}

impl Arena {
    fn open(algorithm: &str, clients: usize) -> Arena {
        let signer = Signer::of(algorithm);
        let tokens = signer.tokens(clients);
        let mut flags = vec!["--admin".to_owned(), "127.0.0.1:0".to_owned()];
        flags.extend(signer.flags());
        let server = Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        let publisher = Publisher::connect(&server);
        let mut resident = Client::ask(server.clients, 0, &tokens[0]);
        let answer_bytes = resident.read_welcome();
        let bare = BareAcceptor::start(algorithm, clients, answer_bytes);
        let mut arena = Arena {
            tokens,
            publisher,
            bare,
            answer_bytes,
            _resident: resident,
            descriptors: 0,
            opened: 1,
            before: Counters { opened: 0, writes: 0, sent_bytes: 0 },
            server,
        };
        arena.publisher.settle();
        arena.descriptors = descriptors(arena.server.pid());
        arena.before = arena.counters();
        arena
    }

    /// The server's part of a round: what it used to welcome all, and when they left.
    fn serve(&mut self) -> (CpuTime, CpuTime) {
        self.server.freeze();
        let mut clients = Vec::with_capacity(self.tokens.len());
        for (place, token) in self.tokens.iter().enumerate() {
            clients.push(Client::ask(self.server.clients, self.opened + place, token));
        }
        self.opened += clients.len();
        let open = self.used(|arena| {
            // The last one first: once it has its answer, all have, and nobody is woken for each.
            for client in clients.iter_mut().rev() {
                client.read_welcome();
            }
            arena.publisher.settle();
        });
        self.server.freeze();
        drop(clients);
        let close = self.used(|arena| {
            let (pid, before) = (arena.server.pid(), arena.descriptors);
            assert!(wait_until(|| descriptors(pid) == before), "the server keeps connections");
            arena.publisher.settle();
        });
        (open, close)
    }

    /// The server's CPU time from when it runs on until `done`.
    fn used(&mut self, done: impl FnOnce(&mut Arena)) -> CpuTime {
        let before = self.server.cpu_time();
        self.server.thaw();
        done(self);
        self.server.cpu_time().since(before)
    }

    /// The same of the loop that accepts and checks: nobody says anything.
    fn check(&mut self) -> (CpuTime, CpuTime) {
        let streams = self.connect_bare();
        let before = self.bare.cpu_time();
        self.bare.check(streams.len());
        self.bare.wait();
        let open = self.bare.cpu_time().since(before);
        (open, self.leave_bare(streams))
    }

    /// The same of the loop that reads and answers too.
    fn answer(&mut self) -> (CpuTime, CpuTime) {
        let mut streams = self.connect_bare();
        for (stream, token) in streams.iter_mut().zip(&self.tokens) {
            let head = head(self.bare.address, token);
            stream.write_all(head.as_bytes()).expect("the kernel takes a head");
        }
        let before = self.bare.cpu_time();
        self.bare.answer(streams.len());
        let mut answer = vec![0; self.answer_bytes];
        for stream in streams.iter_mut().rev() {
            stream.read_exact(&mut answer).expect("each is answered");
        }
        self.bare.wait();
        let open = self.bare.cpu_time().since(before);
        (open, self.leave_bare(streams))
    }

    fn connect_bare(&mut self) -> Vec<TcpStream> {
        let numbers = self.opened..self.opened + self.tokens.len();
        self.opened = numbers.end;
        numbers.map(|number| connect(self.bare.address, number)).collect()
    }

    fn leave_bare(&mut self, streams: Vec<TcpStream>) -> CpuTime {
        drop(streams);
        let before = self.bare.cpu_time();
        self.bare.close();
        self.bare.wait();
        self.bare.cpu_time().since(before)
    }

    fn counters(&self) -> Counters {
        // Each question is a connection too, and its answer a write that is not counted in it.
        let counter = |name| self.server.counter(name);
        let [opened, sent_bytes] = ["opened_total", "sent_bytes_total"].map(counter);
        Counters { opened, sent_bytes, writes: counter("writes_total") }
    }

    /// Every client became a WebSocket, was written to once, and got its welcome and nothing else.
    fn check_counts(&self, rounds: usize) {
        let now = self.counters();
        // Between two readings of a counter lie the answers to three questions.
        let questions = self.counters().sent_bytes - now.sent_bytes;
        let clients = (rounds * self.tokens.len()) as u64;
        assert_eq!(now.opened - self.before.opened, clients, "all were welcomed");
        assert_eq!(now.writes - self.before.writes, clients + 3, "one write for each");
        // A cursor and an id of a connection are as long or a little longer than the first ones.
        let sent = now.sent_bytes - self.before.sent_bytes;
        let each = sent.saturating_sub(questions) as f64 / clients as f64;
        assert!(each < self.answer_bytes as f64 + 64.0, "{each} bytes for each");
    }
}

impl Costs {
    fn add(&mut self, open: CpuTime, close: CpuTime, clients: usize) {
        self.open.push(open.total as f64 / clients as f64);
        self.close.push(close.total as f64 / clients as f64);
        self.sum = self.sum.plus(open);
    }

    fn json(&self, name: &str) -> Value {
        let open = median(&self.open);
        json!({
            "name": name,
            "open_ns": rounded(open),
            "open_user_ns": rounded(open * self.sum.user_share()),
            "close_ns": rounded(median(&self.close)),
        })
    }
}

/// The quartiles of the rounds' ratios.
fn ratios(ours: &[f64], theirs: &[f64]) -> [f64; 3] {
    let all: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    [0.25, 0.5, 0.75].map(|share| quantile(&all, share))
}

fn print(algorithm: &str, sides: &[Costs; 3], clients: usize, rounds: usize) {
    println!("{algorithm}, {} clients, {rounds} rounds", grouped(clients as i64));
    println!("{:<30}{:>14}{:>10}{:>10}{:>14}", "", "us to open", "user", "system", "us to close");
    for (name, costs) in NAMES.iter().zip(sides) {
        let open = median(&costs.open) / 1000.0;
        let user = open * costs.sum.user_share();
        let close = median(&costs.close) / 1000.0;
        println!("{name:<30}{open:>14.1}{user:>10.1}{:>10.1}{close:>14.1}", open - user);
    }
    for (name, side) in NAMES.iter().zip(sides).skip(1) {
        let [low, ratio, high] = ratios(&sides[0].open, &side.open);
        println!("{ratio:.2} times {name}; half of the rounds: {low:.2} to {high:.2}");
    }
    println!();
}
