//! Users over all loops: the number of their clients, and the one order in which these came.

use std::collections::VecDeque;

use crate::clock::Millis;
use crate::engine::handler::RouteEvent;
use crate::engine::pubsub::topic::user_topic;
use crate::engine::router::Router;
use crate::engine::server::{Server, UserChange, users_there};
use crate::engine::slots::ConnId;
use crate::loops::kinds::*;
use crate::loops::limits::notes::LimitNotes;
use crate::loops::limits::tally::UserTally;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number,
};

/// Changes in a frame: with the longest names it has a megabyte.
const CHANGES_PER_FRAME: usize = 4096;

/// Milliseconds for which a worker gathers changes of numbers: in a storm of clients they go to the parent in few writes.
const GATHERED: Millis = 2;

// The kinds of a change.
const WENT: usize = 0;
const CAME: usize = 1;
/// It came to a route on which a user has one client.
const CAME_IN_ORDER: usize = 2;
/// It was there before the settings needed it.
const WAS_THERE: usize = 3;

/// The settings by which the parent must know of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserNeeds {
    /// There is a `clients_per_user_max`: clients of all routes count.
    pub are_counted: bool,
    /// Whether a user has one client on a route (`single_session`), by the number of the route.
    pub ordered: Vec<bool>,
}

impl UserNeeds {
    fn are_ordered(&self, route: u8) -> bool {
        self.ordered.get(route as usize) == Some(&true)
    }

    fn cover(&self, route: u8) -> bool {
        self.are_counted || self.are_ordered(route)
    }

    fn are_none(&self) -> bool {
        !self.are_counted && !self.ordered.contains(&true)
    }
}

/// A worker's notes of users that came and went, for the parent.
#[derive(Default)]
pub struct UserNotes {
    needs: UserNeeds,
    /// The parent counts by other needs, and begins anew with all that are there at the end of this turn.
    begins: bool,
    /// Frames with those.
    there: Vec<u8>,
    /// Changes that the parent was not told yet, and the time of the first.
    changes: Vec<UserChange>,
    since: Millis,
    /// Clients whose place in the order of all loops has not come yet, in their order.
    unordered: VecDeque<ConnId>,
}

impl UserNotes {
    /// A client of a user came or went.
    pub fn on_change(&mut self, change: &UserChange, now: Millis) {
        if !self.needs.cover(change.route) || self.begins {
            return;
        }
        if self.changes.is_empty() {
            self.since = now;
        }
        if change.has_come && self.needs.are_ordered(change.route) {
            self.unordered.push_back(change.id);
            // At once: it must not be told behind a client that came to another worker meanwhile.
            self.since = 0;
        }
        self.changes.push(change.clone());
    }

    /// All changes of the turn were told: from here on they change what is there now.
    pub fn end_turn(&mut self, server: &Server) {
        if !std::mem::take(&mut self.begins) {
            return;
        }
        write_frame(&mut self.there, USERS_AGAIN, |_| {});
        let mut there = users_there(server).filter(|change| self.needs.cover(change.route));
        let mut chunk = || there.by_ref().take(CHANGES_PER_FRAME).collect::<Vec<_>>();
        let chunks = std::iter::from_fn(|| Some(chunk()).filter(|chunk| !chunk.is_empty()));
        chunks.for_each(|chunk| write_changes(&mut self.there, &chunk, |_| WAS_THERE));
    }

    /// Appends frames with the changes, if it is time for them.
    pub fn write(&mut self, now: Millis, out: &mut Vec<u8>) {
        out.append(&mut self.there);
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let kind = |change: &UserChange| match (change.has_come, change.route) {
            (false, _) => WENT,
            (true, route) if self.needs.are_ordered(route) => CAME_IN_ORDER,
            (true, _) => CAME,
        };
        changes.chunks(CHANGES_PER_FRAME).for_each(|chunk| write_changes(out, chunk, kind));
    }

    /// Returns whether the parent knows all changes, and has given each client its place.
    pub fn are_told(&self) -> bool {
        self.changes.is_empty() && self.there.is_empty() && self.unordered.is_empty()
    }

    /// Returns when something is to be written.
    pub fn due(&self) -> Option<Millis> {
        let is_due = !self.there.is_empty();
        let since = (!self.changes.is_empty()).then_some(self.since + GATHERED);
        if is_due { Some(0) } else { since }
    }

    /// The places of so many clients of this worker in the order came.
    fn on_ordered(&mut self, count: usize) {
        self.unordered.drain(..count.min(self.unordered.len()));
    }
}

/// Tells a worker's notes what the settings need.
pub fn need(router: &mut Router, needs: UserNeeds) {
    if !needs.are_none() {
        router.server.users.watch();
    }
    let notes = LimitNotes::of(router).map(|notes| &mut notes.users);
    let Some(notes) = notes.filter(|notes| notes.needs != needs) else { return };
    // The others are told with all that are there.
    let are_ordered =
        |change: &UserChange| change.has_come && notes.needs.are_ordered(change.route);
    let untold = notes.changes.drain(..).filter(are_ordered).count();
    notes.unordered.truncate(notes.unordered.len() - untold);
    (notes.needs, notes.begins) = (needs, true);
}

fn write_changes(out: &mut Vec<u8>, changes: &[UserChange], kind: impl Fn(&UserChange) -> usize) {
    write_frame(out, USERS, |out| {
        for change in changes {
            write_number(out, kind(change) as u64);
            write_number(out, change.route.into());
            write_number(out, change.id.number());
            write_bytes(out, change.user.as_bytes());
        }
    });
}

/// Handles a frame of the parent about users.
///
/// # Errors
/// The frame is malformed.
pub fn take_user_order(router: &mut Router, frame: LinkFrame<'_>) -> Result<(), MalformedLink> {
    let mut fields = Fields::of(frame.body);
    match frame.kind {
        ORDERED => {
            let count = fields.number()? as usize;
            LimitNotes::of(router).into_iter().for_each(|notes| notes.users.on_ordered(count));
        }
        ELSEWHERE => {
            let route = fields.number()? as u8;
            let own = user_topic(fields.text()?).ok_or(MalformedLink)?;
            let Some(notes) = LimitNotes::of(router) else { return Ok(()) };
            // Lent, not copied: in a storm of clients there are many of both.
            let mut later = std::mem::take(&mut notes.users.unordered);
            let event = RouteEvent::UserElsewhere { own: &own, later: later.make_contiguous() };
            router.on_elsewhere(route, event);
            if let Some(notes) = LimitNotes::of(router) {
                notes.users.unordered = later;
            }
        }
        CROWDED => {
            let (route, id) = (fields.number()? as u8, fields.number()?);
            router.on_elsewhere(route, RouteEvent::UserCrowded { id: ConnId::of_number(id) });
        }
        _ => return Err(MalformedLink),
    }
    Ok(())
}

/// The parent's count of clients and of their order.
#[derive(Default)]
pub struct UserOrder {
    clients: UserTally,
}

impl UserOrder {
    /// Takes a worker's changes. Appends to the `out` of each worker what it is to know: clients with which their users have more than
    /// `most` (0: as many as they like), users that have a newer client elsewhere, and how many clients have their place in the order.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_changes(
        &mut self,
        frame: LinkFrame<'_>,
        worker: usize,
        most: usize,
        out: &mut [Vec<u8>],
    ) -> Result<(), MalformedLink> {
        let (mut fields, mut ordered) = (Fields::of(frame.body), 0);
        while !fields.is_empty() {
            let kind = fields.number_below(WAS_THERE + 1)?;
            let (route, id, user) = (fields.number()?, fields.number()?, fields.text()?);
            if kind == WENT {
                self.clients.remove(user, worker);
                continue;
            }
            self.clients.add(user, worker);
            if kind == WAS_THERE {
                continue;
            }
            let count: usize = self.clients.of(user).map(|(_, count)| count).sum();
            if most > 0 && count > most {
                write_frame(&mut out[worker], CROWDED, |out| {
                    write_number(out, route);
                    write_number(out, id);
                });
            }
            if kind == CAME_IN_ORDER {
                ordered += 1;
                for (other, _) in self.clients.of(user).filter(|(other, _)| *other != worker) {
                    write_frame(&mut out[other], ELSEWHERE, |out| {
                        write_number(out, route);
                        write_bytes(out, user.as_bytes());
                    });
                }
            }
        }
        if ordered > 0 {
            write_frame(&mut out[worker], ORDERED, |out| write_number(out, ordered));
        }
        Ok(())
    }

    /// A worker has no clients any more, or tells them anew.
    pub fn leave(&mut self, worker: usize) {
        self.clients.leave(worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loops::link::next_frame;

    /// Clients of two workers as their parent sees them.
    #[derive(Default)]
    struct Parent {
        order: UserOrder,
        out: [Vec<u8>; 2],
    }

    impl Parent {
        fn hears(&mut self, worker: usize, most: usize, changes: &[(usize, u64, &str)]) {
            let mut wire = Vec::new();
            for (kind, id, user) in changes {
                let (user, id) = ((*user).into(), ConnId::of_number(*id));
                let change = UserChange { user, has_come: *kind != WENT, id, route: 0 };
                write_changes(&mut wire, &[change], |_| *kind);
            }
            let mut input = &wire[..];
            while let Some(frame) = next_frame(&mut input).unwrap() {
                let taken = self.order.take_changes(frame, worker, most, &mut self.out);
                taken.expect("it is well-formed");
            }
        }

        /// Takes the kinds of the frames for a worker, with their numbers and users.
        fn says(&mut self, worker: usize) -> Vec<(u8, u64, String)> {
            let wire = std::mem::take(&mut self.out[worker]);
            let (mut input, mut found) = (&wire[..], Vec::new());
            while let Some(LinkFrame { kind, body }) = next_frame(&mut input).unwrap() {
                let mut fields = Fields::of(body);
                let number = fields.number().expect("all have one");
                let text = match kind {
                    ELSEWHERE => fields.text().expect("a user").to_owned(),
                    CROWDED => fields.number().expect("a client").to_string(),
                    _ => String::new(),
                };
                fields.end().expect("nothing is left");
                found.push((kind, number, text));
            }
            found
        }
    }

    #[test]
    fn a_client_beyond_those_of_all_workers_is_one_too_many() {
        let mut parent = Parent::default();
        parent.hears(0, 2, &[(CAME, 1, "a"), (WAS_THERE, 2, "b"), (WAS_THERE, 3, "b")]);
        parent.hears(1, 2, &[(CAME, 1, "a"), (CAME, 2, "a"), (WAS_THERE, 3, "b"), (CAME, 4, "c")]);
        assert_eq!(parent.says(0), []);
        assert_eq!(parent.says(1), [(CROWDED, 0, "2".to_owned())], "nobody goes who was there");
        parent.hears(1, 2, &[(WENT, 2, "a"), (WENT, 1, "a"), (CAME, 5, "a")]);
        assert_eq!(parent.says(1), []);
        parent.order.leave(0);
        parent.hears(1, 2, &[(CAME, 6, "a"), (CAME, 7, "b"), (CAME, 8, "b")]);
        assert_eq!(parent.says(1), [(CROWDED, 0, "8".to_owned())]);
    }

    #[test]
    fn a_newer_client_is_told_where_its_user_has_others_and_nowhere_else() {
        let mut parent = Parent::default();
        parent.hears(0, 0, &[(CAME_IN_ORDER, 1, "a"), (CAME_IN_ORDER, 2, "b")]);
        assert_eq!(parent.says(0), [(ORDERED, 1, String::new()), (ORDERED, 1, String::new())]);
        assert_eq!(parent.says(1), []);
        parent.hears(1, 0, &[(CAME_IN_ORDER, 1, "a")]);
        assert_eq!(parent.says(0), [(ELSEWHERE, 0, "a".to_owned())]);
        assert_eq!(parent.says(1), [(ORDERED, 1, String::new())]);
        parent.hears(0, 0, &[(WENT, 1, "a")]);
        parent.hears(1, 0, &[(WENT, 1, "a"), (CAME_IN_ORDER, 2, "a")]);
        assert_eq!(parent.says(0), []);
    }
}
