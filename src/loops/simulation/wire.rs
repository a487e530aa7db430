//! The link between a parent and a worker of a simulation: its bytes pass the test, as slowly as that wants.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::engine::random::Random;

/// No bound on the bytes that a link carries in a turn.
pub const UNLIMITED: usize = usize::MAX;

/// The most bytes on the way.
const CAPACITY: usize = 64 << 10;

pub struct Wire {
    parent: UnixStream,
    worker: UnixStream,
    /// Bytes on the way to the worker, and to the parent.
    down: Vec<u8>,
    up: Vec<u8>,
    /// The most bytes that each direction carries in a turn.
    pub rate: usize,
    /// The parent has closed its end.
    pub is_over: bool,
}

impl Wire {
    /// The wire to the process with this standard input. Returns the worker's link as well.
    pub fn new(stdin: OwnedFd) -> (Wire, UnixStream) {
        let parent = UnixStream::from(stdin);
        let (worker, link) = UnixStream::pair().expect("descriptors are left");
        for end in [&parent, &worker] {
            end.set_nonblocking(true).expect("a socket takes its options");
        }
        let (down, up) = (Vec::new(), Vec::new());
        (Wire { parent, worker, down, up, rate: UNLIMITED, is_over: false }, link)
    }

    /// Carries bytes in both directions.
    pub fn carry(&mut self, random: &mut Random) {
        let most = match self.rate {
            UNLIMITED => UNLIMITED,
            rate => random.below(rate + 1),
        };
        self.is_over |= carry(&mut self.parent, &mut self.down, &mut self.worker, most);
        carry(&mut self.worker, &mut self.up, &mut self.parent, most);
        if self.is_over && self.down.is_empty() {
            let _ = self.worker.shutdown(Shutdown::Both);
        }
    }
}

/// Carries up to `most` bytes from one socket to another one. Returns whether there will be no more.
fn carry(from: &mut UnixStream, on_way: &mut Vec<u8>, to: &mut UnixStream, most: usize) -> bool {
    let mut buffer = [0; 4096];
    let mut is_over = false;
    let room = most.min(CAPACITY);
    while on_way.len() < room {
        let room = (room - on_way.len()).min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Ok(0) | Err(_) => {
                is_over = true;
                break;
            }
            Ok(length) => on_way.extend_from_slice(&buffer[..length]),
        }
    }
    let end = on_way.len().min(most);
    let mut sent = 0;
    while sent < end {
        match to.write(&on_way[sent..end]) {
            Ok(length) => sent += length,
            Err(_) => break,
        }
    }
    on_way.drain(..sent);
    is_over
}
