//! Lookups of host names off the loop: the system's resolver blocks, for seconds if it must.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::Waker;

type Target = (String, u16);

/// A resolver with one lookup under way at most, however long it takes.
pub struct Resolver {
    /// The lookup under way, and its name and port.
    lookup: Option<(Target, Receiver<io::Result<Vec<SocketAddr>>>)>,
    /// The name and port that the attempt under way wants.
    awaited: Option<Target>,
    waker: Arc<Waker>,
}

impl Resolver {
    /// `waker` wakes the loop when there is an answer.
    pub fn new(waker: Arc<Waker>) -> Resolver {
        Resolver { lookup: None, awaited: None, waker }
    }

    /// Begins a lookup, or waits for the end of the one under way, whatever its name.
    ///
    /// # Errors
    /// There is no thread: the attempt is over, and the next one tries again.
    pub fn begin(&mut self, host: String, port: u16) -> Result<(), String> {
        self.awaited = Some((host.clone(), port));
        if self.lookup.is_some() {
            return Ok(());
        }
        let (sender, receiver) = channel();
        let (waker, target) = (Arc::clone(&self.waker), (host.clone(), port));
        let work = move || {
            let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            let _ = sender.send(found);
            let _ = waker.wake();
        };
        std::thread::Builder::new().name("resolver".into()).spawn(work).map_err(no_thread)?;
        self.lookup = Some((target, receiver));
        Ok(())
    }

    /// The attempt is over: the answer is not wanted any more.
    pub fn forget(&mut self) {
        self.awaited = None;
    }

    /// Takes the answer, if it is there and wanted. If the end of a lookup of another name was waited for, the wanted one begins.
    pub fn take(&mut self) -> Option<Result<io::Result<Vec<SocketAddr>>, String>> {
        let found = match self.lookup.as_ref()?.1.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Ok(Vec::new()),
            Ok(found) => found,
        };
        let (target, _) = self.lookup.take()?;
        let awaited = self.awaited.take()?;
        match awaited == target {
            true => Some(Ok(found)),
            false => self.begin(awaited.0, awaited.1).err().map(Err),
        }
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
    use mio::{Poll, Token};

    use super::*;

    #[test]
    fn the_addresses_of_one_name_are_not_taken_for_those_of_another() {
        let poll = Poll::new().expect("a descriptor");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a descriptor");
        let mut resolver = Resolver::new(Arc::new(waker));
        resolver.begin("127.0.0.1".to_owned(), 1).expect("a thread");
        // The attempt is over before its answer is taken, and the next one is for another server.
        resolver.forget();
        resolver.begin("127.0.0.2".to_owned(), 2).expect("no thread is needed");
        let found = loop {
            match resolver.take() {
                None => std::thread::yield_now(),
                Some(found) => break found.expect("a thread").expect("an address"),
            }
        };
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 2], 2))]);
    }

    #[test]
    fn an_exhausted_limit_is_told_as_one() {
        let text = no_thread(io::Error::from_raw_os_error(11));
        assert!(text.contains("TasksMax") && !text.contains("firewall"), "{text}");
    }
}
