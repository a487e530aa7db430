//! Compressed messages against the same messages as they are: bytes on the wire, the server's CPU per delivery, the time to compress
//! one, and memory per idle client.
//!
//! Two servers with the same settings have as many receivers each, those of one of them ask for compression; the two take turns
//! in short rounds. The messages are JSON with texts and numbers that differ from entry to entry.

mod support;

use std::time::Instant;

use oneloop::engine::client::deflate::deflater::Deflater;
use oneloop::engine::client::deflate::inflater::Inflater;
use serde_json::{Value, json};
use support::client::{Client, unmasked};
use support::footprint::{WARMING, rest};
use support::process::wait_until;
use support::publisher::Publisher;
use support::random::Random;
use support::receivers::{self, Kind, Receivers};
use support::report::{self, grouped, median, rounded, rounded_to};
use support::server::{SHARED_TOPIC, Server};
use support::tls::Security;
use support::{Options, connections};

const PAYLOADS: [usize; 3] = [128, 1024, 10_240];

/// Deliveries of a round, at least.
const DELIVERIES: usize = 200;

/// Times that a message is compressed and inflated to measure that.
const REPEATS: u32 = 2_000;

/// Idle clients.
const IDLE: usize = 5_000;

/// A difference of this many bytes per idle client is that of a page here or there.
const IDLE_DIFFERENCE_MAX: f64 = 2.0;

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let rounds = options.pick(40, 3);
    println!(
        "{:<10}{:>10}{:>12}{:>14}{:>14}",
        "payload", "frame", "compressed", "compress us", "inflate us"
    );
    let messages: Vec<Value> = PAYLOADS.map(message).into();
    println!(
        "\n{:<10}{:>10}{:>16}{:>16}{:>10}",
        "clients", "payload", "plain ns", "compressed ns", "ratio"
    );
    let mut deliveries = Vec::new();
    for clients in [1, options.pick(1_000, 100), connections(options.pick(10_000, 300))] {
        deliveries.extend(PAYLOADS.map(|bytes| delivery(clients, bytes, rounds)));
    }
    let idle = connections(options.pick(IDLE, 500));
    let [plain, compressed] = [Kind::WebSocket, Kind::Deflated].map(|kind| memory(kind, idle));
    println!(
        "\n{idle} idle clients: {plain:.1} bytes each, {compressed:.1} if they agreed on compression"
    );
    report::print(
        "deflate",
        options,
        json!({
            "rounds": rounds,
            "messages": messages,
            "deliveries": deliveries,
            "idle_clients": idle,
            "bytes_per_client": {"plain": rounded(plain), "compressed": rounded(compressed)},
        }),
    );
    assert!(options.quick || compressed - plain < IDLE_DIFFERENCE_MAX, "an idle client costs more");
}

/// JSON of about this many bytes, as an application sends it.
fn payload(bytes: usize) -> String {
    let names = ["Ada Lovelace", "Grace Hopper", "王小明", "José", "Edsger Dijkstra"];
    let states = ["paid", "shipped", "cancelled", "waiting"];
    let (mut random, mut text) = (Random::new(7), "[".to_owned());
    while text.len() < bytes - 50 {
        let (id, cents) = (random.below(1_000_000), random.below(100_000));
        let (name, state) = (random.choose(&names), random.choose(&states));
        text += &format!(r#"{{"id":{id},"name":"{name}","total":{cents},"state":"{state}"}},"#);
    }
    format!("{}]", text.trim_end_matches(','))
}

/// A message as it is and compressed, and how long that takes.
fn message(bytes: usize) -> Value {
    let text = format!(
        r#"{{"topic":"{SHARED_TOPIC}","id":"0123456789abcdef","data":{}}}"#,
        payload(bytes)
    );
    let frame = unmasked(text.as_bytes());
    let (deflater, mut inflater) = (Deflater::default(), Inflater::default());
    let compressed = deflater.deflate(&frame);
    let head = if compressed[1] == 126 { 4 } else { 2 };
    let start = Instant::now();
    (0..REPEATS).for_each(|_| drop(deflater.deflate(&frame)));
    let compress = start.elapsed().as_secs_f64() * 1e6 / f64::from(REPEATS);
    let start = Instant::now();
    for _ in 0..REPEATS {
        let inflated = inflater.inflate(&compressed[head..], frame.len());
        assert_eq!(inflated.map(|message| message.len()), Ok(text.len()));
    }
    let inflate = start.elapsed().as_secs_f64() * 1e6 / f64::from(REPEATS);
    println!(
        "{bytes:<10}{:>10}{:>12}{compress:>14.1}{inflate:>14.1}",
        frame.len(),
        compressed.len()
    );
    json!({
        "payload_bytes": bytes,
        "frame_bytes": frame.len(),
        "compressed_bytes": compressed.len(),
        "compress_us": rounded(compress),
        "inflate_us": rounded(inflate),
    })
}

/// A server and its receivers.
struct Side {
    server: Server,
    publisher: Publisher,
    receivers: Receivers,
    messages: usize,
    /// Nanoseconds per delivery, for each round.
    used: Vec<f64>,
}

impl Side {
    fn open(kind: Kind, clients: usize) -> Side {
        let server = Server::start(&["--deflate", "all"]);
        let publisher = Publisher::connect(&server);
        let receivers = Receivers::start_as(kind, Security::Plain, server.clients, clients);
        Side { server, publisher, receivers, messages: 0, used: Vec::new() }
    }

    fn round(&mut self, clients: usize, payload: &str) {
        let bursts = DELIVERIES.div_ceil(clients);
        let before = self.server.cpu_time();
        for _ in 0..bursts {
            self.receivers.expect(1);
            assert_eq!(self.publisher.publish(SHARED_TOPIC, payload, 1), [clients]);
            self.receivers.wait();
        }
        self.publisher.settle();
        self.messages += bursts;
        let used = self.server.cpu_time().since(before).total as f64;
        self.used.push(used / (bursts * clients) as f64);
    }

    /// Ends both; nobody got one message too many or too few. Returns nanoseconds per delivery in the median round.
    fn close(mut self) -> f64 {
        self.receivers.expect_end();
        self.server.stop();
        assert_eq!(self.receivers.finish(), (self.messages, self.messages));
        // The first round finds cold caches.
        median(&self.used[1..])
    }
}

/// The server's CPU per delivery of a message, compressed and not.
fn delivery(clients: usize, bytes: usize, rounds: usize) -> Value {
    let payload = payload(bytes);
    let mut sides = [Kind::WebSocket, Kind::Deflated].map(|kind| Side::open(kind, clients));
    for round in 0..=rounds {
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            sides[at].round(clients, &payload);
        }
    }
    let [plain, compressed] = sides.map(Side::close);
    let (ratio, count) = (compressed / plain, grouped(clients as i64));
    println!("{count:<10}{bytes:>10}{plain:>16.0}{compressed:>16.0}{ratio:>10.2}");
    json!({
        "clients": clients,
        "payload_bytes": bytes,
        "plain_ns": rounded(plain),
        "compressed_ns": rounded(compressed),
        "ratio": rounded_to(ratio, 3),
    })
}

/// The memory of an idle client, in bytes.
fn memory(kind: Kind, clients: usize) -> f64 {
    let server = Server::start(&["--deflate", "all"]);
    let mut publisher = Publisher::connect(&server);
    drop(Client::open_as(kind, Security::Plain, server.clients, 0..WARMING));
    publisher.settle();
    assert!(wait_until(|| publisher.publish(SHARED_TOPIC, "0", 1) == [0]), "they have left");
    rest(&server);
    let before = server.memory().anonymous;
    let open = Client::open_as(kind, Security::Plain, server.clients, 0..clients);
    publisher.settle();
    rest(&server);
    let grown = server.memory().anonymous - before;
    drop(open);
    server.stop();
    grown as f64 / clients as f64
}
