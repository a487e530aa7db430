//! The attacks by name, and what they share.

mod backlog;
mod comebacks;
mod nonreaders;
pub mod others;
mod unfinished;
mod upstream;

use serde_json::Value;

use crate::support::client::Client;
use crate::support::{Options, server};

/// Runs one attack and returns its figures by name.
pub type Attack = fn(&Options) -> Value;

/// Every attack, in the order in which they run.
pub const ALL: &[(&str, Attack)] = &[
    ("unfinished", unfinished::run),
    ("backlog", backlog::run),
    ("comebacks", comebacks::run),
    ("nonreaders", nonreaders::run),
    ("upstream", upstream::run),
];

/// Asserts that a figure is within its bound, unless another binary is measured for comparison.
pub fn assert_at_most(figure: i64, most: i64, what: &str) {
    assert!(figure <= most || server::is_another(), "{what}: {figure}, more than {most}");
}

/// Asks for an answer as a client that behaves does, and waits for it.
pub fn ask(client: &mut Client) {
    client.send(r#"{"op":"ping"}"#);
    assert_eq!(client.read(), r#"{"op":"pong"}"#);
}
