//! The constants of a route, fixed before its first client connects.

use crate::engine::client::deflate::Deflate;
use crate::engine::client::frame::Frame;
use crate::engine::client::http::Request;
use crate::engine::client::outbox::Slow;
use crate::engine::pubsub::topic::Grant;
use crate::engine::server::ReplayItem;

/// The constants of a route. The default closes slow clients and clients that send binary messages, chooses no subprotocol, compresses
/// and replays nothing.
#[derive(Clone, Debug)]
pub struct RouteOptions {
    /// The fate of a client that reads too slowly.
    pub slow: Slow,
    /// Encodes a message that a client missed, or the notice of a gap; `None`: clients of this route are not told.
    pub encode: fn(&ReplayItem<'_>) -> Option<Frame>,
    /// Subprotocols in order of preference; the first that a client offers is chosen (RFC 6455 section 1.9). A trailing `*` stands
    /// for the rest of an entry.
    pub protocols: Vec<String>,
    /// Clients that ask for an event stream get one. They cannot send, and present everything in their request.
    pub has_event_streams: bool,
    /// The messages that are compressed for clients that ask for it.
    pub deflate: Deflate,
    /// Clients may send binary messages. Otherwise they are closed with 1003.
    pub takes_binary: bool,
    /// The 404 for a path without a route names this one.
    pub is_listed: bool,
    /// Returns whether a text asks for topics and nothing else. The handler then charges for each of them
    /// ([`Scope::count_topic`](crate::Scope::count_topic)); any other message has its price.
    pub asks_for_topics: fn(&str) -> bool,
    /// Topics whose subscribers may list each other.
    pub members: Vec<Grant>,
}

impl Default for RouteOptions {
    fn default() -> RouteOptions {
        RouteOptions {
            slow: Slow::Close,
            encode: |_| None,
            protocols: Vec::new(),
            has_event_streams: false,
            deflate: Deflate::Off,
            takes_binary: false,
            is_listed: true,
            asks_for_topics: |_| false,
            members: Vec::new(),
        }
    }
}

impl RouteOptions {
    /// The subprotocol that the answer to a handshake names.
    pub(crate) fn protocol<'a>(&self, request: &'a Request) -> Option<&'a str> {
        let is_of = |entry: &str, wanted: &String| match wanted.strip_suffix('*') {
            Some(start) => entry.starts_with(start),
            None => entry == wanted,
        };
        self.protocols.iter().find_map(|wanted| {
            request.list("sec-websocket-protocol").find(|entry| is_of(entry, wanted))
        })
    }
}
