//! The socket of one publisher: its reads, its writes and its end.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::features::publisher::connection::{Publisher, World};

/// Parts of a write: a large message is one of its own.
const PARTS: usize = 16;

/// Milliseconds that a peer may leave its replies unread while the socket is full.
const BLOCKED_MAX: Millis = 60_000;

/// The bytes from a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum InputState {
    /// Nothing is to be read before the next event.
    Idle,
    /// The connection stands in the queue of those to be read.
    Queued,
    /// The peer left too many replies unread: reading continues when they are written.
    Stalled,
}

/// The peer's side of the connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    Open,
    /// Its end or an error has been announced: the socket is read up to that.
    Ending,
    /// Its end was read.
    Ended,
    /// The socket failed, or the connection is cut.
    Failed,
}

/// A connection: its protocol and its socket.
pub struct PublisherSocket {
    stream: TcpStream,
    pub publisher: Publisher,
    pub input: InputState,
    pub peer: PeerState,
    /// The time since which the socket takes nothing; an event tells when it does again.
    pub blocked_since: Option<Millis>,
}

impl PublisherSocket {
    pub fn new(stream: TcpStream, publisher: Publisher) -> PublisherSocket {
        PublisherSocket {
            stream,
            publisher,
            input: InputState::Idle,
            peer: PeerState::Open,
            blocked_since: None,
        }
    }

    /// Notes an event. Returns whether there is something to be read, and whether the socket takes bytes again.
    pub fn note(&mut self, event: &Event) -> (bool, bool) {
        let is_ending = event.is_read_closed() || event.is_error();
        if is_ending {
            self.peer = self.peer.max(PeerState::Ending);
        }
        let is_unblocked = event.is_writable() && self.blocked_since.take().is_some();
        (event.is_readable() || is_ending, is_unblocked)
    }

    /// Reads at most `limit` bytes and executes the commands in them, until a client has too much pending. Returns whether the limit
    /// was reached.
    pub fn read(&mut self, world: &mut dyn World, buffer: &mut [u8], limit: usize) -> bool {
        self.publisher.take(&[], world);
        let mut total = 0;
        let mut is_empty = false;
        while self.peer < PeerState::Ended && !self.publisher.is_ending {
            if self.publisher.is_full() && !self.publisher.is_executing() {
                self.input = InputState::Stalled;
                return false;
            }
            let is_over = total >= limit;
            if is_over || self.publisher.has_left() || world.is_pressed() {
                self.input = InputState::Queued;
                return is_over;
            }
            if is_empty {
                break;
            }
            let room = buffer.len().min(limit - total);
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.peer = PeerState::Ended,
                Ok(length) => {
                    total += length;
                    self.publisher.take(&buffer[..length], world);
                    // A short read empties the socket, unless its end is behind it, of which no further event would tell.
                    is_empty = length < room && self.peer == PeerState::Open;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.peer = PeerState::Failed,
            }
        }
        let has_left = self.publisher.has_left();
        self.input = if has_left { InputState::Queued } else { InputState::Idle };
        false
    }

    pub fn write(&mut self, now: Millis) {
        while !self.publisher.output.is_empty()
            && self.blocked_since.is_none()
            && self.peer < PeerState::Failed
        {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for (slot, part) in parts.iter_mut().zip(self.publisher.output.parts()) {
                *slot = IoSlice::new(part);
                count += 1;
            }
            match self.stream.write_vectored(&parts[..count]) {
                Ok(length) => self.publisher.output.wrote(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked_since = Some(now)
                }
                Err(_) => self.peer = PeerState::Failed,
            }
        }
    }

    /// Returns when the peer's time is over, if it leaves its replies unread or has yet to give the password.
    pub fn deadline(&self) -> Option<Millis> {
        let unread = self.blocked_since.map(|since| since + BLOCKED_MAX);
        unread.into_iter().chain(self.publisher.auth_deadline()).min()
    }

    /// Returns whether nothing is left to write, or nobody to write to.
    pub fn is_done(&self) -> bool {
        let is_read = self.peer >= PeerState::Ended && self.input == InputState::Idle;
        // A transaction is executed even if its publisher has gone.
        let is_lost = self.peer == PeerState::Failed && !self.publisher.is_executing();
        let is_over = is_read || self.publisher.is_ending;
        is_lost || (is_over && self.publisher.output.is_empty())
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }
}
