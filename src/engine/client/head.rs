//! What a connection begins with: the head of a request, and before it what a proxy in front says of its client.

use std::net::IpAddr;

use crate::engine::client::ClientEvent;
use crate::engine::client::http;
use crate::engine::client::proxy_protocol::{self, Header};

/// What a head is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The longest request.
    pub bytes_max: usize,
    /// Whether the header of a proxy stands before it.
    pub is_proxied: bool,
}

/// Of which client a proxy has said that it comes, though its request is not whole yet.
pub(super) fn announced(input: &[u8]) -> Option<IpAddr> {
    match proxy_protocol::parse(input) {
        Header::Whole { address, .. } => address,
        Header::Partial | Header::Malformed => None,
    }
}

/// Whether a proxy speaks for itself and says nothing more (`LOCAL` of the PROXY protocol).
pub(super) fn is_probe(input: &[u8]) -> bool {
    let length = input.len();
    proxy_protocol::parse(input) == Header::Whole { address: None, length }
}

impl Head {
    /// Takes it off `input` once it is whole. Until then all of it stays there, so that nobody has to remember what a proxy said.
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
