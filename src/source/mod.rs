//! Where messages come from: Redis, or publishers who connect to us.
//!
//! Nothing in here does I/O or reads the clock: bytes and time are arguments, so a test can drive every path byte by byte.
//! `link` is our subscription at Redis, `commander` executes commands there, `inquiry` asks for an operator, `publisher` is a
//! publisher's connection to us; all frame RESP with `resp`. What our own connections share is in `session`.

mod batch;
mod catalog;
pub mod commander;
mod commands;
mod entries;
pub mod exchange;
mod extent;
mod facts;
mod far_end;
mod garbage;
mod greeting;
mod inline;
pub mod inquiry;
pub mod link;
pub mod link_config;
mod opening;
mod page;
pub mod pattern;
mod position;
pub mod probe;
mod progress;
pub mod publisher;
pub mod reader;
pub mod refusal;
pub mod request;
mod resp;
mod scanner;
pub mod session;
#[cfg(test)]
mod simulated_streams;
pub mod stream_commands;
mod terms;
mod tokens;
#[cfg(test)]
mod values;

pub use commander::Commander;
pub use exchange::Exchange;
pub use extent::Extent;
pub use link::{Event, Link};
pub use link_config::{Address, LinkConfig};
pub use publisher::{Publish, Publisher};
pub use reader::Reader;
