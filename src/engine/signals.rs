//! Signals as readable bytes or as a flag.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::net::UnixStream;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::{pipe, unregister};
use signal_hook::{SigId, flag};

/// The reading end of a pipe into which the signal handler writes one byte per signal.
pub struct Signals {
    /// Register this for reading.
    pub receiver: UnixStream,
    /// The handlers, each with a sending end of its own.
    handlers: Vec<SigId>,
}

impl Drop for Signals {
    /// Closes the sending ends: thousands of loops live in one process of the tests.
    fn drop(&mut self) {
        self.handlers.drain(..).for_each(|handler| _ = unregister(handler));
    }
}

impl Signals {
    /// Catches the signals that end the process.
    ///
    /// # Errors
    /// The errors of the socket pair and of `sigaction`.
    pub fn new() -> io::Result<Signals> {
        Signals::of(&[SIGTERM, SIGINT, SIGQUIT])
    }

    /// Catches the signal that reloads the settings.
    ///
    /// # Errors
    /// The same.
    pub fn hangup() -> io::Result<Signals> {
        Signals::of(&[SIGHUP])
    }

    /// Catches the signal that asks for another process in this one's place.
    ///
    /// # Errors
    /// The same.
    pub fn handover() -> io::Result<Signals> {
        Signals::of(&[SIGUSR2])
    }

    fn of(numbers: &[i32]) -> io::Result<Signals> {
        let (receiver, sender) = StdUnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let mut signals =
            Signals { receiver: UnixStream::from_std(receiver), handlers: Vec::new() };
        for number in numbers {
            signals.handlers.push(pipe::register(*number, sender.try_clone()?)?);
        }
        Ok(signals)
    }

    /// Returns how many signals came since the last call.
    pub fn take(&mut self) -> usize {
        let mut count = 0;
        let mut bytes = [0; 16];
        loop {
            match self.receiver.read(&mut bytes) {
                Ok(0) => return count,
                Ok(length) => count += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return count,
            }
        }
    }
}

/// SIGUSR1, and SIGUSR2 where it has no meaning, sent by tools that rotate logs: uncaught, they would end the process.
pub struct Unused(Arc<AtomicBool>);

impl Unused {
    /// Catches SIGUSR1, and SIGUSR2 as well unless it `has_second` meaning.
    ///
    /// # Errors
    /// The errors of `sigaction`.
    pub fn new(has_second: bool) -> io::Result<Unused> {
        let came = Arc::new(AtomicBool::new(false));
        let unused = if has_second { &[SIGUSR1][..] } else { &[SIGUSR1, SIGUSR2] };
        for number in unused {
            flag::register(*number, Arc::clone(&came))?;
        }
        Ok(Unused(came))
    }

    /// Logs that they have no meaning, if one of them came since the last call.
    pub fn report(&self) {
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed) {
            log::info!(
                "this signal has no meaning: the log goes to stderr, and SIGHUP reads the settings again"
            );
        }
    }
}
