//! The state of a process as bytes and descriptors, for the process that takes its place.
//!
//! Each module writes its own state and reads it back. Numbers are little-endian, texts and lists stand behind their length, and
//! there is no padding. Nothing is trusted: each length has a bound where it is read, and memory grows only as bytes come.

pub mod descriptors;
mod link;
mod reader;
mod successor;
mod writer;

pub use link::{HandoverWord, Predecessor, StateLink, VARIABLE, end_with_parent};
pub use reader::{StateError, StateReader, StateSource};
pub use successor::{Program, Successor};
pub use writer::{StateSink, StateWriter};

/// The version of the encoding: another one is refused.
pub const VERSION: u32 = 2;

/// The version that this process reads and writes. Debug builds can pass for another one, to test what happens then.
fn version() -> u32 {
    let other = cfg!(debug_assertions).then(|| std::env::var("STATE_VERSION").ok()?.parse().ok());
    other.flatten().unwrap_or(VERSION)
}

/// The most bytes of one value, and the most values of one list: bounds of the modules that keep them are lower.
pub const BYTES_MAX: usize = 1 << 29;
pub const VALUES_MAX: usize = 1 << 24;

#[cfg(test)]
mod tests;
