//! Durable topics: Redis streams, read from their end and paged backwards.

pub mod commands;
pub(crate) mod page_queue;
pub(crate) mod pages;
pub(crate) mod position;
pub(crate) mod progress;
pub(crate) mod read_count;
pub mod reader;
#[cfg(test)]
pub(crate) mod simulated_streams;
pub(crate) mod stream_checks;
