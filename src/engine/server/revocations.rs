//! Revocations: users whose tokens are refused if they were issued before a given second.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::rc::Rc;

use crate::engine::slots::{Beside, ConnId};
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// The revocations in force, and the second at which the token of each connection was issued.
///
/// Off until [`Revocations::begin`]: then it costs four bytes for each connection.
#[derive(Default)]
pub struct Revocations {
    is_on: bool,
    by_user: HashMap<Rc<str>, u64>,
    /// The same, the earliest first.
    by_time: BTreeSet<(u64, Rc<str>)>,
    /// Tokens of all users are refused if they were issued before this second: it stands for revocations that there was no room for.
    floor: u64,
    /// Absent: a token that does not say when it was issued.
    issued: Beside<NonZeroU32>,
    /// Seconds after its issue at which every token has ended; `None`: revocations are kept for good.
    keep_seconds: Option<u64>,
}

impl Revocations {
    /// Expects revocations from now on. The tokens of connections that are there count as earlier than any.
    pub fn begin(&mut self) {
        self.is_on = true;
    }

    /// Sets the seconds after its issue at which every token has ended; `None`: never.
    pub fn keep_for(&mut self, seconds: Option<u64>) {
        self.keep_seconds = seconds;
    }

    /// The seconds for which revocations are kept; `None`: for good.
    pub fn keep_seconds(&self) -> Option<u64> {
        self.keep_seconds
    }

    /// Returns whether a user's token is refused. One that does not say when it was issued counts as earlier than any revocation.
    pub fn refuses(&self, sub: &str, issued: Option<u64>) -> bool {
        issued.unwrap_or(0) < self.before(sub)
    }

    /// Notes when the token of a connection was issued, in place of an earlier one.
    pub fn note(&mut self, id: ConnId, issued: Option<u64>) {
        if !self.is_on {
            return;
        }
        let issued = issued.map_or(0, |second| u32::try_from(second).unwrap_or(u32::MAX));
        match NonZeroU32::new(issued) {
            Some(issued) => self.issued.set(id.index, issued),
            None => self.forget(id),
        }
    }

    /// Forgets a connection that is gone.
    pub fn forget(&mut self, id: ConnId) {
        self.issued.remove(id.index);
    }

    /// The second at which the token of a connection was issued; 0 if it does not say.
    pub(crate) fn issued(&self, id: ConnId) -> u64 {
        self.issued.get(id.index).map_or(0, |second| u64::from(second.get()))
    }

    /// Returns whether this user has a revocation of its own that says as much: its connections were closed then.
    pub(crate) fn has(&self, sub: &str, before: u64) -> bool {
        self.by_user.get(sub).is_some_and(|own| *own >= before)
    }

    /// Adds a revocation. Returns whether it says more than those before it.
    pub(crate) fn add(&mut self, sub: &str, before: u64) -> bool {
        if before <= self.before(sub) {
            return false;
        }
        let user: Rc<str> = sub.into();
        if let Some(earlier) = self.by_user.insert(Rc::clone(&user), before) {
            self.by_time.remove(&(earlier, Rc::clone(&user)));
        }
        self.by_time.insert((before, user));
        true
    }

    /// Refuses the tokens of all users if they were issued before this second. Revocations that say no more are dropped.
    pub(crate) fn raise_floor(&mut self, before: u64) {
        self.floor = self.floor.max(before);
        self.drop_while(|earliest, floor| earliest <= floor);
    }

    /// Makes room: beyond `most` revocations, the earliest become one for all users. No revoked token is accepted for want of
    /// room; users whose tokens are as old must renew theirs. Returns how many revocations became it.
    pub(crate) fn merge_above(&mut self, most: usize) -> usize {
        let before = self.len();
        while self.len() > most {
            let earliest = self.by_time.first().expect("there are more than the most").0;
            self.raise_floor(earliest);
        }
        before - self.len()
    }

    /// Drops revocations of tokens that have all ended at the second `unix`. Returns the second before which no user's is needed.
    pub(crate) fn expire(&mut self, unix: u64) -> u64 {
        let ended = self.keep_seconds.map_or(0, |seconds| unix.saturating_sub(seconds));
        self.drop_while(|earliest, _| earliest < ended);
        // The one for all users says as much as a revocation of its own second.
        ended.max(if self.floor == 0 { 0 } else { self.floor + 1 })
    }

    pub(crate) fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u64(self.floor);
        writer.len(self.by_time.len());
        for (before, user) in &self.by_time {
            writer.u64(*before);
            writer.text(user);
        }
    }

    /// Takes over the revocations that were written.
    ///
    /// # Errors
    /// The state is malformed.
    pub(crate) fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.raise_floor(reader.u64()?);
        for _ in 0..reader.len(VALUES_MAX)? {
            let before = reader.u64()?;
            self.add(&reader.text(BYTES_MAX)?, before);
        }
        Ok(())
    }

    /// Bytes kept for connections, vacant places too.
    pub(crate) fn slots_bytes(&self) -> usize {
        self.issued.bytes()
    }

    /// The number of users with a revocation of their own.
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }

    /// The second before which tokens of all users are refused; 0: none are.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The users with a revocation of their own, and the second before which their tokens are refused.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_time.iter().map(|(before, user)| (&**user, *before))
    }

    fn before(&self, sub: &str) -> u64 {
        self.by_user.get(sub).copied().unwrap_or(0).max(self.floor)
    }

    fn drop_while(&mut self, is_void: impl Fn(u64, u64) -> bool) {
        while let Some((earliest, _)) = self.by_time.first()
            && is_void(*earliest, self.floor)
        {
            let (_, user) = self.by_time.pop_first().expect("it was just there");
            self.by_user.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::engine::slots::PAGE;
    use std::collections::BTreeMap;

    fn id(index: u32) -> ConnId {
        ConnId { index, generation: 1 }
    }

    #[test]
    fn tokens_issued_earlier_are_refused_and_others_are_not() {
        let mut revocations = Revocations::default();
        assert!(!revocations.refuses("42", None), "without a revocation, all pass");
        assert!(revocations.add("42", 100));
        for (issued, refused) in [(None, true), (Some(99), true), (Some(100), false)] {
            assert_eq!(revocations.refuses("42", issued), refused, "{issued:?}");
            assert!(!revocations.refuses("43", issued));
        }
        assert!(!revocations.add("42", 100) && !revocations.add("42", 7), "it says no more");
        assert!(revocations.add("42", 101) && revocations.refuses("42", Some(100)));
        assert_eq!(revocations.len(), 1);
    }

    #[test]
    fn a_connections_second_is_noted_and_forgotten() {
        let mut revocations = Revocations::default();
        revocations.note(id(1), Some(5));
        assert_eq!((revocations.issued(id(1)), revocations.issued.bytes()), (0, 0), "it is off");
        revocations.begin();
        revocations.note(id(1), Some(5));
        revocations.note(id(2), Some(u64::MAX));
        assert!(revocations.slots_bytes() <= 4 * PAGE + 16, "four bytes for each connection");
        assert_eq!((revocations.issued(id(1)), revocations.issued(id(2))), (5, u32::MAX.into()));
        revocations.note(id(1), None);
        revocations.forget(id(2));
        assert_eq!((revocations.issued(id(1)), revocations.issued(id(2))), (0, 0));
        assert_eq!(revocations.issued.bytes(), 0, "its page is freed");
    }

    #[test]
    fn without_room_the_earliest_hold_for_everybody() {
        let mut revocations = Revocations::default();
        for (sub, before) in [("a", 30), ("b", 10), ("c", 20), ("d", 20)] {
            assert!(revocations.add(sub, before));
        }
        assert_eq!(revocations.merge_above(4), 0);
        assert_eq!(revocations.merge_above(2), 3, "c and d are of one second");
        assert_eq!((revocations.floor(), revocations.len()), (20, 1));
        assert_eq!(revocations.expire(1000), 21);
        for sub in ["a", "b", "c", "d", "somebody else"] {
            assert!(revocations.refuses(sub, Some(19)) && revocations.refuses(sub, None), "{sub}");
        }
        assert!(revocations.refuses("a", Some(29)) && !revocations.refuses("b", Some(20)));
        assert!(!revocations.add("b", 20), "the one for everybody says as much");
    }

    #[test]
    fn a_revocation_ends_with_the_last_token_that_it_refuses() {
        let mut revocations = Revocations::default();
        revocations.add("42", 1000);
        assert_eq!((revocations.expire(u64::MAX), revocations.len()), (0, 1), "for good");
        revocations.keep_for(Some(60));
        assert_eq!((revocations.expire(1060), revocations.len()), (1000, 1));
        assert_eq!((revocations.expire(1061), revocations.len()), (1001, 0));
    }

    /// No token that a model refuses is accepted, whatever is merged; and none is refused but for the floor.
    #[test]
    fn agrees_with_a_map_from_a_seed() {
        for seed in 1..200 {
            let mut random = Random::new(seed);
            let (mut revocations, mut model) = (Revocations::default(), BTreeMap::new());
            let most = 1 + random.below(8);
            for _ in 0..100 {
                let (sub, second) = (random.below(12).to_string(), random.below(50) as u64);
                if random.below(3) == 0 {
                    revocations.add(&sub, second);
                    let before: &mut u64 = model.entry(sub).or_default();
                    *before = second.max(*before);
                    revocations.merge_above(most);
                    assert!(revocations.len() <= most, "seed {seed}");
                    assert_eq!(revocations.by_user.len(), revocations.len(), "seed {seed}");
                } else {
                    let before = model.get(&sub).copied().unwrap_or(0);
                    let refused = revocations.refuses(&sub, Some(second));
                    assert_eq!(refused, second < before.max(revocations.floor()), "seed {seed}");
                }
            }
        }
    }
}
