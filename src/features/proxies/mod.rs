//! The trusted proxies: peers that are believed about the address of a client.

use std::net::{IpAddr, SocketAddr};

use crate::engine::client::http::Request;
use crate::engine::router::ProxyPolicy;

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

    /// Reads `X-Forwarded-For`. Each proxy appends its peer's address to the list (several lines are one list, RFC 9110 section
    /// 5.3), so the list is read from its end while the sender is trusted: an entry that a client writes itself stands before its
    /// own address, and is not read. Returns `None` if a trusted entry is no address.
    fn client_address(&self, peer: IpAddr, request: &Request) -> Option<IpAddr> {
        let mut address = peer;
        for entry in request.list_from_end("x-forwarded-for") {
            if !self.has(address) {
                break;
            }
            address = parse(entry)?;
        }
        Some(address)
    }
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, or `[2001:db8::1]:80`.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().or_else(|_| with_port()).ok()
}

/// The addresses that begin with the same bits. IPv4 is a part of IPv6 here, `::ffff:0:0/96`, so that an address is the same
/// however a socket writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    /// Reads `10.0.0.1`, `10.0.0.0/8` or `2001:db8::/32`. Bits beyond the length are a slip: `10.0.0.1/8` may have been meant
    /// as one address.
    fn parse(word: &str) -> Option<Network> {
        let (address, length) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse::<u32>).ok()?;
        let mask = u128::MAX.checked_shl(most.checked_sub(length)?).unwrap_or(0);
        let bits = bits(address);
        (bits & !mask == 0).then_some(Network { bits, mask })
    }

    fn has(&self, address: IpAddr) -> bool {
        bits(address) & self.mask == self.bits
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;

    #[test]
    fn a_network_has_its_first_and_last_address_and_no_other() {
        for (word, inside, outside) in [
            (
                "10.0.0.1",
                &["10.0.0.1", "::ffff:10.0.0.1"][..],
                &["10.0.0.0", "10.0.0.2", "::a00:1"],
            ),
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.255.255", "::ffff:10.1.1.1"],
                &["9.255.255.255", "11.0.0.0", "::1"],
            ),
            (
                "::ffff:10.0.0.0/104",
                &["10.0.0.0", "10.255.255.255"],
                &["9.255.255.255", "11.0.0.0", "::1"],
            ),
            ("10.1.2.4/31", &["10.1.2.4", "10.1.2.5"], &["10.1.2.3", "10.1.2.6", "2001:db8::1"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1", "2001:db8::1"]),
            ("::1", &["::1"], &["::", "::2", "127.0.0.1"]),
            (
                "2001:db8::/32",
                &["2001:db8::", "2001:db8:ffff::1"],
                &["2001:db7::", "2001:db9::", "32.1.13.184"],
            ),
        ] {
            let network = Network::parse(word).expect(word);
            for address in inside {
                assert!(network.has(address.parse().unwrap()), "{word} {address}");
            }
            for address in outside {
                assert!(!network.has(address.parse().unwrap()), "{word} {address}");
            }
        }
    }

    #[test]
    fn a_word_that_is_no_network_is_refused() {
        let wrong = ["", "a", "10.0.0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/a"];
        for word in wrong.into_iter().chain(["::1/129", "2001:db8::1/32", "10.0.0.0/8/8", "[::1]"])
        {
            assert_eq!(Network::parse(word), None, "{word}");
        }
    }

    fn client(source: &str, lines: &[&[u8]]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "2001:db8::1"].map(str::to_owned);
        let proxies = Proxies::new(&proxies).expect("two networks");
        let mut head = b"GET / HTTP/1.1\r\nHost: h\r\n".to_vec();
        for line in lines {
            head.extend([b"X-Forwarded-For: ", *line, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let request = http::parse(&head, 8192).unwrap().unwrap().0;
        let address = proxies.client_address(source.parse().unwrap(), &request)?;
        Some(request.from_address(Some(address)).address().to_string())
    }

    #[test]
    fn the_last_address_that_is_not_a_proxys_is_the_clients() {
        for (source, lines, found) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("::ffff:10.0.0.1", &["192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1", "192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", &["1.1.1.1,192.0.2.7\t,10.0.0.2", "10.0.0.3,, "], "192.0.2.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7"),
            ("10.0.0.1", &["[2001:db8::7]"], "2001:db8::7"),
            ("10.0.0.1", &["2001:db8::7, 2001:db8::1"], "2001:db8::7"),
            ("10.0.0.1", &["::ffff:192.0.2.7"], "192.0.2.7"),
            ("2001:db8::1", &["192.0.2.7"], "192.0.2.7"),
            // Anything before the client's own address is the client's word.
            ("10.0.0.1", &["unknown, \u{e9}, 192.0.2.7"], "192.0.2.7"),
            // Nobody else can choose an address.
            ("192.0.2.9", &["192.0.2.7"], "192.0.2.9"),
            ("192.0.2.9", &["unknown"], "192.0.2.9"),
            ("2001:db8::2", &["10.0.0.1"], "2001:db8::2"),
        ] {
            let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(client(source, &lines).as_deref(), Some(found), "{source} {lines:?}");
        }
    }

    #[test]
    fn a_word_of_a_proxy_that_is_no_address_is_noticed() {
        for lines in [
            &[&b"unknown"[..]][..],
            &[b"192.0.2.7, 192.0.2"],
            &[b"192.0.2.7", b"_hidden"],
            &[b"192.0.2.7, \xff, 10.0.0.2"],
            &[b"192.0.2.7:80:80"],
            &[b"[2001:db8::7"],
            &[b"2001:db8::7]"],
            &[b"192.0.2.7 192.0.2.8"],
            &[b"for=192.0.2.7"],
        ] {
            assert_eq!(client("10.0.0.1", lines), None, "{lines:?}");
        }
    }
}
