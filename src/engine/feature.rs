//! The seam between the engine and its optional features: a [`Feature`] sees events, and acts through the verbs of [`Server`].

use std::any::Any;
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::redis::request::{Answer, PageEnd, StreamInfo};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::{Server, UserChange};
use crate::engine::slots::ConnId;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// An addition to the engine that keeps its own state.
///
/// A feature that is off is not in the router's list, so it costs nothing. The router alone calls the hooks, never from inside a
/// verb: an effect of a verb is noted, and reported at the end of the turn.
pub trait Feature: Any {
    /// The feature's name, unique in the process: its tickets bear it ([`TicketOwner::Feature`]).
    ///
    /// [`TicketOwner::Feature`]: crate::engine::redis::request::TicketOwner::Feature
    fn name(&self) -> &'static str;

    /// The channel that belongs to the feature, if there is one: it carries no topic then, whatever its name.
    fn channel(&self) -> Option<&str> {
        None
    }

    /// Takes a payload from the feature's channel. Returns how many clients that concerned. `elsewhere`: the number under which other
    /// processes count theirs, for [`FeatureEvent::Counted`].
    fn on_payload(
        &mut self,
        _server: &mut Server,
        _payload: &[u8],
        _elsewhere: Option<u64>,
    ) -> usize {
        0
    }

    /// Returns whether it wants the counts of other processes.
    fn is_counted(&self) -> bool {
        false
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

    /// Handles any other event.
    fn on_event(&mut self, _server: &mut Server, _event: FeatureEvent<'_>) {}

    /// Writes the feature's state, for the process that takes this one's place.
    fn save(&self, _writer: &mut StateWriter<'_>) {}

    /// Takes over the state that was written; the connections are there already.
    ///
    /// # Errors
    /// The state is malformed.
    fn restore(
        &mut self,
        _server: &mut Server,
        _reader: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        Ok(())
    }

    /// Returns when the loop must turn again even if nothing happens. Asked once in each turn, at its end.
    fn deadline(&self, _server: &Server) -> Option<Millis> {
        None
    }
}

/// An event that is no message.
#[derive(Clone, Copy, Debug)]
pub enum FeatureEvent<'a> {
    /// The events of a turn were dispatched, and its output is about to be written.
    Tick,
    /// The output of a turn was written as far as sockets took it, and terminated connections are gone.
    TurnEnd,
    /// A client of a user came or went. Sent only if a feature watches users.
    User(&'a UserChange),
    /// A client of a user came to another process for which this one speaks, or left it.
    UserElsewhere { user: &'a str, has_come: bool },
    /// Clients in other processes that a message under this number went to, or a payload concerned. The numbers come in order.
    Counted { number: u64, count: usize },
    /// The answer to a request of this feature, by the number of its ticket. Every request has one.
    Answer { number: u64, answer: &'a Answer },
    /// The subscription at Redis came up: messages may have been missed before.
    SourceUp,
    /// A part of a reply about a stream.
    Stream(StreamReply<'a>),
    /// The history lacks entries of streams that a client missed, or cannot tell: the source of older messages takes over, and
    /// sets the stage of the client's replay.
    Lacking(ConnId),
    /// The process shuts down: all clients are sent away now.
    Drain,
    /// The loop comes to rest, to hand its state over: requests that are made after this turn wait for the end of that.
    Rest,
}

/// A part of the reply to a request about a stream. `number` is that of the request's ticket, `stream` the stream's place in the
/// settings.
#[derive(Clone, Copy, Debug)]
pub enum StreamReply<'a> {
    /// A message of a page.
    Entry { number: u64, id: EntryId, topic: &'a [u8], key: Option<&'a [u8]>, payload: &'a [u8] },
    /// The end of a page, even if the page did not come.
    PageEnd { number: u64, stream: usize, end: PageEnd },
    /// The extent of a stream; `None` if Redis did not say.
    Info { stream: usize, info: Option<StreamInfo> },
}

/// The origin of a message.
#[derive(Clone, Copy, Debug)]
pub enum MessageSource<'a> {
    /// A channel, of Redis or at the publishers' port.
    Channel(&'a [u8]),
    /// An entry of a stream; `receipt` is the channel that it names for its receipt.
    Entry { id: EntryId, receipt: Option<&'a [u8]> },
}

impl<'a> MessageSource<'a> {
    /// The channel to which a receipt for the message goes, if it has one. `of_channels`: that for messages of channels.
    pub fn receipt_channel(self, of_channels: Option<&'a str>) -> Option<&'a [u8]> {
        match self {
            // A receipt on a channel that is a topic as well has none: it would be a message, and have one, for ever.
            MessageSource::Channel(channel) => {
                of_channels.map(str::as_bytes).filter(|to| *to != channel)
            }
            MessageSource::Entry { receipt, .. } => receipt.filter(|to| !to.is_empty()),
        }
    }
}
