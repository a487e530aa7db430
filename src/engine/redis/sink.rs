//! A place in Redis to write to.

/// A stream or a channel of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A stream, by `XADD`.
    Stream(String),
    /// A channel, by `PUBLISH`.
    Channel(String),
}

impl Sink {
    /// The longest name of a stream or a channel, in bytes.
    pub const NAME_BYTES_MAX: usize = 128;

    /// The stream's or the channel's name.
    pub fn name(&self) -> &str {
        match self {
            Sink::Stream(name) | Sink::Channel(name) => name,
        }
    }
}
