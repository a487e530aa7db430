//! permessage-deflate (RFC 7692) without context takeover in either direction.
//!
//! Each message is compressed on its own, so a broadcast is compressed once for all clients that negotiated the extension, and an
//! idle client owns nothing of it: its slot has a bit. A window for each client would compress small messages better, and cost
//! 32 KB or more for each, and the CPU of each delivery.

pub mod deflater;
pub mod inflater;
pub mod offer;
#[cfg(test)]
pub(crate) mod tests;

/// The messages that are compressed for clients of a route that negotiated it, from `deflate_bytes_min` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deflate {
    /// None; the extension is not negotiated.
    #[default]
    Off,
    /// Messages to large topics: the time to compress one is divided by its recipients.
    Broadcasts,
    /// All messages that are published.
    All,
}

impl Deflate {
    /// Returns whether a message is compressed.
    pub fn covers(self, is_broadcast: bool) -> bool {
        self == Deflate::All || (self == Deflate::Broadcasts && is_broadcast)
    }
}
