//! The settings are read again when SIGHUP comes: off the loop, since files may be slow, and taken over between two events.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::{Interest, Waker};

use crate::config::{Changes, Config, changes};
use crate::engine::bounds::Bounds;
use crate::engine::client::codec::{Codec, InboundBounds};
use crate::engine::reactor::Reactor;
use crate::engine::reactor::token::Source;
use crate::engine::signals::Signals;
use crate::observe::descriptors;

/// Reads all settings, and says everything that is wrong with them.
pub type Reread = Arc<dyn Fn() -> Result<Config, Vec<String>> + Send + Sync>;

/// The means to read the settings again.
pub struct Reload {
    hangups: Signals,
    /// The settings in force.
    current: Config,
    reread: Reread,
    /// Where the answer will come, while they are being read.
    answer: Option<Receiver<Result<Config, Vec<String>>>>,
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
    /// Has the settings read again whenever SIGHUP comes. `current`: those in force. Without this, SIGHUP ends the process.
    ///
    /// # Errors
    /// A descriptor that cannot be had.
    pub fn reload_by(&mut self, current: Config, reread: Reread) -> std::io::Result<()> {
        let mut hangups = Signals::hangup()?;
        let token = Source::Hangup.token();
        self.poll.registry().register(&mut hangups.receiver, token, Interest::READABLE)?;
        let waker = Arc::clone(&self.waker);
        self.reload =
            Some(Reload { hangups, current, reread, answer: None, is_asked_again: false, waker });
        Ok(())
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

    /// They were read, or perhaps not yet.
    pub(super) fn on_settings_read(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let Some(found) = reload.take() else { return };
        if std::mem::take(&mut reload.is_asked_again) && reload.begin() {
            return;
        }
        match found {
            Ok(newer) => {
                let changes = changes(&reload.current, &newer);
                reload.current = changes.config.clone();
                self.router.server.metrics.reloads += 1;
                self.take_over(changes);
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

    fn take_over(&mut self, changes: Changes) {
        let Changes { config, live, pending } = changes;
        let mut bounds = config.bounds.clone();
        match descriptors::clients_max(bounds.clients_max, bounds.publishers_max) {
            Ok(clients_max) => bounds.clients_max = clients_max,
            Err(error) => {
                log::warn!("clients_max stays as it was: {error}");
                bounds.clients_max = self.router.server.bounds.clients_max;
            }
        }
        log::set_max_level(config.log);
        self.codec = Codec::new(inbound(&bounds));
        self.router.server.set_bounds(bounds);
        self.router.reload(&config);
        let nothing = live.is_empty() && pending.is_empty();
        log::info!(
            "the settings were read again{}",
            if nothing { ": nothing changed" } else { "" }
        );
        live.iter().for_each(|what| log::info!("changed: {what}"));
        pending.iter().for_each(|what| log::warn!("needs a restart: {what}"));
    }
}

impl Reload {
    /// Begins to read, in a thread of its own; `false`: there is none to be had.
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

    fn take(&mut self) -> Option<Result<Config, Vec<String>>> {
        let found = match self.answer.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(vec!["they could not be read".to_owned()]),
            Ok(found) => found,
        };
        self.answer = None;
        Some(found)
    }
}
