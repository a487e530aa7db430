//! Resuming: the history of recent messages, and cursors into it.

pub mod cursor;
pub(crate) mod filter;
pub mod history;
pub mod replay;
