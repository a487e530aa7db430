//! A frame in a client's outbox, which counts itself: its place, and its delivery if the message's deliveries are counted.

use std::cell::Cell;
use std::ops::Deref;

use crate::engine::client::frame::Frame;

/// A copy of a frame that waits to be written. Dropped, it is a copy that never was.
#[derive(Debug)]
pub struct QueuedFrame(Frame);

/// The memory that a copy takes: an outbox' queue doubles when it is full.
const PLACE_BYTES: usize = 2 * size_of::<Frame>();

thread_local! {
    /// See [`places_bytes`].
    static PLACES: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of the places of all copies on this thread: a frame that many share has a place in each of their outboxes.
pub fn places_bytes() -> usize {
    PLACES.get() * PLACE_BYTES
}

impl QueuedFrame {
    pub fn new(frame: &Frame) -> QueuedFrame {
        PLACES.set(PLACES.get() + 1);
        if let Some(count) = frame.delivery_count() {
            count.on_queued();
        }
        QueuedFrame(frame.clone())
    }

    /// Ends the wait: all of it is on the wire.
    pub fn into_written(self) {
        if let Some(count) = self.delivery_count() {
            count.on_written();
        }
    }
}

impl Drop for QueuedFrame {
    fn drop(&mut self) {
        PLACES.set(PLACES.get() - 1);
        if let Some(count) = self.delivery_count() {
            count.on_left();
        }
    }
}

impl Deref for QueuedFrame {
    type Target = Frame;

    fn deref(&self) -> &Frame {
        &self.0
    }
}
