//! Time from the system, or from a test.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clock::{Millis, Now};

/// A source of time.
pub(super) enum Clock {
    /// The system's, counted from this moment.
    System(Instant),
    /// A test's: microseconds, and milliseconds since 1970.
    #[cfg(test)]
    Scripted(u64, u64),
}

impl Clock {
    /// The system's, of a process that began so long ago under another number.
    pub fn aged(elapsed: Duration) -> Clock {
        let now = Instant::now();
        Clock::System(now.checked_sub(elapsed).unwrap_or(now))
    }

    pub fn micros(&self) -> u64 {
        match self {
            Clock::System(start) => start.elapsed().as_micros() as u64,
            #[cfg(test)]
            Clock::Scripted(micros, _) => *micros,
        }
    }

    pub fn now(&self, millis: Millis) -> Now {
        let unix_millis = match self {
            Clock::System(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            #[cfg(test)]
            Clock::Scripted(_, unix_millis) => *unix_millis,
        };
        Now { millis, unix: unix_millis / 1000, unix_millis }
    }
}
