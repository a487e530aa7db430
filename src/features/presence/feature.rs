//! Presence as the engine sees it: changes of users in, calls of the script out.

use crate::clock::Millis;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::redis::printable::printable;
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::server::{Server, UserChange};
use crate::features::presence::{Presence, Reply, Settings};
use crate::upgrade::{StateError, StateReader, StateWriter};

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
    /// Begins to report users to Redis. No client may be connected yet.
    pub fn new(server: &mut Server, settings: Settings) -> PresenceFeature {
        assert!(server.clients.is_empty(), "a client came before its user was watched");
        server.users.watch();
        let presence = Presence::new(server.node(), settings);
        PresenceFeature { presence, logged: None, is_silent: false }
    }

    /// A connection of a user opened, or is gone.
    fn on_user(&mut self, server: &mut Server, user: &str, has_come: bool) {
        if has_come {
            return self.presence.came(user);
        }
        let cut_short = self.presence.left(user, server.now().millis);
        server.metrics().presence_cut_short += u64::from(cut_short);
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
                log_refusal(answer, &mut self.logged, now, RIGHTS);
            }
        }
    }
}

/// Logs a refusal, with the rights that are needed beside those of the script. A missing connection is logged where the connection is.
pub(super) fn log_refusal(answer: &Answer, logged: &mut Option<Millis>, now: Millis, rights: &str) {
    let Answer::Refused(why) = answer else { return };
    if logged.is_none_or(|logged| now >= logged + REPEAT) {
        *logged = Some(now);
        log::warn!("{}", refused(why, rights));
    }
}

impl Feature for PresenceFeature {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::User(UserChange { user, has_come, .. }) => {
                self.on_user(server, user, *has_come);
            }
            FeatureEvent::UserElsewhere { user, has_come } => self.on_user(server, user, has_come),
            FeatureEvent::Answer { number, answer } => self.on_answer(server, number, answer),
            FeatureEvent::TurnEnd if !self.is_silent => {
                if let Some(attempt) = self.presence.tick(server.now().millis) {
                    let words: Vec<&[u8]> = attempt.words.iter().map(Vec::as_slice).collect();
                    server.ask(command(&words), Ticket::of_feature("presence", attempt.number));
                }
                server.metrics().presence_users = self.presence.users_len() as u64;
            }
            FeatureEvent::Drain => self.is_silent = true,
            _ => {}
        }
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        self.presence.save(writer);
    }

    fn restore(&mut self, _: &mut Server, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.presence.restore(reader)
    }

    fn deadline(&self, _server: &Server) -> Option<Millis> {
        (!self.is_silent).then(|| self.presence.deadline())
    }
}

/// Reads the script's answer: four numbers.
pub(super) fn reply(answer: &Answer) -> Reply {
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

/// The advice for a script that Redis refused in these words.
fn refused(why: &str, rights: &str) -> String {
    const REFUSED: &str = "Redis refused what tells who is here";
    // The words about a command inside of a script may name the user, and differ from version to version.
    let marks = ["NOPERM", "The user executing the script", "ACL failure"];
    if marks.iter().any(|mark| why.contains(mark)) {
        return format!(
            "{REFUSED}: the user in the URL may not do it: run there ACL SETUSER <user> {rights} {SCRIPT_RIGHTS}"
        );
    }
    let advice = match why.split(' ').next() {
        Some("READONLY") => "it is a replica: name the primary in the setting redis",
        Some("OOM") => "it has no memory left: raise maxmemory there",
        Some("WRONGTYPE") => {
            "the stream, or a key beside it, is of another type: choose another name"
        }
        _ => "expected it to be accepted",
    };
    format!("{REFUSED}: {advice}, it said: {}", printable(why))
}

/// The rights that events need beside those of the script.
const RIGHTS: &str = "~<stream> ~oneloop:{<stream>}:* +xadd (with a channel: &<channel> and +publish, without +xadd)";

/// The rights for the commands of `script.lua` that all its uses need.
const SCRIPT_RIGHTS: &str = "+eval +time +zscore +zadd +zrem +zrevrange +zrangebyscore +hget +hset +hdel \
    +hincrby +hlen +sadd +srem +scard +sismember +srandmember";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_script_says_what_to_do() {
        for (why, expected) in [
            ("NOPERM User bob has no permissions to run the 'eval' command", "&c +eval +time"),
            ("ERR The user executing the script can't run this command", "&c +eval +time"),
            ("ERR ACL failure in script: User bob has no permissions", "&c +eval +time"),
            ("READONLY You can't write against a read only replica.", "name the primary"),
            ("OOM command not allowed when used memory > 'maxmemory'.", "raise maxmemory"),
            ("WRONGTYPE Operation against a key", "choose another name"),
            ("ERR \u{7}", "accepted, it said: ERR ?"),
        ] {
            let text = refused(why, "&c");
            assert!(text.contains(expected) && !text.contains("bob"), "{text}");
        }
    }

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
