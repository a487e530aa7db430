//! Clients that wait for Redis to subscribe to their topics.

use crate::engine::client::Client;
use crate::engine::resume::replay::ReplayStage;

impl Client {
    /// Returns whether nothing is read from the client, and nothing live is sent to it.
    pub fn is_held(&self) -> bool {
        let replay = self.flight.as_ref().and_then(|flight| flight.replay.as_ref());
        replay.is_some_and(|replay| replay.stage == ReplayStage::Held)
    }
}
