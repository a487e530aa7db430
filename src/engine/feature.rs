//! The seam between the engine and what is added to it.

use crate::clock::Millis;
use crate::engine::server::Server;

/// A capability that the engine can do without: a folder in `src/features` that owns its state and is told of events.
///
/// Every hook has an empty default. Features act through the verbs of [`Server`], which only queue, and are called in the order
/// in which they were added. A feature that is off is not added, so it costs nothing.
pub trait Feature {
    /// Called once in each turn, between dispatch and flush. Returns when the loop must turn again even if nothing happens.
    fn on_tick(&mut self, _server: &mut Server) -> Option<Millis> {
        None
    }
}
