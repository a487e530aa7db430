//! Input from sources as a value, so that it can be seen, and handled once more elsewhere.

use std::any::Any;
use std::rc::Rc;

use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::resume::cursor::EntryId;

/// Input from Redis or a publisher that changes the history or goes to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceInput<'a> {
    /// A message of a channel. `is_counted`: its publisher is told the number of receivers.
    Message { channel: &'a [u8], payload: &'a [u8], is_counted: bool },
    /// An entry of a stream: see [`Router::publish_entry`](super::Router::publish_entry).
    Entry {
        stream: usize,
        id: EntryId,
        topic: &'a [u8],
        key: Option<&'a [u8]>,
        payload: &'a [u8],
        receipt: Option<&'a [u8]>,
    },
    /// A stream was read up to an entry that is no message.
    Reached { stream: usize, id: EntryId },
    /// See [`Router::stream_begins`](super::Router::stream_begins).
    StreamBegins { stream: usize, covered_from: EntryId },
    /// See [`Router::prefill_entry`](super::Router::prefill_entry).
    Prefill {
        stream: usize,
        id: EntryId,
        topic: &'a [u8],
        key: Option<&'a [u8]>,
        payload: &'a [u8],
    },
    /// See [`Router::on_stream_lost`](super::Router::on_stream_lost).
    StreamLost { stream: usize, covered_from: EntryId },
    /// See [`Router::on_reader`](super::Router::on_reader).
    Reader { is_up: bool },
    /// See [`Router::on_source`](super::Router::on_source).
    Subscription { is_up: bool },
}

/// Sees all input of sources, in the order in which the router handles it.
pub trait SourceObserver: Any {
    /// Sees input that is about to be handled. Returns the number of a counted message that has receivers elsewhere, whose count
    /// [`Port::on_counted`](crate::engine::reactor::Port::on_counted) brings later.
    fn on_input(&mut self, input: SourceInput<'_>) -> Option<u64>;

    /// Sees the counter of the message with this number in the history, which it has just seen.
    fn on_count(&mut self, number: u64, count: &Rc<DeliveryCount>);
}

/// The receivers of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receivers {
    /// Clients of this process, and subscribers at its ports.
    pub here: usize,
    /// The number under which receivers elsewhere are counted, if there may be some.
    pub elsewhere: Option<u64>,
}
