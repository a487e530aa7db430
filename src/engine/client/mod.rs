//! A client's connection, from its first byte to its last.
//!
//! An idle connection is a [`Client`] and nothing else. Unfinished work (a partial request head or frame, a fragmented message, a
//! backlog) lies in a `Flight` that exists only while it is needed.

pub mod allowance;
pub mod codec;
pub mod deflate;
pub mod delivery_count;
pub mod encoding;
pub mod event_stream;
pub(crate) mod flight;
pub mod frame;
mod head;
pub mod http;
pub mod in_memory;
mod keepalive;
pub mod outbox;
pub mod proxy_protocol;
pub mod queued_frame;
mod request_line;
mod response;
pub mod sealed;
pub mod tls;
pub mod transport;

use tungstenite::Bytes;
use tungstenite::protocol::frame::Utf8Bytes;

use crate::engine::pubsub::hub::Subscriptions;
use crate::engine::slots::ConnId;
use crate::engine::timers::{NEVER, TICKS_PER_SECOND, Tick};
use codec::{Codec, Inbound};
use encoding::Encoding;
use flight::Flight;
use frame::{Close, Frame};
pub use head::Head;
use http::{Request, Response};
pub use keepalive::Timing;
use tls::Tls;
use transport::Transport;

/// The state of a connection. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request head is being read.
    Head,
    /// A WebSocket, or an event stream.
    Open,
    /// Our close frame is queued or sent, and the client's own is awaited (RFC 6455 section 7.1.1). All other input is discarded.
    Leaving,
    /// The last output (a close frame, a response) is queued. Input is discarded.
    Closing,
    /// The peer has shut down its side: the connection ends once the rest is written.
    HalfClosed,
    /// Our side is shut down and the peer's end is awaited: closing now could send a reset that destroys unread data.
    Lingering,
    /// Waits to be reaped.
    Terminated,
}

/// The fate of pending writes when a connection is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritten {
    /// They are sent before the last frame.
    Sent,
    /// They are dropped, except a frame partly on the wire.
    Dropped,
}

/// The action when a connection reaches its end time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// Respond 408: the request head did not arrive in time.
    Timeout,
    /// Send a close frame with this code.
    Close(u16),
    /// The same, at a moment of the wall clock, which may be adjusted meanwhile.
    Expire(u16),
    /// Drop the connection.
    Drop,
}

/// Marks a packed [`AtEnd::Expire`]: no close code is above 4999.
const EXPIRES: u16 = 1 << 15;

impl AtEnd {
    /// Packs it into the slot's two bytes: no close code is below 1000 (RFC 6455 section 7.4.2).
    const fn pack(self) -> u16 {
        match self {
            AtEnd::Drop => 0,
            AtEnd::Timeout => 1,
            AtEnd::Close(code) => code,
            AtEnd::Expire(code) => code | EXPIRES,
        }
    }

    const fn unpack(packed: u16) -> AtEnd {
        match packed {
            0 => AtEnd::Drop,
            1 => AtEnd::Timeout,
            code if code & EXPIRES != 0 => AtEnd::Expire(code & !EXPIRES),
            code => AtEnd::Close(code),
        }
    }
}

/// The place of a client in the queue of clients with input to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not queued.
    Idle,
    /// Queued.
    Queued,
    /// Queued, and read to the end: the peer has shut down its side, and no further event will say so.
    ToEnd,
}

/// The action due at a deadline.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientDue {
    Nothing,

    Ping,
    /// No byte was received for too long.
    Silent,
    /// The socket has accepted nothing for too long.
    Stalled,
    /// The connection has reached its end time.
    End(AtEnd),
}

/// An event decoded from a client's input.
#[derive(Debug)]
pub enum ClientEvent {
    /// A complete request head.
    Request(Request),
    /// An invalid request head: the response ends the connection.
    Refused(Response),
    /// The connection does not begin with a PROXY header.
    Unproxied,

    Text(Utf8Bytes),

    Binary(Bytes),
    /// The peer sent a close frame; the answer is among the codec's replies.
    Closed,
    /// The peer answered our close frame with its own.
    Answered,
    /// The client broke the protocol or exceeded a bound.
    Violation(Close),
    /// The same by its own close frame: it sends no other.
    BrokenClose(Close),
    /// Input from a client that receives only; it is discarded.
    Stray,
}

/// A bit of [`Client::bits`]: the handler has accepted the client. The others are the number of its encoding.
const OPENED: u8 = 1 << 7;

/// A compile-time check: a slot is 40 bytes, and the slab adds nothing. (mio's sockets are larger if debug assertions are on.)
const _: () = assert!(cfg!(debug_assertions) || size_of::<Option<Client>>() == 40);

/// A connection: 40 bytes while it is idle.
pub struct Client {
    /// The byte pipe.
    pub transport: Transport,
    /// Tells the clients apart that use the same slot one after the other.
    pub generation: u32,
    /// When the last byte was received.
    last_received: Tick,
    /// When the connection ends, by `at_end`.
    ends: Tick,
    /// See [`AtEnd::pack`].
    at_end: u16,
    /// The price of the commands in the second of the last byte received, for `commands_per_second_max`.
    spent: u16,

    pub subscriptions: Subscriptions,
    /// The latest broadcast that was delivered, or was for others; see [`Client::is_behind`].
    delivered: u32,
    /// The number of its route.
    pub route: u8,
    state: State,

    pub reading: Reading,
    /// See [`Client::is_opened`] and [`Client::encoding`].
    bits: u8,
    flight: Option<Box<Flight>>,
}

impl Client {
    /// A connection just accepted; `ends` is the deadline of its request head.
    pub fn new(transport: Transport, generation: u32, now: Tick, ends: Tick) -> Client {
        Client {
            transport,
            generation,
            last_received: now,
            ends,
            at_end: AtEnd::Timeout.pack(),
            spent: 0,
            subscriptions: Subscriptions::default(),
            delivered: 0,
            route: 0,
            state: State::Head,
            reading: Reading::Idle,
            bits: 0,
            flight: None,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Returns whether the handler has accepted the client, and gets an `on_close` for it.
    pub fn is_opened(&self) -> bool {
        self.bits & OPENED != 0
    }

    /// Records that the handler has accepted the client.
    pub fn set_opened(&mut self) {
        self.bits |= OPENED;
    }

    /// The encoding in which the client receives frames.
    pub fn encoding(&self) -> Encoding {
        Encoding::ALL[usize::from(self.bits & !OPENED)]
    }

    /// Records that bytes were received. In a new second, nothing is spent yet.
    pub fn received(&mut self, now: Tick) {
        if self.last_received / TICKS_PER_SECOND != now / TICKS_PER_SECOND {
            self.spent = 0;
        }
        self.last_received = now;
    }

    pub fn end_at(&mut self, ends: Tick, at_end: AtEnd) {
        self.ends = ends;
        self.at_end = at_end.pack();
    }

    /// Returns whether the connection ends at a moment of the wall clock.
    pub fn expires(&self) -> bool {
        matches!(AtEnd::unpack(self.at_end), AtEnd::Expire(_))
    }

    /// Moves the end `by` ticks nearer: the wall clock has moved forward.
    pub fn move_end(&mut self, by: i64) {
        let ends = i64::from(self.ends).saturating_sub(by);
        self.ends = ends.clamp(0, i64::from(NEVER) - 1) as Tick;
    }

    /// Returns the tick at which [`Client::due`] is to be called next; `index` is the slot's number.
    pub fn deadline(&self, index: u32, now: Tick, timing: &Timing) -> Tick {
        match self.state {
            State::Open => {}
            // The client is reaped at the end of this turn.
            State::Terminated => return NEVER,
            _ => return self.ends,
        }
        let last_received = self.last_received.max(timing.floor);
        let silent =
            if self.may_be_silent(timing) { NEVER } else { last_received + timing.silence };
        let ping = match timing.next_ping(last_received, index) {
            ping if ping > now => ping,
            _ => timing.next_ping(now, index),
        };
        self.ends.min(silent).min(ping).min(self.stalls_at(timing))
    }

    pub fn due(&self, index: u32, now: Tick, timing: &Timing) -> ClientDue {
        if self.ends <= now {
            return ClientDue::End(AtEnd::unpack(self.at_end));
        }
        if self.state != State::Open {
            return ClientDue::Nothing;
        }
        let last_received = self.last_received.max(timing.floor);
        let is_silent = now.saturating_sub(last_received) >= timing.silence;
        if is_silent && !self.may_be_silent(timing) {
            return ClientDue::Silent;
        }
        if self.stalls_at(timing) <= now {
            return ClientDue::Stalled;
        }
        if timing.next_ping(last_received, index) <= now {
            ClientDue::Ping
        } else {
            ClientDue::Nothing
        }
    }

    /// Returns whether the client may send nothing for any time. If it is gone, the kernel gives up: heartbeats are not acknowledged.
    fn may_be_silent(&self, timing: &Timing) -> bool {
        timing.silence == 0 || self.encoding().is_one_way()
    }

    /// Returns when the last byte was received, if the ping that followed is still unanswered.
    pub fn pong_awaited_since(&self, index: u32, now: Tick, timing: &Timing) -> Option<Tick> {
        let last_received = self.last_received.max(timing.floor);
        let is_asked = self.state == State::Open && !self.encoding().is_one_way();
        (is_asked && timing.next_ping(last_received, index) <= now).then_some(last_received)
    }

    /// Adds a price to those of the second of the last byte received. Returns their sum.
    pub fn spend(&mut self, price: u32) -> u16 {
        let price = u16::try_from(price).unwrap_or(u16::MAX);
        self.spent = self.spent.saturating_add(price);
        self.spent
    }

    /// Takes the next event off `input`; `None` if the rest is incomplete, or input is discarded in this state.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        codec: &mut Codec,
        head: &Head,
    ) -> Option<ClientEvent> {
        match self.state {
            State::Head => head.next(input),
            State::Open if self.encoding().is_one_way() => {
                let is_stray = !std::mem::take(input).is_empty();
                is_stray.then_some(ClientEvent::Stray)
            }
            State::Open => self.next_message(input, codec),
            State::Leaving => {
                let is_answered = codec::ends_with_close(input);
                *input = &[];
                is_answered.then_some(ClientEvent::Answered)
            }
            State::Closing | State::HalfClosed | State::Lingering | State::Terminated => {
                *input = &[];
                None
            }
        }
    }

    fn next_message(&mut self, input: &mut &[u8], codec: &mut Codec) -> Option<ClientEvent> {
        let mut fragments = self.flight.as_mut().and_then(|flight| flight.fragments.take());
        let takes_deflated = self.encoding() == Encoding::Deflated;
        let inbound = codec.next(input, &mut fragments, takes_deflated);
        if fragments.is_some() {
            self.flight().fragments = fragments;
        }
        Some(match inbound? {
            Inbound::Text(text) => ClientEvent::Text(text),
            Inbound::Binary(bytes) => ClientEvent::Binary(bytes),
            Inbound::Close => ClientEvent::Closed,
            Inbound::Violation(close) => ClientEvent::Violation(close),
            Inbound::BrokenClose(close) => ClientEvent::BrokenClose(close),
        })
    }

    /// Completes the handshake. Broadcasts up to `latest`, the current one, are not for this client.
    pub fn open(&mut self, latest: u32, encoding: Encoding) {
        assert_eq!(self.state, State::Head, "only a handshake opens");
        self.state = State::Open;
        self.bits = encoding as u8;
        self.delivered = latest;
        self.end_at(NEVER, AtEnd::Drop);
    }

    /// Returns whether broadcast `number` has yet to be delivered to this client.
    pub fn is_behind(&self, broadcast: u32) -> bool {
        self.delivered < broadcast
    }

    /// Marks all broadcasts up to this one as delivered. Returns the previous mark.
    pub fn mark_delivered(&mut self, broadcast: u32) -> u32 {
        std::mem::replace(&mut self.delivered, broadcast)
    }

    /// Queues the last frame or response. The connection is `Leaving` then if the client is to answer it, else `Closing`.
    pub fn finish(&mut self, state: State, last: Option<&Frame>, unwritten: Unwritten, ends: Tick) {
        assert!(matches!(self.state, State::Head | State::Open), "a connection is finished once");
        assert!(
            matches!(state, State::Leaving | State::Closing),
            "the next states of a finished one"
        );
        self.state = state;
        self.end_at(ends, AtEnd::Drop);
        self.flight().finish(last, unwritten);
    }

    /// Stops waiting for the client's close frame.
    pub fn end_leaving(&mut self) {
        if self.state == State::Leaving {
            self.state = State::Closing;
        }
    }

    /// Shuts our side down and awaits the peer's end: all is written.
    pub fn linger(&mut self, id: ConnId, ends: Tick, tls: Option<&mut Tls>) {
        assert_eq!(self.state, State::Closing, "only a finished connection lingers");
        self.state = State::Lingering;
        self.end_at(ends, AtEnd::Drop);
        self.end_output(id, tls);
    }

    /// Tells the peer that nothing follows, on each layer (RFC 8446 section 6.1). A socket that is full to the byte does not learn
    /// it from TLS.
    pub fn end_output(&mut self, id: ConnId, tls: Option<&mut Tls>) {
        if let Some(tls) = tls {
            let mut alert = Vec::new();
            tls.end(&mut alert);
            if !alert.is_empty() {
                let _ = self.transport.write(id, &alert);
            }
        }
        self.transport.shutdown_write(id);
    }

    /// Records that the peer has shut down its side. Returns whether something is left to be written first.
    pub fn half_close(&mut self) -> bool {
        if matches!(self.state, State::Leaving | State::Closing) && self.backlog_bytes() > 0 {
            self.state = State::HalfClosed;
        }
        self.state == State::HalfClosed
    }

    /// Ends the connection. Returns whether it had not ended before.
    pub fn terminate(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Terminated) != State::Terminated
    }
}
