//! The link between a process and the one that takes its place: a pair of Unix sockets, of which the successor has one as its
//! standard input.
//!
//! ```text
//! predecessor                         successor
//!     │        hello, version ◄───────────┤
//!     ├── listeners, name ───────────────►│
//!     │                ready ◄────────────┤   everything is there but the state
//!     ├── state and descriptors ─────────►│
//!     │                taken ◄────────────┤
//!     └── exit ──────────────────────────►│   serves
//! ```
//!
//! Of several loops, each parent speaks so with the other. A worker has no successor of its own: its parent gives it one end of such a
//! link, and the other end goes by the other parent to a worker there. Between the two only the listeners and the state pass. All words
//! pass between a parent and its worker, over a second pair of sockets: `ready` and `taken` upwards, `go on` downwards if it failed.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::descriptors;
use super::{StateSink, StateSource};

/// The environment variable of a successor.
pub const VARIABLE: &str = "TAKES_OVER_BY_STDIN";

/// The time that the other process may take for each step.
const STEP: Duration = Duration::from_secs(5);
/// The time that a worker may take to start.
const START: Duration = Duration::from_secs(10);
/// The time in which the predecessor of a worker begins to hand its state over: meanwhile other workers start.
const BEGIN: Duration = Duration::from_secs(20);

/// The time for the rest of a message that went in part.
const SPARE: Duration = Duration::from_secs(1);

const HELLO: &[u8; 8] = b"oneloop\n";

const BUFFER_BYTES: usize = 64 * 1024;

/// A word between two processes, of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverWord {
    /// Everything is there but the state.
    Ready = b'R' as isize,
    /// The state is taken over.
    Taken = b'T' as isize,
    /// The upgrade failed.
    GoOn = b'G' as isize,
    /// A socket comes with it.
    Socket = b'S' as isize,
}

/// One end of the link. Each step ends after five seconds at the latest, unless it says otherwise.
pub struct StateLink(UnixStream);

impl StateLink {
    /// # Errors
    /// The socket takes no time limit.
    pub fn new(stream: UnixStream) -> io::Result<StateLink> {
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        Ok(StateLink(stream))
    }

    /// A new link, and its other end.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> io::Result<(StateLink, OwnedFd)> {
        let (own, other) = UnixStream::pair()?;
        Ok((StateLink::new(own)?, other.into()))
    }

    /// A second descriptor of the socket.
    ///
    /// # Errors
    /// None is left.
    pub fn duplicate(&self) -> io::Result<UnixStream> {
        self.0.try_clone()
    }

    /// # Errors
    /// The other process is gone.
    pub fn say(&mut self, word: HandoverWord) -> io::Result<()> {
        self.0.write_all(&[word as u8])
    }

    /// Waits for this word.
    ///
    /// # Errors
    /// The other process has ended, or says nothing, or something else.
    pub fn hear(&mut self, word: HandoverWord) -> io::Result<()> {
        let mut heard = [0];
        self.0.read_exact(&mut heard)?;
        if heard[0] == word as u8 { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Waits until a worker that starts is ready, for ten seconds at most.
    ///
    /// # Errors
    /// The same.
    pub fn hear_start(&mut self) -> io::Result<()> {
        self.0.set_read_timeout(Some(START))?;
        self.hear(HandoverWord::Ready)?;
        self.0.set_read_timeout(Some(STEP))
    }

    /// Gives the other process a socket.
    ///
    /// # Errors
    /// It is gone.
    pub fn pass(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        descriptors::send(&self.0, &[HandoverWord::Socket as u8], &[socket]).map(|_| ())
    }

    /// Takes the socket that the other process has given.
    ///
    /// # Errors
    /// There is none.
    pub fn receive_socket(&mut self) -> io::Result<UnixStream> {
        let (mut word, mut passed) = ([HandoverWord::GoOn as u8], Vec::new());
        // The last word of an attempt that failed before this process was at rest is still there.
        while word[0] == HandoverWord::GoOn as u8 {
            if descriptors::receive(&self.0, &mut word, &mut passed)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        passed.pop().map(UnixStream::from).ok_or(io::ErrorKind::InvalidData.into())
    }

    /// Waits for the end of the other process, as long as that takes. Returns `false` if it says something before.
    ///
    /// # Errors
    /// The errors of a read.
    pub fn has_ended(&mut self) -> io::Result<bool> {
        self.0.set_read_timeout(None)?;
        loop {
            match self.0.read(&mut [0]) {
                Ok(length) => return Ok(length == 0),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
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
}

/// The process whose place this one is to take.
pub struct Predecessor {
    state: StateLink,
    /// The parent, if both are workers: it hears the words of this one.
    parent: Option<StateLink>,
}

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
        let state = StateLink::new(input.into())?;
        Ok(Some(Predecessor { state, parent: None }))
    }

    /// A worker of another parent, at this socket. `parent`: the own one.
    ///
    /// # Errors
    /// The sockets take no time limit.
    pub fn of_worker(socket: OwnedFd, parent: UnixStream) -> io::Result<Predecessor> {
        let state = StateLink::new(socket.into())?;
        state.0.set_read_timeout(Some(BEGIN))?;
        Ok(Predecessor { state, parent: Some(StateLink::new(parent)?) })
    }

    /// Says which version is read here. The first part of the state follows. Parents alone do that, whose workers are of their version.
    ///
    /// # Errors
    /// The predecessor is gone.
    pub fn greet(&mut self) -> io::Result<()> {
        if self.parent.is_some() {
            return Ok(());
        }
        let version = super::version().to_le_bytes();
        self.state.0.write_all(&[&HELLO[..], &version].concat())
    }

    /// The source of the state.
    pub fn link(&mut self) -> &mut StateLink {
        &mut self.state
    }

    fn say(&mut self, word: HandoverWord) -> io::Result<()> {
        self.parent.as_mut().unwrap_or(&mut self.state).say(word)
    }

    /// Says that everything is there but the rest of the state.
    ///
    /// # Errors
    /// The predecessor, or the parent, is gone.
    pub fn ask(&mut self) -> io::Result<()> {
        self.say(HandoverWord::Ready)
    }

    /// Says that everything is taken, and waits for the end of the predecessor. If it gives this process up meanwhile, it kills it
    /// before it goes on. A worker is not killed then, but its parent is, whose next words do not come.
    ///
    /// # Errors
    /// It does not end.
    pub fn replace(mut self) -> io::Result<()> {
        self.say(HandoverWord::Taken)?;
        // From here on one of the two ends, and nobody else knows which: it may take long to free the memory of a large process.
        match self.state.has_ended()? {
            true => Ok(()),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Returns whether a successor reads this process' state.
pub(super) fn is_known(version: u32) -> bool {
    version == super::version()
}

/// Lets the system end this process with its parent, or not any more: one that hangs while it takes over would keep the sockets of
/// clients open.
///
/// # Errors
/// The system refuses it.
pub fn end_with_parent(ends: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        set_parent_process_death_signal(ends.then_some(Signal::KILL))?;
    }
    let _ = ends;
    Ok(())
}
