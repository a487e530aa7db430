//! Limits on users, addresses and clients over all loops.
//!
//! A worker tells its parent only what a setting needs, and nothing of limits that are far away. Each limit is held where a client
//! comes; the parent tells the worker what it must know of the others for that, and which of the clients that came meanwhile are too
//! many.

mod addresses;
pub mod notes;
pub mod shares;
mod tally;
pub mod users;

use crate::clock::Millis;
use crate::engine::bounds::Bounds;
use crate::loops::kinds::*;
use crate::loops::link::{LinkFrame, MalformedLink};
use addresses::AddressTotals;
use shares::ClientShares;
use users::UserOrder;

/// The parent's side.
pub struct Limits {
    users: UserOrder,
    addresses: AddressTotals,
    pub shares: ClientShares,
    /// Frames about users who came after an upgrade, with their workers: until all have told of those that were there.
    early: Vec<(usize, u8, Vec<u8>)>,
    /// Frames that wait, for each worker.
    out: Vec<Vec<u8>>,
}

impl Limits {
    /// The limits over so many loops, of which `clients_max` is one.
    pub fn new(loops: usize, clients_max: usize) -> Limits {
        Limits {
            users: UserOrder::default(),
            addresses: AddressTotals::new(loops),
            shares: ClientShares::new(clients_max, loops),
            early: Vec::new(),
            out: vec![Vec::new(); loops],
        }
    }

    /// Takes a frame of a worker.
    ///
    /// # Errors
    /// The frame is malformed, or not about limits.
    pub fn take_frame(
        &mut self,
        frame: LinkFrame<'_>,
        worker: usize,
        bounds: &Bounds,
    ) -> Result<(), MalformedLink> {
        self.take_early(bounds)?;
        match frame.kind {
            USERS | USERS_AGAIN if self.shares.awaits_others(worker) => {
                self.early.push((worker, frame.kind, frame.body.to_vec()));
                Ok(())
            }
            USERS => {
                let most = bounds.clients_per_user_max;
                self.users.take_changes(frame, worker, most, &mut self.out)
            }
            USERS_AGAIN => {
                self.users.leave(worker);
                Ok(())
            }
            ADDRESS_COUNT => {
                self.addresses.take_count(frame, worker, bounds.clients_per_address_max)
            }
            SHARE_USE => self.shares.take_use(frame, worker),
            _ => Err(MalformedLink),
        }
    }

    /// Takes the frames that waited, once they need not.
    fn take_early(&mut self, bounds: &Bounds) -> Result<(), MalformedLink> {
        if self.early.is_empty() || !self.shares.are_known() {
            return Ok(());
        }
        let early = std::mem::take(&mut self.early);
        early.iter().try_for_each(|(worker, kind, body)| {
            self.take_frame(LinkFrame { kind: *kind, body }, *worker, bounds)
        })
    }

    /// All workers have taken the places of others, and tell of their clients.
    pub fn begin_with_heirs(&mut self) {
        self.addresses.join();
        self.shares.await_all();
    }

    /// A worker is there that has to be told everything.
    pub fn join(&mut self) {
        self.addresses.join();
        self.shares.join();
    }

    /// A worker is gone with all of its clients.
    pub fn leave(&mut self, worker: usize) {
        self.users.leave(worker);
        self.addresses.leave(worker);
        self.shares.leave(worker);
        self.early.retain(|early| early.0 != worker);
        self.out[worker].clear();
    }

    /// Ends a turn in which frames came, or were due. `attached`: the workers that can be told, a bit for each.
    pub fn end_turn(&mut self, attached: u64, bounds: &Bounds, now: Millis) {
        // A worker that writes what cannot be read is found by its next frame.
        let _ = self.take_early(bounds);
        self.addresses.write(attached, bounds.clients_per_address_max, &mut self.out);
        self.shares.write(bounds.clients_max, attached, now, &mut self.out);
    }

    /// Moves the frames that wait for a worker to its link.
    pub fn write(&mut self, worker: usize, link: &mut Vec<u8>) {
        link.append(&mut self.out[worker]);
    }

    /// Returns when the loop must turn again for the limits.
    pub fn deadline(&self) -> Option<Millis> {
        self.shares.deadline()
    }
}
