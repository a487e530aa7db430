//! The number of clients of each user at each worker.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// Clients by user and worker. A user counts under 64 bits that nobody outside can foresee, so of ten million users two meet with a
/// chance of 1 to 370,000; an entry takes 30 to 40 bytes.
#[derive(Default)]
pub struct UserTally {
    hashes: RandomState,
    counts: BTreeMap<(u64, u8), u32>,
}

impl UserTally {
    /// Counts a client.
    pub fn add(&mut self, user: &str, worker: usize) {
        let key = self.key(user, worker);
        *self.counts.entry(key).or_default() += 1;
    }

    /// Counts a client no more.
    pub fn remove(&mut self, user: &str, worker: usize) {
        let key = self.key(user, worker);
        let Some(count) = self.counts.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
        }
    }

    /// The workers at which a user has clients, with the number of them.
    pub fn of(&self, user: &str) -> impl Iterator<Item = (usize, usize)> {
        let hash = self.hashes.hash_one(user);
        let found = self.counts.range((hash, 0)..=(hash, u8::MAX));
        found.map(|((_, worker), count)| (usize::from(*worker), *count as usize))
    }

    /// A worker has no clients any more.
    pub fn leave(&mut self, worker: usize) {
        self.counts.retain(|(_, at), _| usize::from(*at) != worker);
    }

    fn key(&self, user: &str, worker: usize) -> (u64, u8) {
        (self.hashes.hash_one(user), worker as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn the_counts_are_those_of_a_plain_list() {
        for seed in 1..100 {
            let mut random = Random::new(seed);
            let (mut tally, mut model) = (UserTally::default(), Vec::new());
            for _ in 0..200 {
                let (user, worker) = (random.choose(&["a", "b", "c", ""]), random.below(3));
                match random.below(20) {
                    0 => {
                        tally.leave(worker);
                        model.retain(|(_, at)| *at != worker);
                    }
                    1..=8 => {
                        tally.remove(user, worker);
                        let place = model.iter().position(|one| *one == (user, worker));
                        place.map(|place| model.swap_remove(place));
                    }
                    _ => {
                        tally.add(user, worker);
                        model.push((user, worker));
                    }
                }
                let count = |at| model.iter().filter(|one| **one == (user, at)).count();
                let expected = (0..3).map(|at| (at, count(at))).filter(|one| one.1 > 0);
                assert!(tally.of(user).eq(expected), "seed {seed}");
            }
            (0..3).for_each(|worker| tally.leave(worker));
            assert!(tally.counts.is_empty(), "seed {seed}");
        }
    }
}
