//! Subscriptions at the request of clients: from the next message on, from a cursor on, or with the newest message; and the lists of
//! topics and of members.

use std::borrow::Cow;

use super::command::{RawJson, Start};
use super::rights::{TopicRights, echo, own_topic};
use super::wire;
use super::withheld::{Withheld, WithheldAnswers, WithheldStart, kept};
use crate::engine::client::frame::Frame;
use crate::engine::pubsub::topic::{Grant, text_of_key};
use crate::engine::server::{Resumed, Scope};
use crate::engine::slots::ConnId;

/// Topics that `topics` lists in a microsecond, and bytes of the answer: a list of 128 takes 40 µs, or 95 µs if each name is of the
/// longest, while a `ping` takes one. Without this count, the commands of a few clients would make a long turn.
const TOPICS_PER_MICROSECOND: usize = 2;
const TOPIC_BYTES_PER_MICROSECOND: usize = 1024;

/// A list of members takes about this long to encode, if it is a long one.
const MEMBERS_MICROSECONDS: u32 = 20;

/// The answer for one topic of a command.
pub(super) struct TopicAnswer {
    /// `None`: it comes once Redis has acknowledged the topic.
    text: Option<String>,
    /// The number of the message that follows it.
    message: Option<u64>,
}

impl From<String> for TopicAnswer {
    fn from(text: String) -> TopicAnswer {
        TopicAnswer { text: Some(text), message: None }
    }
}

/// Subscribes a client to each of these topics that it may have, and answers for each.
pub(super) fn subscribe(
    (rights, withheld): (&mut TopicRights, &mut WithheldAnswers),
    (server, id): (&mut Scope<'_>, ConnId),
    topics: &[Cow<'_, str>],
    start: &Start<'_>,
    reference: Option<RawJson<'_>>,
) {
    match start {
        Start::Live => answer_each(server, id, topics, reference, |topic, server| {
            rights.subscribe(server, id, topic)?;
            if withhold(rights, withheld, (server, id), (topic, start), reference) {
                return Ok(TopicAnswer { text: None, message: None });
            }
            Ok(wire::subscribed(topic, reference).into())
        }),
        Start::Since(since) => answer_each(server, id, topics, reference, |topic, server| {
            rights.subscribe(server, id, topic)?;
            if withhold(rights, withheld, (server, id), (topic, start), reference) {
                return Ok(TopicAnswer { text: None, message: None });
            }
            Ok(resume(rights, (server, id), topic, since, reference).into())
        }),
        Start::Newest => with_newest((rights, withheld), (server, id), topics, reference),
    }
}

/// Withholds the answer about a topic until Redis has acknowledged it. Returns `false` if there is nothing to wait for.
fn withhold(
    rights: &TopicRights,
    withheld: &mut WithheldAnswers,
    (server, id): (&mut Scope<'_>, ConnId),
    (topic, start): (&str, &Start<'_>),
    reference: Option<RawJson<'_>>,
) -> bool {
    if !server.is_on_demand() {
        return false;
    }
    let keys = rights.keys(server, id, topic);
    let number = keys.iter().find_map(|key| server.await_subscription(id, Some(key)));
    let Some(number) = number else { return false };
    let start = match start {
        Start::Live => WithheldStart::Live,
        Start::Since(since) => WithheldStart::Since(kept(since)),
        Start::Newest => WithheldStart::Newest,
    };
    let reference = reference.map(|one| one.text().to_owned());
    let answer = Withheld::Subscribed { topic: topic.to_owned(), start, reference };
    withheld.push(id, number, answer);
    true
}

/// The withheld answer about a topic: what Redis did not send before it acknowledged the topic is not held.
pub(super) fn answer(
    rights: &TopicRights,
    (server, id): (&mut Scope<'_>, ConnId),
    (topic, start): (&str, &WithheldStart),
    reference: Option<RawJson<'_>>,
) {
    let text = match start {
        WithheldStart::Live => wire::subscribed(topic, reference),
        WithheldStart::Since(since) => resume(rights, (server, id), topic, since, reference),
        WithheldStart::Newest => wire::subscribed_last(topic, false, reference),
    };
    server.send(id, &Frame::text(&text));
}

/// Has a client that was just subscribed to a topic given its messages since a cursor. Returns the answer.
fn resume(
    rights: &TopicRights,
    (server, id): (&mut Scope<'_>, ConnId),
    topic: &str,
    since: &str,
    reference: Option<RawJson<'_>>,
) -> String {
    let looks_back = rights.looks_back(server, id, topic);
    let keys = if looks_back { rights.keys(server, id, topic) } else { Vec::new() };
    let now = server.cursor();
    // A client that only a back end joined may have what comes from now on.
    let mut from = (!looks_back).then(|| now.clone());
    for key in keys {
        if let Resumed::No(oldest) = server.resume_topic(id, &key, since) {
            from = Some(oldest);
        }
    }
    wire::subscribed_since(topic, &now, from.as_deref(), reference)
}

/// Subscribes a client to topics, and sends it the newest message of each right behind the answer, where the history holds it. A
/// pattern has no newest message.
fn with_newest(
    (rights, withheld): (&mut TopicRights, &mut WithheldAnswers),
    (server, id): (&mut Scope<'_>, ConnId),
    topics: &[Cow<'_, str>],
    reference: Option<RawJson<'_>>,
) {
    let most = server.bounds().topics_per_client_max;
    let permitted = topics.iter().take(most).map(|topic| &**topic);
    let permitted = permitted.filter(|topic| rights.looks_back(server, id, topic));
    let mut permitted: Vec<&str> = permitted.collect();
    permitted.sort_unstable();
    permitted.dedup();
    let newest = server.newest(id, &permitted);
    answer_each(server, id, topics, reference, |topic, server| {
        let is_pattern = Grant::parse(topic).is_some_and(|grant| grant.key() != topic);
        let number = permitted.iter().position(|one| *one == topic).and_then(|at| newest[at]);
        if is_pattern && own_topic(server, id).as_deref() != Some(topic) {
            return Err("bad_topic");
        }
        if number.is_some() && server.is_filled(id) {
            return Err("busy");
        }
        rights.subscribe(server, id, topic)?;
        if withhold(rights, withheld, (server, id), (topic, &Start::Newest), reference) {
            return Ok(TopicAnswer { text: None, message: None });
        }
        let answer = wire::subscribed_last(topic, number.is_some(), reference);
        Ok(TopicAnswer { text: Some(answer), message: number })
    });
}

/// Answers a command for each topic that it names. Beyond `topics_per_client_max` of them, one error stands for the rest.
pub(super) fn answer_each(
    server: &mut Scope<'_>,
    id: ConnId,
    topics: &[Cow<'_, str>],
    reference: Option<RawJson<'_>>,
    mut execute: impl FnMut(&str, &mut Scope<'_>) -> Result<TopicAnswer, &'static str>,
) {
    if topics.is_empty() {
        // Reading it was not free.
        server.count_topic(id);
    }
    for (number, topic) in topics.iter().enumerate() {
        let is_beyond = number >= server.bounds().topics_per_client_max;
        let answer = if is_beyond {
            server.metrics().topics_refused += 1;
            wire::error("too_many_topics", None, reference).into()
        } else if !server.count_topic(id) {
            server.metrics().topics_refused += 1;
            wire::error("busy", echo(topic), reference).into()
        } else {
            execute(topic, server)
                .unwrap_or_else(|code| wire::error(code, echo(topic), reference).into())
        };
        answer.text.iter().for_each(|text| server.send(id, &Frame::text(text)));
        answer.message.into_iter().for_each(|number| server.send_again(id, number));
        if is_beyond {
            return;
        }
    }
}

/// Answers `topics`.
pub(super) fn list_topics(
    (server, id): (&mut Scope<'_>, ConnId),
    reference: Option<RawJson<'_>>,
) -> String {
    let topics = topics_of(server, id);
    let answer = wire::topics(&topics, reference);
    let micros = topics.len() / TOPICS_PER_MICROSECOND + answer.len() / TOPIC_BYTES_PER_MICROSECOND;
    server.count_costly(micros as u32);
    answer
}

/// The topics that a connection has subscribed to, as people write them, sorted.
pub(super) fn topics_of(server: &mut Scope<'_>, id: ConnId) -> Vec<String> {
    let topics = server.topics(id);
    let mut texts: Vec<_> = topics.iter().map(|(key, _)| text_of_key(key).into_owned()).collect();
    texts.sort_unstable();
    texts
}

/// Has a client be sent the members of a topic, and what changes among them.
///
/// # Errors
/// The code for the client.
pub(super) fn list_members(
    (server, id): (&mut Scope<'_>, ConnId),
    topic: &str,
    reference: Option<RawJson<'_>>,
) -> Result<(), &'static str> {
    server.count_costly(MEMBERS_MICROSECONDS);
    if Grant::parse(topic).is_none_or(|grant| grant.key() != topic) {
        return Err("bad_topic");
    }
    let is_watching = server.watch_members(id, topic, reference.map(|one| one.text()));
    is_watching.then_some(()).ok_or("forbidden")
}
