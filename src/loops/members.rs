//! Members of topics over all loops: workers tell the parent of their members, and read lists from it.

use std::collections::BTreeMap;

use crate::clock::Millis;
use crate::engine::redis::request::{Answer, Ticket};
use crate::engine::router::Router;
use crate::engine::server::members::{GivenList, ListRequest};
use crate::engine::server::{MemberChange, Server};
use crate::loops::kinds::{MEMBERS, MEMBERS_CHANGED, MEMBERS_LIST, MEMBERS_READ};
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number,
};
use crate::loops::roster::{CHANGES_PER_TURN, Roster};

/// The feature that asks for lists.
const OWNER: &str = "members";

/// Appends a worker's changes that the parent was not told yet, if there are any.
pub fn write_changes(server: &mut Server, out: &mut Vec<u8>) {
    if !server.members.are_taken() {
        write_some(server, out);
    }
}

/// Appends the members among the clients that a worker has taken over, and that these are all.
pub fn write_all(server: &mut Server, out: &mut Vec<u8>) {
    while !server.members.are_taken() {
        write_some(server, out);
    }
    write_frame(out, MEMBERS, |_| {});
}

fn write_some(server: &mut Server, out: &mut Vec<u8>) {
    write_frame(out, MEMBERS, |out| {
        for MemberChange { topic, user, has_come } in server.members.take_changes(CHANGES_PER_TURN)
        {
            out.push(u8::from(has_come));
            write_bytes(out, topic.as_bytes());
            write_bytes(out, user.as_bytes());
        }
    });
}

/// Appends a worker's requests for lists, once the parent was told of all changes.
pub fn write_requests(server: &mut Server, out: &mut Vec<u8>) {
    if !server.members.are_taken() {
        return;
    }
    for ListRequest { number, topic, .. } in server.members.take_asked() {
        write_frame(out, MEMBERS_READ, |out| {
            write_number(out, number);
            write_bytes(out, topic.as_bytes());
        });
    }
}

/// Takes a frame of the parent about members. Returns whether it is one.
///
/// # Errors
/// The frame is malformed.
pub fn take_frame(frame: LinkFrame<'_>, router: &mut Router) -> Result<bool, MalformedLink> {
    let mut fields = Fields::of(frame.body);
    match frame.kind {
        MEMBERS_LIST => {
            let (number, count) = (fields.number()?, fields.number()?);
            let count = i64::try_from(count).map_err(|_| MalformedLink)?;
            let users = texts(fields)?.into_iter().map(|user| Answer::Text(user.into()));
            let answer = Answer::List(vec![Answer::Integer(count), Answer::List(users.collect())]);
            router.on_answer(Ticket::of_feature(OWNER, number), answer);
        }
        MEMBERS_CHANGED => {
            for topic in texts(fields)? {
                router.server.members.note_changed(topic);
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn texts(mut fields: Fields<'_>) -> Result<Vec<&str>, MalformedLink> {
    let mut found = Vec::new();
    while !fields.is_empty() {
        found.push(fields.text()?);
    }
    Ok(found)
}

/// The members at each worker, as the parent knows them.
#[derive(Default)]
pub struct LoopMembers {
    /// A topic, a space, and the user.
    members: Roster,
    /// Workers that have yet to tell of the members that they took over, a bit for each. Meanwhile lists would lack them.
    untold: u64,
    /// Requests for lists that wait for that: a few hundred of each worker at most.
    waiting: Vec<ListRequest>,
}

impl LoopMembers {
    /// Lists wait until so many workers have told of all members that they took over.
    pub fn await_all(&mut self, workers: usize) {
        self.untold = u64::MAX >> (64 - workers);
    }

    /// Takes the changes that a worker tells of. Returns how many there were.
    ///
    /// # Errors
    /// The frame is malformed, or a member leaves that never came.
    pub fn take_changes(
        &mut self,
        frame: LinkFrame<'_>,
        place: usize,
        server: &mut Server,
    ) -> Result<usize, MalformedLink> {
        let (mut fields, mut count) = (Fields::of(frame.body), 0);
        while !fields.is_empty() {
            let (has_come, topic, user) = (fields.truth()?, fields.text()?, fields.text()?);
            self.members.change(place, &format!("{topic} {user}"), has_come)?;
            server.members.note_elsewhere(topic, user, has_come);
            count += 1;
        }
        if count == 0 {
            self.untold &= !(1 << place);
        }
        Ok(count)
    }

    /// A worker has ended with all of its clients.
    pub fn leave(&mut self, place: usize) {
        self.members.leave(place);
        self.untold &= !(1 << place);
    }

    /// Takes a worker's request for a list. `process`: the number of the worker's process, which is answered.
    ///
    /// # Errors
    /// The frame is malformed.
    pub fn take_request(
        &mut self,
        frame: LinkFrame<'_>,
        process: u32,
    ) -> Result<(), MalformedLink> {
        let mut fields = Fields::of(frame.body);
        let (number, topic) = (fields.number()?, fields.text()?.into());
        fields.end()?;
        self.waiting.push(ListRequest { process, number, topic });
        Ok(())
    }

    /// Passes on requests for lists, and lets members leave whose worker has ended, as many as a turn has.
    pub fn tick(&mut self, server: &mut Server) {
        if self.untold == 0 {
            self.waiting.drain(..).for_each(|request| server.members.ask(request));
        }
        for _ in 0..CHANGES_PER_TURN {
            let Some(member) = self.members.take_leaving() else { return };
            let (topic, user) = member.split_once(' ').expect("it was put together so");
            server.members.note_elsewhere(topic, user, false);
        }
    }

    /// Returns when the loop must turn again.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        self.members.has_leaving().then_some(now)
    }
}

/// Appends lists to the output of the workers that asked for them, and to that of all the topics whose lists have changed.
pub fn write_lists<'a>(server: &mut Server, workers: impl Iterator<Item = (u32, &'a mut Vec<u8>)>) {
    let (lists, changed) = (server.members.take_given(), server.members.take_changed());
    if lists.is_empty() && changed.is_empty() {
        return;
    }
    let mut outputs: BTreeMap<u32, &mut Vec<u8>> = workers.collect();
    if !changed.is_empty() {
        for out in outputs.values_mut() {
            write_frame(out, MEMBERS_CHANGED, |out| {
                changed.iter().for_each(|topic| write_bytes(out, topic.as_bytes()));
            });
        }
    }
    for GivenList { process, number, count, users } in lists {
        // If the worker has ended, nobody waits.
        let Some(out) = outputs.get_mut(&process) else { continue };
        write_frame(out, MEMBERS_LIST, |out| {
            write_number(out, number);
            write_number(out, count as u64);
            users.iter().for_each(|user| write_bytes(out, user.as_bytes()));
        });
    }
}
