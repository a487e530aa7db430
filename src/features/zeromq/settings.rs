//! The settings of the ZeroMQ port.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::clock::Millis;

/// The settings that begin with `zeromq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeromqSettings {
    /// `zeromq`: the address; `None` is off.
    pub address: Option<SocketAddr>,
    /// `zeromq_topic_field`: the member of a JSON object that names the topic of a message of one part.
    pub topic_field: String,
    /// `zeromq_connections_max`: connections at one time; above, they are closed.
    pub connections_max: usize,
}

impl Default for ZeromqSettings {
    fn default() -> ZeromqSettings {
        ZeromqSettings { address: None, topic_field: "topic".to_owned(), connections_max: 256 }
    }
}

impl ZeromqSettings {
    /// Returns the number of descriptors to be kept free for connections.
    pub fn descriptors(&self) -> usize {
        if self.address.is_some() { self.connections_max } else { 0 }
    }
}

/// The terms on which a connection is served.
#[derive(Clone, Debug)]
pub struct ZeromqTerms {
    pub connections_max: usize,
    pub topic_field: String,
    /// Written before a topic to get the channel.
    pub prefix: String,
    /// If there is one, the mechanism is PLAIN, else NULL.
    pub password: Option<Rc<[u8]>>,
    /// The largest payload; a larger one is passed over.
    pub payload_bytes_max: usize,
    /// Milliseconds that a handshake may take: `auth_seconds`, as for clients.
    pub handshake_millis: Millis,
}
