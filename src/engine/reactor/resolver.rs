//! Lookups of host names off the loop: the system's resolver blocks, for seconds if it must.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::Waker;

/// A resolver with one lookup under way at most, however long it takes.
pub struct Resolver {
    /// The lookup under way.
    answer: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    /// The attempt that asked is not over.
    is_awaited: bool,
    waker: Arc<Waker>,
}

impl Resolver {
    /// `waker` wakes the loop when there is an answer.
    pub fn new(waker: Arc<Waker>) -> Resolver {
        Resolver { answer: None, is_awaited: false, waker }
    }

    /// Begins a lookup, or waits for the one under way.
    ///
    /// # Errors
    /// There is no thread: the attempt is over, and the next one tries again.
    pub fn begin(&mut self, host: String, port: u16) -> Result<(), String> {
        self.is_awaited = true;
        if self.answer.is_some() {
            return Ok(());
        }
        let (sender, receiver) = channel();
        let waker = Arc::clone(&self.waker);
        let work = move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            let _ = sender.send(found);
            let _ = waker.wake();
        };
        std::thread::Builder::new().name("resolver".into()).spawn(work).map_err(no_thread)?;
        self.answer = Some(receiver);
        Ok(())
    }

    /// The attempt is over: the answer is not wanted any more.
    pub fn forget(&mut self) {
        self.is_awaited = false;
    }

    /// Takes the answer, if it is there and wanted.
    pub fn take(&mut self) -> Option<io::Result<Vec<SocketAddr>>> {
        let found = match self.answer.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Ok(Vec::new()),
            Ok(found) => found,
        };
        self.answer = None;
        // An attempt that comes after the one that asked asks again.
        std::mem::take(&mut self.is_awaited).then_some(found)
    }
}

/// Names the limit that was hit: the lookup has not even begun.
fn no_thread(error: io::Error) -> String {
    format!(
        "the name of Redis is not looked up, since no thread can be made ({error}): raise the limit of threads and processes \
         (TasksMax of the unit, ulimit -u, pids.max of the container), or name an IP address in the setting redis"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_limit_is_told_as_one() {
        let text = no_thread(io::Error::from_raw_os_error(11));
        assert!(text.contains("TasksMax") && !text.contains("firewall"), "{text}");
    }
}
