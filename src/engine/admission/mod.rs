//! Admission: connections per address, newcomers that make room for others, and passwords.

pub mod address_counts;
pub mod address_watch;
pub mod password;
pub mod strangers;

use std::net::{IpAddr, Ipv6Addr};

/// Returns the part of an address that counts as one: of IPv6 the network of 64 bits that a subscriber of a provider gets
/// whole (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u64::MAX as u128)))
        }
        address => address,
    }
}
