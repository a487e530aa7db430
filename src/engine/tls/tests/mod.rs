//! The record layer and the handshake against rustls' own clients and servers, in memory.

mod clients;
mod peers;
