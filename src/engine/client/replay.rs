//! The replay of one client, as its connection holds it.

use crate::engine::client::Client;
use crate::engine::resume::replay::Replay;

impl Client {
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
}
