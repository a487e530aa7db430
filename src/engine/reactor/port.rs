//! The seam to a listener whose connections are not clients: a feature admits, reads and writes them.

use std::net::SocketAddr;

use mio::Registry;
use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::redis::request::Answer;
use crate::engine::router::Router;
use crate::engine::server::requests::Publication;

/// A feature's listener and its connections, called in fixed phases of a turn.
pub trait Port {
    /// Returns when one more connection can be admitted, or refused with an answer.
    fn room_at(&self, now: Millis) -> Millis;

    /// Admits a connection, or refuses it.
    fn admit(
        &mut self,
        router: &mut Router,
        registry: &Registry,
        stream: TcpStream,
        address: SocketAddr,
    );

    /// Notes an event of the connection with this number.
    fn on_ready(&mut self, number: usize, event: &Event);

    /// Reads connections, together about `bytes_max`, until a client is owed enough. Returns whether a client was owed enough
    /// already, so that no connection that waits was read.
    fn read(&mut self, router: &mut Router, buffer: &mut [u8], bytes_max: usize) -> bool;

    /// Publishes as one of its connections does. Returns the number of receivers.
    ///
    /// # Errors
    /// The reason why nobody can hear that channel.
    fn publish(
        &mut self,
        router: &mut Router,
        channel: &[u8],
        payload: &[u8],
    ) -> Result<usize, String>;

    /// Writes to connections, and ends those whose time is over.
    fn flush(&mut self, router: &mut Router);

    /// Frees the connections that have ended. Returns whether there were any.
    fn reap(&mut self, router: &mut Router) -> bool;

    /// Returns when the loop must turn again even if nothing happens: `now` if work is left.
    fn deadline(&self, now: Millis) -> Option<Millis>;

    /// Ends all connections after one write to each.
    fn close(&mut self, router: &mut Router);
}

/// Publishes to clients alone. Returns the number of clients.
///
/// # Errors
/// The reason why no client can hear that channel.
pub fn publish_to_clients(
    router: &mut Router,
    channel: &[u8],
    payload: &[u8],
) -> Result<usize, String> {
    let dropped = router.server.metrics().messages_malformed;
    let clients = router.publish(channel, payload);
    if router.server.metrics().messages_malformed == dropped {
        return Ok(clients);
    }
    // The reason is looked for only if the message was dropped.
    router.refusal_of(channel).map_or(Ok(0), Err)
}

/// Publishes the messages of handlers as if a back end had sent them; not while a client is owed enough.
pub(super) fn publish_for_handlers(router: &mut Router, port: &mut Option<Box<dyn Port>>) {
    for Publication { channel, payload, ticket } in router.server.take_publications() {
        let (channel, payload) = (channel.as_bytes(), payload.as_bytes());
        let result = match port {
            _ if router.server.is_pressed() => {
                router.on_answer(ticket, Answer::Unavailable);
                continue;
            }
            Some(port) => port.publish(router, channel, payload),
            None => publish_to_clients(router, channel, payload),
        };
        let answer =
            result.map_or_else(Answer::Refused, |receivers| Answer::Integer(receivers as i64));
        router.on_answer(ticket, answer);
    }
}
