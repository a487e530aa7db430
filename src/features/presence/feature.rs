//! Presence as the engine sees it: changes of users in, calls of the script out.

use crate::clock::Millis;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::redis::advice;
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::server::Server;
use crate::features::presence::{Presence, Reply, Settings};

/// The pause before a refusal is logged again.
const REPEAT: Millis = 60_000;

/// The feature: a node's [`Presence`], and the requests that carry its calls.
pub struct PresenceFeature {
    presence: Presence,
    /// When a refusal was last logged.
    logged: Option<Millis>,
    /// Clients that are sent away come back to other nodes: that is no event, and so the node just falls silent.
    is_silent: bool,
}

impl PresenceFeature {
    /// Begins to tell Redis which users are here. Nobody may be connected yet.
    pub fn new(server: &mut Server, settings: Settings) -> PresenceFeature {
        assert!(server.clients.is_empty(), "a client came before its user was watched");
        server.users.watch();
        let presence = Presence::new(server.node(), settings);
        PresenceFeature { presence, logged: None, is_silent: false }
    }

    fn on_answer(&mut self, server: &mut Server, number: u64, answer: &Answer) {
        let (reply, now) = (reply(answer), server.now().millis);
        if !self.presence.on_reply(number, reply, now) {
            return;
        }
        let metrics = server.metrics();
        match reply {
            Reply::Done { online, offline, .. } => {
                metrics.presence_online += online;
                metrics.presence_offline += offline;
            }
            Reply::Unknown => metrics.presence_renewals += 1,
            Reply::Failed => {
                metrics.presence_retries += 1;
                self.log_refusal(answer, now);
            }
        }
    }

    /// Logs a refusal. A missing connection is logged where the connection is.
    fn log_refusal(&mut self, answer: &Answer, now: Millis) {
        let Answer::Refused(why) = answer else { return };
        if self.logged.is_none_or(|logged| now >= logged + REPEAT) {
            self.logged = Some(now);
            log::warn!("{}", advice::untold(why));
        }
    }
}

impl Feature for PresenceFeature {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::User(change) if change.has_come => self.presence.came(&change.user),
            FeatureEvent::User(change) => {
                let cut_short = self.presence.left(&change.user, server.now().millis);
                server.metrics().presence_cut_short += u64::from(cut_short);
            }
            FeatureEvent::Answer { number, answer } => self.on_answer(server, number, answer),
            FeatureEvent::TurnEnd if !self.is_silent => {
                if let Some(attempt) = self.presence.tick(server.now().millis) {
                    let words: Vec<&[u8]> = attempt.words.iter().map(Vec::as_slice).collect();
                    server.ask(command(&words), Ticket::of_feature("presence", attempt.number));
                }
                server.metrics().presence_users = self.presence.users_len();
            }
            FeatureEvent::Drain => self.is_silent = true,
            _ => {}
        }
    }

    fn deadline(&self, _server: &Server) -> Option<Millis> {
        (!self.is_silent).then(|| self.presence.deadline())
    }
}

/// Reads the script's answer: four numbers.
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
