//! The start of a connection: an optional PROXY header and the request head.

use std::net::IpAddr;

use crate::engine::client::ClientEvent;
use crate::engine::client::http;
use crate::engine::client::proxy_protocol::{self, Header};

/// The expected form of a head.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The longest request head, in bytes.
    pub bytes_max: usize,
    /// Expect a PROXY header before it.
    pub is_proxied: bool,
}

/// The client address from a complete PROXY header, even if the request is still partial.
pub(super) fn announced(input: &[u8]) -> Option<IpAddr> {
    match proxy_protocol::parse(input) {
        Header::Whole { address, .. } => address,
        Header::Partial | Header::Malformed => None,
    }
}

/// Returns whether the input is a PROXY header without a client (`LOCAL`) and nothing more: a health check of the proxy.
pub(super) fn is_probe(input: &[u8]) -> bool {
    let length = input.len();
    proxy_protocol::parse(input) == Header::Whole { address: None, length }
}

impl Head {
    /// Takes a complete head off `input`. Until then all of it stays there, so that the PROXY header need not be kept elsewhere.
    pub(super) fn next(&self, input: &mut &[u8]) -> Option<ClientEvent> {
        let (address, start) = match self.is_proxied.then(|| proxy_protocol::parse(input)) {
            None => (None, 0),
            Some(Header::Whole { address, length }) => (address, length),
            Some(Header::Partial) => return None,
            Some(Header::Malformed) => return Some(ClientEvent::Unproxied),
        };
        match http::parse(&input[start..], self.bytes_max) {
            Ok(None) => None,
            Ok(Some((request, length))) => {
                *input = &input[start + length..];
                Some(ClientEvent::Request(request.from_address(address)))
            }
            Err(response) => Some(ClientEvent::Refused(response)),
        }
    }
}
