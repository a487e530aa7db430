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
}
