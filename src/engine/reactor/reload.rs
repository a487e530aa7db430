//! Settings are read again when SIGHUP comes: off the loop, since files may be slow, and taken over between two events.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::{Interest, Waker};

use crate::engine::bounds::Bounds;
use crate::engine::client::codec::{Codec, InboundBounds};
use crate::engine::reactor::Reactor;
use crate::engine::reactor::token::Source;
use crate::engine::signals::Signals;

/// Reads the settings, in a thread of its own. Returns the step that takes them over, or every problem.
pub type Reread = Arc<dyn Fn() -> Result<TakeOver, Vec<String>> + Send + Sync>;

/// The step on the loop that takes over settings, between two events.
pub type TakeOver = Box<dyn FnOnce(&mut Reactor) + Send>;

/// The means to read the settings again.
pub struct Reload {
    hangups: Signals,
    reread: Reread,
    /// Receives the result while the settings are being read.
    answer: Option<Receiver<Result<TakeOver, Vec<String>>>>,
    /// Another signal came meanwhile: what is being read may be older than it.
    is_asked_again: bool,
    waker: Arc<Waker>,
}

/// The bounds of the loop's decoder.
pub fn inbound(bounds: &Bounds) -> InboundBounds {
    InboundBounds {
        message_bytes_max: bounds.message_bytes_max,
        fragments_max: bounds.fragments_max as u32,
    }
}

impl Reactor {
    /// Reads the settings again whenever SIGHUP comes. Without this, SIGHUP ends the process.
    ///
    /// # Errors
    /// A descriptor that cannot be had.
    pub fn reload_by(&mut self, reread: Reread) -> std::io::Result<()> {
        let mut hangups = Signals::hangup()?;
        let token = Source::Hangup.token();
        self.poll.registry().register(&mut hangups.receiver, token, Interest::READABLE)?;
        let waker = Arc::clone(&self.waker);
        self.reload = Some(Reload { hangups, reread, answer: None, is_asked_again: false, waker });
        Ok(())
    }

    /// Replaces the bounds.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.codec = Codec::new(inbound(&bounds));
        self.router.server.set_bounds(bounds);
    }

    /// SIGHUP came.
    pub(super) fn on_hangup(&mut self) {
        let draining = self.router.health.draining;
        let Some(reload) = &mut self.reload else { return };
        if reload.hangups.take() == 0 {
            return;
        }
        if draining {
            return log::info!("the settings are not read again: the end is near");
        }
        if reload.answer.is_some() {
            reload.is_asked_again = true;
        } else if !reload.begin() {
            log::error!("the settings cannot be read again: there is no thread to be had");
        } else {
            self.supervisor.reloading();
        }
    }

    /// The thread that reads the settings may be done.
    pub(super) fn on_settings_read(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let Some(found) = reload.take() else { return };
        if std::mem::take(&mut reload.is_asked_again) && reload.begin() {
            return;
        }
        match found {
            Ok(take_over) => {
                self.router.server.metrics.reloads += 1;
                take_over(self);
            }
            Err(problems) => {
                self.router.server.metrics.reloads_refused += 1;
                for problem in problems {
                    log::error!("the settings stay as they were: {problem}");
                }
            }
        }
        self.supervisor.ready(self.router.server.clients_len());
    }
}

impl Reload {
    /// Begins to read in a thread of its own. Returns `false` if the system has none left.
    fn begin(&mut self) -> bool {
        let (sender, receiver) = channel();
        let (reread, waker) = (Arc::clone(&self.reread), Arc::clone(&self.waker));
        let work = move || {
            let _ = sender.send(reread());
            let _ = waker.wake();
        };
        let is_begun = std::thread::Builder::new().name("settings".into()).spawn(work).is_ok();
        self.answer = is_begun.then_some(receiver);
        is_begun
    }

    fn take(&mut self) -> Option<Result<TakeOver, Vec<String>>> {
        let found = match self.answer.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(vec!["they could not be read".to_owned()]),
            Ok(found) => found,
        };
        self.answer = None;
        Some(found)
    }
}
