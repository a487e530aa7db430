//! The cost of a start: the size of the binary by crate, the time to the first connection, the memory before
//! it.
//!
//! Resident memory is no measure of the binary's size: the kernel maps the 16 pages around each one that is touched, so
//! that most of the code is there after a start; the C library and the loader are half of all. Where the system puts things
//! differs by 200 KB from start to start.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value, json};
use support::Options;
use support::client::Client;
use support::report::{self, grouped, median, rounded};
use support::server::{BINARY, Server};
use support::symbols::{self, STANDARD, UNKNOWN};
use support::usage::{Memory, mappings};

/// Most bytes of the binary; a static one has the C library in it. TLS is 0.7 MB of it.
const BINARY_BYTES_MAX: u64 = if cfg!(target_env = "musl") { 4_200_000 } else { 4_000_000 };

/// The most that may be resident, in bytes, the binary's pages included.
const RESIDENT_BYTES_MAX: i64 = 3_000_000;

/// Milliseconds to its lines.
const LISTENING_MAX: f64 = 10.0;

/// Crates with less than this share of the code are summed up in one row of the table.
const SHARE_MIN: f64 = 0.004;

fn main() {
    let options = Options::read();
    let starts = options.pick(20, 5);
    let binary = fs::metadata(BINARY).expect("the binary was built").len();
    let (mut listening, mut accepted) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let (first, second) = time_one();
        listening.push(first);
        accepted.push(second);
    }
    let (memory, mapped) = memory_after_start(starts);
    let crates = symbols::crates(&with_symbols(&options));

    println!(
        "{:<24}{:>12} bytes, at most {}",
        "binary",
        grouped(binary as i64),
        grouped(BINARY_BYTES_MAX as i64)
    );
    println!("{:<24}{starts:>12}", "starts");
    let limit = format!("; at most {LISTENING_MAX}");
    for (name, all, limit) in
        [("to its lines", &listening, limit.as_str()), ("to the first client", &accepted, "")]
    {
        let [median, least, most] = spread(all);
        println!("{name:<24}{median:>12.2} ms, {least:.2} to {most:.2}{limit}");
    }
    print_memory(&memory, &mapped);
    print_crates(&crates);
    check(binary, &crates);
    report::print(
        "start",
        &options,
        json!({
            "clients": 1,
            "binary_bytes": binary,
            "starts": starts,
            "listening_ms": spread(&listening).map(rounded),
            "first_client_ms": spread(&accepted).map(rounded),
            "resident_bytes": memory.resident,
            "private_bytes": memory.private,
            "anonymous_bytes": memory.anonymous,
            "resident_by_mapping": object(&mapped),
            "code_bytes_by_crate": object(&crates),
        }),
    );
}

/// Milliseconds from the fork to the lines that say where it listens, and to the welcome of a first client: the handshake
/// and its token are checked by then.
fn time_one() -> (f64, f64) {
    let server = Server::start(&[]);
    let listening = server.started.elapsed();
    let clients = Client::open(server.clients, 0..1);
    let accepted = server.started.elapsed();
    drop(clients);
    server.stop();
    (milliseconds(listening), milliseconds(accepted))
}

/// Memory of a server without any client yet: the median start by resident memory, and its mappings.
fn memory_after_start(starts: usize) -> (Memory, Vec<(String, i64)>) {
    let mut all: Vec<(Memory, Vec<(String, i64)>)> = (0..starts)
        .map(|_| {
            let server = Server::start(&[]);
            let found = (server.memory(), mappings(server.pid()));
            server.stop();
            found
        })
        .collect();
    all.sort_by_key(|(memory, _)| memory.resident);
    all.swap_remove(starts / 2)
}

/// A binary of which the symbols were kept, in a folder of its own: the same one once more, or in the quick mode the one that
/// the tests use, which is built in seconds and shows that this part of the bench works.
fn with_symbols(options: &Options) -> PathBuf {
    let target = Path::new(BINARY).ancestors().nth(2).expect("target/release/oneloop");
    let (folder, profile, flags) = match options.quick {
        true => (target.to_owned(), "debug", &[][..]),
        false => {
            let flags = &["--release", "--config", r#"profile.release.strip="none""#][..];
            (target.join("symbols"), "release", flags)
        }
    };
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--bin", "oneloop", "--target-dir"])
        .arg(&folder)
        .args(flags)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the binary is not built with its symbols");
    folder.join(profile).join("oneloop")
}

fn print_memory(memory: &Memory, mapped: &[(String, i64)]) {
    for (name, bytes, limit) in [
        ("resident", memory.resident, format!(", at most {}", grouped(RESIDENT_BYTES_MAX))),
        ("of these private", memory.private, String::new()),
        ("of these anonymous", memory.anonymous, String::new()),
    ] {
        println!("{name:<24}{:>12} bytes{limit}", grouped(bytes));
    }
    println!("\n{:<24}{:>12}", "resident by mapping", "bytes");
    for (name, bytes) in mapped {
        let name = if name.is_empty() { "without a name" } else { name };
        println!("{name:<24}{:>12}", grouped(*bytes));
    }
}

fn print_crates(crates: &[(String, u64)]) {
    let all: u64 = crates.iter().map(|(_, bytes)| bytes).sum();
    let row = |name: &str, bytes: u64| {
        let percent = bytes as f64 / all as f64 * 100.0;
        println!("{name:<24}{:>12}{percent:>7.1} %", grouped(bytes as i64));
    };
    println!("\n{:<24}{:>12}", "code by crate", "bytes");
    let (large, small): (Vec<_>, Vec<_>) =
        crates.iter().partition(|(_, bytes)| *bytes as f64 >= SHARE_MIN * all as f64);
    for (name, bytes) in &large {
        row(name, *bytes);
    }
    row(&format!("{} smaller ones", small.len()), small.iter().map(|(_, bytes)| bytes).sum());
    row("all", all);
    println!();
}

/// The budgets by count.
fn check(binary: u64, crates: &[(String, u64)]) {
    assert!(binary <= BINARY_BYTES_MAX, "the binary has {binary} bytes");
    let all: u64 = crates.iter().map(|(_, bytes)| bytes).sum();
    let share = |name: &str| {
        let found = crates.iter().find(|(crate_name, _)| crate_name == name);
        found.map_or(0.0, |(_, bytes)| *bytes as f64 / all as f64)
    };
    for name in ["oneloop", "tungstenite", "rustls", STANDARD] {
        assert!(share(name) > 0.002, "{name} has its part of the code");
    }
    assert!(share(UNKNOWN) < 0.1, "most of the code has a name");
}

fn object<N: Copy + Into<Value>>(rows: &[(String, N)]) -> Map<String, Value> {
    rows.iter().map(|(name, number)| (name.clone(), (*number).into())).collect()
}

/// The median, the least and the most.
fn spread(values: &[f64]) -> [f64; 3] {
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    [median(values), least, most]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
