//! The reading side: every value has a bound, and whatever comes, reading ends with a value or an error.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use zeroize::Zeroize;

/// The reason why a state cannot be taken over.
#[derive(Debug)]
pub enum StateError {
    /// The other process is gone, or says nothing.
    Link(io::Error),
    /// The bytes mean nothing here, or more than may be.
    Malformed(&'static str),
    /// Settings that must be the same are not.
    Settings(String),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Link(error) => write!(f, "the state did not come: {error}"),
            StateError::Malformed(what) => write!(f, "the state is malformed: {what}"),
            StateError::Settings(what) => f.write_str(what),
        }
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> io::Error {
        let kind = match error {
            StateError::Settings(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error.to_string())
    }
}

/// The way of the state from the other process.
pub trait StateSource {
    /// Appends what comes next; nothing more comes if that is nothing.
    ///
    /// # Errors
    /// The other process says nothing, or descriptors were lost.
    fn receive(
        &mut self,
        bytes: &mut Vec<u8>,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> io::Result<()>;
}

/// Everything is there already.
impl StateSource for () {
    fn receive(&mut self, _: &mut Vec<u8>, _: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a state, in the order in which it was written.
pub struct StateReader<'a> {
    source: &'a mut dyn StateSource,
    bytes: Vec<u8>,
    /// Bytes that were read.
    at: usize,
    descriptors: VecDeque<OwnedFd>,
}

/// Bytes that were read are dropped once there are this many.
const READ_BYTES_MAX: usize = 256 * 1024;

impl<'a> StateReader<'a> {
    /// Reads `bytes`, and what the source has behind them.
    pub fn new(bytes: Vec<u8>, source: &'a mut dyn StateSource) -> StateReader<'a> {
        StateReader { source, bytes, at: 0, descriptors: VecDeque::new() }
    }

    /// Takes this many bytes. Memory grows as they come.
    fn take(&mut self, length: usize) -> Result<&[u8], StateError> {
        if self.at >= READ_BYTES_MAX {
            self.bytes[..self.at].zeroize();
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        while self.bytes.len() - self.at < length {
            let before = self.bytes.len();
            let received = self.source.receive(&mut self.bytes, &mut self.descriptors);
            received.map_err(StateError::Link)?;
            if self.bytes.len() == before {
                return Err(StateError::Link(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let from = self.at;
        self.at += length;
        Ok(&self.bytes[from..self.at])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("so many were asked for"))
    }

    pub fn u8(&mut self) -> Result<u8, StateError> {
        self.array::<1>().map(|[number]| number)
    }

    pub fn u32(&mut self) -> Result<u32, StateError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, StateError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, StateError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(StateError::Malformed("neither yes nor no")),
        }
    }

    /// Reads a length, at most `most`.
    pub fn len(&mut self, most: usize) -> Result<usize, StateError> {
        let length = self.u32()? as usize;
        (length <= most).then_some(length).ok_or(StateError::Malformed("a length above its bound"))
    }

    /// Reads at most `most` bytes.
    pub fn bytes(&mut self, most: usize) -> Result<Vec<u8>, StateError> {
        let length = self.len(most)?;
        self.take(length).map(<[u8]>::to_vec)
    }

    /// Reads a text of at most `most` bytes.
    pub fn text(&mut self, most: usize) -> Result<String, StateError> {
        String::from_utf8(self.bytes(most)?).map_err(|_| StateError::Malformed("no text"))
    }

    /// Reads a value, if there is one.
    pub fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Reads a list of at most `most` values.
    pub fn list<T>(
        &mut self,
        most: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, StateError>,
    ) -> Result<Vec<T>, StateError> {
        let length = self.len(most)?;
        let mut values = Vec::new();
        for _ in 0..length {
            values.push(read(self)?);
        }
        Ok(values)
    }

    /// Takes the descriptor that was written at this place.
    pub fn descriptor(&mut self) -> Result<OwnedFd, StateError> {
        self.u8()?;
        self.descriptors.pop_front().ok_or(StateError::Malformed("a descriptor is missing"))
    }
}

impl Drop for StateReader<'_> {
    fn drop(&mut self) {
        // Keys were among them.
        self.bytes.zeroize();
    }
}
