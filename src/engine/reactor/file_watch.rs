//! Files that are renewed while the server runs: checked at intervals, in a thread, since a disk may be slow.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::Waker;

use crate::clock::Millis;
use crate::engine::reactor::reload::TakeOver;

/// The time between two looks. A look is a thread and a `stat` for each file, about 0.1 ms; a certificate is renewed weeks before its
/// end.
const LOOK_EVERY: Millis = 10_000;

/// The time to the next look while files are changing: a certificate and its key are written one after the other.
const SETTLE: Millis = 1000;

/// Looks at files, and reads those that have changed. It keeps what it has seen.
pub type Look = Box<dyn FnMut() -> LookResult + Send>;

/// The result of a look.
pub enum LookResult {
    Unchanged,
    /// Something has changed since the last look, and may not be complete.
    Changing,
    /// A change is complete; the step takes it over on the loop.
    Changed(TakeOver),
}

/// A repeated look at files. Without files to watch, it costs nothing.
pub struct FileWatch {
    /// Absent while a thread has it, and without files to watch.
    look: Option<Look>,
    answer: Option<Receiver<(Look, LookResult)>>,
    next: Millis,
    waker: Arc<Waker>,
}

impl FileWatch {
    /// `waker` wakes the loop when a look is done.
    pub fn new(waker: Arc<Waker>) -> FileWatch {
        FileWatch { look: None, answer: None, next: 0, waker }
    }

    /// Watches other files from now on. The result of a look under way is discarded.
    pub fn begin(&mut self, look: Look, now: Millis) {
        (self.look, self.answer, self.next) = (Some(look), None, now + LOOK_EVERY);
    }

    /// Returns when the next look begins.
    pub fn deadline(&self) -> Option<Millis> {
        self.look.is_some().then_some(self.next)
    }

    /// Begins a look if it is time. If the system has no thread left, the next one tries again.
    pub fn tick(&mut self, now: Millis) {
        if now < self.next || self.look.is_none() {
            return;
        }
        self.next = now + LOOK_EVERY;
        // Handed over once the thread runs, so that it is not lost if none can be started.
        let (hand_over, handed) = channel::<Look>();
        let (sender, receiver) = channel();
        let waker = Arc::clone(&self.waker);
        let work = move || {
            let Ok(mut look) = handed.recv() else { return };
            let result = look();
            let _ = sender.send((look, result));
            let _ = waker.wake();
        };
        if std::thread::Builder::new().name("files".into()).spawn(work).is_ok() {
            let _ = self.look.take().map(|look| hand_over.send(look));
            self.answer = Some(receiver);
        }
    }

    /// Takes the result of a look that may be done. Returns the step for the loop, if there is one.
    pub fn take(&mut self, now: Millis) -> Option<TakeOver> {
        let (look, result) = match self.answer.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                self.answer = None;
                return None;
            }
            Ok(done) => done,
        };
        (self.answer, self.look) = (None, Some(look));
        match result {
            LookResult::Unchanged => None,
            LookResult::Changing => {
                self.next = now + SETTLE;
                None
            }
            LookResult::Changed(take_over) => Some(take_over),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    /// A loop with a watch whose looks report themselves, and return what they are told.
    struct Watched {
        poll: Poll,
        watch: FileWatch,
    }

    impl Watched {
        fn new(look: Look) -> Watched {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let mut watch = FileWatch::new(waker);
            assert_eq!(watch.deadline(), None, "without files there is nothing to wake for");
            watch.tick(u64::MAX);
            watch.begin(look, 0);
            Watched { poll, watch }
        }

        /// Runs the look that is due, and takes its result.
        fn look(&mut self, now: Millis) -> Option<TakeOver> {
            assert_eq!(self.watch.deadline(), Some(now));
            self.watch.tick(now - 1);
            assert_eq!(self.watch.deadline(), Some(now), "too early");
            self.watch.tick(now);
            assert_eq!(self.watch.deadline(), None, "under way");
            let mut events = Events::with_capacity(1);
            self.poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert!(!events.is_empty(), "the look wakes the loop");
            self.watch.take(now)
        }
    }

    fn look(results: Vec<LookResult>, _dropped: Sender<()>) -> Look {
        let mut results = results.into_iter();
        Box::new(move || {
            let _ = &_dropped;
            results.next().expect("a result for each look")
        })
    }

    #[test]
    fn a_change_is_taken_once_it_has_settled() {
        let results = vec![
            LookResult::Unchanged,
            LookResult::Changing,
            LookResult::Changing,
            LookResult::Changed(Box::new(|_| {})),
            LookResult::Unchanged,
        ];
        let mut watched = Watched::new(look(results, channel().0));
        assert!(watched.look(10_000).is_none());
        assert!(watched.look(20_000).is_none());
        assert!(watched.look(21_000).is_none());
        assert!(watched.look(22_000).is_some());
        assert!(watched.look(32_000).is_none());
    }

    #[test]
    fn a_look_at_other_files_ends_the_one_under_way() {
        let (dropped, is_dropped) = channel();
        let changed = vec![LookResult::Changed(Box::new(|_| {}))];
        let mut watched = Watched::new(look(changed, dropped));
        watched.watch.tick(10_000);
        watched.watch.begin(look(vec![LookResult::Unchanged], channel().0), 10_500);
        // The sender is dropped with the first look.
        assert!(is_dropped.recv_timeout(Duration::from_secs(60)).is_err());
        assert!(watched.watch.take(10_501).is_none());
        assert!(watched.look(20_500).is_none());
    }
}
