//! Connections that have not shown yet what they came for: who makes room where places are scarce.
//!
//! A place that is taken by saying nothing costs an attacker one handshake of TCP, so it is lent, not given: once all places are
//! taken, the oldest silent connection of the address that has most of them goes. A client that speaks as soon as it is
//! connected never is that one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use super::network;
use crate::clock::Millis;

/// How long a newcomer may be silent while there are more who have spoken and got nowhere: a round trip and more.
const GRACE: Millis = 1000;

/// Connections of one kind, each from its arrival until it has shown what it came for.
pub struct Strangers<I> {
    places: HashMap<I, Place>,
    /// How many have come.
    count: u64,
    silent: Crowds<I>,
    spoken: Crowds<I>,
}

#[derive(Clone, Copy)]
struct Place {
    address: IpAddr,
    arrival: Arrival,
    has_spoken: bool,
}

/// When one came, and as which.
type Arrival = (Millis, u64);

impl<I> Default for Strangers<I> {
    fn default() -> Self {
        Strangers {
            places: HashMap::new(),
            count: 0,
            silent: Crowds { members: HashMap::new(), order: BTreeMap::new(), len: 0 },
            spoken: Crowds { members: HashMap::new(), order: BTreeMap::new(), len: 0 },
        }
    }
}

impl<I: Copy + Eq + Hash> Strangers<I> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Where a stranger comes from.
    pub fn address(&self, id: I) -> Option<IpAddr> {
        self.places.get(&id).map(|place| place.address)
    }

    /// Takes in a connection that came at `now`.
    pub fn enter(&mut self, id: I, address: IpAddr, now: Millis) {
        self.count += 1;
        let arrival = (now, self.count);
        self.put(id, Place { address, arrival, has_spoken: false });
    }

    /// Moves a stranger to the address that a proxy tells for it.
    pub fn locate(&mut self, id: I, address: IpAddr) {
        if let Some(place) = self.places.get(&id).copied() {
            self.put(id, Place { address, ..place });
        }
    }

    /// A stranger has sent something: the silent ones make room before it.
    pub fn speak(&mut self, id: I) {
        if let Some(place) = self.places.get(&id).copied().filter(|place| !place.has_spoken) {
            self.put(id, Place { has_spoken: true, ..place });
        }
    }

    /// A connection is gone, or a stranger no more.
    pub fn leave(&mut self, id: I) {
        if let Some(place) = self.places.remove(&id) {
            self.crowds(&place).change(&place, |members| _ = members.remove(&place.arrival));
        }
    }

    /// Returns the one that makes room: the oldest that has said nothing, of the address that has most such, else the oldest of
    /// the address with most of the others. Where most have spoken and got nowhere, those go before one that came just now: a
    /// single byte would save them at the cost of every newcomer. One that came at `now` could not speak yet and stays.
    pub fn first(&self, now: Millis) -> Option<I> {
        let (silent, spoken) = (self.silent.first(), self.spoken.first());
        let most_have_spoken = self.spoken.len > self.silent.len;
        let is_new = silent.is_some_and(|(since, _)| now < since + GRACE);
        let first = if most_have_spoken && is_new { spoken } else { silent.or(spoken) };
        first.filter(|(since, _)| *since < now).map(|(_, id)| id)
    }

    fn put(&mut self, id: I, place: Place) {
        self.leave(id);
        self.places.insert(id, place);
        self.crowds(&place).change(&place, |members| _ = members.insert(place.arrival, id));
    }

    fn crowds(&mut self, place: &Place) -> &mut Crowds<I> {
        if place.has_spoken { &mut self.spoken } else { &mut self.silent }
    }
}

/// Strangers by address, and the addresses in the order in which they make room.
struct Crowds<I> {
    members: HashMap<IpAddr, BTreeMap<Arrival, I>>,
    order: BTreeMap<Rank, IpAddr>,
    /// How many there are.
    len: usize,
}

/// How many an address has, and the arrival of its oldest.
type Rank = (usize, Reverse<Arrival>);

impl<I: Copy> Crowds<I> {
    fn change(&mut self, place: &Place, change: impl FnOnce(&mut BTreeMap<Arrival, I>)) {
        let network = network(place.address);
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
    fn the_oldest_silent_one_of_the_largest_crowd_makes_room() {
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
        assert_eq!(strangers.first(10), Some(1), "who has said nothing goes first");
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
    fn one_that_came_just_now_stays() {
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
                    let crowds = (0..5).filter_map(|from| {
                        let oldest = of(from).map(|one| (one.2, one.0)).min()?;
                        Some((of(from).count(), Reverse(oldest)))
                    });
                    crowds.max().map(|(_, Reverse((_, id)))| id)
                };
                let expected = choose(false).or_else(|| choose(true));
                assert_eq!(strangers.first(100_000), expected, "seed {seed}");
                assert_eq!(strangers.len(), model.len(), "seed {seed}");
            }
        }
    }
}
