//! Why a stream is not RESP.

use std::fmt;

/// The fault. Nothing after it can be trusted: the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// This byte stands where a type belongs (in a command: where `$` belongs).
    Type(u8),
    /// A length is not a number, is negative (`-1` means null for `$` and `*` alone), or is beyond what Redis allows.
    Length,
    /// CR LF is missing after a length, a line or a string.
    Terminator,
    /// A line or a whole value is larger than any that Redis sends.
    Size,
    /// The framing is right, and the content is not.
    Malformed,
}

impl fmt::Display for Garbage {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Garbage::Type(byte) => write!(formatter, "unexpected byte 0x{byte:02x} as a type"),
            Garbage::Length => formatter.write_str("invalid length"),
            Garbage::Terminator => formatter.write_str("missing CR LF"),
            Garbage::Size => formatter.write_str("larger than the protocol allows"),
            Garbage::Malformed => formatter.write_str("malformed reply"),
        }
    }
}
