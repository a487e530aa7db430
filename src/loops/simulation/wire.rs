//! The link between a parent and a worker of a simulation: its bytes pass the test, as slowly as that wants.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::engine::random::Random;
use crate::loops::descriptors;

/// Bytes on the way, and descriptors that leave with the next of them.
type OnWay = (Vec<u8>, Vec<OwnedFd>);

/// No bound on the bytes that a link carries in a turn.
pub const UNLIMITED: usize = usize::MAX;

/// The most bytes on the way.
const CAPACITY: usize = 64 << 10;

pub struct Wire {
    parent: UnixStream,
    worker: UnixStream,
    /// Bytes on the way to the worker, and to the parent.
    down: OnWay,
    up: OnWay,
    /// The most bytes that each direction carries in a turn.
    pub rate: usize,
    /// Bits change on the way to the worker, and to the parent.
    pub is_noisy: [bool; 2],
    /// Bits may have changed on the way to the worker.
    pub was_noisy: bool,
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
        let (down, up) = Default::default();
        let (rate, is_noisy) = (UNLIMITED, [false; 2]);
        let (was_noisy, is_over) = (false, false);
        (Wire { parent, worker, down, up, rate, is_noisy, was_noisy, is_over }, link)
    }

    /// Carries bytes in both directions.
    pub fn carry(&mut self, random: &mut Random) {
        let most = match self.rate {
            UNLIMITED => UNLIMITED,
            rate => random.below(rate + 1),
        };
        self.was_noisy |= self.is_noisy[0];
        let [down, up] = self.is_noisy.map(|is_noisy| is_noisy.then(|| random.next()));
        self.is_over |= carry(&self.parent, &mut self.down, &self.worker, most, down);
        carry(&self.worker, &mut self.up, &self.parent, most, up);
        if self.is_over && self.down.0.is_empty() {
            let _ = self.worker.shutdown(Shutdown::Both);
        }
    }
}

/// Carries up to `most` bytes from one socket to another one, one time in ten with a bit that is changed, if there is a seed of
/// `noise`. Returns whether there will be no more.
fn carry(
    from: &UnixStream,
    (on_way, passed): &mut OnWay,
    to: &UnixStream,
    most: usize,
    noise: Option<u64>,
) -> bool {
    let mut buffer = [0; 4096];
    let mut is_over = false;
    let room = most.min(CAPACITY);
    while on_way.len() < room {
        let room = (room - on_way.len()).min(buffer.len());
        match descriptors::receive(from, &mut buffer[..room], passed) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Ok(0) | Err(_) => {
                is_over = true;
                break;
            }
            Ok(length) => on_way.extend_from_slice(&buffer[..length]),
        }
    }
    if let Some(noise) = noise.filter(|noise| noise % 10 == 0 && !on_way.is_empty()) {
        let at = (noise / 10) as usize % on_way.len();
        on_way[at] ^= 1 << (noise >> 61);
    }
    let end = on_way.len().min(most);
    let mut sent = 0;
    while sent < end {
        let with: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
        match descriptors::send(to, &on_way[sent..end], &with) {
            Ok(length) => sent += length,
            Err(_) => break,
        }
        passed.clear();
    }
    on_way.drain(..sent);
    is_over
}
