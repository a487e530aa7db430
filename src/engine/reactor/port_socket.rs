//! The socket of one connection of a port: its reads, its writes and its end.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::port::PortRegistry;

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

/// A socket and the states of its two directions.
pub struct PortSocket {
    stream: TcpStream,
    pub input: InputState,
    pub peer: PeerState,
    /// The last read took all there was; an event tells of more.
    is_empty: bool,
    /// The time since which the socket takes nothing; an event tells when it does again.
    pub blocked_since: Option<Millis>,
}

impl PortSocket {
    pub fn new(stream: TcpStream) -> PortSocket {
        PortSocket {
            stream,
            input: InputState::Idle,
            peer: PeerState::Open,
            is_empty: false,
            blocked_since: None,
        }
    }

    /// Makes the socket known to the poll, as the connection with this number.
    ///
    /// # Errors
    /// See [`PortRegistry::register`].
    pub fn register(&mut self, registry: &PortRegistry<'_>, number: usize) -> io::Result<()> {
        registry.register(&mut self.stream, number)
    }

    /// The socket, to be handed over.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Notes an event. Returns whether there is something to be read, and whether the socket takes bytes again.
    pub fn note(&mut self, event: &Event) -> (bool, bool) {
        let is_ending = event.is_read_closed() || event.is_error();
        if is_ending {
            self.peer = self.peer.max(PeerState::Ending);
        }
        let is_readable = event.is_readable() || is_ending;
        self.is_empty &= !is_readable;
        let is_unblocked = event.is_writable() && self.blocked_since.take().is_some();
        (is_readable, is_unblocked)
    }

    /// Reads once, and returns the number of bytes; `None`: there are none before the next event, or none at all any more.
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        while !self.is_empty && self.peer < PeerState::Ended {
            match self.stream.read(buffer) {
                Ok(0) => self.peer = PeerState::Ended,
                Ok(length) => {
                    // A short read empties the socket, unless its end is behind it, of which no further event would tell.
                    self.is_empty = length < buffer.len() && self.peer == PeerState::Open;
                    return Some(length);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_empty = true,
                Err(_) => self.peer = PeerState::Failed,
            }
        }
        None
    }

    /// Returns whether a write is worth trying.
    pub fn is_writable(&self) -> bool {
        self.blocked_since.is_none() && self.peer < PeerState::Failed
    }

    /// Writes once, and returns how many bytes of these parts the socket took.
    pub fn write(&mut self, parts: &[IoSlice<'_>], now: Millis) -> usize {
        match self.stream.write_vectored(parts) {
            Ok(length) => return length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked_since = Some(now),
            Err(_) => self.peer = PeerState::Failed,
        }
        0
    }

    /// Returns when the time of a peer is over that leaves its replies unread.
    pub fn unread_deadline(&self) -> Option<Millis> {
        self.blocked_since.map(|since| since + BLOCKED_MAX)
    }

    pub fn address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }
}
