//! The start of the process that is to take this one's place.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::link::{StateLink, VARIABLE, is_known};

/// The variables that are meant for this process alone.
const OWN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "WATCHDOG_PID"];

/// A program and its arguments.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<OsString>,
}

/// A process that was started to take this one's place. Dropped, it is killed.
pub struct Successor {
    child: Child,
    pub link: StateLink,
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
        Ok(Successor { child: command.spawn()?, link })
    }
}

impl Successor {
    pub fn pid(&self) -> u32 {
        self.child.id()
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
        for _ in 0..20 {
            let status = self.child.try_wait()?;
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
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
