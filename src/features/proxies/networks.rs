//! Networks of addresses, as an operator writes them.

use std::net::IpAddr;

/// The addresses that begin with the same bits. IPv4 is a part of IPv6 here, `::ffff:0:0/96`, so that an address is the same
/// however a socket writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    mask: u128,
}

impl Network {
    /// Reads `10.0.0.1`, `10.0.0.0/8` or `2001:db8::/32`. Bits beyond the length are a slip: `10.0.0.1/8` may have been meant
    /// as one address.
    pub fn parse(word: &str) -> Option<Network> {
        let (address, length) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Ok(most), str::parse::<u32>).ok()?;
        let mask = u128::MAX.checked_shl(most.checked_sub(length)?).unwrap_or(0);
        let bits = bits(address);
        (bits & !mask == 0).then_some(Network { bits, mask })
    }

    pub fn has(&self, address: IpAddr) -> bool {
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
}
