//! Messages of workers' handlers, which the parent publishes.

use crate::loops::link::{Fields, LinkFrame, MalformedLink};

/// A message that is published, and whose receivers are being counted.
pub struct AwaitedPublication {
    /// The number under which its receivers are counted.
    pub number: u64,
    /// The worker's place and process.
    pub place: usize,
    pub process: u32,
    /// The worker's own number.
    pub ticket: u64,
    /// The receivers at the ports.
    pub here: usize,
}

/// Reads a worker's number of a message, its channel and its payload.
///
/// # Errors
/// The frame is malformed.
pub fn read_publication(frame: LinkFrame<'_>) -> Result<(u64, &[u8], &[u8]), MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let found = (fields.number()?, fields.bytes()?, fields.bytes()?);
    fields.end().map(|()| found)
}
