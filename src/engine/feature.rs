//! The seam between the engine and its optional features: a [`Feature`] sees events, and acts through the verbs of [`Server`].

use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::redis::request::{Answer, PageEnd, StreamInfo};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::{Server, UserChange};
use crate::engine::slots::ConnId;

/// An addition to the engine that keeps its own state.
///
/// A feature that is off is not in the router's list, so it costs nothing. The router alone calls the hooks, never from inside a
/// verb: what a verb causes is noted, and handed on at the end of the turn.
pub trait Feature: std::any::Any {
    /// The feature's name, unique in the process: its tickets bear it ([`TicketOwner::Feature`]).
    ///
    /// [`TicketOwner::Feature`]: crate::engine::redis::request::TicketOwner::Feature
    fn name(&self) -> &'static str;

    /// Returns whether a channel is the feature's own: it carries no topic then, whatever its name.
    fn takes_channel(&self, _channel: &[u8]) -> bool {
        false
    }

    /// Takes a payload from its own channel. Returns how many clients that concerned.
    fn on_payload(&mut self, _server: &mut Server, _payload: &[u8]) -> usize {
        0
    }

    /// Sees a message before every route publishes it. Returns a counter if its deliveries are to be counted.
    fn on_publish(
        &mut self,
        _server: &mut Server,
        _topic: &str,
        _source: MessageSource<'_>,
    ) -> Option<Rc<DeliveryCount>> {
        None
    }

    /// Learns that a client of a user came or went; only if one of the features watches users.
    fn on_user(&mut self, _server: &mut Server, _change: &UserChange) {}

    /// Takes the answer to a request of this feature: `number` is its ticket's. Every request has one.
    fn on_answer(&mut self, _server: &mut Server, _number: u64, _answer: Answer) {}

    /// Called once in each turn, between dispatch and flush. Returns when the loop must turn again even if nothing happens.
    fn on_tick(&mut self, _server: &mut Server) -> Option<Millis> {
        None
    }

    /// The history lacks entries of streams that a client missed, or cannot tell: the source of older messages takes over, and
    /// sets the stage of the client's replay. Returns the same as [`Feature::on_tick`].
    fn on_lacking(&mut self, _server: &mut Server, _id: ConnId) -> Option<Millis> {
        None
    }

    /// A part of a reply came that says what is in a stream.
    fn on_stream_reply(&mut self, _server: &mut Server, _reply: &StreamReply<'_>) {}

    /// Does what is due at the end of a turn, after what could be written was. Returns when the next turn must be at the latest.
    fn on_turn_end(&mut self, _server: &mut Server) -> Option<Millis> {
        None
    }

    /// Learns that the process shuts down: all clients are sent away now.
    fn on_drain(&mut self) {}
}

/// A part of the reply to a request about a stream. `number`: that of the request's ticket; `stream`: the stream's place in the
/// settings.
#[derive(Debug)]
pub enum StreamReply<'a> {
    /// A message of a page.
    Entry { number: u64, id: EntryId, topic: &'a [u8], payload: &'a [u8] },
    /// The end of a page, even if the page did not come.
    PageEnd { number: u64, stream: usize, end: PageEnd },
    /// The extent of a stream; `None` if Redis did not say.
    Info { stream: usize, info: Option<StreamInfo> },
}

/// The way by which a message came.
#[derive(Clone, Copy, Debug)]
pub enum MessageSource<'a> {
    /// A channel, of Redis or at the publishers' port.
    Channel(&'a [u8]),
    /// An entry of a stream; `receipt` is the channel that it names for its receipt.
    Entry { id: EntryId, receipt: Option<&'a [u8]> },
}
