//! What one client is owed: references to shared frames, in order, within the backlog's bounds.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use crate::client::frame::Frame;
use crate::client::transport::Transport;

/// Frames gathered into one write; Linux takes 1024 (IOV_MAX), 64 already make the call's own cost vanish.
const SLICES: usize = 64;

/// The outbox is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// How far a write came.
#[derive(Debug, PartialEq, Eq)]
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

    /// Queues a frame.
    ///
    /// # Errors
    /// [`Full`] when the backlog's bound is hit; the frame is not queued.
    pub fn push(&mut self, frame: &Frame, backlog: &Backlog) -> Result<(), Full> {
        let bytes = self.bytes + frame.as_bytes().len();
        let fits = self.frames.len() < backlog.frames_max && bytes <= backlog.bytes_max;
        if !fits && !self.frames.is_empty() {
            return Err(Full);
        }
        self.push_last(frame);
        Ok(())
    }

    /// Queues the frame after which nothing follows: a close frame or a response, for which there is always room.
    pub fn push_last(&mut self, frame: &Frame) {
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

    /// Writes with one call of the transport, or a second one when the first took a full gather of frames.
    ///
    /// # Errors
    /// The transport's, but for `WouldBlock`: the connection is gone.
    pub fn write(&mut self, transport: &mut Transport) -> io::Result<(usize, Written)> {
        let mut total = 0;
        for _ in 0..2 {
            let (length, gathered) = match self.write_once(transport) {
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
            if length < gathered {
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
    fn is_bounded_in_frames_and_in_bytes() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(&Frame::ready(b"x"), &BACKLOG).unwrap();
        }
        assert_eq!(outbox.push(&Frame::ready(b"x"), &BACKLOG), Err(Full));
        let mut outbox = Outbox::default();
        outbox.push(&Frame::ready(&[0; 60]), &BACKLOG).unwrap();
        assert_eq!(outbox.push(&Frame::ready(&[0; 41]), &BACKLOG), Err(Full));
        assert_eq!(outbox.bytes(), 60);
    }

    #[test]
    fn one_frame_above_the_bound_passes_when_nothing_else_waits() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(&Frame::ready(&[0; 101]), &BACKLOG), Ok(()));
        assert_eq!(outbox.push(&Frame::ready(b"x"), &BACKLOG), Err(Full));
    }

    #[test]
    fn a_frame_on_the_wire_is_finished_before_the_close() {
        let mut outbox = Outbox::default();
        for frame in [b"abc", b"def", b"ghi"] {
            outbox.push(&Frame::ready(frame), &BACKLOG).unwrap();
        }
        outbox.advance(4);
        outbox.forget();
        outbox.push_last(&Frame::ready(b"bye"));
        assert_eq!(outbox.bytes(), 5);
        outbox.advance(2);
        assert_eq!(outbox.last().unwrap().as_bytes(), b"bye");
        outbox.advance(3);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }
}
