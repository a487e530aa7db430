//! The reference design: the loop, the client connection, topics and fan-out, the connections to Redis, and the seam to
//! handlers. It knows no token, no JSON and no settings file.

pub mod admission;
pub mod bounds;
pub mod client;
pub mod demand;
pub mod feature;
pub mod handler;
pub mod origin;
pub mod pending_writes;
pub mod pubsub;
#[cfg(test)]
pub(crate) mod random;
pub mod reactor;
pub mod redis;
pub mod resume;
pub mod router;
pub mod server;
pub mod signals;
pub mod slots;
pub mod timers;
pub mod tls;
