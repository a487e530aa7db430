//! The report at the end of a bench.

use std::fs;

use serde_json::{Map, Value, json};

use super::Options;

/// Prints the line of JSON: the bench, the machine, and what was found.
pub fn print(bench: &str, options: &Options, found: Value) {
    let mut line = Map::new();
    line.insert("bench".to_owned(), json!(bench));
    line.insert("quick".to_owned(), json!(options.quick));
    line.insert("machine".to_owned(), machine());
    let Value::Object(found) = found else {
        panic!("what was found has names");
    };
    line.extend(found);
    println!("{}", Value::Object(line));
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

/// Rounds to `digits` digits behind the point.
pub fn rounded_to(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

/// A number with its thousands set apart.
pub fn grouped(number: i64) -> String {
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
        // The load of the last minute: other processes disturb the times.
        "load": read("/proc/loadavg").split(' ').next(),
    })
}
