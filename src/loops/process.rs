//! The process of a worker, as the parent sees it: its start, its signs of life, its end.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
#[cfg(not(test))]
use std::os::unix::process::CommandExt;
#[cfg(not(test))]
use std::process::{Child, Command};

use mio::net::TcpStream;

use crate::clock::Millis;
use crate::loops::descriptors;
use crate::loops::hello::Hello;
#[cfg(test)]
use crate::loops::simulation::process::{Child, Command};
use crate::loops::socket::LinkSocket;
use crate::upgrade::{self, StateLink};

/// The variable that makes a process a worker. Settings begin otherwise.
pub const VARIABLE: &str = "_ONELOOP_WORKER";

/// The program that runs: also if its file was replaced since.
const PROGRAM: &str = "/proc/self/exe";

/// Variables of the service manager and of another parent, which speak with the parent alone.
const OF_PARENT: [&str; 7] = [
    upgrade::VARIABLE,
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// The silence after which a worker counts as hanging, in milliseconds. One that starts has as long.
pub const SILENCE_MAX: Millis = 10_000;
/// Above this many bytes that wait for one worker, nothing more is read from the sources.
const UNWRITTEN_BYTES_MAX: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };
/// A worker for which they wait, and that takes nothing or says nothing for this long, counts as hanging: the clients of all others
/// wait with them.
const BEHIND_MAX: Millis = 2_000;
/// The pause between two looks at processes that are to end.
const ENDING_PAUSE: Millis = 20;

/// A worker that ends within this time of its start is started again after a pause.
const SHORT_LIFE: Millis = 5_000;
const PAUSE_FIRST: Millis = 100;
const PAUSE_MAX: Millis = 5_000;

/// The command line of this process, with which workers are started as well.
#[derive(Clone, Debug)]
pub struct CommandLine {
    pub name: OsString,
    pub arguments: Vec<OsString>,
}

/// The workers that a place among the loops has had.
#[derive(Clone, Debug, Default)]
pub struct PlaceHistory {
    /// All of them.
    pub starts: u64,
    /// The latest ones that did not live for long.
    failures: u32,
}

impl PlaceHistory {
    /// Returns the pause before the next worker, after one that has lived for so long.
    pub fn pause(&mut self, lived: Millis) -> Millis {
        if lived >= SHORT_LIFE {
            self.failures = 0;
            return 0;
        }
        let failures = self.failures.min(10);
        self.failures += 1;
        (PAUSE_FIRST << failures).min(PAUSE_MAX)
    }
}

/// The progress of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerStage {
    /// It reads the settings and builds its parts.
    Starting,
    /// It has asked for the state.
    Asking,
    /// It has the state, and all input since.
    Attached,
    /// It serves clients.
    Serving,
}

/// A worker that runs.
pub struct WorkerProcess {
    child: Child,
    pub link: LinkSocket,
    /// For the words of an upgrade, which no input may delay, and its sockets.
    pub words: StateLink,
    pub stage: WorkerStage,
    pub started: Millis,
    /// The time of the latest sign of life.
    pub heard: Millis,
    /// Its clients at the latest sign of life.
    pub clients: usize,
}

impl WorkerProcess {
    /// Starts a worker, and sends it the first words with its listeners. `predecessor`: the way to another worker whose place it takes.
    ///
    /// # Errors
    /// The errors of starting a program, or a lack of descriptors.
    pub fn start(
        line: &CommandLine,
        hello: &Hello,
        listeners: &[OwnedFd],
        predecessor: Option<OwnedFd>,
        now: Millis,
    ) -> io::Result<WorkerProcess> {
        let (own, other) = UnixStream::pair()?;
        own.set_nonblocking(true)?;
        let (words, its_words) = StateLink::pair()?;
        let mut first = Vec::new();
        hello.write(&mut first);
        let sockets = listeners.iter().chain([&its_words]).chain(&predecessor);
        let sockets: Vec<BorrowedFd<'_>> = sockets.map(AsFd::as_fd).collect();
        let sent = descriptors::send(&own, &first, &sockets)?;
        assert_eq!(sent, first.len(), "an empty socket takes a few hundred bytes");
        let mut command = Command::new(PROGRAM);
        command.arg0(&line.name).args(&line.arguments).env(VARIABLE, "1");
        OF_PARENT.iter().for_each(|name| _ = command.env_remove(name));
        // A group of its own: the terminal's signals are the parent's.
        let child = command.process_group(0).stdin(OwnedFd::from(other)).spawn()?;
        let link = LinkSocket::new(TcpStream::from(OwnedFd::from(own)));
        let stage = WorkerStage::Starting;
        Ok(WorkerProcess { child, link, words, stage, started: now, heard: now, clients: 0 })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether it hangs: it says nothing, or takes nothing. `is_awaited`: the sources wait for what it has to say.
    pub fn hangs(&self, is_awaited: bool, now: Millis) -> bool {
        now >= self.deadline(is_awaited)
    }

    /// Returns when it counts as hanging.
    pub fn deadline(&self, is_awaited: bool) -> Millis {
        let patience = if self.is_behind() { BEHIND_MAX } else { SILENCE_MAX };
        let blocked = self.link.blocked_since().map_or(Millis::MAX, |since| since + patience);
        let silence = if is_awaited { BEHIND_MAX } else { SILENCE_MAX };
        blocked.min(self.heard + silence)
    }

    /// Returns whether so much waits for it that the sources wait as well.
    pub fn is_behind(&self) -> bool {
        self.link.unwritten() > UNWRITTEN_BYTES_MAX
    }

    /// Begins to count its silence anew: this process itself has stood still.
    pub fn forgive(&mut self, now: Millis) {
        self.heard = now;
        self.link.forgive(now);
    }
}

/// Processes that were killed, or have ended their links. The kernel closes their sockets one by one, and nobody waits for that.
#[derive(Default)]
pub struct EndingProcesses(Vec<Child>);

impl EndingProcesses {
    /// Ends a worker at once.
    pub fn add(&mut self, mut worker: WorkerProcess) {
        // Its link is open as long as it lives, unless it hangs: killing a process that has ended does nothing.
        let _ = worker.child.kill();
        self.0.push(worker.child);
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Lets go of those that are no more.
    pub fn reap(&mut self) {
        self.0.retain_mut(|child| {
            let Ok(Some(status)) = child.try_wait() else { return true };
            let level = if status.success() { log::Level::Debug } else { log::Level::Warn };
            log::log!(level, "process {} has ended: {status}", child.id());
            false
        });
    }

    /// Returns when they are looked at again.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        (!self.0.is_empty()).then_some(now + ENDING_PAUSE)
    }
}
