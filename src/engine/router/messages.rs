//! Input from Redis and publishers: messages and stream entries go to every route, answers to whoever asked.

use super::sources::{Receivers, SourceInput};
use super::{Router, refusals};
use crate::engine::feature::{FeatureEvent, MessageSource, StreamReply};
use crate::engine::handler::RouteEvent;
use crate::engine::pubsub::topic::Subject;
use crate::engine::redis::probe::CHANNEL;
use crate::engine::redis::request::{Answer, PageEnd, ReplyForm, Ticket, TicketOwner};
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::history::notes;
use crate::engine::server::replay;
use crate::engine::server::{ReplayItem, Scope};
use crate::engine::slots::ConnId;

/// A payload of this size or more leaves memory behind that is worth returning. glibc takes such a block from the system, and
/// returns the first one; the next of that size it keeps.
const LARGE_PAYLOAD_BYTES: usize = 128 * 1024;

impl Router {
    /// Handles input that another process observed: see [`SourceObserver`](super::sources::SourceObserver). Returns to how many
    /// clients a message went.
    pub fn handle(&mut self, input: SourceInput<'_>) -> usize {
        match input {
            SourceInput::Message { channel, payload, is_counted } => {
                return self.publish_from(channel, payload, is_counted).here;
            }
            SourceInput::Entry { stream, id, topic, key, payload, receipt } => {
                return self.publish_entry(stream, id, (topic, key), payload, receipt);
            }
            SourceInput::Reached { stream, id } => self.reach(stream, id),
            SourceInput::StreamBegins { stream, covered_from } => {
                self.stream_begins(stream, covered_from);
            }
            SourceInput::Prefill { stream, id, topic, key, payload } => {
                self.prefill_entry(stream, id, (topic, key), payload);
            }
            SourceInput::StreamLost { stream, covered_from } => {
                self.on_stream_lost(stream, covered_from);
            }
            SourceInput::Reader { is_up } => self.on_reader(is_up),
            SourceInput::Subscription { is_up } => self.on_source(is_up),
        }
        0
    }

    /// Shows the observer input that is about to be handled.
    fn observe(&mut self, input: SourceInput<'_>) -> Option<u64> {
        self.observer.as_mut()?.on_input(input)
    }

    /// Publishes a message from Redis: see [`Router::publish_from`].
    pub fn publish(&mut self, channel: &[u8], payload: &[u8]) -> usize {
        self.publish_from(channel, payload, false).here
    }

    /// Publishes a message from Redis or from a publisher, which is told the number of receivers if `is_counted`. A channel of a
    /// feature (control) is no topic, whatever its name.
    pub fn publish_from(&mut self, channel: &[u8], payload: &[u8], is_counted: bool) -> Receivers {
        let mut features = self.features.iter();
        let of_feature = features.position(|one| one.channel().map(str::as_bytes) == Some(channel));
        if let Some(place) = of_feature {
            let is_counted = is_counted || self.features[place].is_counted();
            let elsewhere = self.observe(SourceInput::Message { channel, payload, is_counted });
            let here = self.features[place].on_payload(&mut self.server, payload, elsewhere);
            return Receivers { here, elsewhere };
        }
        if channel.starts_with(CHANNEL.as_bytes()) {
            return Receivers::default();
        }
        self.server.metrics.messages += 1;
        let name = channel.strip_prefix(self.prefix.as_bytes());
        let Some(subject) = name.and_then(Subject::of_channel) else {
            self.server.metrics.messages_malformed += 1;
            refusals::of_channel(&mut self.server, &self.prefix, channel);
            return Receivers::default();
        };
        if self.is_oversized(subject, payload) {
            self.oversized();
            return Receivers::default();
        }
        let elsewhere = self.observe(SourceInput::Message { channel, payload, is_counted });
        self.server.resume.record(subject, payload);
        replay::reach_number(&mut self.server);
        let here = self.tell(subject, payload, MessageSource::Channel(channel));
        Receivers { here, elsewhere }
    }

    /// Publishes an entry of a stream, whose `topic` has no prefix. Returns to how many clients it went. `stream` is the stream's place
    /// in the settings, `receipt` the channel that the entry names for its receipt.
    pub fn publish_entry(
        &mut self,
        stream: usize,
        id: EntryId,
        (topic, key): (&[u8], Option<&[u8]>),
        payload: &[u8],
        receipt: Option<&[u8]>,
    ) -> usize {
        self.server.metrics.messages += 1;
        self.server.metrics.stream_entries += 1;
        let Some(subject) = Subject::of_entry(topic, key) else {
            self.server.metrics.messages_malformed += 1;
            refusals::of_entry(&mut self.server);
            self.reach(stream, id);
            return 0;
        };
        if self.is_oversized(subject, payload) {
            self.reach(stream, id);
            self.oversized();
            return 0;
        }
        self.observe(SourceInput::Entry { stream, id, topic, key, payload, receipt });
        refusals::of_prefix(&mut self.server, &self.prefix, subject.topic);
        self.server.resume.record_entry(stream, id, subject, payload);
        replay::reach(&mut self.server, stream, id);
        replay::reach_number(&mut self.server);
        self.tell(subject, payload, MessageSource::Entry { id, receipt })
    }

    /// A stream was read up to an entry that is no message.
    fn reach(&mut self, stream: usize, id: EntryId) {
        self.observe(SourceInput::Reached { stream, id });
        replay::reach(&mut self.server, stream, id);
    }

    /// Returns whether a key makes the message larger than one may be.
    fn is_oversized(&self, subject: Subject<'_>, payload: &[u8]) -> bool {
        let key = subject.key_len();
        key > 0 && key + payload.len() > self.server.bounds.payload_bytes_max
    }

    /// Gives every route a message that stands in the history. Returns to how many clients it went.
    fn tell(&mut self, subject: Subject<'_>, payload: &[u8], source: MessageSource<'_>) -> usize {
        self.had_large_payload |= payload.len() >= LARGE_PAYLOAD_BYTES;
        let Router { server, features, .. } = self;
        let counts =
            features.iter_mut().filter_map(|one| one.on_publish(server, subject.topic, source));
        // The last one, so that every feature sees the message.
        let count = counts.last();
        if let (Some(count), Some(observer)) = (&count, &mut self.observer) {
            observer.on_count(self.server.resume.history.next() - 1, count);
        }
        let mut reached = 0;
        for (number, route) in self.routes.iter_mut().enumerate() {
            let scope = Scope::new(&mut self.server, number as u8, true);
            let mut scope = scope.counted_by(count.clone());
            reached += route.handler.on_publish(&mut scope, subject, payload);
        }
        reached
    }

    /// Queues the next slice of the messages that a client missed, within about the time of so many `writes`. Returns how many writes
    /// it took the time of.
    pub fn replay(&mut self, id: ConnId, writes: usize) -> usize {
        replay::step(&mut self.server, id, writes).unwrap_or_else(|| {
            self.notify_features(FeatureEvent::Lacking(id));
            1
        })
    }

    /// Counts a payload above `payload_bytes_max` that was dropped, and logs it once a second at most.
    pub fn oversized(&mut self) {
        self.server.metrics.messages_oversized += 1;
        if self.dropped_logged.allow(self.server.now.millis) {
            log::warn!(
                "a payload above payload_bytes_max ({} bytes) was dropped; {} so far",
                self.server.bounds.payload_bytes_max,
                self.server.metrics.messages_oversized
            );
        }
    }

    /// Passes over an entry of a stream that is no message: it is too large, or malformed.
    pub fn pass_entry(&mut self, stream: usize, id: EntryId, is_oversized: bool, bytes: usize) {
        self.server.resume.sizes[stream].add(bytes);
        self.reach(stream, id);
        if is_oversized {
            return self.oversized();
        }
        self.server.metrics.stream_entries += 1;
        self.server.metrics.messages_malformed += 1;
        refusals::of_entry(&mut self.server);
    }

    /// Begins a stream: every entry after `covered_from` will be published.
    pub fn stream_begins(&mut self, stream: usize, covered_from: EntryId) {
        self.observe(SourceInput::StreamBegins { stream, covered_from });
        if covered_from != EntryId::ZERO {
            // Clients that are connected missed the entries added since they came; clients in a replay read them.
            let from = self.server.cursor();
            self.gap_to_subscribers(&from);
        }
        self.server.resume.begin_stream(stream, covered_from);
    }

    /// Records an entry from before the start, the latest one first. `false`: the history has no room for it, nor for older ones.
    pub fn prefill_entry(
        &mut self,
        stream: usize,
        id: EntryId,
        (topic, key): (&[u8], Option<&[u8]>),
        data: &[u8],
    ) -> bool {
        self.observe(SourceInput::Prefill { stream, id, topic, key, payload: data });
        self.server.resume.prefill(stream, id, Subject::of_entry(topic, key), data)
    }

    /// Reports a loss: entries before `covered_from` are gone and were never published. Every entry after it will be.
    pub fn on_stream_lost(&mut self, stream: usize, covered_from: EntryId) {
        self.observe(SourceInput::StreamLost { stream, covered_from });
        self.server.metrics.stream_lost += 1;
        let name = self.server.resume.streams.get(stream).map_or("", String::as_str);
        log::warn!("entries of the stream {name} were trimmed or deleted before they were read");
        self.tell_gap(self.server.resume.history.next() - 1, &self.server.cursor());
        self.server.resume.lose_entries(stream, covered_from);
    }

    /// Takes note that the streams are read, or not any more.
    pub fn on_reader(&mut self, up: bool) {
        self.observe(SourceInput::Reader { is_up: up });
        self.health.no_streams = !up;
        self.server.metrics.stream_ups += u64::from(up);
        if up {
            self.server.resume.are_streams_known = true;
        }
    }

    /// Takes note that the subscription at Redis came up or went down. If messages come by streams alone, none is missed by that.
    pub fn on_source(&mut self, up: bool) {
        self.observe(SourceInput::Subscription { is_up: up });
        self.health.no_subscriber = !up;
        self.server.metrics.source_ups += u64::from(up);
        if up {
            self.notify_features(FeatureEvent::SourceUp);
        }
        let now = (self.server.resume.history.next() - 1, self.server.cursor());
        if !up {
            self.lost_at = Some(now);
        } else if self.server.resume.has_channels {
            let (number, from) = self.lost_at.take().unwrap_or(now);
            self.tell_gap(number, &from);
        }
    }

    /// Reports to all subscribers that messages after this one may have been missed, now and when they come back.
    pub(super) fn tell_gap(&mut self, number: u64, from: &str) {
        notes::push_gap(&mut self.server.resume.history, number);
        replay::reach_number(&mut self.server);
        replay::wake_all(&mut self.server);
        self.gap_to_subscribers(from);
    }

    /// Sends a gap to subscribers; clients in a replay come to it in the history.
    fn gap_to_subscribers(&mut self, from: &str) {
        for number in 0..self.routes.len() {
            let encode = self.server.options[number].encode;
            if let Some(frame) = encode(&ReplayItem::Gap { from }) {
                Scope::new(&mut self.server, number as u8, true).send_to_subscribers(frame);
            }
        }
    }

    /// Answers every request as unavailable: there is no connection for commands. Requests made because of that wait for the next
    /// turn.
    pub fn refuse_requests(&mut self) {
        for _ in 0..self.server.requests.len() {
            let Some(request) = self.server.requests.pop() else { return };
            self.on_unavailable(request.ticket, request.form);
        }
    }

    /// Answers a request as unavailable: there is no connection for commands, or it broke.
    pub fn on_unavailable(&mut self, ticket: Ticket, form: ReplyForm) {
        match form {
            ReplyForm::Value => return self.on_answer(ticket, Answer::Unavailable),
            ReplyForm::Page { stream } => {
                let (number, end) = (ticket.number, PageEnd::UNAVAILABLE);
                self.on_stream_reply(StreamReply::PageEnd { number, stream, end });
            }
            ReplyForm::StreamInfo { stream } => {
                self.on_stream_reply(StreamReply::Info { stream, info: None });
            }
        }
        self.server.metrics.requests_unavailable += 1;
    }

    /// Gives an answer to its owner. Called in the dispatch phase alone.
    pub fn on_answer(&mut self, ticket: Ticket, answer: Answer) {
        self.server.metrics.requests_unavailable += u64::from(answer == Answer::Unavailable);
        match ticket.owner {
            TicketOwner::Route(route) => {
                let handler = &mut self.routes[route as usize].handler;
                let event = RouteEvent::Answer { number: ticket.number, answer };
                handler.on_event(&mut self.server.scope(route), event);
            }
            TicketOwner::Feature(name) => {
                if let Some(feature) = self.features.iter_mut().find(|one| one.name() == name) {
                    let event = FeatureEvent::Answer { number: ticket.number, answer: &answer };
                    feature.on_event(&mut self.server, event);
                }
            }
        }
    }

    /// Gives a part of a reply about a stream to the features.
    pub fn on_stream_reply(&mut self, reply: StreamReply<'_>) {
        self.notify_features(FeatureEvent::Stream(reply));
    }

    /// Logs that Redis refused a request, once a second at most: clients can cause it.
    pub fn log_refusal(&mut self, why: &str) {
        if self.refused_logged.allow(self.server.now.millis) {
            log::warn!("Redis refused a command: {why}");
        }
    }
}
