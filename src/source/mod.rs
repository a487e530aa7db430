//! Where messages come from: Redis, or publishers who connect to us.
//!
//! Nothing in here does I/O or reads the clock: bytes and time are arguments, so a test can drive every path byte by byte.
//! `link` is our connection to Redis, `publisher` a publisher's connection to us; both frame RESP with `resp`.

mod commands;
mod garbage;
mod greeting;
mod inline;
pub mod link;
pub mod link_config;
mod pattern;
pub mod publisher;
pub mod refusal;
pub mod request;
mod resp;
mod scanner;
#[cfg(test)]
mod values;

pub use link::{Event, Link};
pub use link_config::{Address, LinkConfig};
pub use publisher::{Publish, Publisher};
