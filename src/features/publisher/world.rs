//! The seam between the protocol of a publisher and all that its commands touch.

use crate::engine::router::sources::Receivers;
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::settings::Moment;

/// Everything that commands touch outside their connection.
pub trait World {
    /// Delivers a message to clients and to subscribers at the port. Returns the number of receivers.
    ///
    /// # Errors
    /// The reply to the publisher if nobody can receive from that channel.
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<Receivers, String>;

    /// Returns whether a client has so much pending that nothing more may be published in this turn.
    fn is_pressed(&self) -> bool;

    fn exchange(&mut self) -> &mut Exchange;

    fn moment(&self) -> Moment;
}
