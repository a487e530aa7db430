//! The attacks by name, and what they share.

mod backlog;
pub mod bystanders;
mod history_scans;
mod large_replays;
mod newest;
mod nonreaders;
mod patterns;
mod signatures;
mod since;
mod strangers;
mod streams;
mod subscriptions;
mod unfinished;
mod upstream;

use std::io::Read;
use std::net::SocketAddr;

use serde_json::{Map, Value};

use crate::support::client::Client;
use crate::support::{Options, server};

/// Runs one attack and returns its figures by name.
pub type Attack = fn(&Options) -> Value;

/// Every attack, in the order in which they run.
pub const ALL: &[(&str, Attack)] = &[
    ("unfinished", unfinished::run),
    ("backlog", backlog::run),
    ("large_replays", large_replays::run),
    ("history_scans", history_scans::run),
    ("since", since::run),
    ("patterns", patterns::run),
    ("newest", newest::run),
    ("nonreaders", nonreaders::run),
    ("subscriptions", subscriptions::run),
    ("upstream", upstream::run),
    ("silent", strangers::run_silent),
    ("unproven", strangers::run_unproven),
    ("strangers", strangers::run_publishers),
    ("admin", strangers::run_admin),
    ("forged", streams::run_forged),
    ("old_cursors", streams::run_old),
    ("signatures", signatures::run),
];

/// Asserts that a figure is within its bound, unless another binary is measured for comparison.
pub fn assert_at_most(figure: i64, most: i64, what: &str) {
    assert!(figure <= most || server::is_another(), "{what}: {figure}, more than {most}");
}

/// Under every attack another client waits no longer than this for an answer, at the 99th percentile, and a broadcast no longer
/// than so many times its quiet time.
const PING_MS_MAX: f64 = 50.0;
const BROADCAST_TIMES_MAX: f64 = 2.0;

/// Asserts that the others waited no longer than that, by the figures of [`bystanders::Waits::beside`].
pub fn assert_others_at_most(figures: &Map<String, Value>) {
    assert_answered(figures);
    assert_figure(figures, "broadcast_times_quiet", BROADCAST_TIMES_MAX);
}

/// Asserts that another client waited no longer for its answers than that.
pub fn assert_answered(figures: &Map<String, Value>) {
    assert_figure(figures, "ping_ms_p99", PING_MS_MAX);
}

fn assert_figure(figures: &Map<String, Value>, name: &str, most: f64) {
    let figure = figures[name].as_f64().expect("a number");
    assert!(figure <= most || server::is_another(), "{name}: {figure}, more than {most}");
}

/// Asks for an answer as a client that behaves does, and waits for it.
pub fn ask(client: &mut Client) {
    client.send(r#"{"op":"ping"}"#);
    assert_eq!(client.read(), r#"{"op":"pong"}"#);
}

/// The cursor of a first welcome.
pub fn cursor(server: SocketAddr, token: &str) -> String {
    let mut stream = Client::ask(server, bystanders::ATTACKER, token).into_stream();
    let mut text = String::new();
    let mut buffer = [0; 2048];
    loop {
        let length = stream.read(&mut buffer).expect("the handshake is answered");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let id = text.split_once(r#""id":""#).and_then(|(_, rest)| rest.split_once('"'));
        if let Some((id, _)) = id {
            return id.to_owned();
        }
    }
}
