//! Files that are renewed while the server runs: checked at intervals, in a thread, since a disk may be slow.

use std::collections::BTreeMap;
use std::fs::metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::Waker;

use crate::clock::Millis;
use crate::engine::reactor::reload::TakeOver;

/// The time between two looks. A look is a thread and a `stat` for each file, about 0.1 ms; a certificate is renewed weeks before its
/// end.
const LOOK_EVERY: Millis = 10_000;

/// The time to the next look while files are changing: a certificate and its key are written one after the other, and a key set
/// perhaps in place.
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

/// The identity of a file's contents: device, inode, length, and the times of the last change of contents and of rights; or the
/// reason why it cannot be read.
pub type FileState = Result<[i64; 7], ErrorKind>;

/// Returns the states of files, behind symbolic links: certbot replaces links, lego files.
pub fn states<'a>(names: impl Iterator<Item = &'a str>) -> Vec<FileState> {
    let state = |name: &str| -> FileState {
        let found = metadata(name).map_err(|error| error.kind())?;
        let [device, inode, length] = [found.dev(), found.ino(), found.len()].map(|it| it as i64);
        let (contents, rights) = (found.mtime(), found.ctime());
        Ok([device, inode, length, contents, found.mtime_nsec(), rights, found.ctime_nsec()])
    };
    names.map(state).collect()
}

/// The states of files when they were read, and at the last look. A change counts once two looks have seen the same, so that no
/// file is read half-written, or with another that is still the old one.
#[derive(Default)]
pub struct SeenFiles {
    read: Vec<FileState>,
    last: Option<Vec<FileState>>,
}

impl SeenFiles {
    /// `read`: the states before the files were read, so that a later change is noticed; empty if they are not known.
    pub fn new(read: Vec<FileState>) -> SeenFiles {
        SeenFiles { read, last: None }
    }

    /// Judges by the states that a look has seen. A complete change is read by `read_again`, once, even if the files are bad.
    pub fn judge(
        &mut self,
        seen: Vec<FileState>,
        read_again: impl FnOnce() -> LookResult,
    ) -> LookResult {
        if seen == self.read {
            self.last = None;
            return LookResult::Unchanged;
        }
        if self.last.as_ref() != Some(&seen) {
            self.last = Some(seen);
            return LookResult::Changing;
        }
        (self.read, self.last) = (seen, None);
        read_again()
    }
}

/// The watches of the process, each under the name of its subject. Without any they cost nothing.
pub struct FileWatches {
    watches: BTreeMap<&'static str, FileWatch>,
    waker: Arc<Waker>,
}

impl FileWatches {
    /// `waker` wakes the loop when a look is done.
    pub fn new(waker: Arc<Waker>) -> FileWatches {
        FileWatches { watches: BTreeMap::new(), waker }
    }

    /// Watches files from now on, if any, in place of those that were watched under this name. The result of a look under way at
    /// those is discarded.
    pub fn begin(&mut self, subject: &'static str, look: Option<Look>, now: Millis) {
        self.watches.remove(subject);
        if let Some(look) = look {
            let watch = FileWatch::new(look, Arc::clone(&self.waker), now);
            self.watches.insert(subject, watch);
        }
    }

    /// Returns when the next look begins.
    pub fn deadline(&self) -> Option<Millis> {
        self.watches.values().filter_map(FileWatch::deadline).min()
    }

    /// Begins the looks whose time it is.
    pub fn tick(&mut self, now: Millis) {
        self.watches.values_mut().for_each(|watch| watch.tick(now));
    }

    /// Takes the results of looks that may be done. Returns the steps for the loop.
    pub fn take(&mut self, now: Millis) -> Vec<TakeOver> {
        self.watches.values_mut().filter_map(|watch| watch.take(now)).collect()
    }
}

/// A repeated look at the files of one subject.
struct FileWatch {
    /// Absent while a thread has it.
    look: Option<Look>,
    answer: Option<Receiver<(Look, LookResult)>>,
    next: Millis,
    waker: Arc<Waker>,
}

impl FileWatch {
    fn new(look: Look, waker: Arc<Waker>, now: Millis) -> FileWatch {
        FileWatch { look: Some(look), answer: None, next: now + LOOK_EVERY, waker }
    }

    /// Returns when the next look begins.
    fn deadline(&self) -> Option<Millis> {
        self.look.is_some().then_some(self.next)
    }

    /// Begins a look if it is time. If the system has no thread left, the next one tries again.
    fn tick(&mut self, now: Millis) {
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
    fn take(&mut self, now: Millis) -> Option<TakeOver> {
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
        watches: FileWatches,
    }

    impl Watched {
        fn new(look: Look) -> Watched {
            let poll = Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
            let mut watches = FileWatches::new(waker);
            assert_eq!(watches.deadline(), None, "without files there is nothing to wake for");
            watches.tick(u64::MAX);
            watches.begin("files", Some(look), 0);
            Watched { poll, watches }
        }

        /// Runs the look that is due, and takes its result.
        fn look(&mut self, now: Millis) -> Option<TakeOver> {
            assert_eq!(self.watches.deadline(), Some(now));
            self.watches.tick(now - 1);
            assert_eq!(self.watches.deadline(), Some(now), "too early");
            self.watches.tick(now);
            assert_eq!(self.watches.deadline(), None, "under way");
            let mut events = Events::with_capacity(1);
            self.poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            assert!(!events.is_empty(), "the look wakes the loop");
            self.watches.take(now).pop()
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
    fn each_subject_is_looked_at_by_itself() {
        let (dropped, is_dropped) = channel();
        let Watched { mut watches, .. } = Watched::new(look(vec![], dropped));
        watches.begin("keys", Some(look(vec![], channel().0)), 5);
        assert_eq!(watches.deadline(), Some(LOOK_EVERY));
        watches.begin("files", None, 7);
        assert!(is_dropped.recv_timeout(Duration::from_secs(60)).is_err(), "it has ended");
        assert_eq!(watches.deadline(), Some(LOOK_EVERY + 5), "the other one has not");
    }

    #[test]
    fn states_that_are_not_known_count_as_a_change() {
        let seen = || states(["Cargo.toml"].into_iter());
        let mut files = SeenFiles::default();
        let read = || LookResult::Changed(Box::new(|_| {}));
        assert!(matches!(files.judge(seen(), read), LookResult::Changing));
        assert!(matches!(files.judge(seen(), read), LookResult::Changed(_)));
        assert!(matches!(files.judge(seen(), read), LookResult::Unchanged));
        let missing = || states(["no such file"].into_iter());
        assert!(matches!(files.judge(missing(), read), LookResult::Changing));
        assert!(matches!(files.judge(seen(), read), LookResult::Unchanged), "it is back");
    }

    #[test]
    fn a_look_at_other_files_ends_the_one_under_way() {
        let (dropped, is_dropped) = channel();
        let changed = vec![LookResult::Changed(Box::new(|_| {}))];
        let mut watched = Watched::new(look(changed, dropped));
        watched.watches.tick(10_000);
        let other = look(vec![LookResult::Unchanged], channel().0);
        watched.watches.begin("files", Some(other), 10_500);
        // The sender is dropped with the first look.
        assert!(is_dropped.recv_timeout(Duration::from_secs(60)).is_err());
        assert!(watched.watches.take(10_501).is_empty());
        assert!(watched.look(20_500).is_none());
    }
}
