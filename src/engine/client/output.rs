//! A client's pending writes: queued, written to its socket, and kept while that is full.

use crate::engine::client::Client;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::{self, Backlog, Slow};
use crate::engine::pending_writes::Lane;
use crate::engine::slots::ConnId;
use crate::engine::timers::{NEVER, Tick};

impl Client {
    /// Queues a frame. Returns how many queued messages were dropped for it, or `None` if the socket is full, the backlog is at a
    /// bound and nothing may be dropped.
    ///
    /// A client whose socket is not known to be full is never slow. It is *pressed* instead: see [`Client::is_pressed`].
    pub fn queue(&mut self, frame: &Frame, backlog: &Backlog, slow: Slow) -> Option<usize> {
        let flight = self.flight();
        let outbox = &mut flight.outbox;
        let dropped = match slow {
            Slow::KeepNewest if flight.blocked => usize::from(outbox.drop_same_topic(frame)),
            Slow::DropOldest(notice) if flight.blocked => {
                outbox.drop_oldest(frame, backlog, notice)
            }
            _ => 0,
        };
        let takes = !flight.blocked || outbox.has_room(frame, backlog);
        takes.then(|| {
            outbox.push(frame);
            dropped
        })
    }

    /// Returns whether half of the backlog's bound was queued before any write was tried. Nothing more is then read from
    /// publishers, Redis or this client until it is flushed.
    pub fn is_pressed(&self, backlog: &Backlog) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| !flight.blocked && flight.outbox.is_half_full(backlog))
    }

    /// Queues the response to the handshake ahead of everything else.
    pub fn queue_first(&mut self, frame: &Frame) {
        self.flight().outbox.push_first(frame);
    }

    /// Returns whether `frame` is the last one queued: a client may have two of the topics of a message.
    pub fn was_just_queued(&self, frame: &Frame) -> bool {
        let last = self.flight.as_ref().and_then(|flight| flight.outbox.last());
        last.is_some_and(|last| last.is(frame))
    }

    /// Replaces everything queued with another last frame; nothing may have been written yet.
    pub fn replace_queued(&mut self, last: &Frame) {
        self.end_leaving();
        let outbox = &mut self.flight().outbox;
        outbox.forget();
        outbox.push(last);
    }

    /// Moves the client to a lane of the flush queue; `None` if it need not be queued. A pressed client goes first; one without
    /// queued frames continues its replay.
    pub fn enter_lane(&mut self, lane: Lane, backlog: &Backlog) -> Option<Lane> {
        let is_pressed = self.is_pressed(backlog);
        let flight = self.flight.as_mut()?;
        let lane = match (is_pressed, flight.outbox.is_empty()) {
            (true, _) => Lane::Pressed,
            (false, true) => Lane::Replay,
            (false, false) => lane,
        };
        let has_pending =
            !flight.outbox.is_empty() || flight.replay.as_ref().is_some_and(|it| it.is_ready());
        if flight.blocked || !has_pending || lane <= flight.lane {
            return None;
        }
        flight.lane = lane;
        Some(lane)
    }

    /// Records that the socket is writable again. Returns whether anything is pending.
    pub fn unblock(&mut self) -> bool {
        let Some(flight) = &mut self.flight else {
            return false;
        };
        let has_pending =
            !flight.outbox.is_empty() || flight.replay.as_ref().is_some_and(|it| it.is_ready());
        std::mem::take(&mut flight.blocked) && has_pending
    }

    /// Writes pending frames. Returns the bytes written and the outcome; `None` if nothing is pending or the socket is full.
    ///
    /// # Errors
    /// The transport's: the connection is lost.
    pub fn flush(
        &mut self,
        id: ConnId,
        now: Tick,
        gather: &mut Vec<u8>,
    ) -> std::io::Result<Option<(usize, outbox::Written)>> {
        let Some(flight) = &mut self.flight else {
            return Ok(None);
        };
        flight.lane = Lane::None;
        if flight.blocked || flight.outbox.is_empty() {
            return Ok(None);
        }
        let (bytes, written) =
            flight.outbox.write(|bytes| self.transport.write(id, bytes), gather)?;
        flight.blocked = written == outbox::Written::Blocked;
        flight.taken = match written {
            outbox::Written::All => NEVER,
            _ if bytes > 0 => now,
            _ => flight.taken.min(now),
        };
        self.settle();
        Ok(Some((bytes, written)))
    }

    /// Writes for a client with nothing in flight, without allocating. Returns how many bytes the socket accepted; pass the rest
    /// to [`Client::keep_unwritten`].
    ///
    /// # Errors
    /// The transport's: the connection is lost.
    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> std::io::Result<usize> {
        debug_assert!(self.is_hibernating(), "pending writes go first");
        match self.transport.write(id, bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Queues the rest of these frames: their first `written` bytes are on the wire, then the socket was full.
    pub fn keep_unwritten<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Frame>,
        written: usize,
        now: Tick,
    ) {
        let flight = self.flight();
        frames.for_each(|frame| flight.outbox.push(frame));
        flight.outbox.advance(written);
        flight.blocked = true;
        flight.taken = now;
    }

    /// The number of frames waiting to be written.
    pub fn backlog_frames(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.outbox.frames_len())
    }

    /// The number of bytes waiting to be written.
    pub fn backlog_bytes(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.outbox.bytes())
    }
}
