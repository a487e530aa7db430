//! The settings of the port, and the moment at which commands are answered.

use std::rc::Rc;

use crate::clock::{Millis, Now};

/// The limits on publishers, and their password.
#[derive(Clone, Debug)]
pub struct Terms {
    /// If there is one, nothing can be published or subscribed to before AUTH.
    pub password: Option<Rc<[u8]>>,
    /// The largest payload; a larger one is refused.
    pub payload_bytes_max: usize,
    /// Commands between MULTI and EXEC; then EXECABORT.
    pub transaction_commands_max: usize,
    /// Bytes of those commands.
    pub transaction_bytes_max: usize,
    /// `publishers_max`: connections at one time.
    pub connections_max: usize,
    /// Bytes of messages that wait for one subscriber.
    pub backlog_bytes_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Milliseconds that a connection may take to give the password: `auth_seconds`, as for clients.
    pub auth_millis: Millis,
}

/// The time, and the number of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub now: Now,
    pub connections: usize,
}
