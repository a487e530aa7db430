//! The publishers' port: back ends connect to us and speak RESP, as they would to a Redis.

mod catalog;
pub mod connection;
pub mod exchange;
mod facts;
mod inline;
mod port;
mod session;
mod socket;
mod terms;

pub use connection::Terms;
pub use port::PublisherPort;
pub use terms::PublisherBounds;
