//! The durations behind the deadlines of an open client: pings, silence and stalls ([`Client::deadline`] combines them).
//!
//! [`Client::deadline`]: crate::engine::client::Client::deadline

use crate::engine::bounds::Bounds;
use crate::engine::timers::{NEVER, TICK, Tick};

/// Durations for the connections of a server.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// `ping_seconds`, in ticks; 0: no pings.
    pub ping: Tick,
    /// `silence_seconds`, in ticks; 0: silent clients stay.
    pub silence: Tick,
    /// `stalled_seconds`, in ticks; 0: blocked clients stay.
    pub stall: Tick,
    /// No client counts as silent since before this tick: set after the process was frozen.
    pub floor: Tick,
}

/// Clients in neighbouring slots are pinged together: one wake-up of the loop and one look into a page of deadlines for all of
/// them.
const PINGED_TOGETHER: u32 = 64;

impl Timing {
    /// The durations set by `bounds`.
    pub fn of(bounds: &Bounds) -> Timing {
        let ticks = |seconds: u32| (u64::from(seconds) * 1000 / TICK) as Tick;
        Timing {
            ping: ticks(bounds.ping_seconds),
            silence: ticks(bounds.silence_seconds),
            stall: ticks(bounds.stalled_seconds),
            floor: 0,
        }
    }

    /// Returns when to ping a client last heard from at `since`: after more than half of `ping_seconds` and at most all of it.
    /// The exact tick depends on the slot alone: clients that came at once are not pinged at once, and each is pinged every
    /// `ping_seconds` from then on.
    pub fn next_ping(&self, since: Tick, index: u32) -> Tick {
        if self.ping == 0 {
            return NEVER;
        }
        let phases = self.ping.div_ceil(2);
        let phase = index / PINGED_TOGETHER % phases;
        let earliest = since + self.ping - phases + 1;
        earliest + (phase + phases - earliest % phases) % phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn timing(ping: Tick) -> Timing {
        Timing { ping, silence: 0, stall: 0, floor: 0 }
    }

    #[test]
    fn a_ping_is_never_late_and_at_most_half_too_early() {
        for ping in [10, 20, 30, 250, 36_000] {
            for since in (0..2 * ping).step_by(ping as usize / 10) {
                for index in (0..100_000).step_by(997) {
                    let next = timing(ping).next_ping(since, index);
                    assert!(next <= since + ping, "{ping} {since} {index}");
                    assert!(next > since + ping / 2, "{ping} {since} {index}");
                }
            }
        }
    }

    #[test]
    fn a_silent_client_is_pinged_at_a_steady_pace() {
        let timing = timing(250);
        for index in (0..100_000).step_by(997) {
            let first = timing.next_ping(77, index);
            assert_eq!(timing.next_ping(first, index), first + 250);
            // The answer, or the loop, was a tick late.
            assert_eq!(timing.next_ping(first + 1, index), first + 250);
        }
    }

    #[test]
    fn those_who_came_at_once_are_not_pinged_at_once() {
        let mut pings: BTreeMap<Tick, u32> = BTreeMap::new();
        for index in 0..20_000 {
            *pings.entry(timing(250).next_ping(1000, index)).or_default() += 1;
        }
        assert_eq!(pings.len(), 125, "half of all ticks, and no more wake-ups than that");
        assert!(pings.values().all(|count| *count <= 3 * PINGED_TOGETHER), "{pings:?}");
    }

    #[test]
    fn without_pings_there_is_no_next_one() {
        assert_eq!(timing(0).next_ping(7, 7), NEVER);
    }
}
