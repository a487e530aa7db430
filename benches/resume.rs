//! Nothing lost: clients that are cut off every few seconds and come back with `since`, while the server is killed, or Redis,
//! or while they change from one server to another. Each checks its messages: to every topic go numbers that rise by one.
//!
//! `cargo bench --bench resume -- --minutes 10`; without it a minute for each mode, with `--quick` some seconds. One mode alone
//! by `--mode`: `memory` (the server's own port, the ring), `nodes` (two servers behind one Redis, streams), `kill` (the server
//! is killed), `redis` (Redis is killed, which keeps what it acknowledged), `herd` (all come back at once).

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::ask_until;
use support::delivery_check::DeliveryCounts;
use support::numbered_publisher::{NumberedPublisher, PublishPath};
use support::process::{free_address, wait_until};
use support::publisher::Publisher;
use support::reconnecting_clients::{self, ReconnectingClients};
use support::redis::Redis;
use support::report::{self, grouped, quantile, rounded};
use support::server::Server;
use support::stream_publisher::{STREAM, StreamPublisher};
use support::{Options, connections};

/// Messages a second, to all topics together.
const RATE: usize = 2_000;

/// Between two kills, and how long what was killed stays away at most.
const KILL_SECONDS: f64 = 15.0;
const AWAY_MAX: Duration = Duration::from_secs(1);

/// Messages that each client of the herd missed in its room and in the topic that all share, one more besides.
const MISSED_EACH: usize = 150;

/// Between two messages to everybody, while the herd comes back.
const BROADCAST_EVERY: Duration = Duration::from_millis(20);

/// Room for whatever is said while somebody is away.
const RING: [&str; 4] = ["--history-messages-max", "200000", "--history-bytes-max", "64MiB"];
/// Questions come as fast as they are answered.
const UNLIMITED: [&str; 2] = ["--commands-per-second-max", "0"];
const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Memory,
    Nodes,
    Kill,
    Redis,
    Herd,
}

impl Mode {
    const ALL: [Mode; 5] = [Mode::Memory, Mode::Nodes, Mode::Kill, Mode::Redis, Mode::Herd];

    fn name(self) -> &'static str {
        match self {
            Mode::Memory => "memory",
            Mode::Nodes => "nodes",
            Mode::Kill => "kill",
            Mode::Redis => "redis",
            Mode::Herd => "herd",
        }
    }
}

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == reconnecting_clients::ROLE => {
            reconnecting_clients::run(rest)
        }
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    let named = options.value("--mode");
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|mode| named.as_deref().is_none_or(|named| named == mode.name()))
        .collect();
    assert!(!modes.is_empty(), "--mode is one of memory, nodes, kill, redis, herd");
    let minutes = options.value("--minutes").map(|text| text.parse().expect("--minutes N"));
    let minutes: f64 = minutes.unwrap_or(if options.quick { 1.0 / 6.0 } else { 1.0 });
    let clients = connections(options.pick(5_000, 300));
    let all_at_once = connections(options.pick(10_000, 2_000));
    print_heading();
    let mut found = Vec::new();
    for mode in modes {
        let one = match mode {
            Mode::Herd => herd(all_at_once),
            mode => cut_at_random(mode, clients, minutes),
        };
        one.print();
        found.push(one);
    }
    println!();
    report::print(
        "resume",
        options,
        json!({
            "minutes_each": minutes,
            "messages_per_second": RATE,
            "modes": found.iter().map(Found::json).collect::<Vec<_>>(),
        }),
    );
    for one in found {
        one.check();
    }
}

/// The result of one mode.
struct Found {
    mode: Mode,
    clients: usize,
    published: usize,
    kills: usize,
    seen: DeliveryCounts,
    /// Further figures of the report.
    more: Value,
}

/// The processes that a mode runs on.
struct Stage {
    mode: Mode,
    servers: Vec<Server>,
    redis: Option<Redis>,
    kills: usize,
}

impl Stage {
    fn set(mode: Mode) -> Stage {
        let redis = match mode {
            Mode::Memory | Mode::Herd => None,
            Mode::Nodes | Mode::Kill => Some(Redis::start()),
            Mode::Redis => Some(Redis::start_faithful()),
        };
        let url = redis.as_ref().map(Redis::url);
        let streams = ["--streams", STREAM, "--redis", url.as_deref().unwrap_or_default()];
        let streams = if redis.is_some() { &streams[..] } else { &[] };
        let flags = [&RING[..], &ADMIN, &UNLIMITED, streams].concat();
        let count = if mode == Mode::Nodes { 2 } else { 1 };
        let servers: Vec<Server> =
            (0..count).map(|_| Server::start_at(&free_address().to_string(), &flags)).collect();
        let reads = |server: &Server| server.counter("stream_ups_total") == 1;
        let up = redis.is_none() || wait_until(|| servers.iter().all(reads));
        assert!(up, "the stream is not read");
        Stage { mode, servers, redis, kills: 0 }
    }

    fn way(&self) -> PublishPath {
        match &self.redis {
            Some(redis) => PublishPath::Stream(StreamPublisher::new(redis)),
            None => PublishPath::Port(Publisher::connect(&self.servers[0])),
        }
    }

    fn clients(&self, clients: usize) -> ReconnectingClients {
        let servers: Vec<_> = self.servers.iter().map(|server| server.clients).collect();
        ReconnectingClients::start(&servers, clients)
    }

    /// Kills what the mode kills, and starts it again.
    fn kill(&mut self) {
        // Longer each time, and then again at once.
        let away = AWAY_MAX * (self.kills as u32 % 5) / 4;
        match self.mode {
            Mode::Kill => self.servers[0].restart_after(away),
            Mode::Redis => self.redis.as_mut().expect("there is one").restart_after(away),
            _ => return,
        }
        self.kills += 1;
    }

    fn strike(self) {
        self.servers.into_iter().for_each(Server::stop);
    }
}

/// Clients come and go at random while messages come at a steady rate.
fn cut_at_random(mode: Mode, clients: usize, minutes: f64) -> Found {
    let length = Duration::from_secs_f64(minutes * 60.0);
    let kill_every = Duration::from_secs_f64(KILL_SECONDS.min(minutes * 60.0 / 4.0));
    let mut stage = Stage::set(mode);
    let mut publisher = NumberedPublisher::new(stage.way(), clients);
    let mut reconnecting = stage.clients(clients);
    reconnecting.call_home();
    publisher.publish_to_each(1);
    reconnecting.wait_for(&publisher.numbers);

    reconnecting.cut_at_random();
    let stopped = AtomicBool::new(false);
    let start = Instant::now();
    let mut publisher = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            publisher.run(RATE, &stopped);
            publisher
        });
        let mut killed = start;
        while start.elapsed() < length && !publishing.is_finished() {
            if killed.elapsed() > kill_every {
                stage.kill();
                killed = Instant::now();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        stopped.store(true, Ordering::Relaxed);
        publishing.join().expect("the publisher ends well")
    });

    reconnecting.call_home();
    // Behind the first one all that was under way has come, behind the second the first has come just once.
    for _ in 0..2 {
        publisher.publish_to_each(1);
        reconnecting.wait_for(&publisher.numbers);
    }
    let seen = reconnecting.seen();
    let (published, kills) = (publisher.published, stage.kills);
    let mut more = json!({
        "minutes": rounded(start.elapsed().as_secs_f64() / 60.0),
        "replayed": stage.servers.iter().map(|one| one.counter("replayed_total")).sum::<u64>(),
    });
    if let PublishPath::Stream(stream) = publisher.way {
        more["publishers_doubts"] = json!(stream.doubts);
        more["added_in_doubt"] = json!(stream.added_in_doubt);
    }
    drop(reconnecting);
    stage.strike();
    Found { mode, clients, published, kills, seen, more }
}

/// All are cut off at once, miss some hundred messages each, and come back at once, while one other client asks on and on
/// whether the server is there.
fn herd(clients: usize) -> Found {
    let stage = Stage::set(Mode::Herd);
    let server = &stage.servers[0];
    let mut publisher = NumberedPublisher::new(stage.way(), clients);
    let mut reconnecting = stage.clients(clients);
    reconnecting.call_home();
    publisher.publish_to_each(1);
    reconnecting.wait_for(&publisher.numbers);
    reconnecting.send_away();
    assert!(wait_until(|| server.counter("clients") <= 1), "not everybody has gone");
    publisher.publish_to_each(1);
    publisher.publish_to_rooms(MISSED_EACH);

    let turns = server.turns();
    let (cpu, replayed) = (server.cpu_time(), server.counter("replayed_total"));
    let (waits, took, mut publisher) =
        come_back(server.clients, clients, &mut reconnecting, publisher);
    publisher.publish_to_each(1);
    reconnecting.wait_for(&publisher.numbers);
    let seen = reconnecting.seen();
    let turns = server.turns_since(&turns);
    println!(
        "\n{} welcomed after {:.2} s, caught up after {:.2} s; meanwhile {} questions, the longest wait {:.1} ms",
        grouped(clients as i64),
        took[0].as_secs_f64(),
        took[1].as_secs_f64(),
        waits.len(),
        quantile(&waits, 1.0),
    );
    println!("turns by their length, in seconds: {turns:?}\n");
    let answered = [0.5, 0.99, 1.0].map(|share| rounded(quantile(&waits, share)));
    let more = json!({
        "missed_each": 2 * MISSED_EACH + 3,
        "welcomed_after_seconds": rounded(took[0].as_secs_f64()),
        "caught_up_after_seconds": rounded(took[1].as_secs_f64()),
        "replayed": server.counter("replayed_total") - replayed,
        "server_cpu_seconds": rounded(server.cpu_time().since(cpu).total as f64 / 1e9),
        "questions": waits.len(),
        "ms_to_the_answer_p50_p99_most": answered,
        "turns_up_to_seconds": turns.iter().map(|one| json!(one)).collect::<Vec<_>>(),
    });
    drop(reconnecting);
    let published = publisher.published;
    stage.strike();
    Found { mode: Mode::Herd, clients, published, kills: 0, seen, more }
}

/// All come back at once, while one more asks, and messages go to everybody. Returns how long each answer to that one took, in
/// milliseconds, and when everybody was welcomed and had caught up.
fn come_back(
    server: SocketAddr,
    clients: usize,
    reconnecting: &mut ReconnectingClients,
    mut publisher: NumberedPublisher,
) -> (Vec<f64>, [Duration; 2], NumberedPublisher) {
    let [welcomed, caught_up] = [const { AtomicBool::new(false) }; 2];
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(server, clients + 1, Duration::ZERO, &caught_up));
        let broadcasting = scope.spawn(|| {
            while !welcomed.load(Ordering::Relaxed) {
                publisher.publish_to_all();
                std::thread::sleep(BROADCAST_EVERY);
            }
            publisher
        });
        let start = Instant::now();
        reconnecting.call_home();
        let mut took = [start.elapsed(); 2];
        welcomed.store(true, Ordering::Relaxed);
        let publisher = broadcasting.join().expect("the publisher ends well");
        reconnecting.wait_for(&publisher.numbers);
        took[1] = start.elapsed();
        caught_up.store(true, Ordering::Relaxed);
        (asking.join().expect("the server answers"), took, publisher)
    })
}

fn print_heading() {
    println!(
        "{:<8}{:>9}{:>12}{:>7}{:>12}{:>13}{:>7}{:>7}{:>7}{:>9}",
        "mode",
        "clients",
        "published",
        "kills",
        "came back",
        "heard",
        "lost",
        "twice",
        "gaps",
        "refused"
    );
}

impl Found {
    fn print(&self) {
        let Found { mode, clients, published, kills, seen, .. } = self;
        println!(
            "{:<8}{:>9}{:>12}{kills:>7}{:>12}{:>13}{:>7}{:>7}{:>7}{:>9}",
            mode.name(),
            grouped(*clients as i64),
            grouped(*published as i64),
            grouped(seen.resumed as i64),
            grouped(seen.messages as i64),
            seen.lost,
            seen.twice,
            seen.gaps,
            seen.refused,
        );
    }

    fn json(&self) -> Value {
        let mut found = json!({
            "mode": self.mode.name(),
            "clients": self.clients,
            "published": self.published,
            "kills": self.kills,
            "connections": self.seen.connections,
            "resumed": self.seen.resumed,
            "ended_by_server": self.seen.ended,
            "heard": self.seen.messages,
        });
        for (name, count) in self.seen.faults() {
            found[name] = json!(count);
        }
        found["more"] = self.more.clone();
        found
    }

    /// # Panics
    /// If anything was lost, or little happened.
    fn check(self) {
        let name = self.mode.name();
        for (fault, count) in self.seen.faults() {
            assert_eq!(count, 0, "{name}: {fault}");
        }
        assert!(self.seen.resumed >= self.clients, "{name}: few came back: {:?}", self.seen);
        let kills = matches!(self.mode, Mode::Kill | Mode::Redis);
        assert_eq!(self.kills > 0, kills, "{name}: nothing was killed");
    }
}
