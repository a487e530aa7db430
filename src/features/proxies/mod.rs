//! The trusted proxies: peers whose word on the address of a client is believed.

mod forwarded;
mod networks;

use std::net::IpAddr;

use crate::engine::client::http::Request;
use crate::engine::router::ProxyPolicy;
use networks::Network;

/// A list of networks that proxies connect from; empty: no peer is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<Network>);

impl Proxies {
    /// The longest list: every connection is compared with all of it.
    pub const MAX: usize = 256;

    /// Reads a list of addresses and networks.
    ///
    /// # Errors
    /// The first word that is neither.
    pub fn new(words: &[String]) -> Result<Proxies, &str> {
        let networks = words.iter().map(|word| Network::parse(word).ok_or(word.as_str()));
        networks.collect::<Result<_, _>>().map(Proxies)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.has(address))
    }
}

impl ProxyPolicy for Proxies {
    fn is_proxy(&self, peer: IpAddr) -> bool {
        self.has(peer)
    }

    fn client_address(&self, peer: IpAddr, request: &Request) -> Option<IpAddr> {
        forwarded::client_address(request, peer, self)
    }
}
