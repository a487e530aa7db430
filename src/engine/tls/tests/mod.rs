//! The record layer and the handshake against rustls' own clients and servers, in memory.

mod clients;
pub(in crate::engine) mod peers;
