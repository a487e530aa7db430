//! What clients send to back ends, by way of Redis.

use std::collections::HashMap;

use serde::Serialize;

use super::Push;
use super::command::RawJson;
use super::quota::{Added, Senders};
use super::rights::own_topic;
use super::wire;
use crate::clock::{Millis, RateLimit};
use crate::engine::client::frame::Frame;
use crate::engine::pubsub::topic::{self, user_of};
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::redis::sink::Sink;
use crate::engine::server::Scope;
use crate::engine::slots::ConnId;
use crate::json;

/// Of all clients of a route, without an answer.
const SENDS_MAX: usize = 1024;

/// Their bytes; one alone may exceed it, up to `message_bytes_max`.
const SENDS_BYTES_MAX: usize = 4 << 20;

/// Bytes that an entry takes beside its data, about.
const ENTRY_BYTES: usize = 256;

/// The way to the back ends: where messages of clients go, and those that Redis has not answered yet.
pub(super) struct Upstream {
    to: Sink,
    senders: Senders,
    added: Added,
    /// UpstreamMessage messages by the numbers of their tickets.
    sends: HashMap<u64, UpstreamMessage>,
    /// Number of the next one.
    next: u64,
    /// Bytes of the unanswered ones.
    bytes: usize,
    /// Limits the log lines about refusals.
    logged: RateLimit,
}

/// A message of a client, until Redis answers; the client may be gone by then.
struct UpstreamMessage {
    client: ConnId,
    user: Box<str>,
    /// The client's own mark, as it wrote it.
    reference: Option<Box<str>>,
    bytes: usize,
}

impl Upstream {
    pub fn new(to: Sink) -> Upstream {
        let (senders, added, logged) = (Senders::default(), Added::default(), RateLimit::default());
        Upstream { to, senders, added, sends: HashMap::new(), next: 0, bytes: 0, logged }
    }

    /// Returns whether a user may send so many bytes now, and takes them from its allowance if so.
    fn begin(&mut self, user: &str, bytes: usize, rate: u64, now: Millis) -> bool {
        let fits = self.bytes == 0 || self.bytes + bytes <= SENDS_BYTES_MAX;
        let has_room = self.sends.len() < SENDS_MAX && fits;
        has_room && self.senders.begin(user, bytes, rate, now)
    }

    /// Keeps a message until its answer comes. Returns its number.
    fn keep(&mut self, send: UpstreamMessage) -> u64 {
        self.bytes += send.bytes;
        self.next += 1;
        self.sends.insert(self.next, send);
        self.next
    }

    /// Ends the wait for an answer. Every request has one, even if its client is gone.
    fn end(&mut self, number: u64, now: Millis) -> Option<UpstreamMessage> {
        let send = self.sends.remove(&number)?;
        if self.sends.is_empty() {
            self.sends = HashMap::new();
        }
        self.bytes -= send.bytes;
        self.senders.end(&send.user, now);
        Some(send)
    }
}

impl Push {
    /// Asks Redis to take what a client sent. The answer is told when it comes.
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
        // A back end answers to a user: whoever shows no token is none.
        let own = own_topic(server, id).filter(|_| self.upstream.is_some()).ok_or("forbidden")?;
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
        let upstream = self.upstream.as_mut().ok_or("forbidden")?;
        let sub = user_of(&own).expect("an own topic is a user's");
        let rate = server.bounds().upstream_bytes_per_second_max as u64;
        if !upstream.begin(sub, bytes, rate, server.now().millis) {
            server.metrics().upstream_busy += 1;
            return Err("busy");
        }
        let (conn, at) = (server.name_of(id), server.now().unix_millis);
        let command = match &upstream.to {
            Sink::Channel(name) => {
                let said = said(sub, &conn, topic, &data, at);
                command(&[b"PUBLISH", name.as_bytes(), said.as_bytes()])
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
        let number =
            upstream.keep(UpstreamMessage { client: id, user: sub.into(), reference, bytes });
        let ticket = Ticket::of_route(server.route(), number);
        server.ask(command, ticket);
        Ok(())
    }

    /// Tells a client what became of what it sent.
    pub(super) fn answer_sender(&mut self, server: &mut Scope<'_>, number: u64, answer: Answer) {
        let Some(upstream) = &mut self.upstream else { return };
        let Some(send) = upstream.end(number, server.now().millis) else { return };
        let UpstreamMessage { client, reference, .. } = send;
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
            && upstream.logged.allow(server.now().millis)
        {
            // The rest of its words may repeat what the client sent.
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
fn said(sub: &str, conn: &str, topic: Option<&str>, data: &impl Serialize, at: u64) -> String {
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
        let said = |topic| said("4\"2", "n-1-2", topic, &[1], 5);
        assert_eq!(said(None), r#"{"sub":"4\"2","conn":"n-1-2","data":[1],"at":5}"#);
        assert!(said(Some("a")).contains(r#","topic":"a","data""#));
    }
}
