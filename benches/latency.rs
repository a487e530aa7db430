//! The latency of a message to one client, from PUBLISH to its socket: alone, while a broadcast to many others is
//! being flushed at every moment, and while clients connect and leave as fast as one core allows.
//!
//! Beside each message goes an echo through a bare process, and the kernel says how long the server was ready to run and had
//! no core: what the load costs everyone on this machine. Of a broadcast a message waits for the turn under way, in which at
//! most `flush_clients_per_turn` clients are written to. So it is measured with broadcasts of several lengths, and with a
//! smaller bound: the delay follows the bound, not the length.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::chart::{Axis, Chart};
use support::connection_churn::{self, ConnectionChurn};
use support::echo;
use support::latency_probe::{LatencyProbe, Samples};
use support::publisher::Publisher;
use support::receivers::{self, Receivers};
use support::report::{self, grouped, median, quantile, rounded, rounded_to};
use support::server::{SHARED_TOPIC, Server};
use support::usage::kept_waiting;
use support::{Options, connections};

/// `flush_clients_per_turn` by default, and a smaller one for comparison.
const FLUSH: usize = 512;
const FLUSH_SMALL: usize = 64;

/// Clients of a broadcast.
const AUDIENCES: [usize; 3] = [1_000, 5_000, 15_000];
const QUICK_AUDIENCES: [usize; 2] = [200, 1_000];

/// BroadcastStream under way at one time: when one has reached everybody, the next one is long at work.
const IN_FLIGHT: usize = 2;

/// BroadcastStream one by one, to know how long one takes.
const SINGLE: usize = 5;

const PAYLOAD_BYTES: usize = 100;

/// The measurements under one load.
struct Case {
    name: String,
    samples: Samples,
    /// The share of the time for which the server was ready to run and others had its core, from 0 to 1. The machine is
    /// shared with the receivers: what it kept from the server is in every delay.
    kept_waiting: f64,
    /// Further figures of the report.
    more: Value,
    /// Milliseconds until a single broadcast is queued for everybody, and until it has reached everybody.
    broadcast_ms: Option<[f64; 2]>,
}

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == receivers::ROLE => receivers::run(rest),
        Some([role, rest @ ..]) if role == connection_churn::ROLE => connection_churn::run(rest),
        Some([role]) if role == echo::ROLE => echo::run(),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let count = options.pick(10_000, 200);
    let audiences = if options.quick { &QUICK_AUDIENCES[..] } else { &AUDIENCES[..] };
    let most = connections(*audiences.last().expect("there are audiences"));
    let mut cases = vec![alone(count), churning(count)];
    for clients in audiences {
        cases.push(broadcasting(count, most.min(*clients), FLUSH));
    }
    cases.push(broadcasting(count, most, FLUSH_SMALL));
    print(&cases, count);
    draw(&cases[0], &cases[audiences.len() + 1], &cases[1], options);
    let cases: Vec<Value> = cases.iter().map(Case::json).collect();
    report::print(
        "latency",
        options,
        json!({"clients": most, "payload_bytes": PAYLOAD_BYTES, "samples": count, "cases": cases}),
    );
}

/// Takes the samples, and says how much of the time the server was kept waiting for a core.
fn sample(probe: &mut LatencyProbe, server: &Server, count: usize) -> (Samples, f64) {
    let (start, before) = (Instant::now(), kept_waiting(server.pid()));
    let samples = probe.sample(count);
    let waited = Duration::from_nanos(kept_waiting(server.pid()) - before);
    (samples, waited.as_secs_f64() / start.elapsed().as_secs_f64())
}

fn alone(count: usize) -> Case {
    let server = Server::start(&[]);
    let mut probe = LatencyProbe::open(&server);
    let (samples, kept_waiting) = sample(&mut probe, &server, count);
    probe.finish();
    server.stop();
    let name = "alone".to_owned();
    Case { name, samples, kept_waiting, more: json!({}), broadcast_ms: None }
}

fn churning(count: usize) -> Case {
    let server = Server::start(&["--admin", "127.0.0.1:0"]);
    let mut probe = LatencyProbe::open(&server);
    let before = server.counter("opened_total");
    let churn = ConnectionChurn::start(server.clients);
    let (samples, kept_waiting) = sample(&mut probe, &server, count);
    let (clients, rate) = churn.stop();
    assert_eq!(server.counter("opened_total") - before, clients as u64, "all were welcomed");
    probe.finish();
    server.stop();
    let name = format!("{} connect and leave a second", grouped(rate as i64));
    let more = json!({"connections": clients, "connections_per_second": rounded(rate)});
    Case { name, samples, kept_waiting, more, broadcast_ms: None }
}

fn broadcasting(count: usize, clients: usize, flush: usize) -> Case {
    let flush_text = flush.to_string();
    let server =
        Server::start(&["--admin", "127.0.0.1:0", "--flush-clients-per-turn", &flush_text]);
    let mut receivers = Receivers::start(server.clients, clients, false);
    let mut publisher = Publisher::connect(&server);
    let mut broadcasts = BroadcastStream::new(&mut publisher, &mut receivers, clients);
    let single: Vec<[f64; 2]> = (0..SINGLE).map(|_| broadcasts.send_one()).collect();
    let [queued, whole] =
        [0, 1].map(|at| median(&single.iter().map(|times| times[at]).collect::<Vec<_>>()));
    let mut probe = LatencyProbe::open(&server);

    let counters = || ["writes_total", "turns_total"].map(|name| server.counter(name));
    let [writes, turns] = counters();
    let stopped = AtomicBool::new(false);
    let (samples, kept_waiting) = std::thread::scope(|scope| {
        scope.spawn(|| broadcasts.send_without_pause(&stopped));
        let found = sample(&mut probe, &server, count);
        stopped.store(true, Ordering::Relaxed);
        found
    });
    let [writes, turns] = [counters()[0] - writes, counters()[1] - turns];
    // The bound by count: on average no turn wrote to more.
    assert!(writes <= turns * flush as u64, "{writes} writes in {turns} turns");
    probe.finish();
    let (sent, times) = (broadcasts.sent, std::mem::take(&mut broadcasts.times));
    receivers.expect_end();
    server.stop();
    assert_eq!(receivers.finish(), (sent, sent), "each gets each broadcast once");
    let name = format!("broadcasts to {}, {flush} a turn", grouped(clients as i64));
    let more = json!({
        "clients": clients,
        "flush_clients_per_turn": flush,
        "broadcasts": sent,
        "broadcast_queued_ms": rounded(queued),
        "broadcast_alone_ms": rounded(whole),
        "broadcast_ms": rounded(median(&times)),
        "writes_per_turn": rounded(writes as f64 / turns as f64),
    });
    Case { name, samples, kept_waiting, more, broadcast_ms: Some([queued, whole]) }
}

/// The stream of broadcasts.
struct BroadcastStream<'a> {
    publisher: &'a mut Publisher,
    receivers: &'a mut Receivers,
    clients: usize,
    payload: String,
    sent: usize,
    /// Milliseconds until each of the broadcasts without pause had reached everybody.
    times: Vec<f64>,
}

impl<'a> BroadcastStream<'a> {
    fn new(
        publisher: &'a mut Publisher,
        receivers: &'a mut Receivers,
        clients: usize,
    ) -> BroadcastStream<'a> {
        receivers.allow_ahead(IN_FLIGHT - 1);
        let payload = format!("{:?}", "x".repeat(PAYLOAD_BYTES - 2));
        BroadcastStream { publisher, receivers, clients, payload, sent: 0, times: Vec::new() }
    }

    fn send(&mut self) -> Instant {
        let start = Instant::now();
        self.receivers.expect(1);
        assert_eq!(self.publisher.publish(SHARED_TOPIC, &self.payload, 1), [self.clients]);
        self.sent += 1;
        start
    }

    /// Sends one, and waits until everybody has it: after how many milliseconds it was queued for all (PUBLISH is answered
    /// before clients are written to), and after how many all had it.
    fn send_one(&mut self) -> [f64; 2] {
        let start = self.send();
        let queued = start.elapsed();
        self.receivers.wait();
        [queued, start.elapsed()].map(milliseconds)
    }

    /// Sends them so that one is always under way.
    fn send_without_pause(&mut self, stopped: &AtomicBool) {
        let mut starts: VecDeque<Instant> = (0..IN_FLIGHT).map(|_| self.send()).collect();
        while let Some(start) = starts.pop_front() {
            self.receivers.wait();
            self.times.push(milliseconds(start.elapsed()));
            if !stopped.load(Ordering::Relaxed) {
                starts.push_back(self.send());
            }
        }
    }
}

/// The figures of a distribution: p50, p99, p99.9 and the most, in milliseconds.
fn summary(samples: &[f64]) -> [f64; 4] {
    [0.5, 0.99, 0.999, 1.0].map(|share| quantile(samples, share))
}

impl Case {
    fn json(&self) -> Value {
        let of = |samples: &[f64]| summary(samples).map(|value| rounded_to(value, 3));
        let mut all = json!({
            "name": self.name,
            "p50_p99_p999_max_ms": of(&self.samples.messages),
            "echo_p50_p99_p999_max_ms": of(&self.samples.echoes),
            "server_kept_waiting": rounded(self.kept_waiting),
        });
        let (Value::Object(all_), Value::Object(more)) = (&mut all, &self.more) else {
            panic!("what is told has names");
        };
        all_.extend(more.clone());
        all
    }
}

fn print(cases: &[Case], count: usize) {
    println!("{} messages each, and as many echoes; milliseconds", grouped(count as i64));
    println!(
        "{:<36}{:>8}{:>8}{:>8}{:>8}{:>10}{:>8}{:>14}{:>18}{:>8}",
        "",
        "p50",
        "p99",
        "p99.9",
        "most",
        "echo p50",
        "p99",
        "server waits",
        "broadcast queued",
        "at all"
    );
    for case in cases {
        let [p50, p99, p999, most] = summary(&case.samples.messages);
        let [echo, echo_p99, ..] = summary(&case.samples.echoes);
        let broadcast = case
            .broadcast_ms
            .map_or(String::new(), |[queued, whole]| format!("{queued:>18.1}{whole:>8.1}"));
        let waits = case.kept_waiting * 100.0;
        println!(
            "{:<36}{p50:>8.2}{p99:>8.2}{p999:>8.2}{most:>8.2}{echo:>10.2}{echo_p99:>8.2}{waits:>12.0} %{broadcast}",
            case.name
        );
    }
    println!();
}

/// The distributions up to p99.9, stretched towards the end where they differ: 90, 99 and 99.9 % are equally far apart.
fn draw(alone: &Case, broadcast: &Case, churn: &Case, options: &Options) {
    let ends = [(1.0, "0 %"), (2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %"), (1000.0, "99.9 %")];
    let x = Axis::log("share of the messages that took no longer").marked(&ends);
    let title = "A message to one client: from PUBLISH to its socket";
    let mut chart = Chart::new(title, x, Axis::log("milliseconds"));
    let names = ["alone", "while broadcasts are flushed", "while clients come and go"];
    for (name, case) in names.iter().zip([alone, broadcast, churn]) {
        let points = (0..=60).map(|step| {
            let one_in = 10_f64.powf(f64::from(step) / 20.0);
            (one_in, quantile(&case.samples.messages, 1.0 - 1.0 / one_in))
        });
        chart = chart.with(name, points.collect());
    }
    chart.write("latency", options);
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
