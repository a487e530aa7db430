//! Server CPU per message from Redis without a subscriber, and the memory that a big payload leaves behind.
//!
//! A node sees everything under `pub.*`, and most of it concerns clients of other nodes. A real Redis feeds the real binary,
//! once as fast as it can and once at a steady rate. That all is processed shows in a last message to the one client there
//! is: messages come in order.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::Options;
use support::client::Client;
use support::process::wait_until;
use support::redis::{Redis, RedisPublisher};
use support::report::{self, grouped, median, quantile, rounded, rounded_to};
use support::server::{Server, own_topic};

/// A topic without a subscriber. Its three levels make four look-ups, two more than a user's topic takes.
const TOPIC: &str = "room.7.chat";

const PAYLOAD_BYTES: usize = 100;

/// Messages of one round: Redis would keep 16 MB of them if the server read nothing, and cuts it off at 32.
const BATCH: usize = 100_000;

/// The most that a message may cost, in nanoseconds, if they come as fast as Redis sends them.
const NANOSECONDS_MAX: u64 = 1000;

/// Messages a second at the steady rate.
const RATE: usize = 50_000;

/// The share of a core that they may take.
const SHARE_MAX: f64 = 0.1;

/// The publisher's pause between two writes, at the steady rate: with many publishers in one process messages come in
/// small lots, with many processes almost one by one.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(1), Duration::from_micros(200), Duration::from_micros(1)];

/// `payload_bytes_max` as it comes.
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;

/// Redis hands on what it read at once, 16 KB of commands: the server must not need a turn for each of them.
const TURNS_PER_MESSAGE_MAX: f64 = 0.2;

/// Pages that a big payload may leave behind.
const PAGES_MAX: i64 = 16;

const PAGE_BYTES: i64 = 4096;

fn main() {
    let options = Options::read();
    let mut bench = Bench::start();
    let batch = bench.fast(options.pick(20, 3), options.pick(BATCH, 10_000));
    let paced: Vec<Paced> = PAUSES
        .into_iter()
        .map(|pause| bench.paced(pause, options.pick(5 * RATE, RATE / 5)))
        .collect();
    let payloads = bench.big_payloads();
    print(&batch, &paced, &payloads);
    let turns = median(&batch.turns_per_message);
    assert!(turns <= TURNS_PER_MESSAGE_MAX, "{turns:.3} turns per message that comes in a batch");
    for (what, bytes) in &payloads {
        assert!(*bytes <= PAGES_MAX * PAGE_BYTES, "{bytes} bytes stay behind {what}");
    }
    let payloads: Vec<Value> = payloads
        .iter()
        .map(|(what, bytes)| json!({"after": what, "anonymous_bytes_more": bytes}))
        .collect();
    report::print(
        "unmatched",
        &options,
        json!({
            "clients": 1,
            "payload_bytes": PAYLOAD_BYTES,
            "topic_levels": 3,
            "batch": batch.json(),
            "paced": paced.iter().map(Paced::json).collect::<Vec<_>>(),
            "big_payloads": payloads,
        }),
    );
    bench.server.stop();
}

struct Bench {
    server: Server,
    publisher: RedisPublisher,
    /// A client that receives the last message, once all others are processed.
    client: Client,
    payload: String,
    /// Messages that went to the server so far.
    messages: u64,
    _redis: Redis,
}

/// The cost of a message if they come as fast as Redis sends them.
struct Fast {
    messages: usize,
    /// Nanoseconds of each round.
    rounds: Vec<f64>,
    turns_per_message: Vec<f64>,
}

/// The server's usage at the steady rate.
struct Paced {
    pause: Duration,
    seconds: f64,
    messages: usize,
    /// The share of a core, from 0 to 1.
    share: f64,
    nanoseconds: f64,
    turns_per_message: f64,
}

impl Bench {
    fn start() -> Bench {
        let redis = Redis::start();
        let server = Server::start(&["--redis", &redis.url(), "--admin", "127.0.0.1:0"]);
        assert!(
            wait_until(|| server.metrics().get("source_up") == 1),
            "the subscription does not come up"
        );
        let client = Client::open(server.clients, 0..1).remove(0);
        let publisher = RedisPublisher::connect(&redis);
        let payload = format!("{:?}", "x".repeat(PAYLOAD_BYTES - 2));
        let mut bench = Bench { server, publisher, client, payload, messages: 0, _redis: redis };
        // Not counted: caches are cold and Redis grows its buffers.
        bench.publish(|publisher, payload| publisher.publish(TOPIC, payload, 1000), 1000);
        bench
    }

    /// Lets the publisher do its part and waits until the server has done its own. Returns the server's nanoseconds and its
    /// turns.
    fn publish(
        &mut self,
        publish: impl FnOnce(&mut RedisPublisher, &str),
        messages: usize,
    ) -> (f64, f64) {
        let turns = self.server.metrics().get("turns_total");
        let before = self.server.cpu_time();
        publish(&mut self.publisher, &self.payload);
        self.publisher.publish(&own_topic(0), "0", 1);
        let last = self.client.read();
        assert!(last.ends_with(r#","data":0}"#), "{last}");
        let used = self.server.cpu_time().since(before);
        let metrics = self.server.metrics();
        self.messages += messages as u64 + 1;
        assert_eq!(metrics.get("messages_total"), self.messages, "each message came once");
        (used.total as f64, (metrics.get("turns_total") - turns) as f64)
    }

    fn fast(&mut self, rounds: usize, messages: usize) -> Fast {
        let mut fast = Fast { messages, rounds: Vec::new(), turns_per_message: Vec::new() };
        for _ in 0..rounds {
            let (nanoseconds, turns) = self.publish(
                |publisher, payload| publisher.publish(TOPIC, payload, messages),
                messages,
            );
            fast.rounds.push(nanoseconds / messages as f64);
            fast.turns_per_message.push(turns / messages as f64);
        }
        fast
    }

    fn paced(&mut self, pause: Duration, messages: usize) -> Paced {
        let mut took = Duration::ZERO;
        let (nanoseconds, turns) = self.publish(
            |publisher, payload| {
                took = publisher.publish_paced(TOPIC, payload, messages, RATE, pause);
            },
            messages,
        );
        Paced {
            pause,
            seconds: took.as_secs_f64(),
            messages,
            share: nanoseconds / took.as_nanos() as f64,
            nanoseconds: nanoseconds / messages as f64,
            turns_per_message: turns / messages as f64,
        }
    }

    /// The growth of the server after each of some big payloads.
    fn big_payloads(&mut self) -> Vec<(String, i64)> {
        // The history keeps what it has room for: it is full before.
        let filling = format!("{:?}", "x".repeat(PAYLOAD_BYTES_MAX / 2));
        self.publish(|publisher, _| publisher.publish(TOPIC, &filling, 24), 24);
        let before = self.server.memory().anonymous;
        let mut found = Vec::new();
        for (what, bytes, taken) in [
            ("1 MiB", PAYLOAD_BYTES_MAX, 1),
            ("1 MiB once more", PAYLOAD_BYTES_MAX, 1),
            ("8 MiB, refused", 8 * PAYLOAD_BYTES_MAX, 0),
            ("1 MiB again", PAYLOAD_BYTES_MAX, 1),
        ] {
            let big = format!("{:?}", "x".repeat(bytes - 2));
            self.publish(|publisher, _| publisher.publish(TOPIC, &big, 1), taken);
            // It is given back a second later, once for many.
            let more = || self.server.memory().anonymous - before;
            wait_until(|| more() <= PAGES_MAX * PAGE_BYTES);
            found.push((what.to_owned(), more()));
        }
        assert_eq!(self.server.metrics().get("messages_oversized_total"), 1);
        found
    }
}

impl Fast {
    fn json(&self) -> Value {
        let quartiles = [0.25, 0.75].map(|share| rounded(quantile(&self.rounds, share)));
        json!({
            "rounds": self.rounds.len(),
            "messages_per_round": self.messages,
            "ns_per_message": rounded(median(&self.rounds)),
            "ns_quartiles": quartiles,
            "turns_per_message": rounded_to(median(&self.turns_per_message), 4),
            "budget_ns": NANOSECONDS_MAX,
        })
    }
}

impl Paced {
    fn json(&self) -> Value {
        json!({
            "publisher_rests_us": self.pause.as_micros() as u64,
            "seconds": rounded(self.seconds),
            "messages_per_second": rounded(self.messages as f64 / self.seconds),
            "share_of_a_core": rounded_to(self.share, 4),
            "ns_per_message": rounded(self.nanoseconds),
            "turns_per_message": rounded_to(self.turns_per_message, 4),
            "budget_share": SHARE_MAX,
        })
    }
}

fn print(batch: &Fast, paced: &[Paced], payloads: &[(String, i64)]) {
    println!("messages of {PAYLOAD_BYTES} bytes on {TOPIC}, without a subscriber\n");
    println!("{:<32}{:>12}{:>12}{:>12}", "", "ns each", "of a core", "turns each");
    let name =
        format!("as fast as Redis, {} x {}", batch.rounds.len(), grouped(batch.messages as i64));
    let turns = median(&batch.turns_per_message);
    println!("{name:<32}{:>12.0}{:>12}{turns:>12.3}", median(&batch.rounds), "");
    for one in paced {
        let rate = one.messages as f64 / one.seconds;
        let name = format!("{} a second, every {:?}", grouped(rate as i64), one.pause);
        let percent = format!("{:.1} %", one.share * 100.0);
        println!("{name:<32}{:>12.0}{percent:>12}{:>12.3}", one.nanoseconds, one.turns_per_message);
    }
    let percent = format!("{:.1} %", SHARE_MAX * 100.0);
    println!("{:<32}{NANOSECONDS_MAX:>12}{percent:>12}", "at most");
    println!("\n{:<32}{:>12}", "memory after a payload of", "bytes more");
    for (what, bytes) in payloads {
        println!("{what:<32}{:>12}", grouped(*bytes));
    }
    println!();
}
