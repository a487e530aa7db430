//! What the benches share: the real binary as a child, clients by the thousand, readings of `/proc`, the report.
//!
//! A bench prints a table for people, then one line of JSON. Every wait is for a condition, and has a deadline. Linux only:
//! the figures come from `/proc`, and the clients from many addresses of the loopback network.

// Each bench uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod drain;
pub mod process;
pub mod sender;
pub mod server;

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Map, Value, json};

/// For whatever a healthy process does at once: a wait that lasts longer ends the bench with a panic.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Descriptors of a process that are not the clients of a bench: the server alone sets 128 aside.
const DESCRIPTORS_RESERVED: usize = 200;

/// The first argument of a copy of a bench that plays another part; the part's name follows.
pub const ROLE: &str = "--role";

/// How a bench was called.
pub struct Options {
    /// Small counts: it ends within seconds, and its figures say little.
    pub quick: bool,
    /// The part that this process plays, with what it was told, if it is not the bench itself.
    pub role: Option<Vec<String>>,
}

impl Options {
    /// From the arguments (`--quick`, and `--bench`, which cargo adds) and the variable `ONELOOP_BENCH_QUICK`.
    pub fn read() -> Options {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let role = match arguments.split_first() {
            Some((first, rest)) if first == ROLE => Some(rest.to_vec()),
            _ => None,
        };
        let variable = std::env::var("ONELOOP_BENCH_QUICK").unwrap_or_default();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        Options { quick: quick || !["", "0"].contains(&variable.as_str()), role }
    }

    /// One of two numbers.
    pub fn pick(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Prints the line of JSON: the bench, the machine, and what was found.
    pub fn report(&self, bench: &str, found: Value) {
        let mut line = Map::new();
        line.insert("bench".to_owned(), json!(bench));
        line.insert("quick".to_owned(), json!(self.quick));
        line.insert("machine".to_owned(), machine());
        let Value::Object(found) = found else {
            panic!("what was found has names");
        };
        line.extend(found);
        println!("{}", Value::Object(line));
    }
}

/// Raises the soft limit of descriptors and returns how many connections one process may hold, `wanted` at most.
pub fn connections_max(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the soft limit may be raised to the hard one");
    let most =
        limit.maximum.map_or(usize::MAX, |most| most as usize).saturating_sub(DESCRIPTORS_RESERVED);
    if most < wanted {
        println!("Only {most} connections instead of {wanted}: raise `ulimit -Hn` for more.");
    }
    wanted.min(most)
}

/// The middle of all values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of all values lies, between two of them if need be.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// With two digits behind the point, for the report.
pub fn rounded(value: f64) -> f64 {
    rounded_to(value, 2)
}

/// With so many digits behind the point.
pub fn rounded_to(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

/// A number with its thousands set apart.
pub fn grouped(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-" } else { "" }.to_owned();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn machine() -> Value {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    json!({
        "cpu": cpu.unwrap_or(std::env::consts::ARCH),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        // Of the last minute: what else ran disturbs the times.
        "load": read("/proc/loadavg").split(' ').next(),
    })
}
