//! Time as the loop sees it: handed to everything as an argument, read by the reactor alone.

/// Milliseconds since the process started, on the monotonic clock. A wall clock that jumps does not move it.
pub type Millis = u64;

/// The moment at which a turn of the loop began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For every timer of the program.
    pub millis: Millis,
    /// Seconds since 1970 on the wall clock: for `exp` and `nbf` of tokens (RFC 7519 section 2, NumericDate) and nothing else.
    pub unix: u64,
    /// Milliseconds since 1970 on the same clock: for what back ends are told.
    pub unix_millis: u64,
}

/// Says yes once a second at most: for lines of the log that others can cause.
#[derive(Debug, Default)]
pub struct Seldom(Option<Millis>);

impl Seldom {
    /// Whether a second has passed since it last said so.
    pub fn is_time(&mut self, now: Millis) -> bool {
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
    fn a_second_passes_between_two_lines() {
        let mut seldom = Seldom::default();
        let said = [0, 0, 999, 1000, 1999, 2500].map(|now| seldom.is_time(now));
        assert_eq!(said, [true, false, false, true, false, true]);
    }
}
