//! Control: back ends close connections, revoke tokens, subscribe and unsubscribe connections, and count the subscribers of a topic,
//! by JSON on one channel.
//!
//! A subscription that a back end begins lasts until the client disconnects, whatever newer tokens say. The back end's own
//! records alone make it permanent, through the next token: kept here as well, it would be a second authority beside the
//! token, and one that no other node knows of.

mod command;
mod revocation_exchange;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::clock::{Millis, RateLimit};
use crate::engine::client::frame::{Close, fit_reason};
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::{Grant, user_topic};
use crate::engine::redis::printable::printable;
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::redis::{advice, glob};
use crate::engine::server::{Scope, Server};
use crate::engine::slots::ConnId;
use crate::json;
use crate::upgrade::{StateError, StateReader};
use command::{ControlCommand, Target};
pub use revocation_exchange::key as revocations_key;
use revocation_exchange::{Need, RevocationExchange};

/// The most seconds by which a revocation may be ahead of this node's clock: clocks that are set at all do not differ by more.
const AHEAD_SECONDS_MAX: u64 = 240;

/// Counts that wait for those of other processes.
const COUNTS_MAX: usize = 4096;

/// The pause before a refusal of the exchange is logged again.
const REPEAT: Millis = 60_000;

/// The ticket numbers of answers to a count, and of the exchange of revocations.
const COUNT: u64 = 0;
const EXCHANGE: u64 = 1;

/// The control channel.
pub struct Control {
    channel: String,
    /// There is a Redis to answer a count in.
    has_redis: bool,
    /// Keeps revocations in that Redis.
    exchange: RevocationExchange,
    /// Counts that wait for those of other processes, by their numbers: in order.
    counts: VecDeque<AwaitedTopicCount>,
    malformed: RateLimit,
    refusals: RateLimit,
    /// When a refusal of the exchange was last logged.
    exchange_logged: Option<Millis>,
}

/// A topic whose subscribers are being counted.
struct AwaitedTopicCount {
    number: u64,
    topic: String,
    /// The channel of the answer.
    reply: String,
    /// The subscribers in this process.
    here: usize,
}

impl Control {
    /// Executes commands on this channel.
    pub fn new(server: &mut Server, channel: String, has_redis: bool) -> Control {
        server.revocations.begin();
        let exchange = RevocationExchange::new(&channel);
        let (counts, malformed, refusals) = Default::default();
        Control { channel, has_redis, exchange, counts, malformed, refusals, exchange_logged: None }
    }

    /// Executes a command. Returns for how many clients, or how many subscribers it counted.
    ///
    /// # Errors
    /// It cannot be executed; the sentence repeats nothing of it.
    fn execute(
        &mut self,
        server: &mut Server,
        command: &ControlCommand,
        elsewhere: Option<u64>,
    ) -> Result<usize, &'static str> {
        match command {
            ControlCommand::Count { .. } if self.counts.len() >= COUNTS_MAX => {
                return Err("too many counts at a time");
            }
            ControlCommand::Count { .. } if !self.has_redis => {
                return Err("count needs a Redis to be answered in");
            }
            ControlCommand::Revoke { before, .. }
                if *before > server.now().unix + AHEAD_SECONDS_MAX =>
            {
                return Err("before is ahead of this server's clock: a unix time in seconds");
            }
            ControlCommand::Revoke { sub, before } => {
                if self.has_redis {
                    self.exchange.note(sub, *before);
                }
                return Ok(self.revoke(server, sub, *before));
            }
            _ => {}
        }
        let routes = 0..server.hubs.len() as u8;
        let count = routes.map(|route| execute(&mut server.scope(route), command)).sum();
        if let ControlCommand::Count { topic, reply } = command {
            match elsewhere {
                Some(number) => {
                    let (topic, reply) = (topic.clone(), reply.clone());
                    self.counts.push_back(AwaitedTopicCount { number, topic, reply, here: count });
                }
                // The process that this one follows answers for all.
                None if server.resume.is_follower() => {}
                None => answer_count(server, topic, count, reply),
            }
        }
        Ok(count)
    }

    /// Answers the counts up to this number: these are the subscribers in other processes.
    fn on_counted(&mut self, server: &mut Server, number: u64, elsewhere: usize) {
        while self.counts.front().is_some_and(|next| next.number <= number)
            && let Some(next) = self.counts.pop_front()
        {
            let there = if next.number == number { elsewhere } else { 0 };
            answer_count(server, &next.topic, next.here + there, &next.reply);
        }
    }

    /// Refuses a user's tokens of before this second from now on, and closes its connections that have such a token. Returns how many.
    fn revoke(&mut self, server: &mut Server, sub: &str, before: u64) -> usize {
        let Some(own) = user_topic(sub) else { return 0 };
        server.revocations.expire(server.now.unix);
        if server.revocations.has(sub, before) {
            return 0;
        }
        // The one for all users may refuse the tokens already; it has closed no connection.
        if server.revocations.add(sub, before) {
            let merged = server.revocations.merge_above(server.bounds.revocations_max);
            if merged > 0 {
                self.exchange.drop_until(server.revocations.floor());
            }
            let metrics = server.metrics();
            metrics.revocations += 1;
            metrics.revocations_merged += merged as u64;
        }
        let own = server.scope(0).owners_anywhere(&own).into_iter();
        let revoked: Vec<ConnId> =
            own.filter(|id| server.revocations.issued(*id) < before).collect();
        revoked.iter().for_each(|id| server.close(*id, Close::REVOKED));
        revoked.len()
    }

    /// Sends the next call of the exchange, if there is one to be sent.
    fn call_redis(&mut self, server: &mut Server) {
        let now = server.now;
        let seconds = server.revocations.keep_seconds();
        let from = server.revocations.expire(now.unix);
        let need = Need { from, floor: server.revocations.floor(), seconds };
        if let Some(words) = self.exchange.next_call(need, now.millis) {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            server.ask(command(&words), Ticket::of_feature("control", EXCHANGE));
        }
    }

    /// Takes over what Redis knows of revocations.
    fn on_exchanged(&mut self, server: &mut Server, answer: &Answer) {
        let now = server.now.millis;
        let Ok(page) = self.exchange.on_answer(answer, now) else {
            server.metrics().revocation_retries += 1;
            if let Answer::Refused(why) = answer
                && self.exchange_logged.is_none_or(|logged| now >= logged + REPEAT)
            {
                self.exchange_logged = Some(now);
                log::warn!("{}", refused(why, &self.channel));
            }
            return;
        };
        for (sub, before) in page {
            match sub.as_str() {
                "" => server.revocations.raise_floor(before),
                sub => {
                    self.revoke(server, sub, before);
                }
            }
        }
    }

    /// Saves all revocations once more, since Redis may have lost them, and reads those that this node has missed.
    fn begin_anew(&mut self, server: &Server) {
        server.revocations.iter().for_each(|(sub, before)| self.exchange.note(sub, before));
        self.exchange.read();
    }
}

impl Feature for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn channel(&self) -> Option<&str> {
        Some(&self.channel)
    }

    /// Changes that Redis may not have are among the revocations, which the server has.
    fn restore(&mut self, server: &mut Server, _: &mut StateReader<'_>) -> Result<(), StateError> {
        if self.has_redis {
            self.begin_anew(server);
        }
        Ok(())
    }

    fn is_counted(&self) -> bool {
        true
    }

    fn on_payload(&mut self, server: &mut Server, payload: &[u8], elsewhere: Option<u64>) -> usize {
        server.metrics().controls += 1;
        let executed = ControlCommand::parse(payload)
            .and_then(|command| self.execute(server, &command, elsewhere));
        match executed {
            Ok(count) => count,
            Err(why) => {
                server.metrics().control_malformed += 1;
                if self.malformed.allow(server.now().millis) {
                    let count = server.metrics().control_malformed;
                    log::warn!(
                        "what came on the control channel is no order: {why}; {count} so far"
                    );
                }
                0
            }
        }
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::Answer { number: EXCHANGE, answer } => self.on_exchanged(server, answer),
            FeatureEvent::Answer { answer, .. } => {
                advice::log_unsent_report(answer, &mut self.refusals, server.now().millis);
            }
            FeatureEvent::Counted { number, count } => self.on_counted(server, number, count),
            FeatureEvent::SourceUp if self.has_redis => self.begin_anew(server),
            FeatureEvent::TurnEnd if self.has_redis => self.call_redis(server),
            _ => {}
        }
    }

    fn deadline(&self, _server: &Server) -> Option<Millis> {
        self.exchange.deadline().filter(|_| self.has_redis)
    }
}

/// Executes a command on one route. Returns for how many clients, or how many subscribers it counted.
fn execute(server: &mut Scope<'_>, command: &ControlCommand) -> usize {
    match command {
        ControlCommand::Kick { target, reason } => {
            let close = match reason {
                Some(words) => Close::KICKED.because(close_reason(words)),
                None => Close::KICKED,
            };
            let kicked = connections(server, target);
            kicked.iter().for_each(|id| server.close(*id, close.clone()));
            kicked.len()
        }
        ControlCommand::Join { target, topic } => {
            let joining = connections(server, target).into_iter();
            joining.filter(|id| join(server, *id, topic)).count()
        }
        ControlCommand::Leave { target, topic } => {
            let leaving = connections(server, target).into_iter();
            leaving.filter(|id| leave(server, *id, topic)).count()
        }
        ControlCommand::Count { topic, .. } => server.subscribers(topic),
        ControlCommand::Revoke { .. } => unreachable!("it is for all routes at once"),
    }
}

fn connections(server: &Scope<'_>, target: &Target) -> Vec<ConnId> {
    match target {
        Target::User(own) => server.owners(own),
        Target::Connection(name) => server.connection(name).into_iter().collect(),
    }
}

/// Subscribes a client. Returns whether it is subscribed by the command. Another user's topic is never joined: a command that
/// names the wrong user must not show one user's messages to another.
fn join(server: &mut Scope<'_>, id: ConnId, topic: &Grant) -> bool {
    if topic.is_user() {
        return false;
    }
    let key = topic.key();
    if server.reason(id, key).is_some() {
        server.set_reason(id, key, Reason::Joined);
        return true;
    }
    if server.topics_len(id) >= server.bounds().topics_per_client_max {
        server.metrics().topics_refused += 1;
        return false;
    }
    server.subscribe(id, key, Reason::Joined)
}

/// Unsubscribes a client. Returns whether it was subscribed. Its own topic stays: a client that is to receive nothing is kicked.
fn leave(server: &mut Scope<'_>, id: ConnId, topic: &Grant) -> bool {
    // An admin's `*` is two.
    let keys = topic.keys(true);
    let left = keys
        .filter(|key| server.reason(id, key) != Some(Reason::Own) && server.unsubscribe(id, key));
    left.count() > 0
}

fn answer_count(server: &mut Server, topic: &str, subscribers: usize, reply: &str) {
    #[derive(Serialize)]
    struct SubscribersAnswer<'a> {
        topic: &'a str,
        /// The name in the documented answer.
        listeners: usize,
        node: &'a str,
    }
    let text =
        json::encode(&SubscribersAnswer { topic, listeners: subscribers, node: server.node() });
    let publish = command(&[b"PUBLISH", reply.as_bytes(), text.as_bytes()]);
    server.ask(publish, Ticket::of_feature("control", COUNT));
}

/// The reason of a close in a back end's words, cut to fit a close frame.
fn close_reason(words: &str) -> String {
    fit_reason(words, |reason| json::encode(&BTreeMap::from([("reason", reason)])))
}

/// The advice for an exchange of revocations that Redis refused in these words, which may name the user of Redis.
fn refused(why: &str, channel: &str) -> String {
    const REFUSED: &str = "Redis refuses to keep revocations, so a restart would forget them";
    let marks = ["NOPERM", "The user executing the script", "ACL failure"];
    if marks.iter().any(|mark| why.contains(mark)) {
        let key = glob::escaped(&revocations_key(channel));
        return format!(
            "{REFUSED}: the user in the URL needs ~{key} +eval +zadd +zremrangebyscore +zrevrange +expire +persist"
        );
    }
    format!("{REFUSED}: expected it to be accepted, it said: {}", printable(why))
}
