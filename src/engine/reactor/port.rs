//! The seam to a listener whose connections are not clients: a feature admits, reads and writes them.

use std::net::SocketAddr;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::redis::request::Answer;
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::engine::server::requests::Publication;

/// A feature's listener and its connections, called in fixed phases of a turn.
pub trait Port {
    /// Returns the number of connections.
    fn connections(&self) -> usize;

    /// Returns the answer to a connection for which there is no room.
    fn refusal(&self) -> &'static [u8];

    /// Returns when one more connection can be admitted, or refused with an answer.
    fn room_at(&self, now: Millis) -> Millis;

    /// Admits a connection, or refuses it.
    fn admit(
        &mut self,
        server: &mut Server,
        registry: &Registry,
        stream: TcpStream,
        address: SocketAddr,
    );

    /// Notes an event of the connection with this number.
    fn on_ready(&mut self, number: usize, event: &Event);

    /// Reads connections, together about `bytes_max`, until a client has too much pending. Returns whether a client had too much
    /// pending already, so that no connection that waits was read.
    fn read(&mut self, router: &mut Router, buffer: &mut [u8], bytes_max: usize) -> bool;

    /// Delivers a message from elsewhere to connections that receive it. Returns the number of receivers.
    fn deliver(&mut self, server: &mut Server, channel: &[u8], payload: &[u8]) -> usize;

    /// Writes to connections, and ends those whose time is over.
    fn flush(&mut self, server: &mut Server);

    /// Frees the connections that have ended. Returns whether there were any.
    fn reap(&mut self) -> bool;

    /// Returns when the loop must turn again even if nothing happens: `now` if work is left.
    fn deadline(&self, now: Millis) -> Option<Millis>;

    /// Ends all connections after one write to each.
    fn close(&mut self, now: Millis);
}

/// Publishes to clients a message that the port has delivered to `others`. Returns the number of all receivers.
///
/// # Errors
/// The reason why nobody can receive from that channel.
pub fn publish_beside(
    router: &mut Router,
    others: usize,
    channel: &[u8],
    payload: &[u8],
) -> Result<usize, String> {
    if others > 0 && router.refusal_of(channel).is_some() {
        return Ok(others);
    }
    let dropped = router.server.metrics().messages_malformed;
    let clients = router.publish(channel, payload);
    if router.server.metrics().messages_malformed == dropped {
        return Ok(clients + others);
    }
    // The reason is looked for only if the message was dropped.
    router.refusal_of(channel).map_or(Ok(others), Err)
}

/// Publishes the messages of handlers, to clients and at the port; not while a client has too much pending.
pub(super) fn publish_for_handlers(router: &mut Router, port: &mut Option<Box<dyn Port>>) {
    let publications = std::mem::take(&mut router.server.requests.publications);
    for Publication { channel, payload, ticket } in publications {
        if router.server.is_pressed() {
            router.on_answer(ticket, Answer::Unavailable);
            continue;
        }
        let (channel, payload) = (channel.as_bytes(), payload.as_bytes());
        let deliver = |port: &mut Box<dyn Port>| port.deliver(&mut router.server, channel, payload);
        let others = port.as_mut().map_or(0, deliver);
        let result = publish_beside(router, others, channel, payload);
        let answer =
            result.map_or_else(Answer::Refused, |receivers| Answer::Integer(receivers as i64));
        router.on_answer(ticket, answer);
    }
}
