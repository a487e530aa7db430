//! The writing side: values are gathered, and leave in pieces with their descriptors.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use zeroize::Zeroize;

use super::descriptors::DESCRIPTORS_MAX;

/// Bytes that are gathered before they leave.
const PIECE_BYTES: usize = 64 * 1024;

/// The way of the state to the other process.
pub trait StateSink {
    /// Sends bytes, and descriptors with the first of them.
    ///
    /// # Errors
    /// The other process is gone, or takes nothing.
    fn send(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()>;
}

impl StateSink for Vec<u8> {
    fn send(&mut self, bytes: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Writes a state. An error stays until [`StateWriter::finish`] returns it.
pub struct StateWriter<'a> {
    sink: &'a mut dyn StateSink,
    bytes: Vec<u8>,
    descriptors: Vec<BorrowedFd<'a>>,
    /// Objects that were written, by their addresses: see [`StateWriter::shared`].
    known: HashMap<usize, u32>,
    failed: Option<io::Error>,
}

impl<'a> StateWriter<'a> {
    pub fn new(sink: &'a mut dyn StateSink) -> StateWriter<'a> {
        let (bytes, descriptors) = (Vec::with_capacity(PIECE_BYTES), Vec::new());
        StateWriter { sink, bytes, descriptors, known: HashMap::new(), failed: None }
    }

    pub fn u8(&mut self, number: u8) {
        self.raw(&[number]);
    }

    pub fn u32(&mut self, number: u32) {
        self.raw(&number.to_le_bytes());
    }

    pub fn u64(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Writes the length of a list or of bytes; what it counts follows.
    ///
    /// # Panics
    /// At 2^32: every bound is below that.
    pub fn len(&mut self, length: usize) {
        self.u32(u32::try_from(length).expect("what is kept is bounded"));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.raw(bytes);
    }

    /// Writes bytes that lie in two parts.
    pub fn parts(&mut self, parts: [&[u8]; 2]) {
        self.len(parts[0].len() + parts[1].len());
        parts.iter().for_each(|part| self.raw(part));
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// Writes whether there is a value. The caller writes the value.
    pub fn option<T>(&mut self, value: Option<T>) -> Option<T> {
        self.bool(value.is_some());
        value
    }

    /// Writes the number of an object that several others share. Returns whether it is new: the caller writes its content then.
    pub fn shared(&mut self, address: usize) -> bool {
        let next = self.known.len() as u32;
        let number = *self.known.entry(address).or_insert(next);
        self.u32(number);
        number == next
    }

    /// Writes a part of the state that a process may pass over which has no use for it.
    pub fn blob(&mut self, write: impl FnOnce(&mut StateWriter<'_>)) {
        let mut part = Vec::new();
        let mut writer = StateWriter::new(&mut part);
        write(&mut writer);
        writer.flush();
        drop(writer);
        self.bytes(&part);
        part.zeroize();
    }

    /// Adds a descriptor, which the reader takes at the same place.
    pub fn descriptor(&mut self, descriptor: BorrowedFd<'a>) {
        self.descriptors.push(descriptor);
        // It leaves with a byte, before which the reader cannot have it.
        self.u8(0);
        if self.descriptors.len() == DESCRIPTORS_MAX {
            self.flush();
        }
    }

    fn raw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.bytes.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.bytes.extend_from_slice(now);
            bytes = later;
            if self.bytes.len() == PIECE_BYTES {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        if self.failed.is_none() && !self.bytes.is_empty() {
            self.failed = self.sink.send(&self.bytes, &self.descriptors).err();
        }
        // Keys were among them.
        self.bytes.zeroize();
        self.descriptors.clear();
    }

    /// Sends the rest.
    ///
    /// # Errors
    /// The first error of the sink, after which nothing was sent.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.failed.take().map_or(Ok(()), Err)
    }
}
