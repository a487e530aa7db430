//! Users over all loops: the one order in which their clients came, and the number of them.

use std::collections::HashMap;

use crate::clock::Millis;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::router::Router;
use crate::engine::server::{Server, UserChange};
use crate::engine::slots::ConnId;
use crate::loops::kinds::{CROWDED, ELSEWHERE};
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number,
};
use crate::loops::notes_of;

/// A worker's notes of users that came and went, for the parent.
#[derive(Default)]
pub struct UserNotes {
    /// Changes that the parent was not told yet.
    changes: Vec<UserChange>,
    /// Clients whose place in the order of all loops is not known yet: they are later than all whose place came.
    pub unordered: Vec<ConnId>,
}

impl UserNotes {
    /// The notes of a worker.
    pub fn of(router: &mut Router) -> Option<&mut UserNotes> {
        notes_of(router)
    }

    /// Takes the changes since the last call.
    pub fn take(&mut self) -> Vec<UserChange> {
        std::mem::take(&mut self.changes)
    }

    /// The place of a client of this worker came.
    pub fn on_ordered(&mut self, id: ConnId) {
        self.unordered.retain(|other| *other != id);
    }
}

impl Feature for UserNotes {
    fn name(&self) -> &'static str {
        "loops"
    }

    fn on_event(&mut self, _server: &mut Server, event: FeatureEvent<'_>) {
        if let FeatureEvent::User(change) = event {
            if change.has_come {
                self.unordered.push(change.id);
            }
            self.changes.push(change.clone());
        }
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        (!self.changes.is_empty()).then_some(server.now().millis)
    }
}

/// The number of clients of each user at each worker, counted while there is a limit on them.
#[derive(Default)]
pub struct UserCounts {
    /// Workers and clients there; most users have one.
    users: HashMap<Box<str>, Vec<(usize, usize)>>,
}

impl UserCounts {
    /// Takes a worker's changes, and appends to `notices` the place of each client in the order of all loops. Returns frames for that
    /// worker about clients with which their users have more than `most`; 0: as many as they like.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_changes(
        &mut self,
        frame: LinkFrame<'_>,
        worker: usize,
        most: usize,
        notices: &mut Vec<u8>,
    ) -> Result<Vec<u8>, MalformedLink> {
        let (mut fields, mut crowded) = (Fields::of(frame.body), Vec::new());
        if most == 0 && !self.users.is_empty() {
            *self = UserCounts::default();
        }
        while !fields.is_empty() {
            let has_come = fields.truth()?;
            let (route, id, user) = (fields.number()?, fields.number()?, fields.text()?);
            if !has_come {
                self.go(user, worker);
                continue;
            }
            if most > 0 && self.come(user, worker) > most {
                write_frame(&mut crowded, CROWDED, |out| {
                    write_number(out, route);
                    write_number(out, id);
                });
            }
            write_frame(notices, ELSEWHERE, |out| {
                write_number(out, worker as u64);
                write_number(out, route);
                write_number(out, id);
                write_bytes(out, user.as_bytes());
            });
        }
        Ok(crowded)
    }

    /// Counts a client. Returns how many its user has.
    fn come(&mut self, user: &str, worker: usize) -> usize {
        let counts = self.users.entry(user.into()).or_default();
        match counts.iter_mut().find(|count| count.0 == worker) {
            Some(count) => count.1 += 1,
            None => counts.push((worker, 1)),
        }
        counts.iter().map(|count| count.1).sum()
    }

    /// Counts a client no more.
    fn go(&mut self, user: &str, worker: usize) {
        let Some(counts) = self.users.get_mut(user) else { return };
        counts.iter_mut().filter(|count| count.0 == worker).for_each(|count| count.1 -= 1);
        counts.retain(|count| count.1 > 0);
        if counts.is_empty() {
            self.users.remove(user);
        }
    }

    /// A worker is gone with all of its clients.
    pub fn leave(&mut self, worker: usize) {
        self.users.retain(|_, counts| {
            counts.retain(|count| count.0 != worker);
            !counts.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_counted_over_all_workers_and_forgotten_with_them() {
        let mut counts = UserCounts::default();
        assert_eq!(counts.come("a", 0), 1);
        assert_eq!(counts.come("a", 1), 2);
        assert_eq!(counts.come("b", 1), 1);
        assert_eq!(counts.come("a", 1), 3);
        counts.go("a", 1);
        counts.go("b", 0);
        counts.go("c", 0);
        assert_eq!(counts.come("a", 0), 3);
        counts.leave(0);
        assert_eq!(counts.come("a", 1), 2);
        counts.leave(1);
        assert!(counts.users.is_empty());
    }
}
