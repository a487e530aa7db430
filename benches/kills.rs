//! One loop of two is killed again and again under load: the clients of the other one notice nothing, and those of the dead one are
//! back and complete.
//!
//! `cargo bench --bench kills` kills a hundred times, in turns; `--quick` three times; `--kills N`. Two thousand messages a second go to
//! the clients: to users by a stream of Redis, to rooms and to everybody by channels at the publishers' port. Two more clients, one on
//! each loop, measure how long a message is under way: first while nothing happens, then on the loop that is not killed.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use support::client::{connect, head, whole_frame};
use support::numbered_publisher::{NumberedPublisher, PublishPath};
use support::process::{self, wait_until};
use support::publisher::Publisher;
use support::reconnecting_client::process_of;
use support::reconnecting_clients::{self, ReconnectingClients, unix_micros};
use support::redis::Redis;
use support::report::{self, grouped, quantile, rounded};
use support::server::{Server, Tokens, own_topic};
use support::stream_publisher::{STREAM, StreamPublisher};
use support::{Options, connections};

const LOOPS: usize = 2;

/// Messages a second to the clients.
const RATE: usize = 2_000;

/// Between two kills: a loop that lives for five seconds is started again without a pause, and each one dies in turn.
const KILL_EVERY: Duration = Duration::from_millis(2_600);

/// The mean time from one measured message to the next.
const SAMPLE_EVERY: Duration = Duration::from_micros(1_500);

/// Answers to PUBLISH that may wait to be read.
const ANSWERS_LEFT: usize = 500;

/// The numbers of the clients that measure, one for each loop: nobody else's.
const RECEIVERS: usize = 900_000;

/// Room for whatever is said while somebody is away.
const RING: [&str; 4] = ["--history-messages-max", "200000", "--history-bytes-max", "64MiB"];

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

/// A loop that was killed.
struct Kill {
    loop_number: usize,
    /// Its process, as clients know it, and the one that took its place.
    process: String,
    successor: String,
    at: Instant,
    unix_micros: u64,
}

/// A measured message.
struct Sample {
    loop_number: usize,
    sent: Instant,
    millis: f64,
}

/// Everything that the measuring clients share.
struct Measure {
    server: SocketAddr,
    epoch: Instant,
    stopped: AtomicBool,
    samples: Mutex<Vec<Sample>>,
    /// Processes that have ended a connection.
    ended: Mutex<BTreeSet<String>>,
}

fn run(options: &Options) {
    let clients = connections(options.pick(4_000, 300));
    let kills = options.value("--kills").map(|text| text.parse().expect("--kills N"));
    let kills: usize = kills.unwrap_or(options.pick(100, 3));
    let calm = Duration::from_secs(options.pick(20, 2) as u64);
    let redis = Redis::start();
    let loops = LOOPS.to_string();
    let flags = ["--loops", &loops, "--streams", STREAM, "--redis", &redis.url()];
    let flags = [&flags[..], &RING, &["--admin", "127.0.0.1:0", "--log", "off"]].concat();
    let server = Server::start_as_it_comes(&flags);
    assert!(wait_until(|| server.counter("stream_ups_total") >= 1), "the stream is not read");
    server.wait_for_redis();
    let way = PublishPath::Both(Publisher::connect(&server), StreamPublisher::new(&redis));
    let mut publisher = NumberedPublisher::new(way, clients);
    let mut reconnecting = ReconnectingClients::start(&[server.clients], clients);
    reconnecting.call_home();
    publisher.publish_to_each(1);
    reconnecting.wait_for(&publisher.numbers);

    let measure = Measure {
        server: server.clients,
        epoch: Instant::now(),
        stopped: AtomicBool::new(false),
        samples: Mutex::default(),
        ended: Mutex::default(),
    };
    let (mut publisher, killed, descriptors) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            publisher.run(RATE, &measure.stopped);
            publisher
        });
        let measure = &measure;
        (0..LOOPS).for_each(|number| _ = scope.spawn(move || receive(number, measure)));
        let mut sampler = Publisher::connect(&server);
        scope.spawn(move || send(&mut sampler, measure));
        std::thread::sleep(calm);
        let before = descriptors(server.pid());
        let killed = kill_in_turns(kills, &server, &mut reconnecting);
        let descriptors = (before, descriptors(server.pid()));
        measure.stopped.store(true, Ordering::Relaxed);
        (publishing.join().expect("the publisher ends well"), killed, descriptors)
    });
    // Behind the first one all that was under way has come, behind the second the first has come just once.
    for _ in 0..2 {
        publisher.publish_to_each(1);
        reconnecting.wait_for(&publisher.numbers);
    }
    judge(options, clients, &publisher, &mut reconnecting, &measure, &killed, descriptors);
    drop(reconnecting);
    server.stop();
}

/// Kills the oldest loop again and again, each time when all clients are there.
fn kill_in_turns(
    kills: usize,
    server: &Server,
    reconnecting: &mut ReconnectingClients,
) -> Vec<Kill> {
    let mut all = Vec::new();
    for number in 0..kills {
        let (loop_number, deaths) = (number % LOOPS, number / LOOPS);
        let name = |deaths| match deaths {
            0 => loop_number.to_string(),
            _ => format!("{loop_number}x{deaths}"),
        };
        let before = children(server.pid());
        assert_eq!(before.len(), LOOPS, "a loop is missing");
        let kill = Kill {
            loop_number,
            process: name(deaths),
            successor: name(deaths + 1),
            at: Instant::now(),
            unix_micros: unix_micros(),
        };
        process::signal(before[0], Signal::KILL);
        let is_replaced = || {
            let now = children(server.pid());
            now.len() == LOOPS && !now.contains(&before[0])
        };
        assert!(wait_until(is_replaced), "the loop is not replaced");
        reconnecting.wait_for_end_of(&kill.process);
        std::thread::sleep(KILL_EVERY.saturating_sub(kill.at.elapsed()));
        all.push(kill);
    }
    all
}

/// The processes of the loops, the oldest first.
fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.expect("the server runs");
    text.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the server runs").count()
}

/// Sends measured messages to both receivers in turns, at times that depend on nothing else.
fn send(publisher: &mut Publisher, measure: &Measure) {
    let mut due = Instant::now();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = 0;
    while !measure.stopped.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // From half of the period to three halves, so that no rhythm of the server's is met again and again.
        due += SAMPLE_EVERY / 2 + SAMPLE_EVERY * (random % 1024) as u32 / 1024;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let topic = own_topic(RECEIVERS + number % LOOPS);
        publisher.send(&topic, &measure.epoch.elapsed().as_nanos().to_string());
        number += 1;
        if number > ANSWERS_LEFT {
            // None while its loop is dead, and two while it leaves the wrong loop.
            publisher.answer();
        }
    }
}

/// A client on this loop, which comes back when that was killed, and takes note of how long each message was under way.
fn receive(loop_number: usize, measure: &Measure) {
    let number = RECEIVERS + loop_number;
    let token = Tokens::new().token_for(number, &[]);
    let head = head(measure.server, &token);
    while !measure.stopped.load(Ordering::Relaxed) {
        let mut stream = connect(measure.server, number);
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket has options");
        // A loop may die at any moment.
        if stream.write_all(head.as_bytes()).is_ok() {
            listen(stream, loop_number, measure);
        }
    }
}

fn listen(mut stream: TcpStream, loop_number: usize, measure: &Measure) {
    let (mut held, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
    let (mut is_open, mut process) = (false, String::new());
    while !measure.stopped.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => {
                if !process.is_empty() {
                    measure.ended.lock().expect("nobody panics").insert(process);
                }
                return;
            }
            Ok(length) => held.extend_from_slice(&buffer[..length]),
        }
        let mut rest = &held[..];
        if !is_open {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            rest = &rest[end + 4..];
            is_open = true;
        }
        while let Some((_, payload, length)) = whole_frame(rest) {
            rest = &rest[length..];
            let text = String::from_utf8_lossy(payload);
            if process.is_empty() {
                process_of(&text).clone_into(&mut process);
                if !process.starts_with(&loop_number.to_string()) {
                    return;
                }
                continue;
            }
            let Some((_, data)) = text.split_once(r#""data":"#) else { continue };
            let sent = data.trim_end_matches('}').parse().expect("a time in nanoseconds");
            let sent = measure.epoch + Duration::from_nanos(sent);
            let millis = sent.elapsed().as_secs_f64() * 1e3;
            let sample = Sample { loop_number, sent, millis };
            measure.samples.lock().expect("nobody panics").push(sample);
        }
        held = rest.to_vec();
    }
}

/// Prints what was found, and checks it.
fn judge(
    options: &Options,
    clients: usize,
    publisher: &NumberedPublisher,
    reconnecting: &mut ReconnectingClients,
    measure: &Measure,
    kills: &[Kill],
    descriptors: (usize, usize),
) {
    let seen = reconnecting.seen();
    let processes = reconnecting.processes();
    let killed: BTreeSet<String> = kills.iter().map(|kill| kill.process.clone()).collect();
    let alive = processes.iter().filter(|(name, _)| !killed.contains(*name));
    let dropped_elsewhere: usize = alive.map(|(_, known)| known.ended).sum();
    let ended = measure.ended.lock().expect("nobody panics");
    let receivers_dropped = ended.difference(&killed).count();
    let dropped: usize = processes.values().map(|known| known.ended).sum();
    let millis = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
    let serves = kills.iter().filter_map(|kill| {
        let first = processes.get(&kill.successor)?.first_welcome;
        Some(millis(kill.unix_micros, first))
    });
    let serves: Vec<f64> = serves.collect();
    let back = kills.iter().filter_map(|kill| {
        let last = processes.get(&kill.process)?.last_return;
        Some(millis(kill.unix_micros, last))
    });
    let back: Vec<f64> = back.collect();
    let samples = measure.samples.lock().expect("nobody panics");
    let (mut calm, mut during) = (Vec::new(), Vec::new());
    for sample in samples.iter() {
        match kills.iter().rfind(|kill| kill.at <= sample.sent) {
            None => calm.push(sample.millis),
            Some(kill) if kill.loop_number != sample.loop_number => during.push(sample.millis),
            Some(_) => {}
        }
    }
    let three = |all: &[f64]| [0.5, 0.99, 1.0].map(|share| rounded(quantile(all, share)));
    let [serves, back, calm_millis, during_millis] =
        [&serves, &back, &calm, &during].map(|all| three(all));
    println!(
        "{} clients, {} messages, {} kills, {} connections lost by them\n\n{:<44}{:>10}{:>10}{:>10}",
        grouped(clients as i64),
        grouped(publisher.published as i64),
        kills.len(),
        grouped(dropped as i64),
        "ms",
        "p50",
        "p99",
        "most"
    );
    for (name, values) in [
        ("a message under way, while nothing happens", calm_millis),
        ("the same on the other loop, with kills", during_millis),
        ("a first client at the new process", serves),
        ("all clients of the dead one back", back),
    ] {
        println!("{name:<44}{:>10}{:>10}{:>10}", values[0], values[1], values[2]);
    }
    println!();
    report::print(
        "kills",
        options,
        json!({
            "clients": clients,
            "kills": kills.len(),
            "published": publisher.published,
            "messages_per_second": RATE,
            "heard": seen.messages,
            "connections_lost": dropped,
            "connections_lost_elsewhere": dropped_elsewhere + receivers_dropped,
            "resumed": seen.resumed,
            "lost": seen.lost,
            "twice": seen.twice,
            "samples": [calm.len(), during.len()],
            "calm_ms_p50_p99_most": calm_millis,
            "with_kills_ms_p50_p99_most": during_millis,
            "serves_again_ms_p50_p99_most": serves,
            "all_back_ms_p50_p99_most": back,
            "parents_descriptors": [descriptors.0, descriptors.1],
        }),
    );
    for (fault, count) in seen.faults() {
        assert_eq!(count, 0, "{fault}");
    }
    assert_eq!(dropped_elsewhere + receivers_dropped, 0, "others were dropped: {processes:?}");
    assert!(dropped >= kills.len(), "nobody was at the loops that were killed");
    assert!(seen.resumed >= dropped, "some came back without a cursor");
    assert!(descriptors.1 <= descriptors.0 + 1, "descriptors leak: {descriptors:?}");
}
