//! The socket of one publisher: the commands read from it, and the replies written to it.

use std::io::IoSlice;

use crate::clock::Millis;
use crate::engine::reactor::{InputState, PeerState, PortConnection, PortSocket};
use crate::features::publisher::connection::Publisher;
use crate::features::publisher::world::World;

/// Parts of a write: a large message is one of its own.
const PARTS: usize = 16;

/// A connection: its protocol and its socket.
pub struct PublisherSocket {
    pub socket: PortSocket,
    pub publisher: Publisher,
}

impl PublisherSocket {
    /// Reads at most `limit` bytes and executes the commands in them, until a client has too much pending. Returns whether the limit
    /// was reached.
    pub fn read(&mut self, world: &mut dyn World, buffer: &mut [u8], limit: usize) -> bool {
        self.publisher.take(&[], world);
        let mut total = 0;
        while self.socket.peer < PeerState::Ended && !self.publisher.is_ending {
            if self.publisher.is_full() && !self.publisher.is_executing() {
                self.socket.input = InputState::Stalled;
                return false;
            }
            let is_over = total >= limit;
            if is_over || self.publisher.has_left() || world.is_pressed() {
                self.socket.input = InputState::Queued;
                return is_over;
            }
            let room = buffer.len().min(limit - total);
            let Some(length) = self.socket.read(&mut buffer[..room]) else { break };
            total += length;
            self.publisher.take(&buffer[..length], world);
        }
        let has_left = self.publisher.has_left();
        self.socket.input = if has_left { InputState::Queued } else { InputState::Idle };
        false
    }

    pub fn write(&mut self, now: Millis) {
        while !self.publisher.output.is_empty() && self.socket.is_writable() {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for (slot, part) in parts.iter_mut().zip(self.publisher.output.parts()) {
                *slot = IoSlice::new(part);
                count += 1;
            }
            let length = self.socket.write(&parts[..count], now);
            self.publisher.output.wrote(length);
        }
    }
}

impl PortConnection for PublisherSocket {
    fn socket(&mut self) -> &mut PortSocket {
        &mut self.socket
    }

    /// Returns when the peer's time is over, if it leaves its replies unread or has yet to give the password.
    fn deadline(&self) -> Option<Millis> {
        let unread = self.socket.unread_deadline();
        unread.into_iter().chain(self.publisher.auth_deadline()).min()
    }

    /// Returns whether nothing is left to write, or nobody to write to.
    fn is_done(&self) -> bool {
        let PublisherSocket { socket, publisher } = self;
        let is_read = socket.peer >= PeerState::Ended && socket.input == InputState::Idle;
        // A transaction is executed even if its publisher has gone.
        let is_lost = socket.peer == PeerState::Failed && !publisher.is_executing();
        let is_over = is_read || publisher.is_ending;
        is_lost || (is_over && publisher.output.is_empty() && !publisher.output.awaits_counts())
    }
}
