//! The users of this process, and the changes that Redis does not know yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{self, Excluded, Unbounded};
use std::rc::Rc;

use crate::clock::Millis;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// The most waits that end in one tick.
const ENDED_MAX: usize = 1000;

/// A change to report: `+` or `-`, and the user.
pub(super) type Change = Box<[u8]>;

/// The users of this process. A report belongs to an incarnation: Redis forgets those of an earlier one.
pub(super) struct Users {
    /// Ordered, so that a walk along all of them can be continued.
    users: BTreeMap<Rc<str>, User>,
    /// Users without a connection, by the end of their wait.
    waiting: BTreeSet<(Millis, Rc<str>)>,
    /// Users with a change to report, in order.
    changed: BTreeMap<u64, Rc<str>>,
    /// The last place in that order.
    place: u64,
    incarnation: u32,
    /// The next user of the walk that reports all under a new incarnation.
    walk: Option<Bound<Rc<str>>>,
    /// The wait for a user without a connection.
    wait: Millis,
    waiting_max: usize,
    /// Changes in one call to Redis, and users that are looked at for it on each way.
    batch_max: usize,
}

struct User {
    stay: Stay,
    /// The incarnation under which it was reported as here; 0: it was not.
    reported: u32,
    /// Its place in `changed`.
    place: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// The number of connections, at least one.
    Connected(u32),
    /// Without a connection, until then.
    Waiting(Millis),
    /// No more, which is to be reported.
    Gone,
}

impl Users {
    pub(super) fn new(wait: Millis, waiting_max: usize, batch_max: usize) -> Users {
        Users {
            users: BTreeMap::new(),
            waiting: BTreeSet::new(),
            changed: BTreeMap::new(),
            place: 0,
            incarnation: 1,
            walk: None,
            wait,
            waiting_max,
            batch_max,
        }
    }

    /// Users with a connection, and users that may come back.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    pub(super) fn is_connected(&self, sub: &str) -> bool {
        self.users.get(sub).is_some_and(|user| matches!(user.stay, Stay::Connected(_)))
    }

    /// The users with a connection from this one on, in order.
    pub(super) fn connected_from(&self, sub: &str) -> impl Iterator<Item = &Rc<str>> {
        let from = self.users.range::<str, _>((Bound::Included(sub), Unbounded));
        let connected = from.filter(|(_, user)| matches!(user.stay, Stay::Connected(_)));
        connected.map(|(sub, _)| sub)
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// Returns whether there is a change to report.
    pub(super) fn has_changes(&self) -> bool {
        self.walk.is_some() || !self.changed.is_empty()
    }

    /// The end of the next wait.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.waiting.first().map(|(until, _)| *until)
    }

    /// A connection of a user opened.
    pub(super) fn came(&mut self, sub: &str) {
        let Some(user) = self.users.get_mut(sub) else {
            let sub: Rc<str> = sub.into();
            let user = User { stay: Stay::Connected(1), reported: 0, place: None };
            self.users.insert(Rc::clone(&sub), user);
            return self.note(&sub);
        };
        user.stay = match user.stay {
            Stay::Connected(connections) => Stay::Connected(connections + 1),
            Stay::Waiting(until) => {
                self.waiting.remove(&(until, sub.into()));
                Stay::Connected(1)
            }
            Stay::Gone => Stay::Connected(1),
        };
    }

    /// A connection of a user is gone. Returns whether another user's wait was cut short for it.
    pub(super) fn left(&mut self, sub: &str, now: Millis) -> bool {
        let (sub, user) = self.entry(sub).expect("who leaves has come");
        let Stay::Connected(connections) = user.stay else {
            unreachable!("who leaves is connected")
        };
        if connections > 1 {
            user.stay = Stay::Connected(connections - 1);
            return false;
        }
        let until = now + self.wait;
        self.users.get_mut(&sub).expect("it was just found").stay = Stay::Waiting(until);
        self.waiting.insert((until, sub));
        let is_over = self.waiting.len() > self.waiting_max;
        if is_over {
            self.end_wait();
        }
        is_over
    }

    /// Ends the waits whose time has come, as many as a tick may.
    pub(super) fn end_waits(&mut self, now: Millis) {
        for _ in 0..ENDED_MAX {
            if self.deadline().is_none_or(|until| until > now) {
                return;
            }
            self.end_wait();
        }
    }

    /// Takes the next changes of a bounded number of users, each once. They count as reported.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..self.batch_max {
            let Some((_, sub)) = self.changed.pop_first() else { break };
            let user = self.users.get_mut(&sub).expect("who changed is known");
            user.place = None;
            let was_reported = user.reported == self.incarnation;
            if user.stay == Stay::Gone {
                self.users.remove(&sub);
                changes.extend(was_reported.then(|| change('-', &sub)));
            } else if !was_reported {
                user.reported = self.incarnation;
                changes.push(change('+', &sub));
            }
        }
        self.walk_on(&mut changes);
        changes
    }

    /// Writes the users that are waited for; those with a connection come again with it.
    pub(super) fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u32(self.incarnation);
        writer.len(self.waiting.len());
        for (until, sub) in &self.waiting {
            writer.u64(*until);
            writer.text(sub);
        }
    }

    /// Goes on under the next incarnation, under which all users are reported anew.
    ///
    /// # Errors
    /// The state is malformed.
    pub(super) fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.incarnation = reader.u32()?;
        for _ in 0..reader.len(VALUES_MAX)? {
            let until = reader.u64()?;
            let sub: Rc<str> = reader.text(BYTES_MAX)?.into();
            let user = User { stay: Stay::Waiting(until), reported: 0, place: None };
            if self.users.insert(Rc::clone(&sub), user).is_none() {
                self.waiting.insert((until, sub));
            }
        }
        self.begin_anew();
        Ok(())
    }

    /// Begins a new incarnation: Redis lost the reports, and all users are reported anew.
    pub(super) fn begin_anew(&mut self) {
        self.incarnation += 1;
        self.walk = Some(Unbounded);
    }

    /// Continues the walk along all users, as far as there is room in a batch.
    fn walk_on(&mut self, changes: &mut Vec<Change>) {
        let Some(from) = self.walk.take() else { return };
        let room = self.batch_max - changes.len();
        let mut last = None;
        for (sub, user) in self.users.range_mut((from.clone(), Unbounded)).take(room) {
            if user.reported != self.incarnation && user.stay != Stay::Gone {
                user.reported = self.incarnation;
                changes.push(change('+', sub));
            }
            last = Some(Rc::clone(sub));
        }
        self.walk = match last {
            Some(last) => Some(Excluded(last)),
            // It comes again when there is room.
            None if room == 0 => Some(from),
            None => None,
        };
    }

    /// Ends the longest wait: the user is gone.
    fn end_wait(&mut self) {
        let Some((_, sub)) = self.waiting.pop_first() else { return };
        let user = self.users.get_mut(&sub).expect("who is waited for is known");
        user.stay = Stay::Gone;
        if user.reported == self.incarnation {
            return self.note(&sub);
        }
        // Redis does not know that it was here.
        if let Some(place) = user.place {
            self.changed.remove(&place);
        }
        self.users.remove(&sub);
    }

    /// Queues a user with a change to report.
    fn note(&mut self, sub: &Rc<str>) {
        let user = self.users.get_mut(sub).expect("who changed is known");
        if user.place.is_none() {
            self.place += 1;
            user.place = Some(self.place);
            self.changed.insert(self.place, Rc::clone(sub));
        }
    }

    fn entry(&mut self, sub: &str) -> Option<(Rc<str>, &mut User)> {
        let of = (Bound::Included(sub), Bound::Included(sub));
        self.users.range_mut::<str, _>(of).next().map(|(sub, user)| (Rc::clone(sub), user))
    }
}

fn change(sign: char, sub: &str) -> Change {
    format!("{sign}{sub}").into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Millis = 1000;

    fn texts(changes: Vec<Change>) -> Vec<String> {
        let text = |change: Change| String::from_utf8(change.to_vec()).expect("it was text");
        changes.into_iter().map(text).collect()
    }

    #[test]
    fn a_batch_has_a_bound_and_keeps_the_order() {
        let mut users = Users::new(WAIT, 10, 2);
        for sub in ["c", "a", "b"] {
            users.came(sub);
        }
        assert_eq!(texts(users.take_changes()), ["+c", "+a"]);
        assert!(users.has_changes());
        assert_eq!(texts(users.take_changes()), ["+b"]);
        assert!(!users.has_changes() && users.take_changes().is_empty());
    }

    #[test]
    fn who_comes_back_in_time_did_not_leave() {
        let mut users = Users::new(WAIT, 10, 10);
        users.came("a");
        users.came("a");
        users.take_changes();
        assert!(!users.left("a", 0) && users.deadline().is_none(), "one connection is left");
        users.left("a", 5);
        assert_eq!(users.deadline(), Some(5 + WAIT));
        users.end_waits(4 + WAIT);
        users.came("a");
        users.end_waits(10 * WAIT);
        assert!(!users.has_changes() && users.deadline().is_none());
        users.left("a", 10 * WAIT);
        users.end_waits(11 * WAIT);
        assert_eq!(texts(users.take_changes()), ["-a"]);
        assert_eq!(users.len(), 0);
    }

    #[test]
    fn above_the_bound_the_one_waited_for_longest_is_gone() {
        let mut users = Users::new(WAIT, 2, 10);
        for sub in ["a", "b", "c"] {
            users.came(sub);
        }
        users.take_changes();
        let cut_short = [("b", 0), ("c", 1), ("a", 2)].map(|(sub, now)| users.left(sub, now));
        assert_eq!(cut_short, [false, false, true]);
        assert_eq!(texts(users.take_changes()), ["-b"]);
    }

    #[test]
    fn whom_redis_was_not_told_of_leaves_nothing_behind() {
        let mut users = Users::new(WAIT, 10, 10);
        for round in 0..100 {
            users.came("a");
            users.left("a", round * WAIT);
            users.end_waits((round + 1) * WAIT);
            assert!(users.len() == 0 && !users.has_changes());
        }
    }

    #[test]
    fn a_tick_ends_a_bounded_number_of_waits() {
        let mut users = Users::new(WAIT, usize::MAX, 1);
        for number in 0..ENDED_MAX + 1 {
            users.came(&number.to_string());
            users.left(&number.to_string(), 0);
        }
        users.end_waits(WAIT);
        assert_eq!((users.len(), users.deadline()), (1, Some(WAIT)));
        users.end_waits(WAIT);
        assert_eq!((users.len(), users.deadline()), (0, None));
    }

    #[test]
    fn all_are_told_anew_in_batches_each_once() {
        let mut users = Users::new(WAIT, 10, 2);
        for sub in ["a", "b", "c", "d", "e"] {
            users.came(sub);
        }
        while users.has_changes() {
            users.take_changes();
        }
        users.left("b", 0);
        users.end_waits(WAIT);
        users.begin_anew();
        let mut told = texts(users.take_changes());
        users.came("f");
        users.came("0");
        while users.has_changes() {
            let batch = texts(users.take_changes());
            assert!(batch.len() <= 2, "{batch:?}");
            told.extend(batch);
        }
        assert!(!told.contains(&"-b".to_owned()), "what it was told is forgotten: {told:?}");
        told.sort_unstable();
        assert_eq!(told, ["+0", "+a", "+c", "+d", "+e", "+f"]);
    }
}
