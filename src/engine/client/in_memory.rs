//! Connections without a socket: what the kernel does for a socket is done for them by a program.
//!
//! A process may hold some thousands of descriptors, and a test wants to cut a stream at every byte. Both drive the same
//! clients as sockets do, over far ends of their own. As the kernel finds a socket by its descriptor, far ends find a
//! connection by its id, so that a slot is as small with them as without.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

use crate::engine::slots::ConnId;

/// The other ends of all connections without a socket on one thread: their kernel and their peers at once.
pub trait FarEnds {
    /// What the peer has sent, as `read(2)` gives it.
    ///
    /// # Errors
    /// `WouldBlock` while there is nothing to read; any other is the end of the connection.
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes what the server sends, as `write(2)` does.
    ///
    /// # Errors
    /// `WouldBlock` while there is no room; any other is the end of the connection.
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize>;

    /// The peer's address, if it has one.
    fn peer(&self, _id: ConnId) -> Option<IpAddr> {
        None
    }

    /// The server will write nothing more.
    fn shutdown_write(&mut self, id: ConnId);

    /// The server has closed the connection.
    fn close(&mut self, id: ConnId);
}

thread_local! {
    static FAR_ENDS: Cell<Option<Box<dyn FarEnds>>> = const { Cell::new(None) };
}

/// Puts far ends in place for this thread, and returns those that were.
pub fn install(ends: Option<Box<dyn FarEnds>>) -> Option<Box<dyn FarEnds>> {
    FAR_ENDS.replace(ends)
}

pub(super) fn read(id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
    ask(|ends| ends.read(id, buffer)).unwrap_or(Err(ErrorKind::NotConnected.into()))
}

pub(super) fn write(id: ConnId, bytes: &[u8]) -> io::Result<usize> {
    ask(|ends| ends.write(id, bytes)).unwrap_or(Err(ErrorKind::NotConnected.into()))
}

pub(super) fn peer(id: ConnId) -> Option<IpAddr> {
    ask(|ends| ends.peer(id)).flatten()
}

pub(super) fn shutdown_write(id: ConnId) {
    ask(|ends| ends.shutdown_write(id));
}

pub(super) fn close(id: ConnId) {
    ask(|ends| ends.close(id));
}

/// `None`: there are no far ends.
fn ask<T>(question: impl FnOnce(&mut dyn FarEnds) -> T) -> Option<T> {
    let mut ends = FAR_ENDS.take()?;
    let answer = question(&mut *ends);
    FAR_ENDS.set(Some(ends));
    Some(answer)
}
