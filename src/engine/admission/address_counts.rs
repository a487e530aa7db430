//! The number of connections per address, kept only if it is limited.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::address_watch::{AddressChange, AddressWatch};
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
    /// Connections to other processes, if there are such.
    watch: Option<AddressWatch>,
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
        AddressCounts { max, connections: HashMap::new(), addresses: HashMap::new(), watch: None }
    }

    /// Begins to count over several processes: see [`AddressWatch::new`].
    pub fn watch(&mut self, few: usize, unseen: usize) {
        let watch = self.watch.insert(AddressWatch::new(few, unseen));
        let counts = self.connections.iter();
        counts.for_each(|(address, connections)| watch.note(*address, connections.len(), None));
    }

    /// Returns whether there are changes to tell of.
    pub fn has_changes(&self) -> bool {
        self.watch.as_ref().is_some_and(AddressWatch::has_changes)
    }

    /// Takes the changes since the last call.
    pub fn take_changes(&mut self) -> Vec<AddressChange> {
        let AddressCounts { watch, connections, .. } = self;
        let count = |address| connections.get(&address).map_or(0, BTreeSet::len);
        watch.as_mut().map(|watch| watch.take_changes(count)).unwrap_or_default()
    }

    /// Takes over the number of an address's connections elsewhere: see [`AddressWatch::set_elsewhere`].
    pub fn set_elsewhere(&mut self, address: IpAddr, count: Option<usize>) {
        let here = || self.connections.get(&address).into_iter().flatten().copied();
        self.watch.iter_mut().for_each(|watch| watch.set_elsewhere(address, count, here()));
    }

    /// Counts a connection under an address, in place of the one that it was counted under before.
    pub fn enter(&mut self, id: ConnId, address: IpAddr) {
        if self.max > 0 {
            let address = network(address);
            if self.addresses.get(&id) == Some(&address) {
                return;
            }
            self.leave(id);
            let others = self.connections.entry(address).or_default();
            others.insert(id);
            self.addresses.insert(id, address);
            self.watch.iter_mut().for_each(|watch| watch.note(address, others.len(), Some(id)));
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
        let elsewhere = self.watch.as_ref().map_or(0, |watch| watch.elsewhere(network));
        self.connections.get(&network).map_or(0, BTreeSet::len) + elsewhere
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
        self.watch.iter_mut().for_each(|watch| watch.note(address, others.len(), None));
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

    #[test]
    fn connections_elsewhere_count_and_few_here_are_told_of_only_then() {
        let mut addresses = AddressCounts::new(4);
        let id = |index| ConnId { index, generation: 1 };
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        addresses.enter(id(1), one);
        addresses.watch(1, 1);
        assert!(!addresses.has_changes(), "one is few");
        addresses.enter(id(2), one);
        addresses.enter(id(3), other);
        let change = |address, count, came| AddressChange { address, count, came };
        assert_eq!(addresses.take_changes(), [change(one, 2, vec![id(2)])]);
        addresses.set_elsewhere(one, Some(2));
        addresses.set_elsewhere(other, Some(4));
        assert_eq!(addresses.load(id(2)), AddressLoad::Within);
        assert_eq!(addresses.load(id(3)), AddressLoad::Above);
        let expected = [change(one, 2, vec![id(1), id(2)]), change(other, 1, vec![id(3)])];
        assert_eq!(addresses.take_changes(), expected, "what was told before may be old");
        addresses.set_elsewhere(other, Some(3));
        addresses.leave(id(1));
        addresses.leave(id(2));
        assert_eq!(addresses.take_changes(), [change(one, 0, vec![])]);
        assert_eq!(addresses.load_with_another(one), AddressLoad::Within);
        assert_eq!(addresses.load(id(3)), AddressLoad::Within);
        addresses.set_elsewhere(one, None);
        addresses.enter(id(4), one);
        assert!(!addresses.has_changes(), "it is watched no more");
        (5..8).for_each(|index| addresses.enter(id(index), one));
        assert_eq!(addresses.load(id(7)), AddressLoad::Above, "there may be one elsewhere");
    }
}
