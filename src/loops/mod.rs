//! Several loops that are one server from outside: a parent process has everything but the clients, and each worker process serves
//! its share of them.
//!
//! The parent records what comes from Redis and from publishers, and hands it to all workers in one order over a [`link`] to each.

pub mod descriptors;
pub mod desk;
pub mod link;
