//! The record layer and the handshake against rustls' own clients and servers, in memory.

mod clients;
mod differential;
mod forger;
mod handshakes;
pub(in crate::engine) mod peers;
mod vectors;
