//! How many connections each address has, counted only where that is bounded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::slots::ConnId;

/// Connections of one address above its bound that are let in only to be told so properly.
const REFUSED_MAX: usize = 4;

/// Connections by address. With a bound of 0 it keeps nothing.
pub struct Addresses {
    /// `clients_per_address_max`; 0: off.
    max: usize,
    counts: HashMap<IpAddr, usize>,
    /// A socket that is gone no longer knows its peer: it is written down when it comes.
    of: HashMap<ConnId, IpAddr>,
}

impl Addresses {
    /// With this bound for each address.
    pub fn new(max: usize) -> Addresses {
        Addresses { max, counts: HashMap::new(), of: HashMap::new() }
    }

    /// A connection came, or one that came is from another address than it seemed.
    pub fn enter(&mut self, id: ConnId, address: IpAddr) {
        if self.max > 0 {
            self.leave(id);
            let address = network(address);
            *self.counts.entry(address).or_default() += 1;
            self.of.insert(id, address);
        }
    }

    /// Whether it is counted.
    pub fn has(&self, id: ConnId) -> bool {
        self.of.contains_key(&id)
    }

    /// Whether its address has more than it may.
    pub fn is_over(&self, id: ConnId) -> bool {
        let count = self.of.get(&id).and_then(|address| self.counts.get(address));
        count.is_some_and(|count| *count > self.max)
    }

    /// Whether its address has so many more that not even its answer is worth a slot. Only one that a proxy brings gets so far.
    pub fn is_of_crowd(&self, id: ConnId) -> bool {
        let count = self.of.get(&id).and_then(|address| self.counts.get(address));
        count.is_some_and(|count| *count > self.max + REFUSED_MAX)
    }

    /// Whether an address has so many more that nothing it sends is worth a slot: it could hold every handshake otherwise.
    pub fn is_crowded(&self, address: IpAddr) -> bool {
        let count = self.counts.get(&network(address)).copied().unwrap_or_default();
        self.max > 0 && count >= self.max + REFUSED_MAX
    }

    /// A connection is gone.
    pub fn leave(&mut self, id: ConnId) {
        let Some(address) = self.of.remove(&id) else { return };
        let count = self.counts.get_mut(&address).expect("whoever is written down is counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&address);
        }
    }
}

/// What counts as one address: of IPv6 the network of 64 bits that a subscriber is given whole (RFC 6177).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !(u64::MAX as u128)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_to_nothing() {
        let mut addresses = Addresses::new(1);
        let id = |index| ConnId { index, generation: 1 };
        addresses.enter(id(1), "::ffff:10.0.0.1".parse().unwrap());
        assert!(!addresses.is_over(id(1)));
        addresses.enter(id(2), "10.0.0.1".parse().unwrap());
        addresses.enter(id(3), "2001:db8::1".parse().unwrap());
        addresses.enter(id(4), "2001:db8::2:1".parse().unwrap());
        assert!(addresses.is_over(id(2)) && addresses.is_over(id(4)));
        addresses.enter(id(2), "10.0.0.2".parse().unwrap());
        assert!(!addresses.is_over(id(1)) && !addresses.is_over(id(2)));
        (1..=4).for_each(|index| addresses.leave(id(index)));
        addresses.leave(id(4));
        assert!(addresses.counts.is_empty() && addresses.of.is_empty());
    }
}
