//! Control: back ends close connections, subscribe and unsubscribe them, and count the subscribers of a topic, by JSON on one
//! channel.
//!
//! A subscription that a back end begins lasts until the client disconnects, whatever newer tokens say. The back end's own
//! records alone make it permanent, through the next token: kept here as well, it would be a second authority beside the
//! token, and one that no other node knows of.

mod command;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::clock::RateLimit;
use crate::engine::client::frame::{Close, fit_reason};
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::Grant;
use crate::engine::redis::advice;
use crate::engine::redis::request::{Ticket, command};
use crate::engine::server::{Scope, Server};
use crate::engine::slots::ConnId;
use crate::json;
use command::{ControlCommand, Target};

/// The control channel.
pub struct Control {
    channel: String,
    /// There is a Redis to answer a count in.
    has_redis: bool,
    malformed: RateLimit,
    refusals: RateLimit,
}

impl Control {
    /// Executes commands on this channel.
    pub fn new(channel: String, has_redis: bool) -> Control {
        let (malformed, refusals) = Default::default();
        Control { channel, has_redis, malformed, refusals }
    }
}

impl Feature for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn channel(&self) -> Option<&str> {
        Some(&self.channel)
    }

    fn on_payload(&mut self, server: &mut Server, payload: &[u8]) -> usize {
        server.metrics().controls += 1;
        let command = match ControlCommand::parse(payload) {
            Ok(ControlCommand::Count { .. }) if !self.has_redis => {
                Err("count needs a Redis to be answered in")
            }
            parsed => parsed,
        };
        match command {
            Ok(command) => {
                let routes = 0..server.hubs.len() as u8;
                let count = routes.map(|route| execute(&mut server.scope(route), &command)).sum();
                if let ControlCommand::Count { topic, reply } = &command {
                    answer_count(server, topic, count, reply);
                }
                count
            }
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
        if let FeatureEvent::Answer { answer, .. } = event {
            advice::log_unsent_report(answer, &mut self.refusals, server.now().millis);
        }
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
    server.ask(publish, Ticket::of_feature("control", 0));
}

/// The reason of a close in a back end's words, cut to fit a close frame.
fn close_reason(words: &str) -> String {
    fit_reason(words, |reason| json::encode(&BTreeMap::from([("reason", reason)])))
}
