//! Who is here, as the server sees it: a connection's user is whose own topic it listens to.

use crate::clock::Millis;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::user_of;
use crate::engine::redis::advice;
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::server::Server;
use crate::engine::slots::ConnId;
use crate::features::presence::{Presence, Reply};

/// A refusal is logged again after so long.
const REPEAT: Millis = 60_000;

impl Server {
    /// Begins to tell who is here.
    pub(crate) fn tell_who_is_here(&mut self, presence: Presence) {
        assert!(self.clients.is_empty(), "whoever leaves has come");
        self.presence = Some(presence);
    }

    /// How many users are here; 0 where it is not told.
    pub(crate) fn presence_users_len(&self) -> usize {
        self.presence.as_ref().map_or(0, Presence::users_len)
    }

    /// When [`Server::tick_presence`] is to be called.
    pub(crate) fn presence_deadline(&self) -> Option<Millis> {
        self.presence.as_ref().map(Presence::deadline)
    }

    /// Asks Redis what is to be asked now.
    pub(crate) fn tick_presence(&mut self) {
        let Some(presence) = &mut self.presence else { return };
        if let Some(attempt) = presence.tick(self.now.millis) {
            let words: Vec<&[u8]> = attempt.words.iter().map(Vec::as_slice).collect();
            self.ask(command(&words), Ticket::of_feature("presence", attempt.number));
        }
    }

    /// What became of it.
    pub(crate) fn on_presence_answer(&mut self, attempt: u64, answer: Answer) {
        let reply = reply(&answer);
        let Some(presence) = &mut self.presence else { return };
        if !presence.on_reply(attempt, reply, self.now.millis) {
            return;
        }
        match reply {
            Reply::Done { online, offline, .. } => {
                self.metrics.presence_online += online;
                self.metrics.presence_offline += offline;
            }
            Reply::Unknown => self.metrics.presence_renewals += 1,
            Reply::Failed => {
                self.metrics.presence_retries += 1;
                self.log_refusal(&answer);
            }
        }
    }

    /// A client began to listen to its own topic.
    pub(super) fn user_came(&mut self, own: &str) {
        if let (Some(presence), Some(sub)) = (&mut self.presence, user_of(own)) {
            presence.came(sub);
        }
    }

    /// It listens to it no more.
    pub(super) fn user_left(&mut self, own: &str) {
        if let (Some(presence), Some(sub)) = (&mut self.presence, user_of(own)) {
            let cut_short = presence.left(sub, self.now.millis);
            self.metrics.presence_cut_short += u64::from(cut_short);
        }
    }

    /// A client is about to listen to nothing any more.
    pub(super) fn user_leaves(&mut self, id: ConnId) {
        if self.presence.is_none() {
            return;
        }
        let Some(client) = self.clients.get(id) else { return };
        let Some(hub) = self.hubs.get(client.route as usize) else { return };
        let own = hub.topics(&client.subscriptions).find(|(_, reason)| *reason == Reason::Own);
        if let Some(own) = own.map(|(key, _)| key.to_owned()) {
            self.user_left(&own);
        }
    }

    /// That there is no link is logged where the link is.
    fn log_refusal(&mut self, answer: &Answer) {
        let now = self.now.millis;
        let Answer::Refused(why) = answer else { return };
        if self.presence_logged.is_none_or(|logged| now >= logged + REPEAT) {
            self.presence_logged = Some(now);
            log::warn!("{}", advice::untold(why));
        }
    }
}

/// The script answers four numbers.
fn reply(answer: &Answer) -> Reply {
    let Answer::List(list) = answer else { return Reply::Failed };
    match list[..] {
        [
            Answer::Integer(status),
            Answer::Integer(online),
            Answer::Integer(offline),
            Answer::Integer(more),
        ] => Reply::of([status, online, offline, more]),
        _ => Reply::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_not_four_numbers_counts_as_none() {
        let numbers = |of: &[i64]| Answer::List(of.iter().copied().map(Answer::Integer).collect());
        let done = Reply::Done { online: 2, offline: 0, more: true };
        for (answer, expected) in [
            (numbers(&[1, 2, 0, 1]), done),
            (numbers(&[0, 0, 0, 0]), Reply::Unknown),
            (numbers(&[2, 0, 0, 0]), Reply::Failed),
            (numbers(&[1, 0, 0]), Reply::Failed),
            (numbers(&[1, -1, -1, 0]), Reply::Done { online: 0, offline: 0, more: false }),
            (Answer::List(vec![Answer::Nothing; 4]), Reply::Failed),
            (Answer::Integer(1), Reply::Failed),
            (Answer::Refused("NOPERM".into()), Reply::Failed),
            (Answer::Unavailable, Reply::Failed),
        ] {
            assert_eq!(reply(&answer), expected, "{answer:?}");
        }
    }
}
