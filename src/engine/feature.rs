//! The seam between the engine and what is added to it.

use crate::clock::Millis;
use crate::engine::redis::request::{PageEnd, StreamInfo};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// A capability that the engine can do without: a folder in `src/features` that owns its state and is told of events.
///
/// Every hook has an empty default. Features act through the verbs of [`Server`], which only queue, and are called in the order
/// in which they were added. A feature that is off is not added, so it costs nothing.
pub trait Feature: std::any::Any {
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
