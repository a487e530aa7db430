//! One ceiling for all that the process holds (`memory_max`), and what is shed at it, in this order: what is free goes back to
//! the system, the history is forgotten, the users who hold most are closed, new connections are refused.
//!
//! It is the resident memory that counts, as the kernel sees it: nothing is forgotten in a sum, and freed memory that the
//! allocator keeps is no excuse. What a turn may take in is bounded, so it is enough to look every few milliseconds.

use crate::clock::Millis;
use crate::engine::client::frame::Close;
use crate::engine::reactor::Reactor;
use crate::engine::reactor::costly::costliest;
use crate::observe::memory::Resident;

/// How often is looked.
const PAUSE: Millis = 2;

/// Once the ceiling was hit, new connections are refused until so much of it is free: a sixteenth.
const ROOM: usize = 16;

/// How often clients are closed for newcomers: freed memory has left the process by then.
const MAKE_ROOM_EVERY: Millis = 100;

/// A user whose connections hold less is not worth closing.
const HELD_MIN: usize = 4096;

/// The same is logged again after so long.
const REPEAT: Millis = 1000;

/// When one who was closed for it may come back.
const RETRY: u64 = 5000;

/// The ceiling and what is known of it.
pub struct Ceiling {
    /// `memory_max`; 0: off.
    max: usize,
    resident: Resident,
    next: Millis,
    /// Before this, nobody is closed for newcomers once more.
    make_room_at: Millis,
    logged: Option<Millis>,
}

impl Ceiling {
    pub fn new(max: usize) -> Ceiling {
        let ceiling =
            Ceiling { max, resident: Resident::new(), next: 0, make_room_at: 0, logged: None };
        ceiling.warn_if_blind();
        ceiling
    }

    /// Another ceiling; 0: none.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.warn_if_blind();
    }

    /// Says so where there is a ceiling, and nothing to measure by.
    fn warn_if_blind(&self) {
        if self.max > 0 && self.resident.bytes().is_none() {
            log::warn!(
                "memory_max has no effect: /proc/self/statm, which tells how much memory is held, cannot be read; mount /proc, \
                 or bound the process from outside (MemoryMax of the unit, --memory of the container)"
            );
        }
    }

    /// When the loop must look again though nothing happens: while nobody is let in.
    pub fn deadline(&self, is_refusing: bool) -> Option<Millis> {
        is_refusing.then_some(self.next)
    }

    /// Bytes above the ceiling, or below it.
    fn excess(&self) -> Option<isize> {
        Some(self.resident.bytes()? as isize - self.max as isize)
    }
}

impl Reactor {
    /// Stays below the ceiling.
    pub(super) fn hold_ceiling(&mut self) {
        let now = self.router.server.now.millis;
        if self.ceiling.max == 0 || now < self.ceiling.next {
            return;
        }
        self.ceiling.next = now + PAUSE;
        let Some(excess) = self.ceiling.excess() else { return };
        if excess <= 0 {
            return self.make_room(now);
        }
        self.give_back();
        let Some(excess) = self.ceiling.excess() else { return };
        if excess <= 0 {
            return;
        }
        self.router.server.history.shed();
        self.router.server.metrics.memory_exceeded += 1;
        let Some(excess) = self.ceiling.excess() else { return };
        if excess <= 0 {
            return;
        }
        self.router.refusing = true;
        // A little more than needed, so that the next message does not hit the ceiling again.
        let closed = self.shed(excess as usize + self.ceiling.max / ROOM);
        self.give_back();
        if self.ceiling.logged.is_none_or(|logged| now >= logged + REPEAT) {
            self.ceiling.logged = Some(now);
            let max = self.ceiling.max;
            log::warn!(
                "memory_max ({max} bytes) is exceeded by {excess}: {closed} clients closed, new ones refused"
            );
        }
    }

    /// Lets clients in again as soon as there is room for them. While there is none, those who hold most go, not the newcomers.
    fn make_room(&mut self, now: Millis) {
        if !self.router.refusing || self.missing_bytes().is_none() {
            self.router.refusing = false;
            return;
        }
        if now < self.ceiling.make_room_at {
            return;
        }
        self.ceiling.make_room_at = now + MAKE_ROOM_EVERY;
        self.give_back();
        if let Some(missing) = self.missing_bytes() {
            self.shed(missing);
            self.give_back();
        }
    }

    /// Bytes that are missing before clients are let in; `None`: there is room.
    fn missing_bytes(&self) -> Option<usize> {
        let room = (self.ceiling.max / ROOM) as isize;
        let missing = self.ceiling.excess().map_or(0, |excess| excess + room);
        (missing > 0).then_some(missing as usize)
    }

    /// Closes the connections of those who hold most, memberships too, until that is `enough` bytes. Returns how many.
    fn shed(&mut self, enough: usize) -> usize {
        let server = &mut self.router.server;
        let costly = costliest(server, HELD_MIN, |client| {
            client.held_bytes() + server.memberships_bytes_of(client)
        });
        let mut shed = 0;
        let mut closed = 0;
        for (bytes, id) in costly {
            if shed >= enough {
                break;
            }
            server.shed(id, Close::busy(RETRY, "memory_max: the server is short of memory"));
            shed += bytes;
            closed += 1;
        }
        server.metrics.memory_shed += closed as u64;
        closed
    }
}
