//! The limit on the resident memory of the process (`memory_max`).
//!
//! Above it, in this order: free memory is returned to the system, the history is dropped, the clients of the users that hold
//! most are closed, new connections are refused. The kernel's figure counts, so nothing is forgotten in a sum, and memory that the
//! allocator keeps counts too. Each turn takes in a bounded number of bytes, so a look every few milliseconds is enough.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::param::page_size;

use super::{RETRY_MILLIS, close_until, largest};
use crate::clock::{Millis, RateLimit};
use crate::engine::client::frame::Close;
use crate::engine::server::Server;

/// Milliseconds between two looks at the resident memory, each of which takes 2 µs.
const PAUSE: Millis = 2;

/// After the limit was exceeded, new connections are refused until this part of it is free: a sixteenth.
const FREE_PART: usize = 16;

/// Milliseconds between two times that clients are closed for newcomers: freed memory has left the process by then.
const MAKE_ROOM_EVERY: Millis = 100;

/// A user whose connections hold fewer bytes is not worth closing.
const USER_BYTES_MIN: usize = 4096;

/// The limit, and the times at which it is looked at.
#[derive(Default)]
pub struct MemoryLimit {
    /// `memory_max` as it was last seen; 0: off.
    max: usize,
    /// proc(5)'s `statm`, if there is a `/proc`.
    statm: Option<File>,
    trim: Option<fn()>,
    next: Millis,
    /// Before this, no further client is closed for newcomers.
    make_room_at: Millis,
    logged: RateLimit,
}

impl MemoryLimit {
    pub fn new(trim: Option<fn()>) -> MemoryLimit {
        let statm = File::open("/proc/self/statm").ok();
        MemoryLimit { statm, trim, ..MemoryLimit::default() }
    }

    /// Stays below the limit.
    pub fn hold(&mut self, server: &mut Server) {
        let (now, max) = (server.now().millis, server.bounds().memory_max);
        if self.max != max {
            self.max = max;
            if max > 0 && self.excess().is_none() {
                log::warn!(
                    "memory_max has no effect: /proc/self/statm, which tells how much memory is held, cannot be read; mount /proc, \
                     or bound the process from outside (MemoryMax of the unit, --memory of the container)"
                );
            }
        }
        if max == 0 {
            server.is_refusing = false;
        } else if now >= self.next {
            self.next = now + PAUSE;
            match self.excess() {
                Some(1..) => self.reduce(server),
                Some(_) => self.make_room(server),
                None => {}
            }
        }
    }

    /// The next look, even if nothing happens: while new connections are refused.
    pub fn deadline(&self, server: &Server) -> Option<Millis> {
        server.is_refusing.then_some(self.next)
    }

    /// Bytes above the limit; negative: below it.
    fn excess(&self) -> Option<isize> {
        Some(resident_bytes(self.statm.as_ref()?)? as isize - self.max as isize)
    }

    /// Gets below the limit by the mildest means that is enough.
    fn reduce(&mut self, server: &mut Server) {
        self.give_back(server);
        let Some(1..) = self.excess() else { return };
        server.resume.history.clear();
        server.metrics().memory_exceeded += 1;
        let Some(excess @ 1..) = self.excess() else { return };
        server.is_refusing = true;
        // A little more than needed, so that the next message does not hit the limit again.
        let closed = self.close_largest(server, excess as usize + self.max / FREE_PART);
        if self.logged.allow(server.now().millis) {
            let max = self.max;
            log::warn!(
                "memory_max ({max} bytes) is exceeded by {excess}: {closed} clients closed, new ones refused"
            );
        }
    }

    /// Admits clients again as soon as there is room for them. Until then the clients that hold most are closed, not newcomers.
    fn make_room(&mut self, server: &mut Server) {
        let now = server.now().millis;
        if !server.is_refusing || self.missing_bytes().is_none() {
            server.is_refusing = false;
        } else if now >= self.make_room_at {
            self.make_room_at = now + MAKE_ROOM_EVERY;
            self.give_back(server);
            if let Some(missing) = self.missing_bytes() {
                self.close_largest(server, missing);
            }
        }
    }

    /// Bytes to be freed before clients are admitted; `None`: there is room.
    fn missing_bytes(&self) -> Option<usize> {
        let room = (self.max / FREE_PART) as isize;
        let missing = self.excess().map_or(0, |excess| excess + room);
        (missing > 0).then_some(missing as usize)
    }

    /// Closes the connections of the users that hold most until that is `enough` bytes. Returns the number closed.
    fn close_largest(&self, server: &mut Server, enough: usize) -> u64 {
        let order = largest(server, USER_BYTES_MIN, |client| {
            client.held_bytes() + server.subscriptions_bytes_of(client)
        });
        let close = |server: &mut Server, (bytes, id)| {
            let text = "memory_max: the server is short of memory";
            server.shed(id, Close::busy(RETRY_MILLIS, text));
            bytes
        };
        let closed = close_until(server, order, close, |_, bytes| bytes >= enough);
        server.metrics().memory_shed += closed;
        self.give_back(server);
        closed
    }

    /// Returns free memory to the system.
    fn give_back(&self, server: &mut Server) {
        server.shrink();
        if let Some(trim) = self.trim {
            trim();
        }
    }
}

/// Resident bytes of this process: the second number of `statm`, in pages.
fn resident_bytes(statm: &File) -> Option<usize> {
    let mut text = [0; 128];
    let length = statm.read_at(&mut text, 0).ok()?;
    let pages = std::str::from_utf8(&text[..length]).ok()?.split(' ').nth(1)?;
    Some(pages.parse::<usize>().ok()? * page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_memory_is_seen() {
        let statm = File::open("/proc/self/statm").expect("Linux has it");
        let before = resident_bytes(&statm).expect("Linux tells");
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = resident_bytes(&statm).expect("Linux tells");
        assert!(after >= before + (60 << 20), "{before} {after}");
        drop(held);
    }
}
