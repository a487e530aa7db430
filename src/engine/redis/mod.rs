//! Our connections to Redis, without I/O: bytes and time are arguments, so a test drives every path byte by byte.
//!
//! `subscriber` is the subscription, `command_connection` executes commands; both frame RESP with `resp` and share `session`.

pub mod advice;
pub mod cluster;
pub(crate) mod cluster_url;
pub mod command_connection;
pub mod config;
pub(crate) mod entries;
pub(crate) mod failure;
pub(crate) mod far_end;
pub(crate) mod garbage;
pub mod glob;
pub(crate) mod handshake;
pub mod place;
pub(crate) mod printable;
pub mod probe;
pub(crate) mod reply_parser;
pub mod request;
pub(crate) mod resp;
pub(crate) mod scanner;
pub mod sentinel;
pub mod sentinel_reply;
pub mod session;
pub mod sink;
pub(crate) mod stream_info;
pub mod subscriber;
pub mod tls;
pub mod url;
#[cfg(test)]
pub(crate) mod values;
