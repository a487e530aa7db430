//! Several loops that are one server from outside: a parent process has everything but the clients, and each worker process serves
//! its share of them.
//!
//! The parent records what comes from Redis and from publishers, and hands it to all workers in one order over a [`link`] to each.
//! Every worker records the same under the same numbers, so a cursor is good at any of them. A new worker is given the parent's state
//! first. The parent keeps copies of all listeners, so that the queue of a worker that dies waits for its successor.

pub mod broker;
mod counts;
pub mod deliveries;
pub mod desk;
mod exchange;
pub mod forwarding;
pub mod hello;
mod inputs;
mod kinds;
pub mod limits;
pub mod link;
mod members;
pub mod process;
mod publications;
pub mod roster;
#[cfg(test)]
mod simulation;
mod socket;
mod state;
#[cfg(test)]
mod tests;
pub mod worker;

use std::any::Any;

use crate::engine::feature::Feature;
use crate::engine::router::Router;
pub use crate::upgrade::descriptors;

/// The notes that a worker takes for its parent, if they are among its features.
fn notes_of<Notes: Feature>(router: &mut Router) -> Option<&mut Notes> {
    router.features.iter_mut().find_map(|one| (one.as_mut() as &mut dyn Any).downcast_mut())
}

/// The same, to be looked at.
fn notes_in<Notes: Feature>(router: &Router) -> Option<&Notes> {
    router.features.iter().find_map(|one| (one.as_ref() as &dyn Any).downcast_ref())
}
