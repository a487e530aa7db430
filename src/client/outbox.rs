//! What one client is owed: references to shared frames, in order, measured against the backlog's bounds.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::client::frame::Frame;
use crate::client::transport::Transport;

/// Frames gathered into one write; Linux takes 1024 (IOV_MAX), 64 already make the call's own cost vanish.
const SLICES: usize = 64;

/// Bytes written to one client after which others have their turn.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// How far a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing is owed any more.
    All,
    /// The turn's share is written, the socket would take more.
    Some,
    /// The socket takes nothing now and will say when it does.
    Blocked,
}

/// Bounds of one client's backlog.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// `backlog_frames_max`.
    pub frames_max: usize,
    /// `backlog_bytes_max`; a single frame may exceed it when nothing else is owed.
    pub bytes_max: usize,
}

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are written already.
    written: usize,
    /// Bytes of all frames.
    bytes: usize,
}

impl Outbox {
    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes - self.written
    }

    /// The frame that was queued last.
    pub fn last(&self) -> Option<&Frame> {
        self.frames.back()
    }

    /// Whether one more frame stays within the bounds.
    pub fn has_room(&self, frame: &Frame, backlog: &Backlog) -> bool {
        let bytes = self.bytes + frame.as_bytes().len();
        let fits = self.frames.len() < backlog.frames_max && bytes <= backlog.bytes_max;
        fits || self.frames.is_empty()
    }

    /// Whether half of a bound is used up.
    pub fn is_half_full(&self, backlog: &Backlog) -> bool {
        self.frames.len() * 2 >= backlog.frames_max || self.bytes * 2 >= backlog.bytes_max
    }

    /// Queues a frame. Bounds are the caller's matter: a last frame always has room.
    pub fn push(&mut self, frame: &Frame) {
        self.bytes += frame.as_bytes().len();
        self.frames.push_back(frame.clone());
    }

    /// Puts a frame before all others. Nothing may be written yet.
    pub fn push_first(&mut self, frame: &Frame) {
        debug_assert_eq!(self.written, 0, "the first frame is not on the wire");
        self.bytes += frame.as_bytes().len();
        self.frames.push_front(frame.clone());
    }

    /// Forgets what is not on the wire yet. A frame that is partly written stays: to cut it would break the framing.
    pub fn forget(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.bytes = self.frames.front().map_or(0, |frame| frame.as_bytes().len());
    }

    /// Writes all, with one call of the transport for each gather of frames, or as much as a turn has to give.
    ///
    /// # Errors
    /// The transport's, but for `WouldBlock`: the connection is gone.
    pub fn write(&mut self, transport: &mut Transport) -> io::Result<(usize, Written)> {
        let mut total = 0;
        while total < WRITE_BYTES_MAX {
            let (length, offered) = match self.write_once(transport) {
                Ok(counts) => counts,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((total, Written::Blocked));
                }
                Err(error) => return Err(error),
            };
            total += length;
            self.advance(length);
            if self.frames.is_empty() {
                return Ok((total, Written::All));
            }
            if length < offered {
                // The kernel's buffer is full; it tells when there is room.
                return Ok((total, Written::Blocked));
            }
        }
        Ok((total, Written::Some))
    }

    /// Returns the bytes that were written, and those that were offered.
    fn write_once(&self, transport: &mut Transport) -> io::Result<(usize, usize)> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut offered = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            let skip = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(&frame.as_bytes()[skip..]);
            offered += slice.len();
            count += 1;
        }
        Ok((transport.write_vectored(&slices[..count])?, offered))
    }

    fn advance(&mut self, length: usize) {
        self.written += length;
        while let Some(first) = self.frames.front() {
            let bytes = first.as_bytes().len();
            if self.written < bytes {
                break;
            }
            self.written -= bytes;
            self.bytes -= bytes;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKLOG: Backlog = Backlog { frames_max: 3, bytes_max: 100 };

    #[test]
    fn is_measured_in_frames_and_in_bytes() {
        let mut outbox = Outbox::default();
        for half_full in [false, false, true] {
            assert_eq!(outbox.is_half_full(&BACKLOG), half_full);
            assert!(outbox.has_room(&Frame::ready(b"x"), &BACKLOG));
            outbox.push(&Frame::ready(b"x"));
        }
        assert!(!outbox.has_room(&Frame::ready(b"x"), &BACKLOG));
        let mut outbox = Outbox::default();
        outbox.push(&Frame::ready(&[0; 60]));
        assert!(outbox.is_half_full(&BACKLOG));
        assert!(outbox.has_room(&Frame::ready(&[0; 40]), &BACKLOG));
        assert!(!outbox.has_room(&Frame::ready(&[0; 41]), &BACKLOG));
        assert_eq!(outbox.bytes(), 60);
    }

    #[test]
    fn one_frame_above_the_bound_passes_when_nothing_else_waits() {
        let mut outbox = Outbox::default();
        assert!(outbox.has_room(&Frame::ready(&[0; 101]), &BACKLOG));
        outbox.push(&Frame::ready(&[0; 101]));
        assert!(!outbox.has_room(&Frame::ready(b""), &BACKLOG));
    }

    #[test]
    fn a_frame_on_the_wire_is_finished_before_the_close() {
        let mut outbox = Outbox::default();
        for frame in [b"abc", b"def", b"ghi"] {
            outbox.push(&Frame::ready(frame));
        }
        outbox.advance(4);
        outbox.forget();
        outbox.push(&Frame::ready(b"bye"));
        assert_eq!(outbox.bytes(), 5);
        outbox.advance(2);
        assert_eq!(outbox.last().unwrap().as_bytes(), b"bye");
        outbox.advance(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }
}
