//! Connections without a socket: a program takes the place of the kernel.
//!
//! A process may open only some thousands of descriptors, and a test wants to cut a stream at every byte. Far ends drive the same
//! clients as sockets do. As the kernel finds a socket by its descriptor, far ends find a connection by its id, so a slot is no
//! larger with them.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

use crate::engine::slots::ConnId;

/// The other ends of all in-memory connections on a thread: kernel and peers at once.
pub trait FarEnds {
    /// Reads bytes from the peer, as `read(2)` does.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to read; any other ends the connection.
    fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize>;

    /// Accepts bytes from the server, as `write(2)` does.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; any other ends the connection.
    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize>;

    /// The peer's address, if it has one.
    fn peer(&self, _id: ConnId) -> Option<IpAddr> {
        None
    }

    /// The server has shut down its sending side.
    fn shutdown_write(&mut self, id: ConnId);

    /// The server has closed the connection.
    fn close(&mut self, id: ConnId);
}

thread_local! {
    static FAR_ENDS: Cell<Option<Box<dyn FarEnds>>> = const { Cell::new(None) };
}

/// Installs far ends for this thread. Returns the previous ones.
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

/// Calls the installed far ends; `None` if there are none.
fn ask<T>(question: impl FnOnce(&mut dyn FarEnds) -> T) -> Option<T> {
    let mut ends = FAR_ENDS.take()?;
    let answer = question(&mut *ends);
    FAR_ENDS.set(Some(ends));
    Some(answer)
}
