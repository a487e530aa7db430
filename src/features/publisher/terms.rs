//! The terms on which publishers are served: bounds and the password, the same for every connection.

use std::rc::Rc;

use crate::clock::Now;

/// Bounds on publishers, and their password.
#[derive(Clone, Debug)]
pub struct Terms {
    /// With one, nothing can be published nor heard before AUTH.
    pub password: Option<Rc<[u8]>>,
    /// A larger payload is refused.
    pub payload_bytes_max: usize,
    /// Commands between MULTI and EXEC; then EXECABORT.
    pub transaction_commands_max: usize,
    /// Bytes of them.
    pub transaction_bytes_max: usize,
    /// Connections at one time.
    pub connections_max: usize,
    /// Messages that wait for one subscriber, in bytes.
    pub backlog_bytes_max: usize,
}

/// The moment at which commands are answered, and how many connections there are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    pub now: Now,
    pub connections: usize,
}
