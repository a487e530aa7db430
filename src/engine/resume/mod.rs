//! Resuming: the history of recent messages, and cursors into it.

pub mod cursor;
pub mod history;
