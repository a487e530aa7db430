//! The number of connections per address, kept only if it is limited.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::network;
use crate::engine::slots::ConnId;

/// Connections above the limit of an address that are admitted only to be refused with an answer.
const REFUSED_MAX: usize = 4;

/// Connections by address. With a limit of 0 nothing is kept.
pub struct AddressCounts {
    /// `clients_per_address_max`; 0: off.
    max: usize,
    connections: HashMap<IpAddr, BTreeSet<ConnId>>,
    /// The address under which each is counted: a closed socket no longer knows its peer.
    addresses: HashMap<ConnId, IpAddr>,
}

/// The connections of one address against its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressLoad {
    Within,
    /// Above the limit: a connection is refused with an answer.
    Above,
    /// So far above that not even an answer is worth a slot: the address could hold every handshake otherwise.
    FarAbove,
}

impl AddressCounts {
    pub fn new(max: usize) -> AddressCounts {
        AddressCounts { max, connections: HashMap::new(), addresses: HashMap::new() }
    }

    /// Counts a connection under an address, in place of the one that it was counted under before.
    pub fn enter(&mut self, id: ConnId, address: IpAddr) {
        if self.max > 0 {
            self.leave(id);
            let address = network(address);
            self.connections.entry(address).or_default().insert(id);
            self.addresses.insert(id, address);
        }
    }

    /// Returns the address under which a connection is counted.
    pub fn address(&self, id: ConnId) -> Option<IpAddr> {
        self.addresses.get(&id).copied()
    }

    /// Returns whether the connection is counted.
    pub fn has(&self, id: ConnId) -> bool {
        self.addresses.contains_key(&id)
    }

    /// Returns the connections of the address of this one, itself included.
    pub fn beside(&self, id: ConnId) -> impl Iterator<Item = ConnId> {
        let address = self.addresses.get(&id);
        address.and_then(|address| self.connections.get(address)).into_iter().flatten().copied()
    }

    /// Returns the load of the address of a connection that is counted.
    pub fn load(&self, id: ConnId) -> AddressLoad {
        let address = self.addresses.get(&id);
        address.map_or(AddressLoad::Within, |address| self.load_at(self.len(*address)))
    }

    /// Returns the load of an address if one more connection comes from there.
    pub fn load_with_another(&self, address: IpAddr) -> AddressLoad {
        self.load_at(self.len(network(address)) + 1)
    }

    fn len(&self, network: IpAddr) -> usize {
        self.connections.get(&network).map_or(0, BTreeSet::len)
    }

    fn load_at(&self, count: usize) -> AddressLoad {
        match count {
            _ if self.max == 0 || count <= self.max => AddressLoad::Within,
            _ if count <= self.max + REFUSED_MAX => AddressLoad::Above,
            _ => AddressLoad::FarAbove,
        }
    }

    /// Forgets a connection that is gone.
    pub fn leave(&mut self, id: ConnId) {
        let Some(address) = self.addresses.remove(&id) else { return };
        let others = self.connections.get_mut(&address).expect("a counted address has connections");
        others.remove(&id);
        if others.is_empty() {
            self.connections.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_to_nothing() {
        let mut addresses = AddressCounts::new(1);
        let id = |index| ConnId { index, generation: 1 };
        addresses.enter(id(1), "::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(addresses.load(id(1)), AddressLoad::Within);
        addresses.enter(id(2), "10.0.0.1".parse().unwrap());
        addresses.enter(id(3), "2001:db8::1".parse().unwrap());
        addresses.enter(id(4), "2001:db8::2:1".parse().unwrap());
        assert_eq!([2, 4].map(|index| addresses.load(id(index))), [AddressLoad::Above; 2]);
        let first = "10.0.0.1".parse().unwrap();
        assert_eq!(addresses.load_with_another(first), AddressLoad::Above);
        (5..8).for_each(|index| addresses.enter(id(index), first));
        assert_eq!(addresses.load(id(7)), AddressLoad::Above);
        assert_eq!(addresses.load_with_another(first), AddressLoad::FarAbove);
        (5..8).for_each(|index| addresses.leave(id(index)));
        addresses.enter(id(2), "10.0.0.2".parse().unwrap());
        assert_eq!([1, 2].map(|index| addresses.load(id(index))), [AddressLoad::Within; 2]);
        (1..=4).for_each(|index| addresses.leave(id(index)));
        addresses.leave(id(4));
        assert!(addresses.connections.is_empty() && addresses.addresses.is_empty());
    }
}
