//! Durable topics: Redis streams, read from their end and paged backwards.

pub mod commands;
mod page_queue;
pub(crate) mod pages;
pub(crate) mod progress;
pub(crate) mod read_count;
pub mod reader;
#[cfg(test)]
pub(crate) mod simulated_streams;
mod stream_checks;
