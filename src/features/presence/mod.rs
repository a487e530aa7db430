//! Presence: `online` and `offline` events for the back end, over all nodes that share a Redis.
//!
//! A node reports to Redis which users came to it and left it, by one script that also says that the node lives. Redis counts the
//! nodes of a user, so the first of them causes one event and the last of them the other. Calls go one at a
//! time, so their order is kept, and they are numbered: one that must be repeated, because its answer was lost, changes
//! nothing if it was executed; one that comes late changes nothing at all.
//!
//! A node that is silent for [`DEAD_AFTER`] and the wait for its users is dead: the node that calls next clears up after it, a bounded number of users at a time. One that was taken for dead and lives (it was frozen, Redis was away), or
//! finds that Redis lost data, begins anew under its next incarnation and reports all users; the one before is cleared up like
//! a dead node. A node that leaves in good order says nothing: its clients come back to
//! others before it counts as dead, and that is no event.

mod feature;
pub mod members;
mod script;
#[cfg(test)]
mod simulated_redis;
#[cfg(test)]
mod simulation;
mod users;

use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::redis::sink::Sink;
use crate::upgrade::{StateError, StateReader, StateWriter};
pub use feature::PresenceFeature;
pub use script::Reply;
use script::Script;
use users::{Change, Users};

/// The pause between two signs of life of a node.
const ALIVE_EVERY: Millis = 5000;

/// Silence after which the wait for a node's users begins.
pub const DEAD_AFTER: Millis = 15_000;

/// Users in one call: some 3 ms of the time of Redis.
pub const BATCH_MAX: usize = 500;

/// The pause before a call that failed is repeated.
const RETRY_AFTER: Millis = 1000;

/// The longest wait for an answer. Every call has one, even if it is the end of the connection; after this a call is repeated all
/// the same.
const ANSWER_WITHIN: Millis = 60_000;

/// The use that Redis makes of the users that nodes report.
#[derive(Clone)]
pub enum ReportUse {
    /// It emits an event when a user comes or goes. A stream keeps about `entries_max` of them.
    Events { sink: Sink, entries_max: usize },
    /// It keeps the members of topics: a user is reported for each topic, as `room.7 42`. The name is that of the keys.
    Members(String),
}

impl ReportUse {
    /// The name in the keys, which have it in braces: in a cluster all of them lie where the stream lies.
    fn name(&self) -> &str {
        match self {
            ReportUse::Events { sink, .. } => sink.name(),
            ReportUse::Members(name) => name,
        }
    }
}

/// The settings of presence.
pub struct Settings {
    pub report: ReportUse,
    /// The wait for a user without a connection.
    pub wait: Millis,
    /// The most users that are waited for; above that the first of them is gone at once.
    pub waiting_max: usize,
    /// The most users that one call reports, and that it clears up behind a dead node: [`BATCH_MAX`].
    pub batch_max: usize,
}

/// The presence of a node's users.
pub struct Presence {
    users: Users,
    script: Script,
    /// Calls of this incarnation.
    number: u64,
    /// The last call, until it is known to be executed.
    call: Option<Vec<Change>>,
    /// The attempt under way and when it is given up.
    attempt: Option<(u64, Millis)>,
    /// Attempts so far.
    attempts: u64,
    /// Nothing is sent before this.
    pause_until: Millis,
    /// When the node is to say that it is alive.
    alive_at: Millis,
    /// Users of dead nodes are left to be cleared up.
    more: bool,
}

/// A command to be sent.
pub struct Attempt {
    /// To be given back with the answer.
    pub number: u64,
    /// The command's words.
    pub words: Vec<Vec<u8>>,
}

impl Presence {
    /// A node without users. `node`: a name that no other process has, without a dot.
    pub fn new(node: &str, settings: Settings) -> Presence {
        assert!(!node.contains('.'), "a dot ends the node's name in its incarnation's");
        Presence {
            users: Users::new(settings.wait, settings.waiting_max, settings.batch_max),
            script: Script::new(node, settings),
            number: 0,
            call: None,
            attempt: None,
            attempts: 0,
            pause_until: 0,
            alive_at: 0,
            more: false,
        }
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        self.users.save(writer);
    }

    /// Goes on for the same node. No user may have come yet.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.users.restore(reader)
    }

    /// A connection of a user opened.
    pub fn came(&mut self, sub: &str) {
        self.users.came(sub);
    }

    /// A connection of a user that came is gone. Returns whether that cut another user's wait short.
    pub fn left(&mut self, sub: &str, now: Millis) -> bool {
        self.users.left(sub, now)
    }

    /// The node's name at Redis, which changes when it begins anew.
    pub fn node(&self) -> String {
        self.script.name(self.users.incarnation())
    }

    /// Returns whether a user has a connection.
    pub fn is_connected(&self, sub: &str) -> bool {
        self.users.is_connected(sub)
    }

    /// The users with a connection from this one on, in order.
    pub fn connected_from(&self, sub: &str) -> impl Iterator<Item = &Rc<str>> {
        self.users.connected_from(sub)
    }

    /// Does what is due where there is no Redis to report to.
    pub fn tick_alone(&mut self, now: Millis) {
        self.users.end_waits(now);
        while self.users.has_changes() {
            self.users.take_changes();
        }
    }

    /// Returns when [`Presence::tick_alone`] is to be called at the latest.
    pub fn deadline_alone(&self) -> Option<Millis> {
        self.users.deadline()
    }

    /// The number of users, those that are waited for included.
    pub fn users_len(&self) -> usize {
        self.users.len()
    }

    /// Does what is due. Returns the next call: none before the last one was answered.
    pub fn tick(&mut self, now: Millis) -> Option<Attempt> {
        self.users.end_waits(now);
        if self.attempt.is_some_and(|(_, until)| now < until) || now < self.pause_until {
            return None;
        }
        if self.call.is_none() {
            if !self.has_work() && now < self.alive_at {
                return None;
            }
            self.number += 1;
            self.alive_at = now + ALIVE_EVERY;
            self.call = Some(self.users.take_changes());
        }
        let changes = self.call.as_deref().expect("it was just made, if there was none");
        self.attempts += 1;
        self.attempt = Some((self.attempts, now + ANSWER_WITHIN));
        let words = self.script.words(self.users.incarnation(), self.number, changes);
        Some(Attempt { number: self.attempts, words })
    }

    /// An attempt was answered. Returns whether it was the one under way: one that was given up does not count.
    pub fn on_reply(&mut self, attempt: u64, reply: Reply, now: Millis) -> bool {
        if self.attempt.is_none_or(|(number, _)| number != attempt) {
            return false;
        }
        self.attempt = None;
        match reply {
            Reply::Done { more, .. } => {
                self.call = None;
                self.more = more;
            }
            Reply::Unknown => {
                self.call = None;
                self.number = 0;
                self.users.begin_anew();
                self.pause_until = now + RETRY_AFTER;
            }
            Reply::Failed => self.pause_until = now + RETRY_AFTER,
        }
        true
    }

    /// Returns when [`Presence::tick`] is to be called at the latest.
    pub fn deadline(&self) -> Millis {
        let next = match (self.attempt, &self.call) {
            (Some((_, until)), _) => until,
            (None, Some(_)) => self.pause_until,
            (None, None) if self.has_work() => self.pause_until,
            (None, None) => self.alive_at.max(self.pause_until),
        };
        self.users.deadline().map_or(next, |until| until.min(next))
    }

    fn has_work(&self) -> bool {
        self.more || self.users.has_changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Reply = Reply::Done { online: 0, offline: 0, more: false };

    fn presence() -> Presence {
        Presence::new(
            "n",
            Settings {
                report: ReportUse::Events { sink: Sink::Channel("evt".into()), entries_max: 7 },
                wait: 1000,
                waiting_max: 10,
                batch_max: 10,
            },
        )
    }

    /// The call's number and its changes.
    fn said(attempt: &Attempt) -> String {
        [&attempt.words[9..10], &attempt.words[15..]]
            .concat()
            .iter()
            .map(|word| text(word))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn text(word: &[u8]) -> &str {
        std::str::from_utf8(word).expect("the tests write text")
    }

    #[test]
    fn the_words_of_a_call() {
        let mut presence = presence();
        presence.came("42");
        let attempt = presence.tick(0).expect("somebody came");
        let rest: Vec<&str> = attempt.words[2..].iter().map(|word| text(word)).collect();
        assert_eq!(attempt.words[0], b"EVAL");
        assert_eq!(
            rest.join(" "),
            "4 oneloop:{evt}:here oneloop:{evt}:nodes oneloop:{evt}:calls oneloop:{evt}:here:n.1 \
             n n.1 1 16000 10 channel evt 7 +42"
        );
    }

    #[test]
    fn one_call_is_under_way_at_a_time_and_others_gather() {
        let mut presence = presence();
        presence.came("a");
        let first = presence.tick(0).expect("somebody came");
        presence.came("b");
        presence.came("c");
        assert!(presence.tick(1).is_none());
        assert!(presence.on_reply(first.number, DONE, 2));
        let second = presence.tick(2).expect("others came");
        assert_eq!((said(&first), said(&second)), ("1 +a".into(), "2 +b +c".into()));
        assert!(presence.on_reply(second.number, DONE, 3));
        assert_eq!(presence.deadline(), 2 + ALIVE_EVERY);
        assert!(presence.tick(1 + ALIVE_EVERY).is_none());
        assert_eq!(said(&presence.tick(2 + ALIVE_EVERY).expect("it lives")), "3");
    }

    #[test]
    fn what_failed_is_repeated_as_it_was() {
        let mut presence = presence();
        presence.came("a");
        let first = presence.tick(0).expect("somebody came");
        presence.came("b");
        assert!(presence.on_reply(first.number, Reply::Failed, 5));
        assert_eq!(presence.deadline(), 5 + RETRY_AFTER);
        assert!(presence.tick(4 + RETRY_AFTER).is_none());
        let again = presence.tick(5 + RETRY_AFTER).expect("it is repeated");
        assert_eq!(said(&again), said(&first));
        assert_ne!(again.number, first.number);
    }

    #[test]
    fn an_attempt_without_an_answer_is_given_up_and_its_answer_does_not_count() {
        let mut presence = presence();
        let first = presence.tick(0).expect("it lives");
        assert_eq!(presence.deadline(), ANSWER_WITHIN);
        let second = presence.tick(ANSWER_WITHIN).expect("it is repeated");
        assert!(!presence.on_reply(first.number, Reply::Unknown, ANSWER_WITHIN));
        assert!(presence.on_reply(second.number, DONE, ANSWER_WITHIN));
        assert!(!presence.on_reply(second.number, Reply::Unknown, ANSWER_WITHIN));
    }

    #[test]
    fn who_is_unknown_to_redis_begins_anew_after_a_pause() {
        let mut presence = presence();
        presence.came("a");
        let first = presence.tick(0).expect("somebody came");
        assert!(presence.on_reply(first.number, Reply::Unknown, 0));
        assert!(presence.tick(RETRY_AFTER - 1).is_none(), "no tight circle");
        let again = presence.tick(RETRY_AFTER).expect("all is told anew");
        assert_eq!(said(&again), "1 +a");
        assert_eq!(again.words[8], b"n.2");
    }
}
