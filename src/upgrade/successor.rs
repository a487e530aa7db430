//! The start of the process that is to take this one's place.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::link::{HandoverWord, StateLink, VARIABLE, is_known};

/// The variables that are meant for this process alone.
const OWN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID"];

/// A program and its arguments.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

/// The process that is to take this one's place. Dropped, it is killed if this process has started it.
pub struct Successor {
    pub link: StateLink,
    keeper: Keeper,
}

/// The process that started a successor, and ends it.
enum Keeper {
    Own(Child),
    /// Another one, of which the parent knows: it has the last word.
    Parent(StateLink),
}

impl Program {
    /// Starts it, with this end of the link.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self) -> io::Result<Successor> {
        let (own, its) = UnixStream::pair()?;
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env(VARIABLE, "1").stdin(Stdio::from(OwnedFd::from(its)));
        OWN.iter().for_each(|name| _ = command.env_remove(name));
        let link = StateLink::new(own)?;
        Ok(Successor { link, keeper: Keeper::Own(command.spawn()?) })
    }
}

impl Successor {
    /// A worker of the process that is to take the parent's place, at this socket.
    ///
    /// # Errors
    /// The sockets take no time limit.
    pub fn of_worker(socket: UnixStream, parent: UnixStream) -> io::Result<Successor> {
        let (link, parent) = (StateLink::new(socket)?, StateLink::new(parent)?);
        Ok(Successor { link, keeper: Keeper::Parent(parent) })
    }

    /// The number of the process, if this one has started it.
    pub fn pid(&self) -> Option<u32> {
        match &self.keeper {
            Keeper::Own(child) => Some(child.id()),
            Keeper::Parent(_) => None,
        }
    }

    /// Waits for its greeting.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&mut self) -> Result<(), String> {
        match self.link.read_hello() {
            Ok(version) if is_known(version) => Ok(()),
            Ok(version) => Err(format!(
                "it reads version {version} of the state, and this process writes {}: stop this one, and start that one",
                super::version()
            )),
            Err(error) => Err(self.explain(&error)),
        }
    }

    /// Takes its word that everything is there but the state.
    ///
    /// # Errors
    /// A sentence.
    pub fn check_ready(&mut self) -> Result<(), String> {
        self.link.hear(HandoverWord::Ready).map_err(|error| self.explain(&error))
    }

    /// Waits until it has everything that was written, and this process is to end: by its word, or by the end of the parent, which
    /// alone knows.
    ///
    /// # Errors
    /// It has ended, or says nothing; or the parent goes on.
    pub fn conclude(&mut self, written: io::Result<()>) -> io::Result<()> {
        match &mut self.keeper {
            Keeper::Own(_) => written.and_then(|()| self.link.hear(HandoverWord::Taken)),
            Keeper::Parent(parent) => match parent.has_ended()? {
                true => Ok(()),
                false => Err(io::ErrorKind::ConnectionAborted.into()),
            },
        }
    }

    /// Says why it does not answer: its exit status, if it has ended.
    pub fn explain(&mut self, error: &io::Error) -> String {
        if error.kind() != io::ErrorKind::WouldBlock {
            // The link has ended, and so does the process.
            if let Ok(Some(status)) = self.ended() {
                return format!("it has ended ({status}); its own message stands above");
            }
        }
        format!("it does not answer: {error}")
    }

    fn ended(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        let Keeper::Own(child) = &mut self.keeper else { return Ok(None) };
        for _ in 0..20 {
            let status = child.try_wait()?;
            if status.is_some() {
                return Ok(status);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(None)
    }

    /// Lets it live on: it has taken everything.
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Keeper::Own(child) = &mut self.keeper {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
