//! One call of a node to Redis: the words of its script, and what that answers.

use super::users::Change;
use super::{DEAD_AFTER, ReportUse, Settings};
use crate::clock::Millis;
use crate::engine::redis::sink::Sink;

/// The script that changes the keys in Redis. Its comments stay here.
const SCRIPT: &str = include_str!("script.lua");

/// The words that stay the same in every call of a node.
pub(super) struct Script {
    text: Vec<u8>,
    node: String,
    report: ReportUse,
    /// The prefix of the keys.
    prefix: String,
    /// After so much silence a node is dead.
    dead_after: Millis,
    /// The most users of a dead node that one call clears up.
    batch_max: usize,
}

impl Script {
    pub(super) fn new(node: &str, settings: Settings) -> Script {
        let Settings { report, wait, batch_max, .. } = settings;
        let node = node.to_owned();
        let dead_after = DEAD_AFTER + wait;
        let lines = SCRIPT.lines().filter(|line| !line.trim_start().starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n").into_bytes();
        let prefix = format!("oneloop:{{{}}}:", report.name());
        Script { text, node, report, prefix, dead_after, batch_max }
    }

    /// The name of an incarnation of the node.
    pub(super) fn name(&self, incarnation: u32) -> String {
        format!("{}.{incarnation}", self.node)
    }

    /// The command of a call.
    pub(super) fn words(&self, incarnation: u32, number: u64, changes: &[Change]) -> Vec<Vec<u8>> {
        let incarnation = self.name(incarnation);
        let key = |name: &str| format!("{}{name}", self.prefix);
        let (kind, entries_max) = match &self.report {
            ReportUse::Events { sink: Sink::Stream(_), entries_max } => ("stream", *entries_max),
            ReportUse::Events { sink: Sink::Channel(_), entries_max } => ("channel", *entries_max),
            ReportUse::Members(_) => ("members", 0),
        };
        let target = self.report.name().to_owned();
        let mut keys =
            vec![key("here"), key("nodes"), key("calls"), key(&format!("here:{incarnation}"))];
        if kind == "stream" {
            keys.push(target.clone());
        }
        let mut words = vec![b"EVAL".to_vec(), self.text.clone()];
        words.push(keys.len().to_string().into_bytes());
        words.extend(keys.into_iter().map(String::into_bytes));
        let arguments = [
            self.node.clone(),
            incarnation,
            number.to_string(),
            self.dead_after.to_string(),
            self.batch_max.to_string(),
            kind.to_owned(),
            target,
            entries_max.to_string(),
        ];
        words.extend(arguments.map(String::into_bytes));
        words.extend(changes.iter().map(|change| change.to_vec()));
        words
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It was executed, now or before.
    Done {
        /// Events that it caused.
        online: u64,
        /// Events that it caused.
        offline: u64,
        /// More users of dead nodes are to be cleared up.
        more: bool,
    },
    /// Redis knows nothing of this incarnation, or not all: it was taken for dead, or Redis lost its data.
    Unknown,
    /// No answer, or none that can be used: it may have been executed.
    Failed,
}

impl Reply {
    /// Reads the script's four numbers.
    pub fn of(numbers: [i64; 4]) -> Reply {
        match numbers {
            [1, online, offline, more] => Reply::Done {
                online: u64::try_from(online).unwrap_or(0),
                offline: u64::try_from(offline).unwrap_or(0),
                more: more == 1,
            },
            [0, ..] => Reply::Unknown,
            _ => Reply::Failed,
        }
    }
}
