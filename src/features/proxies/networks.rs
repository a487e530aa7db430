//! The proxies in front, by the networks that they connect from: whose word on the address of a client is believed.

use std::net::IpAddr;

use super::value::quote;

/// A list of networks; empty: nobody's word is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<Network>);

/// The addresses that begin with the same bits. IPv4 is a part of IPv6 here, `::ffff:0:0/96`, so that an address is the same
/// however a socket writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    bits: u128,
    /// Those that count.
    mask: u128,
}

impl Proxies {
    /// Each connection is compared with all of them.
    pub const MAX: usize = 256;

    /// From `10.0.0.1`, `10.0.0.0/8`, `2001:db8::/32`.
    ///
    /// # Errors
    /// What is none of these, as a sentence for the operator.
    pub fn new(words: &[String]) -> Result<Proxies, String> {
        if words.len() > Proxies::MAX {
            return Err(format!("{} are named; allowed: {}", words.len(), Proxies::MAX));
        }
        let network = |word: &String| {
            network(word).ok_or_else(|| format!("{} is not like 10.0.0.0/8", quote(word)))
        };
        words.iter().map(network).collect::<Result<_, _>>().map(Proxies)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is the address of one.
    pub fn has(&self, address: IpAddr) -> bool {
        let bits = bits(address);
        self.0.iter().any(|network| bits & network.mask == network.bits)
    }
}

/// One with bits beyond its length is a slip: `10.0.0.1/8` may have been meant as one address.
fn network(word: &str) -> Option<Network> {
    let (address, length) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length: u32 = length.map_or(Ok(most), str::parse).ok().filter(|length| *length <= most)?;
    let mask = u128::MAX.checked_shl(most - length).unwrap_or(0);
    let bits = bits(address);
    (bits & !mask == 0).then_some(Network { bits, mask })
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

    fn proxies(words: &[&str]) -> Result<Proxies, String> {
        Proxies::new(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

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
            let proxies = proxies(&[word]).expect(word);
            assert!(!proxies.is_empty());
            for address in inside {
                assert!(proxies.has(address.parse().unwrap()), "{word} {address}");
            }
            for address in outside {
                assert!(!proxies.has(address.parse().unwrap()), "{word} {address}");
            }
        }
        let two = proxies(&["10.0.0.1", "::1"]).unwrap();
        assert!(two.has("::1".parse().unwrap()) && two.has("10.0.0.1".parse().unwrap()));
        assert!(!Proxies::default().has("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let wrong = ["", "a", "10.0.0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/a"];
        for word in wrong.into_iter().chain(["::1/129", "2001:db8::1/32", "10.0.0.0/8/8", "[::1]"])
        {
            let why = proxies(&["10.0.0.1", word]).unwrap_err();
            assert!(why.ends_with("is not like 10.0.0.0/8"), "{word}: {why}");
        }
        assert!(proxies(&vec!["::1"; Proxies::MAX]).is_ok());
        assert!(proxies(&vec!["::1"; Proxies::MAX + 1]).unwrap_err().contains("257 are named"));
    }
}
