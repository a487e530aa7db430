//! Connections of an address to other processes of the same server, which count as those here do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::engine::slots::ConnId;

/// Addresses whose connections are counted over several processes, and their changes here.
pub struct AddressWatch {
    /// An address with this many connections here, or fewer, is told of only once it is watched.
    few: usize,
    /// The most connections elsewhere of an address that is not.
    unseen: usize,
    /// The connections elsewhere of each address that is watched.
    elsewhere: BTreeMap<IpAddr, usize>,
    /// Addresses whose number of connections has changed, and the connections that came since.
    changed: BTreeMap<IpAddr, Vec<ConnId>>,
}

/// A change of the number of connections of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressChange {
    pub address: IpAddr,
    /// Its connections here.
    pub count: usize,
    /// Connections that came since the last change, in their order. Some have gone again.
    pub came: Vec<ConnId>,
}

impl AddressWatch {
    /// A watch that tells of an address from more than a `few` connections on. Until it is watched it has up to `unseen` elsewhere.
    pub fn new(few: usize, unseen: usize) -> AddressWatch {
        AddressWatch { few, unseen, elsewhere: BTreeMap::new(), changed: BTreeMap::new() }
    }

    /// Returns the connections elsewhere, as many as there may be.
    pub fn elsewhere(&self, address: IpAddr) -> usize {
        self.elsewhere.get(&address).copied().unwrap_or(self.unseen)
    }

    /// Takes over the number of connections elsewhere; `None`: the address is watched no more. When its watch begins, its connections
    /// here are told of.
    pub fn set_elsewhere<I>(&mut self, address: IpAddr, count: Option<usize>, here: I)
    where
        I: Iterator<Item = ConnId>,
    {
        let Some(count) = count else {
            self.elsewhere.remove(&address);
            return;
        };
        if self.elsewhere.insert(address, count).is_none() {
            self.changed.insert(address, here.collect());
        }
    }

    /// Notes that an address has `count` connections now, of which one may have come.
    pub fn note(&mut self, address: IpAddr, count: usize, came: Option<ConnId>) {
        if count > self.few || self.elsewhere.contains_key(&address) {
            self.changed.entry(address).or_default().extend(came);
        }
    }

    pub fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes the changes. `count`: the connections of an address.
    pub fn take_changes(&mut self, count: impl Fn(IpAddr) -> usize) -> Vec<AddressChange> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let change = |(address, came)| AddressChange { address, count: count(address), came };
        changed.map(change).collect()
    }
}
