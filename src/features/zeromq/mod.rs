//! The ZeroMQ port: a PULL socket, to which PUSH sockets of back ends connect.
//!
//! Reading order: `frames` parts the bytes, `peer` speaks ZMTP, `topic` finds the topic in a JSON object, `delivery`
//! publishes.

mod connection;
mod delivery;
mod frames;
pub mod peer;
mod port;
mod settings;
mod topic;

pub use port::ZeromqPort;
pub use settings::{ZeromqSettings, ZeromqTerms};
