//! Messages of workers' handlers, which the parent publishes.

use crate::loops::kinds::ANSWER;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number,
};

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

/// Appends the answer to the message with this number of its worker.
pub fn write_answer(out: &mut Vec<u8>, ticket: u64, answer: Result<usize, String>) {
    write_frame(out, ANSWER, |out| {
        write_number(out, ticket);
        out.push(u8::from(answer.is_ok()));
        match answer {
            Ok(count) => write_number(out, count as u64),
            Err(why) => write_bytes(out, why.as_bytes()),
        }
    });
}
