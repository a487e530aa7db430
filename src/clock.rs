//! Time as the loop sees it: passed as an argument, read by the reactor alone.

/// Milliseconds since the process started, on the monotonic clock: jumps of the wall clock do not move it.
pub type Millis = u64;

/// The moment at which a turn of the loop began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The time for all timers of the program.
    pub millis: Millis,
    /// Seconds since 1970 on the wall clock: for `exp` and `nbf` of tokens (RFC 7519 section 2, NumericDate) and nothing else.
    pub unix: u64,
    /// Milliseconds since 1970 on the same clock: for messages to back ends.
    pub unix_millis: u64,
}

/// The lead of the wall clock over the monotonic one, to detect that it was set or the machine slept.
#[derive(Debug)]
pub struct WallOffset(i64);

/// Smaller moves of the wall clock are ignored: it is adjusted all the time.
const WALL_MOVES_MIN: u64 = 1000;

impl WallOffset {
    /// The present offset.
    pub fn new(now: Now) -> WallOffset {
        WallOffset(WallOffset::of(now))
    }

    /// Returns by how many milliseconds the wall clock moved forward since this last reported a move; usually 0.
    pub fn moved(&mut self, now: Now) -> i64 {
        let by = WallOffset::of(now).saturating_sub(self.0);
        if by.unsigned_abs() < WALL_MOVES_MIN {
            return 0;
        }
        self.0 += by;
        by
    }

    fn of(now: Now) -> i64 {
        now.unix_millis as i64 - now.millis as i64
    }
}

/// Formats a unix second in UTC as `2026-11-26T21:48:46` (RFC 3339 without an offset). The day is computed in years that begin in
/// March, 400 of which are always 146,097 days.
pub fn utc(unix: u64) -> String {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Days since 1 March of the year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The unix second of a date in the form of [`utc`], up to the year 9999, found by bisection: such dates sort as text.
pub fn unix(date: &str) -> Option<u64> {
    let (mut low, mut high) = (0, 253_402_300_800);
    while low < high {
        let middle = low + (high - low) / 2;
        if *utc(middle) < *date { low = middle + 1 } else { high = middle }
    }
    (utc(low) == date).then_some(low)
}

/// A limit of one per second, for log lines that a peer can cause.
#[derive(Debug, Default)]
pub struct RateLimit(Option<Millis>);

impl RateLimit {
    /// Returns whether a second has passed since this last returned `true`.
    pub fn allow(&mut self, now: Millis) -> bool {
        let is_time = self.0.is_none_or(|last| now >= last + 1000);
        if is_time {
            self.0 = Some(now);
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_is_noticed_once() {
        let now = |millis: u64, unix_millis: u64| Now { millis, unix: 0, unix_millis };
        let mut offset = WallOffset::new(now(5, 10_005));
        assert_eq!(offset.moved(now(1_005, 11_005)), 0);
        assert_eq!(offset.moved(now(2_005, 12_904)), 0, "adjusted");
        assert_eq!(offset.moved(now(3_005, 14_105)), 1_100);
        assert_eq!(offset.moved(now(4_005, 15_105)), 0);
        assert_eq!(offset.moved(now(5_005, 6_105)), -10_000);
        assert_eq!(offset.moved(now(6_005, 7_105)), 0);
    }

    #[test]
    fn a_moment_is_written_as_the_calendar_has_it() {
        for (unix, written) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!((utc(unix).as_str(), super::unix(written)), (written, Some(unix)));
        }
    }

    #[test]
    fn a_second_passes_between_two_lines() {
        let mut seldom = RateLimit::default();
        let said = [0, 0, 999, 1000, 1999, 2500].map(|now| seldom.allow(now));
        assert_eq!(said, [true, false, false, true, false, true]);
    }
}
