//! A client as a state that is handed over: the slot, and the work that is in flight.
//!
//! A TLS handshake under way and a message in fragments cannot be handed over: their clients are closed before.

use super::{Client, Flight};
use crate::engine::client::encoding::Encoding;
use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::Outbox;
use crate::engine::client::tls::Tls;
use crate::engine::client::transport::Transport;
use crate::engine::client::{OPENED, Reading, State};
use crate::engine::resume::replay::Replay;
use crate::engine::timers::Tick;
use crate::engine::tls::TlsSession;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

const MALFORMED: StateError = StateError::Malformed("a client");

/// The states, by their numbers. A terminated client is not handed over.
const STATES: [State; 6] =
    [State::Head, State::Open, State::Leaving, State::Closing, State::HalfClosed, State::Lingering];

/// The parts of the process that clients refer to.
pub struct Shared<'f> {
    /// The frames that were read so far.
    pub frames: &'f mut Vec<Frame>,
    /// The number that the next message gets.
    pub next: u64,
    /// No time in the past is later.
    pub now: Tick,
    /// The number of streams that are read.
    pub streams: usize,
}

impl Flight {
    fn save(&self, writer: &mut StateWriter<'_>) {
        writer.bytes(&self.input);
        writer.bytes(&self.record);
        if let Some(text) = writer.option(self.deferred.as_ref()) {
            writer.text(text);
        }
        self.outbox.save(writer);
        if let Some(replay) = writer.option(self.replay.as_ref()) {
            replay.save(writer);
        }
        writer.bool(self.blocked);
        writer.u32(self.taken);
    }

    fn restore(
        &mut self,
        reader: &mut StateReader<'_>,
        shared: &mut Shared<'_>,
    ) -> Result<(), StateError> {
        self.input = reader.bytes(BYTES_MAX)?;
        self.record = reader.bytes(BYTES_MAX)?;
        self.deferred = reader.option(|reader| reader.text(BYTES_MAX))?.map(Into::into);
        self.outbox = Outbox::restored(reader, shared.frames)?;
        let (next, streams) = (shared.next, shared.streams);
        self.replay =
            reader.option(|reader| Replay::restored(reader, next, streams).map(Box::new))?;
        self.blocked = reader.bool()?;
        self.taken = reader.u32()?;
        Ok(())
    }
}

/// Writes a client but for its subscriptions, with its socket.
pub fn save<'a>(client: &'a Client, tls: Option<&Tls>, writer: &mut StateWriter<'a>) {
    match &client.transport {
        Transport::Tcp(stream) => {
            writer.u8(1);
            writer.descriptor(std::os::fd::AsFd::as_fd(stream));
        }
        Transport::Memory => writer.u8(0),
    }
    writer.u32(client.generation);
    writer.u32(client.last_received);
    writer.u32(client.ends);
    writer.u32(u32::from(client.at_end) << 16 | u32::from(client.spent));
    writer.u8(client.route);
    let state = STATES.iter().position(|state| *state == client.state);
    writer.u8(state.expect("a client that is gone was freed") as u8);
    writer.u8(match client.reading {
        Reading::Idle => 0,
        Reading::Queued => 1,
        Reading::ToEnd => 2,
    });
    writer.u8(client.bits);
    writer.u8(match tls {
        None => 0,
        Some(Tls::Handshake) => 1,
        Some(Tls::Open(_)) => 2,
        Some(Tls::Ended) => 3,
    });
    if let Some(Tls::Open(session)) = tls {
        session.save(writer);
    }
    if let Some(flight) = writer.option(client.flight.as_ref()) {
        flight.save(writer);
    }
}

/// The client that was written, and its TLS.
///
/// # Errors
/// The state is malformed, or its socket did not come.
pub fn restored(
    reader: &mut StateReader<'_>,
    shared: &mut Shared<'_>,
) -> Result<(Client, Option<Tls>), StateError> {
    let transport = match reader.u8()? {
        0 => Transport::Memory,
        1 => Transport::Tcp(reader.descriptor()?.into()),
        _ => return Err(MALFORMED),
    };
    let (generation, last_received, ends) =
        (reader.u32()?, reader.u32()?.min(shared.now), reader.u32()?);
    let mut client = Client::new(transport, generation, last_received, ends);
    let packed = reader.u32()?;
    (client.at_end, client.spent) = ((packed >> 16) as u16, packed as u16);
    client.route = reader.u8()?;
    client.state = *STATES.get(usize::from(reader.u8()?)).ok_or(MALFORMED)?;
    client.reading = match reader.u8()? {
        0 => Reading::Idle,
        1 => Reading::Queued,
        2 => Reading::ToEnd,
        _ => return Err(MALFORMED),
    };
    client.bits = reader.u8()?;
    if usize::from(client.bits & !OPENED) >= Encoding::ALL.len() {
        return Err(MALFORMED);
    }
    let tls = match reader.u8()? {
        0 => None,
        1 => Some(Tls::Handshake),
        2 => Some(Tls::Open(TlsSession::restored(reader)?)),
        3 => Some(Tls::Ended),
        _ => return Err(MALFORMED),
    };
    if reader.bool()? {
        client.flight().restore(reader, shared)?;
    }
    Ok((client, tls))
}

/// Returns whether a client has something under way that cannot be handed over.
pub fn is_bound(client: &Client) -> bool {
    let flight = client.flight.as_ref();
    flight.is_some_and(|flight| flight.handshake.is_some() || flight.fragments.is_some())
}
