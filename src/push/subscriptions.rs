//! What a connection listens to: by its token, and at its own request.

use std::borrow::Cow;

use super::Push;
use super::wire::{self, Reference};
use crate::engine::client::frame::Frame;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::{Grant, TOPIC_BYTES_MAX, text_of_key};
use crate::engine::server::Scope;
use crate::engine::slots::ConnId;

/// The answer to a command about one topic.
type Obey = fn(&mut Push, &mut Scope<'_>, ConnId, &str, Option<Reference<'_>>) -> String;

impl Push {
    /// Obeys for each topic that a command names, and answers for each. Beyond as many as a client may hear one error stands for
    /// all that are left.
    pub(super) fn each_topic(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topics: &[Cow<'_, str>],
        reference: Option<Reference<'_>>,
        obey: Obey,
    ) {
        if topics.is_empty() {
            // It was read, and is not free.
            server.count_topic(id);
        }
        for (number, topic) in topics.iter().enumerate() {
            let is_beyond = number >= server.bounds().topics_per_client_max;
            let answer = if is_beyond {
                server.metrics().topics_refused += 1;
                wire::error("too_many_topics", None, reference)
            } else if !server.count_topic(id) {
                server.metrics().topics_refused += 1;
                wire::error("busy", echo(topic), reference)
            } else {
                obey(self, server, id, topic, reference)
            };
            server.send(id, &Frame::text(&answer));
            if is_beyond {
                return;
            }
        }
    }

    /// The answer to `subscribe`.
    pub(super) fn subscribe(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topic: &str,
        reference: Option<Reference<'_>>,
    ) -> String {
        match self.listen(server, id, topic) {
            Ok(()) => wire::subscribed(topic, reference),
            Err(code) => wire::error(code, echo(topic), reference),
        }
    }

    /// Makes a connection listen at its own request; else the code of the error.
    pub(super) fn listen(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topic: &str,
    ) -> Result<(), &'static str> {
        let own = own_topic(server, id);
        if own.as_deref() == Some(topic) {
            return Ok(());
        }
        let wanted = Grant::parse(topic).ok_or("bad_topic")?;
        let admin = self.rights.get(&id).is_some_and(|rights| rights.admin);
        let permitted = self.may(id, own.is_some()).any(|grant| grant.permits(admin, &wanted));
        let missing: Vec<&str> =
            wanted.keys(admin).filter(|key| server.reason(id, key).is_none()).collect();
        let heard_for = server.reason(id, wanted.key());
        let hears = heard_for.is_some();
        // What a back end joined outlives newer tokens, whoever asks for it as well.
        if permitted && hears && heard_for != Some(Reason::Joined) {
            server.set_reason(id, wanted.key(), Reason::Asked);
        }
        if hears && (missing.is_empty() || !permitted) {
            return Ok(());
        }
        if !permitted {
            return Err("forbidden");
        }
        if server.topics_len(id) + missing.len() > server.bounds().topics_per_client_max {
            server.metrics().topics_refused += 1;
            return Err("too_many_topics");
        }
        for key in missing {
            server.subscribe(id, key, Reason::Asked);
        }
        Ok(())
    }

    /// What a connection may ask for. What it was granted and gave up is among its rights.
    pub(super) fn may(&self, id: ConnId, has_sub: bool) -> impl Iterator<Item = &Grant> {
        let of_route = match has_sub {
            true => [&self.may[..], &self.topics[..]],
            false => [&self.anonymous[..], &[]],
        };
        let own = self.rights.get(&id).map_or(&[][..], |rights| &rights.may);
        own.iter().chain(of_route[0]).chain(of_route[1])
    }

    /// The answer to `unsubscribe`.
    pub(super) fn unsubscribe(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topic: &str,
        reference: Option<Reference<'_>>,
    ) -> String {
        if own_topic(server, id).as_deref() == Some(topic) {
            // Bounds per user, single sessions and the back end's hand on a user all rest on this membership.
            return wire::error("forbidden", Some(topic), reference);
        }
        let Some(grant) = Grant::parse(topic) else {
            return wire::error("bad_topic", echo(topic), reference);
        };
        let keys: Vec<String> = grant.keys(true).map(str::to_owned).collect();
        for key in keys {
            let granted = server.reason(id, &key) == Some(Reason::Granted);
            server.unsubscribe(id, &key);
            if granted && key == grant.key() {
                // It may come back to what its token gave it.
                self.rights.entry(id).or_default().may.push(grant.clone());
            }
        }
        wire::unsubscribed(topic, reference)
    }
}

/// The topic of the connection's user; an anonymous one has none.
pub(super) fn own_topic(server: &mut Scope<'_>, id: ConnId) -> Option<String> {
    server.key_for(id, Reason::Own)
}

/// Joins what has been granted, and returns the keys above `topics_per_client_max`.
pub(super) fn join_all<'a>(
    server: &mut Scope<'_>,
    id: ConnId,
    keys: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut excess = Vec::new();
    for key in keys {
        let known = server.reason(id, key).is_some();
        if known || server.topics_len(id) < server.bounds().topics_per_client_max {
            server.subscribe(id, key, Reason::Granted);
        } else {
            server.metrics().topics_refused += 1;
            excess.push(key.to_owned());
        }
    }
    excess
}

/// What a connection listens to, as people write it, sorted.
pub(super) fn heard(server: &mut Scope<'_>, id: ConnId) -> Vec<String> {
    let topics = server.topics(id);
    let mut texts: Vec<String> =
        topics.iter().map(|(key, _)| text_of_key(key).into_owned()).collect();
    texts.sort_unstable();
    texts
}

/// A topic as it is repeated in an error: not at all if it is too long to be one.
pub(super) fn echo(topic: &str) -> Option<&str> {
    (topic.len() <= TOPIC_BYTES_MAX).then_some(topic)
}
