//! Which connections each address has, noted only where their number is bounded.

pub mod strangers;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use crate::engine::slots::ConnId;

/// Connections of one address above its bound that are let in only to be told so properly.
const REFUSED_MAX: usize = 4;

/// Connections by address. With a bound of 0 it keeps nothing.
pub struct Addresses {
    /// `clients_per_address_max`; 0: off.
    max: usize,
    members: HashMap<IpAddr, BTreeSet<ConnId>>,
    /// A socket that is gone no longer knows its peer: it is written down when it comes.
    of: HashMap<ConnId, IpAddr>,
}

impl Addresses {
    /// With this bound for each address.
    pub fn new(max: usize) -> Addresses {
        Addresses { max, members: HashMap::new(), of: HashMap::new() }
    }

    /// A connection came, or one that came is from another address than it seemed.
    pub fn enter(&mut self, id: ConnId, address: IpAddr) {
        if self.max > 0 {
            self.leave(id);
            let address = network(address);
            self.members.entry(address).or_default().insert(id);
            self.of.insert(id, address);
        }
    }

    /// Whether it is counted.
    pub fn has(&self, id: ConnId) -> bool {
        self.of.contains_key(&id)
    }

    /// Whether its address has more than it may.
    pub fn is_over(&self, id: ConnId) -> bool {
        self.beside(id).is_some_and(|members| members.len() > self.max)
    }

    /// The connections of the address of one, with itself.
    pub fn beside(&self, id: ConnId) -> Option<&BTreeSet<ConnId>> {
        self.members.get(self.of.get(&id)?)
    }

    /// Whether its address has so many more that not even its answer is worth a slot. Only one that a proxy brings gets so far.
    pub fn is_of_crowd(&self, id: ConnId) -> bool {
        self.beside(id).is_some_and(|members| members.len() > self.max + REFUSED_MAX)
    }

    /// Whether an address has so many more that nothing it sends is worth a slot: it could hold every handshake otherwise.
    pub fn is_crowded(&self, address: IpAddr) -> bool {
        let count = self.members.get(&network(address)).map_or(0, BTreeSet::len);
        self.max > 0 && count >= self.max + REFUSED_MAX
    }

    /// A connection is gone.
    pub fn leave(&mut self, id: ConnId) {
        let Some(address) = self.of.remove(&id) else { return };
        let members = self.members.get_mut(&address).expect("a noted address has members");
        members.remove(&id);
        if members.is_empty() {
            self.members.remove(&address);
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
        assert!(addresses.members.is_empty() && addresses.of.is_empty());
    }
}
