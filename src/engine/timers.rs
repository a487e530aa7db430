//! A coarse deadline per connection, in an array beside the slots.
//!
//! A tick is 100 ms. The deadlines of a page of connections lie together, 4 bytes each, below the earliest of them, so that a
//! tick looks only into pages with something due. A million deadlines are 4 MB read in sequence; a binary heap would need 8 bytes
//! each and a millisecond of cache misses. Between two deadlines nothing wakes the loop.

use crate::clock::Millis;
use crate::engine::slots::PAGE;

/// A moment, in units of 100 ms since the process started: enough for 13 years.
pub type Tick = u32;

pub const TICK: Millis = 100;

pub const TICKS_PER_SECOND: Tick = 10;

/// A moment that never comes.
pub const NEVER: Tick = Tick::MAX;

/// The last tick that is not after `now`.
pub fn tick(now: Millis) -> Tick {
    (now / TICK).min(NEVER as Millis - 1) as Tick
}

/// The first tick at least `seconds` from now.
pub fn after(now: Millis, seconds: u32) -> Tick {
    tick(now.saturating_add(seconds as Millis * 1000).saturating_add(TICK - 1))
}

struct TimerPage {
    /// Not after any deadline of the page; may be too early once a deadline was put off or cleared.
    earliest: Tick,
    live: u32,
    at: [Tick; PAGE],
}

/// Deadlines by the slot of the connection.
#[derive(Default)]
pub struct Timers {
    pages: Vec<Option<Box<TimerPage>>>,
    /// Not after the earliest deadline of any page.
    earliest: Option<Tick>,
}

impl Timers {
    /// Sets the deadline of `index`; [`NEVER`] clears it.
    pub fn set(&mut self, index: u32, deadline: Tick) {
        let (number, place) = (index as usize / PAGE, index as usize % PAGE);
        if number >= self.pages.len() {
            if deadline == NEVER {
                return;
            }
            self.pages.resize_with(number + 1, || None);
        }
        let slot = &mut self.pages[number];
        if slot.is_none() && deadline == NEVER {
            return;
        }
        let page = slot.get_or_insert_with(|| {
            Box::new(TimerPage { earliest: NEVER, live: 0, at: [NEVER; PAGE] })
        });
        page.live += u32::from(deadline != NEVER);
        page.live -= u32::from(page.at[place] != NEVER);
        page.at[place] = deadline;
        page.earliest = page.earliest.min(deadline);
        if page.live == 0 {
            *slot = None;
            self.drop_last_pages();
        }
        if deadline != NEVER {
            self.earliest = Some(self.earliest.map_or(deadline, |tick| tick.min(deadline)));
        }
    }

    /// Frees the empty pages at the end.
    fn drop_last_pages(&mut self) {
        while self.pages.last().is_some_and(Option::is_none) {
            self.pages.pop();
        }
        if self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to_fit();
        }
    }

    /// The tick at which the loop must look again; `None` while no deadline is set.
    pub fn next(&self) -> Option<Tick> {
        self.earliest
    }

    /// Removes deadlines that have passed into `into`, whole pages at a time until `enough` are found. The rest stay due, as
    /// [`Timers::next`] says.
    pub fn expire(&mut self, now: Tick, enough: usize, into: &mut Vec<u32>) {
        if self.earliest.is_none_or(|tick| tick > now) {
            return;
        }
        let mut earliest = NEVER;
        for (number, slot) in self.pages.iter_mut().enumerate() {
            let Some(page) = slot else { continue };
            if page.earliest <= now && into.len() < enough {
                page.expire(now, (number * PAGE) as u32, into);
            }
            earliest = earliest.min(page.earliest);
            if page.live == 0 {
                *slot = None;
            }
        }
        self.earliest = (earliest != NEVER).then_some(earliest);
    }
}

impl TimerPage {
    fn expire(&mut self, now: Tick, first: u32, into: &mut Vec<u32>) {
        self.earliest = NEVER;
        for (place, deadline) in self.at.iter_mut().enumerate() {
            if *deadline <= now {
                into.push(first + place as u32);
                *deadline = NEVER;
                self.live -= 1;
            }
            self.earliest = self.earliest.min(*deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use std::collections::BTreeMap;

    #[test]
    fn a_deadline_is_never_early() {
        for now in 0..350 {
            let deadline = after(now, 1);
            assert!(deadline as Millis * TICK >= now + 1000, "at {now}");
            assert!(deadline as Millis * TICK < now + 1000 + TICK, "at {now}");
        }
    }

    #[test]
    fn agrees_with_a_map_from_a_seed() {
        let mut random = Random::new(0x71c4);
        let mut timers = Timers::default();
        let mut model: BTreeMap<u32, Tick> = BTreeMap::new();
        let mut found = Vec::new();
        for now in 0..3_000 {
            for _ in 0..random.below(40) {
                let index = random.below(5_000) as u32;
                if random.below(4) == 0 {
                    timers.set(index, NEVER);
                    model.remove(&index);
                } else {
                    let deadline = now + random.below(300) as Tick;
                    timers.set(index, deadline);
                    model.insert(index, deadline);
                }
            }
            if let Some(first) = model.values().min() {
                assert!(timers.next().expect("something is set") <= *first);
            }
            found.clear();
            timers.expire(now, usize::MAX, &mut found);
            let due: Vec<u32> =
                model.iter().filter(|(_, at)| **at <= now).map(|(index, _)| *index).collect();
            model.retain(|_, at| *at > now);
            assert_eq!(found, due, "at {now}");
        }
        for index in 0..5_000 {
            timers.set(index, NEVER);
        }
        assert!(timers.pages.iter().all(Option::is_none), "cleared pages are given back");
    }

    #[test]
    fn what_is_left_over_stays_due() {
        let mut timers = Timers::default();
        for index in 0..4 * PAGE as u32 {
            timers.set(index, 5);
        }
        let mut found = Vec::new();
        timers.expire(5, 1, &mut found);
        assert_eq!(found.len(), PAGE);
        assert_eq!(timers.next(), Some(5));
    }
}
