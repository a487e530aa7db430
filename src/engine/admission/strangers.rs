//! Strangers: connections that have yet to show their purpose, and make room for others where places are scarce.
//!
//! A place that is taken by saying nothing costs an attacker one TCP handshake, so it is lent, not given: once all places are
//! taken, the oldest silent connection of the address that has most of them goes. A client that speaks as soon as it is
//! connected is never that one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::network;
use crate::clock::Millis;

/// Milliseconds for which a newcomer may be silent while more strangers have spoken in vain: a round trip and more.
const GRACE: Millis = 1000;

/// Connections of one kind, each from its arrival until it has shown its purpose.
pub struct Strangers<I> {
    strangers: HashMap<I, Stranger>,
    /// The number of arrivals so far.
    count: u64,
    silent: StrangersByAddress<I>,
    spoken: StrangersByAddress<I>,
}

#[derive(Clone, Copy)]
struct Stranger {
    address: IpAddr,
    arrival: Arrival,
    has_spoken: bool,
}

/// The time of an arrival, and its number.
type Arrival = (Millis, u64);

impl<I: Copy> Default for Strangers<I> {
    fn default() -> Self {
        Strangers {
            strangers: HashMap::new(),
            count: 0,
            silent: StrangersByAddress::new(),
            spoken: StrangersByAddress::new(),
        }
    }
}

impl<I: Copy + Eq + Hash> Strangers<I> {
    pub fn len(&self) -> usize {
        self.strangers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.strangers.is_empty()
    }

    /// Returns the address of a stranger.
    pub fn address(&self, id: I) -> Option<IpAddr> {
        self.strangers.get(&id).map(|stranger| stranger.address)
    }

    /// Returns the address of a stranger, when it came, and whether it has spoken.
    pub fn find(&self, id: I) -> Option<(IpAddr, Millis, bool)> {
        let found = self.strangers.get(&id);
        found.map(|stranger| (stranger.address, stranger.arrival.0, stranger.has_spoken))
    }

    /// Takes in a connection that came at `now`.
    pub fn enter(&mut self, id: I, address: IpAddr, now: Millis) {
        self.count += 1;
        let arrival = (now, self.count);
        self.put(id, Stranger { address, arrival, has_spoken: false });
    }

    /// Moves a stranger to the address that its proxy gives.
    pub fn locate(&mut self, id: I, address: IpAddr) {
        if let Some(stranger) = self.strangers.get(&id).copied() {
            self.put(id, Stranger { address, ..stranger });
        }
    }

    /// Records that a stranger has sent something: silent ones make room before it.
    pub fn speak(&mut self, id: I) {
        if let Some(stranger) = self.strangers.get(&id).copied().filter(|one| !one.has_spoken) {
            self.put(id, Stranger { has_spoken: true, ..stranger });
        }
    }

    /// Forgets a connection that is gone, or no longer a stranger.
    pub fn leave(&mut self, id: I) {
        if let Some(stranger) = self.strangers.remove(&id) {
            self.group(&stranger).change(&stranger, |same| _ = same.remove(&stranger.arrival));
        }
    }

    /// Returns the stranger that makes room: the oldest silent one of the address with most of them, else the oldest of the
    /// address with most of the others. If most strangers have spoken in vain, those go before a newcomer: a single byte would
    /// save them at the cost of every newcomer. A connection that came at `now` could not speak yet and stays.
    pub fn first(&self, now: Millis) -> Option<I> {
        let (silent, spoken) = (self.silent.first(), self.spoken.first());
        let most_have_spoken = self.spoken.len > self.silent.len;
        let is_new = silent.is_some_and(|(since, _)| now < since + GRACE);
        let first = if most_have_spoken && is_new { spoken } else { silent.or(spoken) };
        first.filter(|(since, _)| *since < now).map(|(_, id)| id)
    }

    fn put(&mut self, id: I, stranger: Stranger) {
        self.leave(id);
        self.strangers.insert(id, stranger);
        self.group(&stranger).change(&stranger, |same| _ = same.insert(stranger.arrival, id));
    }

    fn group(&mut self, stranger: &Stranger) -> &mut StrangersByAddress<I> {
        if stranger.has_spoken { &mut self.spoken } else { &mut self.silent }
    }
}

/// Strangers by address, and the addresses in the order in which they make room.
struct StrangersByAddress<I> {
    members: HashMap<IpAddr, BTreeMap<Arrival, I>>,
    order: BTreeMap<Rank, IpAddr>,
    len: usize,
}

/// The number of strangers of an address, and the arrival of its oldest.
type Rank = (usize, Reverse<Arrival>);

impl<I: Copy> StrangersByAddress<I> {
    fn new() -> StrangersByAddress<I> {
        StrangersByAddress { members: HashMap::new(), order: BTreeMap::new(), len: 0 }
    }

    fn change(&mut self, stranger: &Stranger, change: impl FnOnce(&mut BTreeMap<Arrival, I>)) {
        let network = network(stranger.address);
        let members = self.members.entry(network).or_default();
        if let Some(rank) = rank(members) {
            self.order.remove(&rank);
        }
        self.len -= members.len();
        change(members);
        self.len += members.len();
        match rank(members) {
            Some(rank) => _ = self.order.insert(rank, network),
            None => _ = self.members.remove(&network),
        }
    }

    fn first(&self) -> Option<(Millis, I)> {
        let (_, network) = self.order.last_key_value()?;
        let ((since, _), id) = self.members[network].first_key_value()?;
        Some((*since, *id))
    }
}

fn rank<I>(members: &BTreeMap<Arrival, I>) -> Option<Rank> {
    let (first, _) = members.first_key_value()?;
    Some((members.len(), Reverse(*first)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn the_oldest_silent_stranger_of_the_largest_address_makes_room() {
        let mut strangers = Strangers::default();
        strangers.enter(1, address(1), 0);
        for id in 2..5 {
            strangers.enter(id, address(2), id);
        }
        assert_eq!(strangers.first(10), Some(2), "the one of the other address is older");
        strangers.speak(2);
        assert_eq!(strangers.first(10), Some(3));
        strangers.leave(3);
        strangers.leave(4);
        assert_eq!(strangers.first(10), Some(1), "a silent one goes first");
        strangers.leave(1);
        assert_eq!(strangers.first(10), Some(2));
        strangers.leave(2);
        assert_eq!((strangers.first(10), strangers.is_empty()), (None, true));
    }

    #[test]
    fn one_byte_does_not_save_a_stranger_from_newcomers() {
        let mut strangers = Strangers::default();
        for id in 1..4 {
            strangers.enter(id, address(1), id);
            strangers.speak(id);
        }
        strangers.enter(4, address(1), 4);
        assert_eq!((strangers.first(10), strangers.first(4 + GRACE)), (Some(1), Some(4)));
        strangers.leave(1);
        strangers.leave(2);
        assert_eq!(strangers.first(10), Some(4), "as many have said nothing");
    }

    #[test]
    fn a_stranger_that_came_just_now_stays() {
        let mut strangers = Strangers::default();
        strangers.enter(1, address(1), 7);
        assert_eq!((strangers.first(7), strangers.first(8)), (None, Some(1)));
    }

    #[test]
    fn a_network_of_64_bits_counts_as_one_address() {
        let mut strangers = Strangers::default();
        strangers.enter(1, "2001:db8::1".parse().unwrap(), 0);
        strangers.enter(2, "2001:db8:0:1::1".parse().unwrap(), 1);
        strangers.enter(3, "2001:db8:0:1::2".parse().unwrap(), 2);
        assert_eq!(strangers.first(10), Some(2));
        strangers.locate(2, address(1));
        assert_eq!(strangers.first(10), Some(1), "each network has one now");
    }

    #[test]
    fn the_choice_is_that_of_a_plain_search() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut strangers = Strangers::default();
            let mut model: Vec<(u32, u8, usize, bool)> = Vec::new();
            for step in 0..200 {
                let id = random.below(40) as u32;
                let from = random.below(5) as u8;
                let known = model.iter().position(|one| one.0 == id);
                match (random.below(4), known) {
                    (0, Some(at)) => {
                        strangers.leave(id);
                        model.remove(at);
                    }
                    (1, Some(at)) => {
                        strangers.speak(id);
                        model[at].3 = true;
                    }
                    (2, Some(at)) => {
                        strangers.locate(id, address(from));
                        model[at].1 = from;
                    }
                    (_, None) => {
                        // Several in one turn.
                        strangers.enter(id, address(from), step as Millis / 8);
                        model.push((id, from, step, false));
                    }
                    _ => {}
                }
                let choose = |spoken: bool| {
                    let of =
                        |from| model.iter().filter(move |one| one.1 == from && one.3 == spoken);
                    let largest = (0..5).filter_map(|from| {
                        let oldest = of(from).map(|one| (one.2, one.0)).min()?;
                        Some((of(from).count(), Reverse(oldest)))
                    });
                    largest.max().map(|(_, Reverse((_, id)))| id)
                };
                let expected = choose(false).or_else(|| choose(true));
                assert_eq!(strangers.first(100_000), expected, "seed {seed}");
                assert_eq!(strangers.len(), model.len(), "seed {seed}");
            }
        }
    }
}
