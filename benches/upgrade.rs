//! Upgrades in place under load: half of the clients come over TLS, a back end publishes on channels and another one adds to a stream,
//! and the process is replaced again and again. Nobody is dropped, nothing is lost, and nothing comes twice; nor does any of it happen
//! when the other process fails.
//!
//! `cargo bench --bench upgrade`, with `--loops 2` against a server of so many loops, and with `--quick` some hundred clients.

mod support;

use std::fs;
use std::fs::{File, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oneloop::upgrade::VERSION;
use serde_json::json;
use support::client::Client;
use support::delivery_check::DeliveryCounts;
use support::numbered_publisher::{NumberedPublisher, PublishPath, topics};
use support::publisher::Publisher;
use support::redis::Redis;
use support::report::{self, grouped, quantile, rounded};
use support::server::{BINARY, Server};
use support::steady_clients::{self, SteadyClients};
use support::stream_publisher::{STREAM, StreamPublisher};
use support::tls::{Certificate, Security};
use support::usage::resident_of_family;
use support::{Options, connections};

/// Messages a second on channels, to one client each, and as many in the stream, to a room each.
const MESSAGES: usize = 1_000;

const UPGRADES: usize = 10;

/// The time for which everything goes on after each upgrade.
const BETWEEN: Duration = Duration::from_secs(1);

/// Between an answer and the next question.
const QUESTION_EVERY: Duration = Duration::from_millis(1);

const LISTEN: &str = "127.0.0.1:0,tls://127.0.0.1:0";

/// Nothing happens but what the bench does, and who is not read for a while is not slow.
const FLAGS: [&str; 14] = [
    "--publishers-max",
    "4",
    "--ping-seconds",
    "0",
    "--silence-seconds",
    "0",
    "--commands-per-second-max",
    "0",
    "--streams",
    STREAM,
    "--admin",
    "127.0.0.1:0",
    "--backlog-frames-max",
    "100000",
];

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == steady_clients::ROLE => steady_clients::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

fn run(options: &Options) {
    // Two more ask for their pongs, and one is the bystander.
    let clients = connections(options.pick(19_000, 300)) - 3;
    let loops = options.value("--loops").map_or(1, |loops| loops.parse().expect("a number"));
    let mut bench = UpgradeBench::start(clients, loops);
    let upgrades: Vec<Upgraded> = (0..UPGRADES).map(|_| bench.upgrade()).collect();
    let after_upgrades = bench.clients.seen().0;
    let failures = bench.fail(options);
    let published = bench.end();
    let (seen, _) = bench.clients.seen();
    let found = Found { clients, loops, published, upgrades, after_upgrades, failures, seen };
    found.print();
    found.report(options);
    found.check();
    let UpgradeBench { clients, server, .. } = bench;
    drop(clients);
    server.stop();
}

/// The file from which the server starts its successors, and its log.
struct Program(PathBuf);

impl Program {
    fn new() -> Program {
        let name = format!("oneloop-bench-upgrade-{}", std::process::id());
        let program = Program(std::env::temp_dir().join(name));
        fs::create_dir_all(&program.0).expect("a temporary folder can be made");
        program.restore();
        program
    }

    fn path(&self) -> PathBuf {
        self.0.join("oneloop")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Puts the binary there.
    fn restore(&self) {
        let _ = fs::remove_file(self.path());
        symlink(BINARY, self.path()).expect("a link can be made");
    }

    /// Puts a shell script there.
    fn replace(&self, script: &str) {
        let new = self.0.join("new");
        let written = fs::write(&new, format!("#!/bin/sh\n{script}\n"))
            .and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(new, self.path()));
        written.expect("a file can be written");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The processes that fail in place of the next one, by what they do.
fn failing() -> [(&'static str, String); 5] {
    let version = VERSION.to_le_bytes().map(|byte| format!("\\{byte:03o}")).concat();
    let hello = format!("printf 'oneloop\\n{version}' >&0");
    [
        ("ends", "exit 3".to_owned()),
        ("refuses the settings", format!("exec {BINARY} \"$@\" --nonsense")),
        ("ends while it takes over", format!("{hello}; head -c 200000 >/dev/null; exit 3")),
        ("hangs while it takes over", format!("{hello}; exec sleep 60")),
        ("hangs at once", "exec sleep 60".to_owned()),
    ]
}

/// The times and sizes of one upgrade.
struct Upgraded {
    /// From the signal to the end of the old process.
    took: Duration,
    /// The longest wait for an answer, plain and over TLS, in milliseconds.
    waits: [f64; 2],
    /// The longest time in which no client was sent anything.
    silence: Duration,
    /// Bytes of the old process and its loops before, and the most that these and the new ones had together.
    resident: [i64; 2],
}

struct UpgradeBench {
    program: Program,
    server: Server,
    addresses: [SocketAddr; 2],
    clients: SteadyClients,
    numbers: usize,
    stopped: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<NumberedPublisher>>,
    _redis: Redis,
}

impl UpgradeBench {
    fn start(clients: usize, loops: usize) -> UpgradeBench {
        let (redis, program) = (Redis::start(), Program::new());
        let log = File::create(program.log()).expect("a file can be made");
        let (chain, key) = (Certificate::P256.chain_file(), Certificate::P256.key_file());
        let (url, number) = (redis.url(), loops.to_string());
        let own = ["--redis", &url, "--tls-cert-file", &chain, "--tls-key-file", &key];
        let own = [&own[..], &["--loops", &number]].concat();
        let flags = [&FLAGS[..], &own].concat();
        let server = Server::start_program(&program.path(), Stdio::from(log), LISTEN, &flags);
        let addresses = [server.clients, server.tls_clients.expect("one for TLS")];
        server.wait_for_redis();
        if loops > 1 {
            server.wait_for_loops(loops);
        }
        let [plain, tls] = addresses;
        let steady = SteadyClients::start(plain, tls, clients);
        let stopped = Arc::new(AtomicBool::new(false));
        let channels = PublishPath::Port(Publisher::connect_to(redis.address));
        let stream = PublishPath::Stream(StreamPublisher::new(&redis));
        let all = topics(clients).len();
        let ways = [(channels, 0..clients), (stream, clients..all - 1)];
        let publishers = ways.map(|(way, places)| {
            let mut publisher = NumberedPublisher::new(way, clients);
            let stopped = Arc::clone(&stopped);
            thread::spawn(move || {
                publisher.run_among(places, MESSAGES, &stopped);
                publisher
            })
        });
        UpgradeBench {
            program,
            server,
            addresses,
            clients: steady,
            numbers: clients,
            stopped,
            publishers: publishers.into(),
            _redis: redis,
        }
    }

    /// Does something while two more clients ask and ask, and returns the longest wait of each in milliseconds.
    fn while_asking(&mut self, work: impl FnOnce(&mut UpgradeBench)) -> [f64; 2] {
        let stopped = Arc::new(AtomicBool::new(false));
        let ways = [(Security::Plain, self.addresses[0]), (Security::Tls13, self.addresses[1])];
        let asking = [0, 1].map(|at| {
            let ((security, server), number) = (ways[at], self.numbers + 1 + at);
            let stopped = Arc::clone(&stopped);
            let mut client = Client::open_by(security, server, number..number + 1).remove(0);
            thread::spawn(move || client.ask_on(QUESTION_EVERY, &stopped))
        });
        work(self);
        thread::sleep(BETWEEN);
        stopped.store(true, Ordering::Relaxed);
        asking.map(|asking| quantile(&asking.join().expect("the server answers"), 1.0))
    }

    fn upgrade(&mut self) -> Upgraded {
        let _ = self.clients.seen();
        let (mut took, mut before, mut most) = (Duration::ZERO, 0, 0);
        let waits = self.while_asking(|bench| {
            before = resident_of_family(bench.server.pid());
            let start = Instant::now();
            bench.server.upgrade(|old| most = most.max(resident_of_family(old)));
            took = start.elapsed();
        });
        let (_, silence) = self.clients.seen();
        Upgraded { took, waits, silence, resident: [before, most] }
    }

    /// Has upgrades fail in each way. Returns the longest wait in each, in milliseconds.
    fn fail(&mut self, options: &Options) -> Vec<(&'static str, f64)> {
        let ways = failing();
        // The last ones take as long as they are waited for.
        let ways = &ways[..options.pick(ways.len(), 3)];
        let failures = ways.iter().map(|(name, script)| {
            self.program.replace(script);
            let log = self.program.log();
            let waits = self.while_asking(|bench| bench.server.upgrade_in_vain(&log));
            (*name, waits[0].max(waits[1]))
        });
        let failures: Vec<(&str, f64)> = failures.collect();
        self.program.restore();
        self.upgrade();
        failures
    }

    /// Ends the load, and waits until everything has come. Returns how many messages there were.
    fn end(&mut self) -> [usize; 2] {
        self.stopped.store(true, Ordering::Relaxed);
        let joined = self.publishers.drain(..).map(|one| one.join().expect("it ends well"));
        let [mut channels, mut stream]: [NumberedPublisher; 2] =
            joined.collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("two of them"));
        // Behind the first one all that was under way has come, behind the second the first has come just once.
        let rooms = self.numbers..channels.numbers.len() - 1;
        for _ in 0..2 {
            channels.publish_to_places(0..self.numbers, 1);
            channels.publish_to_all();
            stream.publish_to_places(rooms.clone(), 1);
            let mut numbers = channels.numbers.clone();
            numbers[rooms.clone()].copy_from_slice(&stream.numbers[rooms.clone()]);
            self.clients.wait_for(&numbers);
        }
        [channels.published, stream.published]
    }
}

/// The figures of the report.
struct Found {
    clients: usize,
    loops: usize,
    /// Messages on channels, and in the stream.
    published: [usize; 2],
    upgrades: Vec<Upgraded>,
    after_upgrades: DeliveryCounts,
    failures: Vec<(&'static str, f64)>,
    seen: DeliveryCounts,
}

impl Found {
    fn print(&self) {
        println!(
            "{} clients, {} messages on channels and {} in the stream, {} received\n\n{:<28}{:>10}{:>10}{:>10}{:>10}{:>16}{:>16}",
            grouped(self.clients as i64),
            grouped(self.published[0] as i64),
            grouped(self.published[1] as i64),
            grouped(self.seen.messages as i64),
            "upgrade",
            "ms",
            "plain",
            "TLS",
            "silence",
            "bytes before",
            "of both",
        );
        for (number, upgrade) in self.upgrades.iter().enumerate() {
            let [took, silence] =
                [upgrade.took, upgrade.silence].map(|time| time.as_secs_f64() * 1e3);
            let [plain, tls] = upgrade.waits;
            let [before, both] = upgrade.resident.map(grouped);
            println!(
                "{:<28}{took:>10.0}{plain:>10.0}{tls:>10.0}{silence:>10.0}{before:>16}{both:>16}",
                number + 1
            );
        }
        for (name, wait) in &self.failures {
            println!("{name:<28}{:>10}{wait:>10.0}", "");
        }
        println!("{} dropped, {:?}\n", self.seen.ended, self.seen.faults());
    }

    fn report(&self, options: &Options) {
        let most =
            |of: fn(&Upgraded) -> f64| rounded(self.upgrades.iter().map(of).fold(0.0, f64::max));
        let failures: serde_json::Map<String, serde_json::Value> = self
            .failures
            .iter()
            .map(|(name, wait)| ((*name).to_owned(), json!(rounded(*wait))))
            .collect();
        let mut found = json!({
            "clients": self.clients,
            "loops": self.loops,
            "messages_per_second": 2 * MESSAGES,
            "published_on_channels": self.published[0],
            "published_in_the_stream": self.published[1],
            "heard": self.seen.messages,
            "upgrades": self.upgrades.len(),
            "dropped": self.seen.ended,
            "ms_to_an_answer_most": most(|one| one.waits[0].max(one.waits[1])),
            "ms_of_silence_most": most(|one| one.silence.as_secs_f64() * 1e3),
            "ms_to_the_end_most": most(|one| one.took.as_secs_f64() * 1e3),
            "resident_bytes_before": self.upgrades[0].resident[0],
            "resident_bytes_of_both_most": most(|one| one.resident[1] as f64),
            "ms_to_an_answer_while_it_fails_most": failures,
        });
        for (name, count) in self.seen.faults() {
            found[name] = json!(count);
        }
        report::print("upgrade", options, found);
    }

    /// # Panics
    /// If anybody was dropped, or anything was lost or came twice.
    fn check(&self) {
        assert_eq!(self.after_upgrades.ended, 0, "an upgrade drops nobody");
        assert_eq!(self.seen.ended, 0, "nor does one that fails");
        for (fault, count) in self.seen.faults() {
            assert_eq!(count, 0, "{fault}");
        }
        assert!(self.seen.messages > self.published[0], "little happened");
    }
}
