//! Clients of users at all workers, so that the parent speaks of users as one server does.
//!
//! A worker tells the parent of each client of a user that came or left. The parent passes that on to its features, and remembers it:
//! when a worker ends, its clients leave one by one, a bounded number in each turn.

use std::collections::{HashMap, VecDeque, hash_map};

use crate::clock::Millis;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::loops::kinds::ROSTER;
use crate::loops::link::{Fields, LinkFrame, MalformedLink, write_bytes, write_frame};
use crate::loops::{notes_in, notes_of};

/// The most changes that a worker tells of in a turn, and about as many as the parent takes from it: some 5 ms of its time.
pub const CHANGES_PER_TURN: usize = 4096;

/// A worker's notes of clients that came and left, for the parent.
#[derive(Default)]
pub struct RosterNotes {
    /// Users, and whether a client of theirs came.
    changes: VecDeque<(Box<str>, bool)>,
}

impl RosterNotes {
    /// Begins to note changes. No client may be connected yet.
    pub fn new(server: &mut Server) -> RosterNotes {
        server.users.watch();
        RosterNotes::default()
    }

    /// Returns whether the parent knows all changes.
    pub fn are_told(router: &Router) -> bool {
        let notes = notes_in::<RosterNotes>(router);
        notes.is_none_or(|notes| notes.changes.is_empty())
    }

    /// Appends a frame with the changes that the parent was not told yet, if there are any and the router notes them.
    pub fn write_changes(router: &mut Router, out: &mut Vec<u8>) {
        let Some(notes) = notes_of::<RosterNotes>(router) else { return };
        if notes.changes.is_empty() {
            return;
        }
        let count = notes.changes.len().min(CHANGES_PER_TURN);
        write_frame(out, ROSTER, |out| {
            for (user, has_come) in notes.changes.drain(..count) {
                out.push(u8::from(has_come));
                write_bytes(out, user.as_bytes());
            }
        });
        if notes.changes.is_empty() {
            notes.changes = VecDeque::new();
        }
    }
}

impl Feature for RosterNotes {
    fn name(&self) -> &'static str {
        "roster"
    }

    fn on_event(&mut self, _server: &mut Server, event: FeatureEvent<'_>) {
        if let FeatureEvent::User(change) = event {
            self.changes.push_back((change.user.clone(), change.has_come));
        }
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        (!self.changes.is_empty()).then_some(server.now().millis)
    }
}

/// The clients of users at each worker, as the parent knows them.
#[derive(Default)]
pub struct Roster {
    /// For each worker, its users with the number of their clients.
    workers: HashMap<usize, HashMap<Box<str>, u32>>,
    /// The same of workers that have ended, until their clients have left.
    ended: VecDeque<hash_map::IntoIter<Box<str>, u32>>,
    /// The next of them to leave, and how many times.
    leaving: Option<(Box<str>, u32)>,
}

impl Roster {
    /// Counts a client that came to a worker, or left it.
    ///
    /// # Errors
    /// It leaves, and never came.
    pub fn change(
        &mut self,
        worker: usize,
        user: &str,
        has_come: bool,
    ) -> Result<(), MalformedLink> {
        let users = self.workers.entry(worker).or_default();
        match (users.get_mut(user), has_come) {
            (Some(clients), true) => *clients += 1,
            (None, true) => drop(users.insert(user.into(), 1)),
            (Some(1), false) => drop(users.remove(user)),
            (Some(clients), false) => *clients -= 1,
            (None, false) => return Err(MalformedLink),
        }
        Ok(())
    }

    /// A worker has ended, so its clients leave: see [`Roster::take_leaving`].
    pub fn leave(&mut self, worker: usize) {
        self.ended.extend(self.workers.remove(&worker).map(HashMap::into_iter));
    }

    /// Takes the user of the next client that leaves because its worker has ended.
    pub fn take_leaving(&mut self) -> Option<Box<str>> {
        while self.leaving.is_none() {
            self.leaving = self.ended.front_mut()?.next();
            if self.leaving.is_none() {
                self.ended.pop_front();
            }
        }
        let (user, clients) = self.leaving.as_mut()?;
        *clients -= 1;
        match clients {
            0 => self.leaving.take().map(|(user, _)| user),
            _ => Some(user.clone()),
        }
    }

    /// Returns whether clients of workers that have ended are still to leave.
    pub fn has_leaving(&self) -> bool {
        !self.ended.is_empty() || self.leaving.is_some()
    }
}

/// Reads the changes that a worker tells of, and shows each of them to `see`. Returns how many there were.
///
/// # Errors
/// The frame is malformed, or `see` takes no such change.
pub fn read_changes(
    frame: LinkFrame<'_>,
    mut see: impl FnMut(&str, bool) -> Result<(), MalformedLink>,
) -> Result<usize, MalformedLink> {
    let (mut fields, mut count) = (Fields::of(frame.body), 0);
    while !fields.is_empty() {
        let (has_come, user) = (fields.truth()?, fields.text()?);
        see(user, has_come)?;
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn the_clients_of_a_worker_leave_with_it_and_no_others() {
        let mut roster = Roster::default();
        for (worker, user, has_come) in [
            (0, "a", true),
            (0, "a", true),
            (0, "b", true),
            (0, "b", false),
            (1, "a", true),
            (1, "c", true),
        ] {
            assert_eq!(roster.change(worker, user, has_come), Ok(()));
        }
        assert!(!roster.has_leaving());
        roster.leave(0);
        roster.leave(0);
        assert!(roster.has_leaving());
        let left: Vec<_> = std::iter::from_fn(|| roster.take_leaving()).collect();
        assert_eq!(left, ["a", "a"].map(Box::from));
        assert!(!roster.has_leaving());
        assert_eq!(roster.change(0, "a", true), Ok(()));
        assert_eq!(roster.change(0, "c", false), Err(MalformedLink), "it is of another");
    }

    #[test]
    fn changes_come_back_as_they_were() {
        let body = [&b"\x01\x02\0\0\0ab\0\x01\0\0\0c"[..], b"\x02"].concat();
        let read = |length: usize| {
            let (frame, mut seen) = (LinkFrame { kind: ROSTER, body: &body[..length] }, Vec::new());
            let see = |user: &str, has_come| {
                seen.push((user.to_owned(), has_come));
                Ok(())
            };
            read_changes(frame, see).map(|count| (count, seen))
        };
        let expected = [("ab".to_owned(), true), ("c".to_owned(), false)];
        assert_eq!(read(body.len() - 1), Ok((2, expected.to_vec())));
        assert_eq!(read(7), Ok((1, expected[..1].to_vec())));
        [1, 6, 12, body.len()].iter().for_each(|end| assert!(read(*end).is_err(), "{end}"));
    }

    /// A listener of all changes knows the number of clients that each user has over all workers.
    #[test]
    fn changes_add_up_from_a_seed() {
        for seed in 1..200 {
            let mut random = Random::new(seed);
            let mut roster = Roster::default();
            let mut clients: Vec<(usize, &str)> = Vec::new();
            let mut told: BTreeMap<String, i32> = BTreeMap::new();
            for _ in 0..200 {
                let worker = random.below(3);
                match random.below(8) {
                    0 => {
                        roster.leave(worker);
                        clients.retain(|client| client.0 != worker);
                        while let Some(user) = roster.take_leaving() {
                            *told.entry(user.into()).or_default() -= 1;
                        }
                    }
                    1..=3 if !clients.is_empty() => {
                        let (worker, user) = clients.swap_remove(random.below(clients.len()));
                        roster.change(worker, user, false).unwrap();
                        *told.entry(user.into()).or_default() -= 1;
                    }
                    _ => {
                        let user = random.choose(&["a", "b", "c"]);
                        clients.push((worker, user));
                        roster.change(worker, user, true).unwrap();
                        *told.entry(user.into()).or_default() += 1;
                    }
                }
                for user in ["a", "b", "c"] {
                    let count = clients.iter().filter(|client| client.1 == user).count();
                    assert_eq!(told.get(user).copied().unwrap_or(0), count as i32, "seed {seed}");
                }
            }
        }
    }
}
