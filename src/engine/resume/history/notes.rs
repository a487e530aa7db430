//! Records that are no messages: gaps, and marks of topics.

use super::{GAP, History, MARK};

/// Records that messages after the one with the number `from` may have been missed.
pub fn push_gap(history: &mut History, from: u64) {
    history.record(0, &[&[GAP, 0, 0], &from.to_le_bytes()]);
}

/// Records that the messages of more topics are held from here on.
pub fn push_mark(history: &mut History) {
    history.record(0, &[&[MARK]]);
}
