//! Durable topics: Redis streams, read from their end and paged backwards.

pub(crate) mod batch;
pub mod commands;
pub(crate) mod entries;
pub(crate) mod extent;
pub(crate) mod page;
pub(crate) mod position;
pub(crate) mod progress;
pub mod reader;
#[cfg(test)]
pub(crate) mod simulated_streams;
