//! What a client is owed: queued for it, offered to its socket, and kept while that is full.

use crate::engine::client::Client;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::{self, Backlog, Slow};
use crate::engine::pending_writes::Lane;
use crate::engine::slots::ConnId;
use crate::engine::timers::{NEVER, Tick};

impl Client {
    /// Queues a frame; `None` when it does not read, its backlog hit a bound, and nothing of it may be dropped. Else how many
    /// messages were.
    ///
    /// A client whose socket is not known to be full is never slow: it is *pressed* instead, see [`Client::is_pressed`].
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

    /// Whether half of its backlog's bound came in before it was offered a byte of it. Nothing more is read from publishers
    /// and Redis then, nor from itself, until it was.
    pub fn is_pressed(&self, backlog: &Backlog) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| !flight.blocked && flight.outbox.is_half_full(backlog))
    }

    /// Queues what must come before all else: the answer to the handshake.
    pub fn queue_first(&mut self, frame: &Frame) {
        self.flight().outbox.push_first(frame);
    }

    /// Whether `frame` is the last one queued: it listens twice to what one message is sent to.
    pub fn was_just_queued(&self, frame: &Frame) -> bool {
        let last = self.flight.as_ref().and_then(|flight| flight.outbox.last());
        last.is_some_and(|last| last.is(frame))
    }

    /// Puts another last frame into the place of all that is queued; nothing may be written yet.
    pub fn replace_queued(&mut self, last: &Frame) {
        self.end_leaving();
        let outbox = &mut self.flight().outbox;
        outbox.forget();
        outbox.push(last);
    }

    /// Puts it into a lane of the flush queue: the one where it must be queued now, if any. A pressed one comes first; one for
    /// whom no frame waits is given what it missed.
    pub fn enter_lane(&mut self, lane: Lane, backlog: &Backlog) -> Option<Lane> {
        let is_pressed = self.is_pressed(backlog);
        let flight = self.flight.as_mut()?;
        let lane = match (is_pressed, flight.outbox.is_empty()) {
            (true, _) => Lane::Pressed,
            (false, true) => Lane::Replay,
            (false, false) => lane,
        };
        let is_owed =
            !flight.outbox.is_empty() || flight.replay.as_ref().is_some_and(|it| it.is_ready());
        if flight.blocked || !is_owed || lane <= flight.lane {
            return None;
        }
        flight.lane = lane;
        Some(lane)
    }

    /// The socket takes bytes again: whether any are owed.
    pub fn unblock(&mut self) -> bool {
        let Some(flight) = &mut self.flight else {
            return false;
        };
        let is_owed =
            !flight.outbox.is_empty() || flight.replay.as_ref().is_some_and(|it| it.is_ready());
        std::mem::take(&mut flight.blocked) && is_owed
    }

    /// Writes what it is owed: the bytes written and how far that came. `None`: it is owed nothing, or is blocked.
    ///
    /// # Errors
    /// The transport's: the connection is gone.
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

    /// Writes to one that has nothing in flight, without a box: returns how many of the bytes the socket took. What it did not
    /// take is handed to [`Client::keep_unwritten`].
    ///
    /// # Errors
    /// The transport's: the connection is gone.
    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> std::io::Result<usize> {
        debug_assert!(self.is_hibernating(), "what is owed already comes first");
        match self.transport.write(id, bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
            result => result,
        }
    }

    /// Takes over what is left of these frames: their first `written` bytes are on the wire, then the socket was full.
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

    /// Frames that wait to be written.
    pub fn backlog_frames(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.outbox.frames_len())
    }

    /// Bytes that wait to be written.
    pub fn backlog_bytes(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.outbox.bytes())
    }
}
