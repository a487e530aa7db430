//! Bounds that change while clients are connected.

use crate::engine::bounds::Bounds;
use crate::engine::client::outbox::Backlog;
use crate::engine::client::{State, Timing};
use crate::engine::server::Server;
use crate::engine::timers::{TICK, Tick, tick};

/// What follows from bounds for all backlogs.
pub(super) fn backlog(bounds: &Bounds) -> Backlog {
    Backlog { frames_max: bounds.backlog_frames_max, bytes_max: bounds.backlog_bytes_max }
}

/// What follows from them for all deadlines.
pub(super) fn timing(bounds: &Bounds) -> Timing {
    let seconds = |seconds: u32| (seconds as u64 * 1000 / TICK) as Tick;
    Timing {
        ping: seconds(bounds.ping_seconds),
        silence: seconds(bounds.silence_seconds),
        stall: seconds(bounds.stalled_seconds),
        floor: 0,
    }
}

impl Server {
    /// Other bounds are in force from now on. Nobody is closed for it: whoever is above a lower bound is refused more, and a
    /// deadline that is under way stays, but for silence.
    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.backlog = backlog(&bounds);
        let before = self.clients.timing;
        self.clients.timing = timing(&bounds);
        self.bounds = bounds;
        let of = |timing: &Timing| (timing.ping, timing.silence, timing.stall);
        if of(&before) == of(&self.clients.timing) {
            self.clients.timing.floor = before.floor;
            return;
        }
        // Some have been silent for longer than is allowed now: a ping and its answer have their time first.
        self.clients.timing.floor = tick(self.now.millis).saturating_sub(self.clients.timing.ping);
        // The one place that visits all clients in one turn: when an operator changes one of these.
        let open = self.clients.iter().filter(|(_, client)| client.state() == State::Open);
        let open: Vec<u32> = open.map(|(id, _)| id.index).collect();
        open.into_iter().for_each(|index| self.set_timer(index));
    }
}
