//! Strangers with forged tokens, whose signatures cost the server more than anything else that it does for strangers. Many of
//! them finish their heads at the same moment, or send their tokens in a first message; after that some come without pause.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::assert_answered;
use super::bystanders::ATTACKER;
use crate::support::Options;
use crate::support::client::{Client, connect, head, head_for, masked};
use crate::support::process::wait_until;
use crate::support::report::{quantile, rounded};
use crate::support::server::Server;
use crate::support::signer::{Signer, unix};
use crate::support::usage::cpu_time;

/// A case: its name, the algorithm, the keys of the server (0: one, without an id), and whether the tokens come in messages.
type Case = (&'static str, &'static str, usize, bool);

const CASES: [Case; 6] = [
    ("HS256", "HS256", 0, false),
    ("ES256", "ES256", 0, false),
    ("ES384", "ES384", 0, false),
    ("ES384_4_keys", "ES384", 4, false),
    ("ES256_20_keys", "ES256", 20, false),
    ("ES384_in_messages", "ES384", 0, true),
];

/// Algorithms whose price is measured, and how often each is checked.
const ALGORITHMS: [&str; 5] = ["HS256", "EdDSA", "RS256", "ES256", "ES384"];
const CHECKS: usize = 300;
const QUICK_CHECKS: usize = 30;

/// Forgers at one time, each from an address of its own, and how often they come: until somebody else has asked often enough for
/// a 99th percentile, as far as that goes.
const FORGERS: usize = 600;
const QUICK_FORGERS: usize = 60;
const ROUNDS: usize = 2;
const ROUNDS_MAX: usize = 20;
const QUESTIONS: usize = 200;

/// All are served, however slow the machine is.
const FLAGS: [&str; 8] = [
    "--admin",
    "127.0.0.1:0",
    "--commands-per-second-max",
    "0",
    "--head-seconds",
    "300",
    "--auth-seconds",
    "300",
];

/// Clients per address of the loopback network: see [`connect`].
const ADDRESS: usize = 1_000;

/// The number of the client that asks, and the time between two questions.
const ASKER: usize = 1_900_000;
const QUESTION_EVERY: Duration = Duration::from_millis(2);

/// Forgers that come without pause, and good clients that come meanwhile.
const FLOODERS: usize = 16;
const NEWCOMERS: usize = 30;
const QUICK_NEWCOMERS: usize = 3;

/// Measures each case with a server of its own.
pub fn run(options: &Options) -> Value {
    let mut figures = Map::new();
    let prices = prices(options);
    println!("  check_microseconds: {prices}");
    figures.insert("check_microseconds".to_owned(), prices);
    for case in CASES {
        let of_case = measure(&case, options);
        println!("  {}: {}", case.0, Value::Object(of_case.clone()));
        if !options.quick {
            assert_answered(&of_case);
        }
        figures.insert(case.0.to_owned(), Value::Object(of_case));
    }
    Value::Object(figures)
}

/// The CPU time of a check by algorithm, with one key.
fn prices(options: &Options) -> Value {
    let price = |name: &&str| {
        let signer = Signer::of(name);
        let (keys, token) = (signer.keys(), signer.forged());
        let checks = options.pick(CHECKS, QUICK_CHECKS);
        let before = cpu_time(std::process::id());
        for _ in 0..checks {
            assert!(keys.check(&token, unix()).is_err());
        }
        let spent = cpu_time(std::process::id()).since(before).total;
        ((*name).to_owned(), json!(rounded(spent as f64 / 1e3 / checks as f64)))
    };
    Value::Object(ALGORITHMS.iter().map(price).collect())
}

/// Measures one server with its attackers, and other clients that ask and connect.
fn measure(case: &Case, options: &Options) -> Map<String, Value> {
    let &(_, algorithm, keys, _) = case;
    let signer = Signer::of(algorithm);
    let (server, folder) = start(&signer, keys);
    let good = signer.tokens(1).remove(0);
    let mut asker = Client::ask(server.clients, ASKER, &good);
    asker.read_welcome();
    let before = server.turns();
    let (mut asked, mut spent) = (Vec::new(), 0);
    let (at_least, at_most) = (options.pick(ROUNDS, 1), options.pick(ROUNDS_MAX, 1));
    let forgers = options.pick(FORGERS, QUICK_FORGERS);
    let mut rounds = 0;
    while rounds < at_least || (rounds < at_most && asked.len() < QUESTIONS) {
        rounds += 1;
        let streams = gather(&server, &signer, forgers, case);
        let (waits, used) = attack(&server, &signer, streams, &mut asker, case);
        asked.extend(waits);
        spent += used;
    }
    let turns = server.turns_since(&before);
    let handshakes = newcomers(server.clients, &signer, options);
    if let Some(folder) = folder {
        let _ = std::fs::remove_dir_all(folder);
    }
    let figures = json!({
        "forgers": forgers,
        "ping_ms_p50": rounded(quantile(&asked, 0.5)),
        "ping_ms_p99": rounded(quantile(&asked, 0.99)),
        "ping_ms_max": rounded(quantile(&asked, 1.0)),
        "pings": asked.len(),
        "longest_turn_seconds_below": turns.last().map_or("0", |(most, _)| most),
        "cpu_ms_per_forgery": rounded(spent as f64 / 1e6 / (rounds * forgers) as f64),
        "handshake_ms_p50_in_flood": rounded(quantile(&handshakes, 0.5)),
        "handshake_ms_max_in_flood": rounded(quantile(&handshakes, 1.0)),
    });
    let Value::Object(figures) = figures else { unreachable!("they have names") };
    figures
}

/// A server with these keys, and the folder of its key set.
fn start(signer: &Signer, keys: usize) -> (Server, Option<std::path::PathBuf>) {
    let mut flags: Vec<String> = FLAGS.map(str::to_owned).into();
    let mut folder = None;
    if keys == 0 {
        flags.extend(signer.flags());
    } else {
        let name = format!("oneloop-bench-signatures-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary folder can be made");
        let file = path.join("keys.json");
        std::fs::write(&file, signer.key_set(keys)).expect("a file can be written");
        flags.extend(["--jwt-jwks-file".to_owned(), file.to_string_lossy().into_owned()]);
        folder = Some(path);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    (Server::start(&flags), folder)
}

/// Connects the forgers, and sends all but the last byte of their heads; those who send their tokens in messages are upgraded.
fn gather(server: &Server, signer: &Signer, forgers: usize, case: &Case) -> Vec<TcpStream> {
    let in_messages = case.3;
    let head = match in_messages {
        true => head_for("/ws", server.clients, "").replace("Authorization: Bearer \r\n", ""),
        false => head(server.clients, &signer.forged()),
    };
    let sent = if in_messages { &head[..] } else { &head[..head.len() - 1] };
    let begin = |number| {
        let mut stream = connect(server.clients, ATTACKER + number * ADDRESS);
        stream.write_all(sent.as_bytes()).expect("the server takes a head");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..forgers).map(begin).collect();
    let name = if in_messages { "clients" } else { "handshakes_under_way" };
    let others = if in_messages { 1 } else { 0 };
    let are_there = || server.counter(name) == (forgers + others) as u64;
    assert!(wait_until(are_there), "they are not let in");
    if in_messages {
        let mut answer = [0; 1024];
        for stream in &mut streams {
            assert!(stream.read(&mut answer).expect("it is upgraded") > 0);
        }
    }
    streams
}

/// Sends the rest of all, and reads the answers. Returns how long another client waited for its answers meanwhile, and what CPU
/// time the server used.
fn attack(
    server: &Server,
    signer: &Signer,
    streams: Vec<TcpStream>,
    asker: &mut Client,
    case: &Case,
) -> (Vec<f64>, u64) {
    let forged = signer.forged();
    let rest = match case.3 {
        true => masked(format!(r#"{{"op":"auth","token":"{forged}"}}"#).as_bytes()),
        false => b"\n".to_vec(),
    };
    let stopped = AtomicBool::new(false);
    let before = server.cpu_time();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| asker.ask_on(QUESTION_EVERY, &stopped));
        for mut stream in &streams {
            stream.write_all(&rest).expect("the server takes the rest");
        }
        streams.into_iter().for_each(refused);
        stopped.store(true, Ordering::Relaxed);
        let waits = asking.join().expect("the server answers");
        (waits, server.cpu_time().since(before).total)
    })
}

/// Reads what a forger is told.
fn refused(mut stream: TcpStream) {
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).expect("a forger is answered");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.contains("signature"), "{answer}");
}

/// Returns how long the handshakes of good clients take while forgers come without pause, in milliseconds.
fn newcomers(server: SocketAddr, signer: &Signer, options: &Options) -> Vec<f64> {
    let (stopped, next) = (AtomicBool::new(false), AtomicUsize::new(0));
    let head = head(server, &signer.forged());
    let good = signer.tokens(1).remove(0);
    std::thread::scope(|scope| {
        for _ in 0..FLOODERS {
            scope.spawn(|| {
                while !stopped.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed) % FORGERS;
                    let mut stream = connect(server, ATTACKER + number * ADDRESS);
                    stream.write_all(head.as_bytes()).expect("the server takes a head");
                    refused(stream);
                }
            });
        }
        let count = options.pick(NEWCOMERS, QUICK_NEWCOMERS);
        let handshakes = (0..count).map(|number| {
            let start = Instant::now();
            Client::ask(server, number, &good).read_welcome();
            start.elapsed().as_secs_f64() * 1e3
        });
        let handshakes = handshakes.collect();
        stopped.store(true, Ordering::Relaxed);
        handshakes
    })
}
