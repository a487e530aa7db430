//! The socket of a link, at either end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use mio::event::Event;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::reactor::{PeerState, PortRegistry, PortSocket};
use crate::loops::link::LinkInput;

/// The most parts of one write.
const PARTS: usize = 64;

/// A socket with its unfinished input and its unwritten output. Idle, it holds no buffer.
pub struct LinkSocket {
    socket: PortSocket,
    pub input: LinkInput,
    /// Output that is not written yet. Some is shared by several links.
    parts: VecDeque<Rc<[u8]>>,
    /// Bytes of the first part that were written.
    written: usize,
    /// Bytes of the parts that were not.
    unwritten: usize,
    /// The frames of this link alone, behind the parts.
    pub tail: Vec<u8>,
    /// The last read ended at its bound.
    has_more: bool,
    is_registered: bool,
}

impl LinkSocket {
    /// A Unix socket reads and writes by the same system calls as one of TCP, so it is held by the same type.
    pub fn new(stream: TcpStream) -> LinkSocket {
        LinkSocket {
            socket: PortSocket::new(stream),
            input: LinkInput::default(),
            parts: VecDeque::new(),
            written: 0,
            unwritten: 0,
            tail: Vec::new(),
            has_more: false,
            is_registered: false,
        }
    }

    /// Makes the socket known to the poll, under this number, unless it is.
    ///
    /// # Errors
    /// A lack of memory.
    pub fn register(&mut self, registry: &PortRegistry<'_>, number: usize) -> io::Result<()> {
        if !self.is_registered {
            self.socket.register(registry, number)?;
            self.is_registered = true;
        }
        Ok(())
    }

    /// Notes an event.
    pub fn note(&mut self, event: &Event) {
        let (is_readable, _) = self.socket.note(event);
        self.has_more |= is_readable;
    }

    /// Returns whether there may be something to be read without another event.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Returns whether the next turn is to come without another event.
    pub fn has_work(&self) -> bool {
        self.has_more || !self.is_registered || self.is_over()
    }

    /// Has the next turn read on, even without another event.
    pub fn read_on(&mut self) {
        self.has_more = true;
    }

    /// Returns whether the other end is gone, and all that it sent was read.
    pub fn is_over(&self) -> bool {
        self.socket.peer >= PeerState::Ended
    }

    /// Reads about `bytes_max` into the input. Returns how many came.
    pub fn read(&mut self, buffer: &mut [u8], bytes_max: usize) -> usize {
        let mut total = 0;
        while total < bytes_max {
            let Some(length) = self.socket.read(buffer) else {
                self.has_more = false;
                return total;
            };
            self.input.push(&buffer[..length]);
            total += length;
        }
        self.has_more = true;
        total
    }

    /// Adds output that other links share.
    pub fn share(&mut self, part: &Rc<[u8]>) {
        self.seal();
        self.add(Rc::clone(part));
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.add(tail.into());
        }
    }

    fn add(&mut self, part: Rc<[u8]>) {
        self.unwritten += part.len();
        self.parts.push_back(part);
    }

    /// Returns the bytes that wait.
    pub fn unwritten(&self) -> usize {
        self.unwritten + self.tail.len()
    }

    /// Writes what the socket takes.
    pub fn write(&mut self, now: Millis) {
        self.seal();
        while self.unwritten > 0 && self.socket.is_writable() {
            let mut parts = [IoSlice::new(&[]); PARTS];
            let mut skipped = self.written;
            for (slot, part) in parts.iter_mut().zip(&self.parts) {
                *slot = IoSlice::new(&part[std::mem::take(&mut skipped)..]);
            }
            let count = self.parts.len().min(PARTS);
            let length = self.socket.write(&parts[..count], now);
            self.wrote(length);
        }
        if self.parts.is_empty() {
            self.parts = VecDeque::new();
        }
    }

    fn wrote(&mut self, mut count: usize) {
        self.unwritten -= count;
        while let Some(first) = self.parts.front()
            && count >= first.len() - self.written
        {
            count -= first.len() - self.written;
            self.written = 0;
            self.parts.pop_front();
        }
        self.written += count;
    }

    /// Begins to count anew the time for which the other end takes nothing.
    pub fn forgive(&mut self, now: Millis) {
        self.socket.blocked_since = self.socket.blocked_since.map(|_| now);
    }

    /// The time since which the other end takes nothing.
    pub fn blocked_since(&self) -> Option<Millis> {
        self.socket.blocked_since
    }
}
