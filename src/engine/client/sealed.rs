//! A TLS record that a socket has accepted only in part.

use std::cell::Cell;

thread_local! {
    /// See [`sealed_bytes`].
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Returns the bytes of all unsent parts of records on this thread.
pub fn sealed_bytes() -> usize {
    HELD.get()
}

/// The unsent rest of a record, or of a handshake's messages. It must be sent as it is: its sequence number is used up.
#[derive(Debug, Default)]
pub struct Sealed {
    bytes: Vec<u8>,
    /// Bytes of them that the socket has accepted.
    sent: usize,
    /// Bytes of frames in the record: they are written when all of it is.
    pub plain: usize,
}

impl Sealed {
    /// Keeps `rest`, the bytes that the socket has not accepted of a record with `plain` bytes of frames.
    pub fn new(rest: &[u8], plain: usize) -> Sealed {
        HELD.set(HELD.get() + rest.len());
        Sealed { bytes: rest.to_vec(), sent: 0, plain }
    }

    /// Appends bytes after the record.
    pub fn extend(&mut self, bytes: &[u8]) {
        HELD.set(HELD.get() + bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the bytes to send.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Records that the socket has accepted more bytes.
    pub fn advance(&mut self, length: usize) {
        self.sent += length;
    }
}

/// The outcome of a write without a queue.
pub struct DirectWrite {
    /// Bytes that the socket accepted.
    pub sent: usize,
    /// Bytes of frames among them, those of a record that is sent in part left out.
    pub written: usize,
    /// Such a record.
    pub sealed: Option<Sealed>,
    /// Nothing is left.
    pub is_whole: bool,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.bytes.len());
    }
}
