//! Messages from clients to back ends, by way of Redis.

use std::collections::HashMap;

use serde::Serialize;

use super::Push;
use super::command::RawJson;
use super::rights::own_topic;
use super::upstream_limits::{AddedEntries, Senders};
use super::wire;
use crate::clock::RateLimit;
use crate::engine::client::frame::Frame;
use crate::engine::pubsub::topic::{self, user_of};
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::redis::sink::Sink;
use crate::engine::server::Scope;
use crate::engine::slots::ConnId;
use crate::json;

/// Unanswered messages of all clients of a route.
const MESSAGES_MAX: usize = 1024;

/// Their bytes; one alone may exceed it, up to `message_bytes_max`.
const MESSAGES_BYTES_MAX: usize = 4 << 20;

/// Bytes that an entry takes beside its data, about.
const ENTRY_BYTES: usize = 256;

/// The way to the back ends of a route, and the messages that Redis has not answered yet.
pub(super) struct Upstream {
    to: Sink,
    senders: Senders,
    added: AddedEntries,
    /// Unanswered messages by the numbers of their tickets.
    messages: HashMap<u64, UpstreamMessage>,
    latest: u64,
    /// Bytes of the unanswered messages.
    bytes: usize,
    refusals: RateLimit,
}

/// A message of a client, until Redis answers; the client may be gone by then.
struct UpstreamMessage {
    client: ConnId,
    user: Box<str>,
    /// The text of the client's `ref`.
    reference: Option<Box<str>>,
    bytes: usize,
}

impl Upstream {
    pub fn new(to: Sink) -> Upstream {
        Upstream {
            to,
            senders: Senders::default(),
            added: AddedEntries::default(),
            messages: HashMap::new(),
            latest: 0,
            bytes: 0,
            refusals: RateLimit::default(),
        }
    }
}

impl Push {
    /// Asks Redis to take a client's message. [`Push::answer_sender`] follows.
    ///
    /// # Errors
    /// The code for the client.
    pub(super) fn send_upstream(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        data: RawJson<'_>,
        topic: Option<&str>,
        reference: Option<RawJson<'_>>,
    ) -> Result<(), &'static str> {
        // A back end answers to a user, and a client without a token has none.
        let upstream = self.upstream.as_mut().ok_or("forbidden")?;
        let own = own_topic(server, id).ok_or("forbidden")?;
        if let Some(topic) = topic {
            topic::published(topic.as_bytes()).ok_or("bad_topic")?;
            if !self.rights.may_publish(server, id, topic) {
                return Err("forbidden");
            }
        }
        if !wire::is_portable(data.text()) {
            return Err("bad_command");
        }
        let bytes = data.text().len();
        let sub = user_of(&own).expect("an own topic is a user's");
        let rate = server.bounds().upstream_bytes_per_second_max as u64;
        let fits = upstream.bytes == 0 || upstream.bytes + bytes <= MESSAGES_BYTES_MAX;
        let has_room = fits && upstream.messages.len() < MESSAGES_MAX;
        if !has_room || !upstream.senders.begin(sub, bytes, rate, server.now().millis) {
            server.metrics().upstream_busy += 1;
            return Err("busy");
        }
        let (conn, at) = (server.name_of(id), server.now().unix_millis);
        let command = match &upstream.to {
            Sink::Channel(name) => {
                let text = encode(sub, &conn, topic, &data, at);
                command(&[b"PUBLISH", name.as_bytes(), text.as_bytes()])
            }
            Sink::Stream(key) => {
                let bounds = server.bounds();
                let (entries_max, bytes_max) =
                    (bounds.upstream_entries_max, bounds.upstream_bytes_max);
                let most = upstream.added.add(bytes + ENTRY_BYTES, entries_max, bytes_max);
                let (most, at) = (most.to_string(), at.to_string());
                let mut words = vec!["XADD", key, "MAXLEN", "~", &most, "*"];
                words.extend(["sub", sub, "conn", &conn]);
                words.extend(topic.into_iter().flat_map(|topic| ["topic", topic]));
                words.extend(["data", data.text(), "at", &at]);
                command(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
            }
        };
        let reference = reference.map(|reference| reference.text().into());
        (upstream.latest, upstream.bytes) = (upstream.latest + 1, upstream.bytes + bytes);
        let number = upstream.latest;
        let message = UpstreamMessage { client: id, user: sub.into(), reference, bytes };
        upstream.messages.insert(number, message);
        let ticket = Ticket::of_route(server.route(), number);
        server.ask(command, ticket);
        Ok(())
    }

    /// Answers a client whose message Redis took or refused.
    pub(super) fn answer_sender(&mut self, server: &mut Scope<'_>, number: u64, answer: Answer) {
        let Some(upstream) = &mut self.upstream else { return };
        let Some(message) = upstream.messages.remove(&number) else { return };
        let UpstreamMessage { client, user, reference, bytes } = message;
        upstream.bytes -= bytes;
        upstream.senders.end(&user, server.now().millis);
        if upstream.messages.is_empty() {
            upstream.messages = HashMap::new();
        }
        let reference = reference.as_deref().and_then(RawJson::parse);
        let text = match (&upstream.to, &answer) {
            (Sink::Stream(_), Answer::Text(id)) => {
                server.metrics().upstream_sent += 1;
                wire::sent(std::str::from_utf8(id).ok(), reference)
            }
            (Sink::Channel(_), Answer::Integer(_)) => {
                server.metrics().upstream_sent += 1;
                wire::sent(None, reference)
            }
            _ => {
                server.metrics().upstream_unavailable += 1;
                wire::error("unavailable", None, reference)
            }
        };
        if let Answer::Refused(why) = answer
            && upstream.refusals.allow(server.now().millis)
        {
            // The rest of the error may repeat what the client sent.
            let code = why.split_whitespace().next().unwrap_or_default();
            log::warn!(
                "Redis refuses what clients send ({code}): check the setting upstream, the type of that key, and that the \
                 user in the URL may do it (ACL: +xadd ~KEY, or +publish &NAME)"
            );
        }
        server.send(client, &Frame::text(&text));
    }
}

/// The message on a channel; `at` is in milliseconds since 1970.
fn encode(sub: &str, conn: &str, topic: Option<&str>, data: &impl Serialize, at: u64) -> String {
    #[derive(Serialize)]
    struct SentMessage<'a, D> {
        sub: &'a str,
        conn: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        topic: Option<&'a str>,
        data: &'a D,
        at: u64,
    }
    json::encode(&SentMessage { sub, conn, topic, data, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_written_as_documented() {
        let encode = |topic| encode("4\"2", "n-1-2", topic, &[1], 5);
        assert_eq!(encode(None), r#"{"sub":"4\"2","conn":"n-1-2","data":[1],"at":5}"#);
        assert!(encode(Some("a")).contains(r#","topic":"a","data""#));
    }
}
