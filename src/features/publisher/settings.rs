//! The settings of the port, and the moment at which commands are executed.

use std::rc::Rc;

use crate::clock::{Millis, Now};
use crate::engine::admission::password::is_same_password;

/// Limits on publishers, each a setting of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublisherBounds {
    /// `publishers_max`: connections at one time; above: `-ERR`.
    pub connections_max: usize,
    /// Commands between MULTI and EXEC; above: `-ERR`, and `-EXECABORT`.
    pub transaction_commands_max: usize,
    /// Bytes of those commands, and of the answers to them.
    pub transaction_bytes_max: usize,
    /// `publisher_subscriptions_max`: channels and patterns of one connection; above: `-ERR`.
    pub subscriptions_max: usize,
    /// `publisher_backlog_bytes_max`: bytes of messages queued for one subscriber. Above, it is disconnected, as it is if a quarter
    /// of them stay queued for a minute.
    pub backlog_bytes_max: usize,
}

impl Default for PublisherBounds {
    fn default() -> PublisherBounds {
        PublisherBounds {
            connections_max: 64,
            transaction_commands_max: 65_536,
            transaction_bytes_max: 8 << 20,
            subscriptions_max: 1024,
            backlog_bytes_max: 32 << 20,
        }
    }
}

/// The limits on publishers, and their password.
#[derive(Clone, Debug)]
pub struct Terms {
    pub bounds: PublisherBounds,
    /// If there is one, nothing can be published or subscribed to before AUTH.
    pub password: Option<Rc<[u8]>>,
    /// The largest payload; a larger one is refused.
    pub payload_bytes_max: usize,
    /// Milliseconds that a connection may take to give the password: `auth_seconds`, as for clients.
    pub auth_millis: Millis,
}

impl Terms {
    /// Returns whether this is the password. Without one, any is accepted, as in Redis.
    pub fn accept(&self, given: &[u8]) -> bool {
        self.password.as_ref().is_none_or(|expected| is_same_password(given, expected))
    }
}

/// The time at which a command is executed, and the number of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub now: Now,
    pub connections: usize,
}

impl Moment {
    /// Returns the start of this process, in seconds of the wall clock.
    pub fn started(&self) -> u64 {
        self.now.unix.saturating_sub(self.now.millis / 1000)
    }
}
