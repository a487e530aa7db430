//! The link between a process and the one that takes its place: a pair of Unix sockets, of which the successor has one as its
//! standard input.
//!
//! ```text
//! predecessor                         successor
//!     │        hello, version ◄───────────┤   the settings are good
//!     ├── state and descriptors ─────────►│
//!     │                taken ◄────────────┤
//!     └── exit ──────────────────────────►│   serves
//! ```

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::descriptors;
use super::{StateSink, StateSource};

/// The environment variable of a successor.
pub(super) const VARIABLE: &str = "TAKES_OVER_BY_STDIN";

/// The time that the other process may take for each step.
const STEP: Duration = Duration::from_secs(5);

/// The time for the rest of a message that went in part.
const SPARE: Duration = Duration::from_secs(1);

const HELLO: &[u8; 8] = b"oneloop\n";
const TAKEN: u8 = b'T';

const BUFFER_BYTES: usize = 64 * 1024;

/// One end of the link. Each step ends after five seconds at the latest.
pub struct StateLink(UnixStream);

impl StateLink {
    pub(super) fn new(stream: UnixStream) -> io::Result<StateLink> {
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        Ok(StateLink(stream))
    }

    /// A second descriptor of the socket.
    ///
    /// # Errors
    /// None is left.
    pub fn duplicate(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }
}

impl StateSink for StateLink {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let sent = descriptors::send(&self.0, bytes, fds)?;
        if sent == bytes.len() {
            return Ok(());
        }
        // The time was over, or a signal came. Another five seconds would end those of a watchdog.
        self.0.set_write_timeout(Some(SPARE))?;
        self.0.write_all(&bytes[sent..])?;
        self.0.set_write_timeout(Some(STEP))
    }
}

impl StateSource for StateLink {
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<()> {
        let end = bytes.len();
        bytes.resize(end + BUFFER_BYTES, 0);
        let received = descriptors::receive(&self.0, &mut bytes[end..], fds);
        bytes.truncate(end + *received.as_ref().unwrap_or(&0));
        received.map(|_| ())
    }
}

/// The steps of the predecessor.
impl StateLink {
    /// Waits for the version of the state that the successor reads.
    ///
    /// # Errors
    /// It ended before, or is no oneloop that knows of upgrades.
    pub fn read_hello(&mut self) -> io::Result<u32> {
        let (mut hello, mut version) = ([0; 8], [0; 4]);
        self.0.read_exact(&mut hello)?;
        self.0.read_exact(&mut version)?;
        match &hello == HELLO {
            true => Ok(u32::from_le_bytes(version)),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Waits until the successor has everything.
    ///
    /// # Errors
    /// It has ended, or says nothing.
    pub fn read_taken(&mut self) -> io::Result<()> {
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        if answer[0] == TAKEN { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

/// The process whose place this one is to take.
pub struct Predecessor(StateLink);

impl Predecessor {
    /// Finds it at the standard input, if the environment says so.
    ///
    /// # Errors
    /// The standard input cannot be used.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> io::Result<Option<Predecessor>> {
        if variable(VARIABLE).is_none() {
            return Ok(None);
        }
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        StateLink::new(input.into()).map(|link| Some(Predecessor(link)))
    }

    /// Says that the settings are good, and which version is read here. The state follows.
    ///
    /// # Errors
    /// The predecessor is gone.
    pub fn greet(&mut self) -> io::Result<()> {
        let version = super::version().to_le_bytes();
        self.0.0.write_all(&[&HELLO[..], &version].concat())
    }

    /// The source of the state.
    pub fn link(&mut self) -> &mut StateLink {
        &mut self.0
    }

    /// Says that everything is taken, and waits for the end of the predecessor. If it gives this process up meanwhile, it kills it
    /// before it goes on.
    ///
    /// # Errors
    /// It does not end.
    pub fn replace(mut self) -> io::Result<()> {
        self.0.0.write_all(&[TAKEN])?;
        // From here on one of the two ends, and nobody else knows which: it may take long to free the memory of a large process.
        self.0.0.set_read_timeout(None)?;
        loop {
            match self.0.0.read(&mut [0]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns whether a successor reads this process' state.
pub(super) fn is_known(version: u32) -> bool {
    version == super::version()
}
