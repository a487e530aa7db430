//! Connections without a socket: what the kernel does for a socket is done for them by a program.
//!
//! A process may hold some thousands of descriptors, and a test wants to cut a stream at every byte. Both drive the same
//! clients as sockets do, over far ends of their own. As a descriptor is a number in the kernel's table, a [`MemoryEnd`] is
//! a number that the far ends of its thread know; it takes the same 4 bytes in a slot.

use std::cell::Cell;
use std::io::{self, ErrorKind};

/// The other ends of all connections without a socket on one thread: their kernel and their peers at once.
pub trait FarEnds {
    /// What the peer has sent, as `read(2)` gives it.
    ///
    /// # Errors
    /// `WouldBlock` while there is nothing to read; any other is the end of the connection.
    fn read(&mut self, number: u32, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes what the server sends, as `write(2)` does.
    ///
    /// # Errors
    /// `WouldBlock` while there is no room; any other is the end of the connection.
    fn write(&mut self, number: u32, bytes: &[u8]) -> io::Result<usize>;

    /// The server will write nothing more.
    fn shutdown_write(&mut self, number: u32);

    /// The server has closed the connection.
    fn close(&mut self, number: u32);
}

thread_local! {
    static FAR_ENDS: Cell<Option<Box<dyn FarEnds>>> = const { Cell::new(None) };
}

/// Puts far ends in place for this thread, and returns those that were.
pub fn install(ends: Option<Box<dyn FarEnds>>) -> Option<Box<dyn FarEnds>> {
    FAR_ENDS.replace(ends)
}

/// Our end of a connection without a socket. It is closed with the value.
#[derive(Debug)]
pub struct MemoryEnd(pub u32);

impl MemoryEnd {
    /// See [`FarEnds::read`].
    ///
    /// # Errors
    /// The far end's; `NotConnected` without one.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        ask(|ends| ends.read(self.0, buffer)).unwrap_or(Err(ErrorKind::NotConnected.into()))
    }

    /// See [`FarEnds::write`].
    ///
    /// # Errors
    /// The far end's; `NotConnected` without one.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        ask(|ends| ends.write(self.0, bytes)).unwrap_or(Err(ErrorKind::NotConnected.into()))
    }

    /// See [`FarEnds::shutdown_write`].
    pub fn shutdown_write(&mut self) {
        ask(|ends| ends.shutdown_write(self.0));
    }
}

impl Drop for MemoryEnd {
    fn drop(&mut self) {
        ask(|ends| ends.close(self.0));
    }
}

/// `None`: there are no far ends, or the thread ends.
fn ask<T>(question: impl FnOnce(&mut dyn FarEnds) -> T) -> Option<T> {
    FAR_ENDS
        .try_with(|place| {
            let mut ends = place.take()?;
            let answer = question(&mut *ends);
            place.set(Some(ends));
            Some(answer)
        })
        .ok()?
}
