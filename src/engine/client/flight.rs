//! The work of a client that is in flight: unfinished input, pending writes and the replay. It exists only while there is any.

mod held;
pub mod saved;

use std::net::IpAddr;

use crate::engine::client::codec::Fragments;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::{self, Backlog, GATHERED_BYTES_MAX, Outbox, Slow, WriteSpace};
use crate::engine::client::sealed::{DirectWrite, Sealed};
use crate::engine::client::tls::Tls;
use crate::engine::client::{Client, State, Timing, Unwritten, head};
use crate::engine::pending_writes::Lane;
use crate::engine::resume::replay::Replay;
use crate::engine::slots::ConnId;
use crate::engine::timers::{NEVER, Tick};
use crate::engine::tls::{RECORD_PLAIN_MAX, TlsHandshake};

/// The unfinished work of a connection.
#[derive(Debug)]
pub(super) struct Flight {
    /// A partial head or frame.
    input: Vec<u8>,
    pub fragments: Option<Box<Fragments>>,
    /// A message that the handler has put off.
    deferred: Option<Box<str>>,
    /// A TLS handshake under way.
    handshake: Option<Box<TlsHandshake>>,
    /// The start of a TLS record, as it was received.
    record: Vec<u8>,
    /// Bytes of the five above, as last added to the loop's sum.
    unfinished: usize,
    /// The tick at which they became non-empty, or of the last complete message.
    since: Tick,
    outbox: Outbox,
    /// Present while missed messages are replayed.
    replay: Option<Box<Replay>>,
    lane: Lane,
    /// The socket is full; an event follows when it is writable again.
    blocked: bool,
    /// When the socket last accepted queued bytes; [`NEVER`] if nothing waits for it.
    taken: Tick,
}

impl Flight {
    /// Drops input and replay, and queues the last frame.
    pub fn finish(&mut self, last: Option<&Frame>, unwritten: Unwritten) {
        self.input = Vec::new();
        self.fragments = None;
        self.deferred = None;
        self.handshake = None;
        self.replay = None;
        if unwritten == Unwritten::Dropped {
            self.outbox.clear();
        }
        last.into_iter().for_each(|last| self.outbox.push(last));
    }
}

impl Client {
    /// Returns whether the client owns nothing but its slot.
    pub fn is_hibernating(&self) -> bool {
        self.flight.is_none()
    }

    pub(super) fn flight(&mut self) -> &mut Flight {
        self.flight.get_or_insert_with(|| {
            Box::new(Flight {
                input: Vec::new(),
                fragments: None,
                deferred: None,
                handshake: None,
                record: Vec::new(),
                unfinished: 0,
                since: 0,
                outbox: Outbox::default(),
                replay: None,
                lane: Lane::None,
                blocked: false,
                taken: NEVER,
            })
        })
    }

    /// Drops the flight if it is empty.
    pub fn settle(&mut self) {
        let idle = self.flight.as_ref().is_some_and(|flight| {
            flight.unfinished == 0 && flight.outbox.is_empty() && flight.replay.is_none()
        });
        if idle {
            self.flight = None;
        }
    }

    // Unfinished input.

    /// Takes the partial head or frame kept from before: usually nothing.
    pub fn take_input(&mut self) -> Vec<u8> {
        self.flight.as_mut().map_or(Vec::new(), |flight| std::mem::take(&mut flight.input))
    }

    /// Returns whether a partial head or frame is kept.
    pub fn has_input(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.input.is_empty())
    }

    /// Keeps a message for later. Call [`Client::recount`] afterwards.
    pub fn defer(&mut self, text: &str) {
        self.flight().deferred = Some(text.into());
    }

    /// Returns whether a message waits for the handler.
    pub fn has_deferred(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.deferred.is_some())
    }

    /// Takes the message that waits for the handler, if the client still waits for an answer.
    pub fn take_deferred(&mut self) -> Option<Box<str>> {
        let is_open = self.state == State::Open;
        self.flight.as_mut().and_then(|flight| flight.deferred.take()).filter(|_| is_open)
    }

    /// The client address from a complete PROXY header, while the request behind it is partial.
    pub fn announced(&self) -> Option<IpAddr> {
        head::announced(&self.flight.as_ref()?.input)
    }

    /// Returns whether only a PROXY header without a client has come: a health check that connects and disconnects.
    pub fn is_probe(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| head::is_probe(&flight.input))
    }

    /// Keeps a partial head or frame. Call [`Client::recount`] afterwards.
    pub fn keep_input(&mut self, input: Vec<u8>) {
        if !input.is_empty() {
            self.flight().input = input;
        }
    }

    /// Takes the TLS handshake that is under way.
    pub(super) fn take_handshake(&mut self) -> Option<Box<TlsHandshake>> {
        self.flight.as_mut()?.handshake.take()
    }

    /// Returns whether the TLS handshake has begun.
    pub fn has_handshake(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.handshake.is_some())
    }

    /// Keeps the TLS handshake that is under way. Call [`Client::recount`] afterwards.
    pub(super) fn keep_handshake(&mut self, handshake: Box<TlsHandshake>) {
        self.flight().handshake = Some(handshake);
    }

    /// The start of a TLS record that was received before.
    pub fn record(&self) -> &[u8] {
        self.flight.as_ref().map_or(&[], |flight| &flight.record)
    }

    /// Replaces the start of a TLS record by what is left behind the last whole one: `left` bytes, at the end of all `received`.
    /// Call [`Client::recount`] afterwards.
    pub(super) fn keep_record(&mut self, received: &[u8], left: usize) {
        let kept = self.record().len();
        let rest = &received[received.len() - left..];
        if left == received.len() && kept > 0 {
            // No record was completed, and the start of it is kept already. It grows by an eighth, as other unfinished input.
            let record = &mut self.flight().record;
            record.reserve_exact((left - kept).max(kept / 8));
            record.extend_from_slice(&rest[kept..]);
        } else if left > 0 || kept > 0 {
            self.flight().record = rest.to_vec();
        }
    }

    /// Updates `sum`, the unfinished input of all clients in bytes, and hibernates if nothing is in flight. `progressed`: a head,
    /// frame or message was completed since the last call.
    pub fn recount(&mut self, sum: &mut usize, now: Tick, progressed: bool) {
        let Some(flight) = &mut self.flight else { return };
        let fragments = flight.fragments.as_ref().map_or(0, |fragments| fragments.held_bytes());
        let deferred = flight.deferred.as_ref().map_or(0, |text| size_of_val(text) + text.len());
        let handshake = flight.handshake.as_ref().map_or(0, |handshake| handshake.held_bytes());
        let held =
            flight.input.capacity() + fragments + deferred + handshake + flight.record.capacity();
        if progressed || flight.unfinished == 0 {
            flight.since = now;
        }
        *sum = *sum - flight.unfinished + held;
        flight.unfinished = held;
        self.settle();
    }

    /// Bytes of unfinished input, and since when there is any.
    pub fn unfinished(&self) -> (usize, Tick) {
        self.flight.as_ref().map_or((0, 0), |flight| (flight.unfinished, flight.since))
    }

    // Pending writes.

    /// Queues a frame. Returns how many queued messages were dropped for it, or `None` if the socket is full, the backlog is at a
    /// bound and nothing may be dropped.
    ///
    /// A client whose socket is not known to be full is never slow. It is *pressed* instead: see [`Client::is_pressed`].
    pub fn queue(&mut self, frame: &Frame, backlog: &Backlog, slow: Slow) -> Option<usize> {
        let encoding = self.encoding();
        let frame = encoding.of(frame);
        let flight = self.flight();
        let outbox = &mut flight.outbox;
        let dropped = match slow {
            Slow::KeepNewest | Slow::Latest if flight.blocked => {
                usize::from(outbox.drop_same_subject(frame))
            }
            Slow::DropOldest(notice) if flight.blocked => {
                let notice = notice.map(|of| move |before: &str| encoding.of(&of(before)).clone());
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

    /// Queues bytes that are sent as they are, before the frames: messages of a TLS handshake, an alert.
    pub fn queue_raw(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.flight().outbox.push_raw(bytes);
        }
    }

    /// Drops queued frames, since nothing can seal them any more.
    pub fn abandon_queued(&mut self) {
        if let Some(flight) = &mut self.flight {
            flight.outbox.abandon();
        }
    }

    /// Queues the response to the handshake ahead of everything else.
    pub fn queue_first(&mut self, frame: &Frame) {
        self.flight().outbox.push_first(frame);
    }

    /// Returns whether `frame` is the last one queued: a client may have two of the topics of a message.
    pub fn was_just_queued(&self, frame: &Frame) -> bool {
        let last = self.flight.as_ref().and_then(|flight| flight.outbox.last());
        last.is_some_and(|last| last.is(self.encoding().of(frame)))
    }

    /// Replaces everything queued with another last frame; nothing may have been written yet.
    pub fn replace_queued(&mut self, last: &Frame) {
        self.end_leaving();
        let outbox = &mut self.flight().outbox;
        outbox.clear();
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
        tls: Option<&mut Tls>,
        space: &mut WriteSpace,
    ) -> std::io::Result<Option<(usize, outbox::Written)>> {
        let Some(flight) = &mut self.flight else {
            return Ok(None);
        };
        flight.lane = Lane::None;
        if flight.blocked || flight.outbox.is_empty() {
            return Ok(None);
        }
        let (bytes, written) =
            flight.outbox.write(|bytes| self.transport.write(id, bytes), tls, space)?;
        flight.blocked = written == outbox::Written::Blocked;
        flight.taken = match written {
            outbox::Written::All => NEVER,
            _ if bytes > 0 => now,
            _ => flight.taken.min(now),
        };
        self.settle();
        Ok(Some((bytes, written)))
    }

    /// Writes up to 64 KiB for a client with nothing in flight, without allocating. If the socket did not accept all, pass the
    /// frames to [`Client::keep_unwritten`].
    ///
    /// # Errors
    /// The transport's: the connection is lost.
    pub fn write(
        &mut self,
        id: ConnId,
        bytes: &[u8],
        tls: Option<&mut Tls>,
        sealed: &mut Vec<u8>,
    ) -> std::io::Result<DirectWrite> {
        debug_assert!(self.is_hibernating(), "pending writes go first");
        debug_assert!(bytes.len() <= GATHERED_BYTES_MAX, "more is queued");
        let Some(tls) = tls else {
            let sent = outbox::accepted(self.transport.write(id, bytes))?;
            let is_whole = sent == bytes.len();
            return Ok(DirectWrite { sent, written: sent, sealed: None, is_whole });
        };
        let (mut sent, mut written) = (0, 0);
        for plain in bytes.chunks(RECORD_PLAIN_MAX) {
            sealed.clear();
            tls.seal(plain, sealed);
            let length = outbox::accepted(self.transport.write(id, sealed))?;
            sent += length;
            if length < sealed.len() {
                let sealed = Some(Sealed::new(&sealed[length..], plain.len()));
                return Ok(DirectWrite { sent, written, sealed, is_whole: false });
            }
            written += plain.len();
        }
        Ok(DirectWrite { sent, written, sealed: None, is_whole: true })
    }

    /// Queues the rest of frames that were written in part, because the socket is full.
    pub fn keep_unwritten<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Frame>,
        write: DirectWrite,
        now: Tick,
    ) {
        let encoding = self.encoding();
        let flight = self.flight();
        frames.for_each(|frame| flight.outbox.push(encoding.of(frame)));
        flight.outbox.advance(write.written);
        write.sealed.into_iter().for_each(|sealed| flight.outbox.push_sealed(sealed));
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

    /// Returns whether the socket is full.
    pub fn is_blocked(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.blocked)
    }

    /// Returns when a blocked socket will have accepted nothing for too long.
    pub(super) fn stalls_at(&self, timing: &Timing) -> Tick {
        match &self.flight {
            Some(flight) if flight.blocked && timing.stall > 0 => {
                flight.taken.saturating_add(timing.stall)
            }
            _ => NEVER,
        }
    }

    // The replay.

    /// Begins to give the client what it missed, instead of live messages.
    pub fn begin_replay(&mut self, replay: Box<Replay>) {
        self.flight().replay = Some(replay);
    }

    /// The replay, if there is one.
    pub fn replay(&mut self) -> Option<&mut Replay> {
        self.flight.as_mut()?.replay.as_deref_mut()
    }

    /// Returns whether the client is given what it missed.
    pub fn is_replaying(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.replay.is_some())
    }

    /// Takes the replay out, to be put back with [`Client::begin_replay`] unless it is over.
    pub fn take_replay(&mut self) -> Option<Box<Replay>> {
        self.flight.as_mut()?.replay.take()
    }

    /// Returns whether at least so many bytes or frames are queued and unwritten.
    pub fn holds(&self, bytes: usize, frames: usize) -> bool {
        self.flight.as_ref().is_some_and(|flight| {
            flight.outbox.bytes() >= bytes || flight.outbox.frames_len() >= frames
        })
    }

    /// Returns whether the replay can go on: it is ready, everything queued before is written, and the socket takes bytes.
    pub fn wants_replay(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| {
            let is_ready = flight.replay.as_ref().is_some_and(|replay| replay.is_ready());
            is_ready && flight.outbox.is_empty() && !flight.blocked
        })
    }

    // Memory.

    /// The memory that this client uses, in bytes: backlog, unfinished input, and messages recorded during its replay.
    /// Subscriptions are counted by the hub.
    pub fn held_bytes(&self) -> usize {
        let of = |flight: &Flight| flight.outbox.bytes() + flight.unfinished;
        self.flight.as_deref().map_or(0, of) + self.changes_bytes()
    }

    /// Bytes of the changes of subscriptions during the replay.
    pub fn changes_bytes(&self) -> usize {
        let replay = self.flight.as_ref().and_then(|flight| flight.replay.as_ref());
        replay.map_or(0, |replay| replay.changes_bytes())
    }
}
