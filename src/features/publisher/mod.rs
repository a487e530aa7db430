//! The publishers' port: back ends connect to us and speak RESP, as they would to a Redis, or HTTP.

mod catalog;
pub mod connection;
pub mod exchange;
mod facts;
mod http;
mod http_head;
mod input;
mod output;
mod port;
mod reply;
mod script;
mod session;
mod settings;
mod socket;
mod transaction;
mod uncounted;
mod world;

pub use port::PublisherPort;
pub use session::Peer;
pub use settings::{Moment, PublisherBounds, Terms};
