//! Processes of a simulation: a test on the same thread does the work of the program.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

/// The processes of this thread.
#[derive(Default)]
struct Table {
    /// Processes that were started, with their standard input, until the test takes them.
    started: Vec<(u32, OwnedFd)>,
    latest: u32,
    /// Processes that run.
    alive: Vec<u32>,
    /// Processes that have ended, and were not waited for. The kernel takes a while for each, in which so many looks are in vain.
    zombies: Vec<(u32, usize)>,
    /// The number of starts that are to fail.
    failures: usize,
}

fn with<T>(work: impl FnOnce(&mut Table) -> T) -> T {
    TABLE.with_borrow_mut(work)
}

/// Begins with an empty table.
pub fn begin() {
    with(|table| *table = Table::default());
}

/// Takes the processes that were started since the last call, with their standard input.
pub fn take_started() -> Vec<(u32, OwnedFd)> {
    with(|table| std::mem::take(&mut table.started))
}

/// Lets the next start fail.
pub fn fail_next() {
    with(|table| table.failures += 1);
}

/// The latest process.
pub fn latest() -> u32 {
    with(|table| table.latest)
}

pub fn is_alive(id: u32) -> bool {
    with(|table| table.alive.contains(&id))
}

/// Ends a process, as itself or by a signal of another one.
pub fn end(id: u32) {
    with(|table| {
        if let Some(place) = table.alive.iter().position(|one| *one == id) {
            table.alive.remove(place);
            table.zombies.push((id, id as usize % 4));
        }
    });
}

/// The processes that have ended, and were not waited for.
pub fn zombies() -> Vec<u32> {
    with(|table| table.zombies.iter().map(|(id, _)| *id).collect())
}

/// Stands for [`std::process::Command`].
pub struct Command {
    stdin: Option<OwnedFd>,
}

impl Command {
    pub fn new(_: &str) -> Command {
        Command { stdin: None }
    }

    pub fn arg0(&mut self, _: &OsString) -> &mut Command {
        self
    }

    pub fn args(&mut self, _: &[OsString]) -> &mut Command {
        self
    }

    pub fn env(&mut self, _: &str, _: &str) -> &mut Command {
        self
    }

    pub fn env_remove(&mut self, _: &str) -> &mut Command {
        self
    }

    pub fn process_group(&mut self, _: i32) -> &mut Command {
        self
    }

    pub fn stdin(&mut self, stdin: OwnedFd) -> &mut Command {
        self.stdin = Some(stdin);
        self
    }

    pub fn spawn(&mut self) -> io::Result<Child> {
        with(|table| {
            if table.failures > 0 {
                table.failures -= 1;
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            table.latest += 1;
            table.alive.push(table.latest);
            table.started.push((table.latest, self.stdin.take().expect("it has a link")));
            Ok(Child { id: table.latest })
        })
    }
}

/// Stands for [`std::process::Child`].
pub struct Child {
    id: u32,
}

impl Child {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn kill(&mut self) -> io::Result<()> {
        end(self.id);
        Ok(())
    }

    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        Ok(with(|table| {
            let place = table.zombies.iter().position(|(id, _)| *id == self.id)?;
            let looks = &mut table.zombies[place].1;
            if *looks > 0 {
                *looks -= 1;
                return None;
            }
            table.zombies.remove(place);
            Some(ExitStatus::from_raw(9))
        }))
    }
}
