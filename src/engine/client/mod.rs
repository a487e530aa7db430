//! One client's connection, from its first byte to its last.
//!
//! An idle connection is a [`Client`] and nothing else. What is in flight (a request head, a part of a frame, a message in
//! fragments, a backlog) lies in a `Flight` that exists only while it is needed.

pub mod allowance;
pub mod codec;
pub mod frame;
mod head;
pub mod http;
pub mod in_memory;
mod input;
mod keepalive;
pub mod outbox;
mod output;
pub mod proxy_protocol;
pub mod replay;
mod request_line;
mod response;
pub mod tally;
pub mod transport;

use tungstenite::Bytes;
use tungstenite::protocol::frame::Utf8Bytes;

use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Subscriptions;
use crate::engine::slots::ConnId;
use crate::engine::timers::{NEVER, TICKS_PER_SECOND, Tick};
use codec::{Codec, Fragments, Inbound};
use frame::{Close, Frame};
pub use head::Head;
use http::{Request, Response};
pub use keepalive::Timing;
use outbox::Outbox;
use replay::Replay;
use transport::Transport;

/// Where a connection stands. It moves forward only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The request's head is read.
    Head,
    /// A WebSocket.
    Open,
    /// Our close frame is queued or sent, and the client's own is awaited (RFC 6455 section 7.1.1). What else it sends is
    /// discarded.
    Leaving,
    /// The last thing it will be sent (a close frame, a response) is queued. What it sends is discarded.
    Closing,
    /// The peer has ended its side: it is gone as soon as all is written.
    HalfClosed,
    /// Our side is shut; its end is awaited, so that no reset destroys what it has not read yet.
    Lingering,
    /// Waits to be reaped.
    Terminated,
}

/// What happens when a connection's time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtEnd {
    /// The head did not come: 408.
    Timeout,
    /// A close frame with this code.
    Close(u16),
    /// The same, at a moment of the wall clock, which may be set meanwhile.
    Expire(u16),
    /// It is dropped.
    Drop,
}

/// Marks a packed [`AtEnd::Expire`]: no close code is above 4999.
const EXPIRES: u16 = 1 << 15;

impl AtEnd {
    /// In the two bytes that a slot has for it: no close code is below 1000 (RFC 6455 section 7.4.2).
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

/// Whether a client stands in the queue of those who have bytes to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It does not.
    Idle,
    /// It does.
    Noted,
    /// It does, and is read until its end: the peer has ended its side, and no event will say so again.
    ToEnd,
}

/// What is due at a deadline.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientDue {
    /// Nothing yet.
    Nothing,
    /// A ping.
    Ping,
    /// Nothing was heard for too long.
    Silent,
    /// Its socket has taken nothing for too long.
    Stalled,
    /// The connection's time is up.
    End(AtEnd),
}

/// What a client's bytes turned out to be.
#[derive(Debug)]
pub enum ClientEvent {
    /// A whole request head.
    Request(Request),
    /// A head that is answered and ended.
    Refused(Response),
    /// It does not begin with the header of a proxy.
    Unproxied,
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// The peer closed; the answer is among the codec's replies.
    Closed,
    /// The peer answered our close frame with its own.
    Answered,
    /// It broke the protocol or a bound.
    Violation(Close),
}

/// What is in flight.
#[derive(Debug)]
struct Flight {
    /// The start of a head or of a frame.
    input: Vec<u8>,
    fragments: Option<Box<Fragments>>,
    /// A message that its handler takes up later.
    deferred: Option<Box<str>>,
    /// Bytes of the three above, as the loop has them in its sum.
    unfinished: usize,
    /// Since when they hold anything, or the last whole message.
    since: Tick,
    outbox: Outbox,
    /// There while it is given what it missed.
    replay: Option<Box<Replay>>,
    lane: Lane,
    /// The socket takes nothing; it will say when it does.
    blocked: bool,
    /// When the socket last took some of what is queued; [`NEVER`] while nothing waits for it.
    taken: Tick,
}

/// Held at compile time: a slot is 40 bytes, and being one of a slab's adds nothing. (mio's sockets carry more where debug
/// assertions are on.)
const _: () = assert!(cfg!(debug_assertions) || size_of::<Option<Client>>() == 40);

/// A connection: 40 bytes while it is idle.
pub struct Client {
    /// The byte pipe.
    pub transport: Transport,
    /// Which tenant of its slot it is.
    pub generation: u32,
    /// When its last byte came.
    heard: Tick,
    /// When its time is up, and what happens then.
    ends: Tick,
    /// See [`AtEnd::pack`].
    at_end: u16,
    /// The price of its commands in the second in which its last byte came, for `commands_per_second_max`.
    spent: u16,
    /// What it listens to.
    pub subscriptions: Subscriptions,
    /// The latest broadcast that it was given, or that was not for it; see [`Client::is_behind`].
    served: u32,
    /// Its route's number.
    pub route: u8,
    state: State,
    /// Whether it is to be read.
    pub reading: Reading,
    /// Its handler took it in, and is to be told when it is gone.
    pub opened: bool,
    flight: Option<Box<Flight>>,
}

impl Client {
    /// A connection that was accepted; `ends` is the deadline of its request's head.
    pub fn new(transport: Transport, generation: u32, now: Tick, ends: Tick) -> Client {
        Client {
            transport,
            generation,
            heard: now,
            ends,
            at_end: AtEnd::Timeout.pack(),
            spent: 0,
            subscriptions: Subscriptions::default(),
            served: 0,
            route: 0,
            state: State::Head,
            reading: Reading::Idle,
            opened: false,
            flight: None,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether it owns nothing but its slot.
    pub fn is_hibernating(&self) -> bool {
        self.flight.is_none()
    }

    /// Bytes came.
    pub fn hear(&mut self, now: Tick) {
        if self.heard / TICKS_PER_SECOND != now / TICKS_PER_SECOND {
            self.spent = 0;
        }
        self.heard = now;
    }

    /// Sets when its time is up.
    pub fn end_at(&mut self, ends: Tick, at_end: AtEnd) {
        self.ends = ends;
        self.at_end = at_end.pack();
    }

    /// Returns whether its end is a moment of the wall clock.
    pub fn expires(&self) -> bool {
        matches!(AtEnd::unpack(self.at_end), AtEnd::Expire(_))
    }

    /// Moves its end nearer by so many ticks: the wall clock has moved forward.
    pub fn move_end(&mut self, by: i64) {
        let ends = i64::from(self.ends).saturating_sub(by);
        self.ends = ends.clamp(0, i64::from(NEVER) - 1) as Tick;
    }

    /// The tick at which [`Client::due`] wants to be asked next; `index` is the slot's number.
    pub fn deadline(&self, index: u32, now: Tick, timing: &Timing) -> Tick {
        match self.state {
            State::Open => {}
            // It is freed at the end of this turn.
            State::Terminated => return NEVER,
            _ => return self.ends,
        }
        let heard = self.heard.max(timing.floor);
        let silent = if timing.silence == 0 { NEVER } else { heard + timing.silence };
        let ping = match timing.next_ping(heard, index) {
            ping if ping > now => ping,
            _ => timing.next_ping(now, index),
        };
        self.ends.min(silent).min(ping).min(self.stalls_at(timing))
    }

    /// What is due now.
    pub fn due(&self, index: u32, now: Tick, timing: &Timing) -> ClientDue {
        if self.ends <= now {
            return ClientDue::End(AtEnd::unpack(self.at_end));
        }
        if self.state != State::Open {
            return ClientDue::Nothing;
        }
        let heard = self.heard.max(timing.floor);
        if timing.silence > 0 && now.saturating_sub(heard) >= timing.silence {
            return ClientDue::Silent;
        }
        if self.stalls_at(timing) <= now {
            return ClientDue::Stalled;
        }
        if timing.next_ping(heard, index) <= now { ClientDue::Ping } else { ClientDue::Nothing }
    }

    /// Returns when its last byte came, if the ping that followed is not answered yet.
    pub fn owes_pong_since(&self, index: u32, now: Tick, timing: &Timing) -> Option<Tick> {
        let heard = self.heard.max(timing.floor);
        (self.state == State::Open && timing.next_ping(heard, index) <= now).then_some(heard)
    }

    /// When a full socket will have taken nothing for too long.
    fn stalls_at(&self, timing: &Timing) -> Tick {
        match &self.flight {
            Some(flight) if flight.blocked && timing.stall > 0 => {
                flight.taken.saturating_add(timing.stall)
            }
            _ => NEVER,
        }
    }

    /// Adds a price to those of the second in which the last byte came. Returns their sum.
    pub fn spend(&mut self, price: u32) -> u16 {
        let price = u16::try_from(price).unwrap_or(u16::MAX);
        self.spent = self.spent.saturating_add(price);
        self.spent
    }

    /// Whether its socket takes nothing at present.
    pub fn is_blocked(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.blocked)
    }

    /// Takes the next event off `input`; `None`: the rest is not whole yet, or nobody reads it any more.
    pub fn next(
        &mut self,
        input: &mut &[u8],
        codec: &mut Codec,
        head: &Head,
    ) -> Option<ClientEvent> {
        match self.state {
            State::Head => head.next(input),
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
        let inbound = codec.next(input, &mut fragments);
        if fragments.is_some() {
            self.flight().fragments = fragments;
        }
        Some(match inbound? {
            Inbound::Text(text) => ClientEvent::Text(text),
            Inbound::Binary(bytes) => ClientEvent::Binary(bytes),
            Inbound::Close => ClientEvent::Closed,
            Inbound::Violation(close) => ClientEvent::Violation(close),
        })
    }

    /// The handshake is done. Of the broadcasts so far, the latest of which is `latest`, it gets none.
    pub fn open(&mut self, latest: u32) {
        assert_eq!(self.state, State::Head, "only a handshake opens");
        self.state = State::Open;
        self.served = latest;
        self.end_at(NEVER, AtEnd::Drop);
    }

    /// Whether it is still to be given the broadcast with this number, if that is for it.
    pub fn is_behind(&self, broadcast: u32) -> bool {
        self.served < broadcast
    }

    /// It was given all broadcasts up to this one that are for it. Returns up to which it had been.
    pub fn serve(&mut self, broadcast: u32) -> u32 {
        std::mem::replace(&mut self.served, broadcast)
    }

    /// Queues the last frame or response. What waits is sent before it, unless `forget`.
    pub fn finish(&mut self, last: Option<&Frame>, forget: bool, ends: Tick) {
        assert!(matches!(self.state, State::Head | State::Open), "it is finished once");
        self.state = State::Closing;
        self.end_at(ends, AtEnd::Drop);
        let flight = self.flight();
        flight.input = Vec::new();
        flight.fragments = None;
        flight.deferred = None;
        flight.replay = None;
        if forget {
            flight.outbox.forget();
        }
        if let Some(last) = last {
            flight.outbox.push(last);
        }
    }

    /// The last frame is our close frame: the client's is awaited before our side shuts.
    pub fn leave(&mut self) {
        assert_eq!(self.state, State::Closing, "only what is finished leaves");
        self.state = State::Leaving;
    }

    /// The client's close frame came, or is awaited no more.
    pub fn end_leaving(&mut self) {
        if self.state == State::Leaving {
            self.state = State::Closing;
        }
    }

    /// All is written: our side shuts, and the peer's end is awaited.
    pub fn linger(&mut self, id: ConnId, ends: Tick) {
        assert_eq!(self.state, State::Closing, "only what is finished lingers");
        self.state = State::Lingering;
        self.end_at(ends, AtEnd::Drop);
        self.transport.shutdown_write(id);
    }

    /// The peer has ended its side. Whether that leaves something to be written first.
    pub fn half_close(&mut self) -> bool {
        if matches!(self.state, State::Leaving | State::Closing) && self.backlog_bytes() > 0 {
            self.state = State::HalfClosed;
        }
        self.state == State::HalfClosed
    }

    /// It is gone. Whether it was not before.
    pub fn die(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Terminated) != State::Terminated
    }

    /// Bytes that it makes the process hold: what it was not sent yet, what it has not finished to say, and what is noted for its
    /// replay. Its memberships stand in the hub.
    pub fn held_bytes(&self) -> usize {
        let of = |flight: &Flight| flight.outbox.bytes() + flight.unfinished;
        self.flight.as_deref().map_or(0, of) + self.noted_bytes()
    }

    /// Bytes of what is noted for its replay.
    pub fn noted_bytes(&self) -> usize {
        let replay = self.flight.as_ref().and_then(|flight| flight.replay.as_ref());
        replay.map_or(0, |replay| replay.noted_bytes())
    }

    fn flight(&mut self) -> &mut Flight {
        self.flight.get_or_insert_with(|| {
            Box::new(Flight {
                input: Vec::new(),
                fragments: None,
                deferred: None,
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

    /// Hibernates if nothing is in flight.
    fn settle(&mut self) {
        let idle = self.flight.as_ref().is_some_and(|flight| {
            flight.unfinished == 0 && flight.outbox.is_empty() && flight.replay.is_none()
        });
        if idle {
            self.flight = None;
        }
    }
}
