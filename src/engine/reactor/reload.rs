//! Settings are read again when SIGHUP comes: off the loop, since files may be slow, and taken over between two events.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mio::{Interest, Registry, Waker};

use crate::engine::reactor::port::LoopOrder;
use crate::engine::reactor::token::Source;
use crate::engine::reactor::{Reactor, handover};
use crate::engine::signals::Signals;
use crate::observe::systemd::Supervisor;

/// Reads the settings, in a thread of its own. Returns the step that takes them over, or every problem.
pub type Reread = Arc<dyn Fn() -> Result<TakeOver, Vec<String>> + Send + Sync>;

/// The step on the loop that takes over settings, between two events.
pub type TakeOver = Box<dyn FnOnce(&mut Reactor) + Send>;

/// Files or the settings may have been read again.
pub(super) fn on_files_read(reactor: &mut Reactor) {
    let renewed = reactor.file_watches.take(reactor.router.server.now.millis);
    renewed.into_iter().for_each(|take_over| take_over(reactor));
    let Some(found) = reactor.reload.as_mut().and_then(Reload::take) else { return };
    let metrics = &mut reactor.router.server.metrics;
    match found {
        Ok(take_over) => {
            metrics.reloads += 1;
            take_over(reactor);
            reactor.ports.on_reload();
        }
        Err(problems) => {
            metrics.reloads_refused += 1;
            for problem in problems {
                log::error!("the settings stay as they were: {problem}");
            }
        }
    }
    reactor.supervisor.ready(reactor.ports.clients(&reactor.router.server));
}

/// Returns the level at which this process logs what every process of its server finds: one of them tells it.
pub fn shared_level(reactor: &Reactor, level: log::Level) -> log::Level {
    if reactor.drain.is_by_order { log::Level::Debug } else { level }
}

/// Obeys the orders that came by ports.
pub(super) fn obey_all(reactor: &mut Reactor) {
    while let Some(order) = reactor.ports.take_order() {
        obey(reactor, order);
    }
}

fn obey(reactor: &mut Reactor, order: LoopOrder) {
    match order {
        LoopOrder::Reload => {
            let is_draining = reactor.router.health.draining;
            let Reactor { reload, supervisor, .. } = reactor;
            reload.iter_mut().for_each(|it| it.ask(is_draining, supervisor));
        }
        LoopOrder::Drain { place, of } => {
            reactor.drain.places = (place, of);
            reactor.drain.signals += 1;
        }
        LoopOrder::End => reactor.drain.signals += 2,
        LoopOrder::Prepare(successor) => handover::prepare_by_order(reactor, successor),
        LoopOrder::Rest => handover::rest_by_order(reactor),
        LoopOrder::HandOver => reactor.handover.is_called = true,
        LoopOrder::GoOn => handover::go_on(reactor),
    }
}

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

impl Reload {
    /// # Errors
    /// A descriptor that cannot be had.
    pub fn new(registry: &Registry, waker: Arc<Waker>, reread: Reread) -> std::io::Result<Reload> {
        let mut hangups = Signals::hangup()?;
        registry.register(&mut hangups.receiver, Source::Hangup.token(), Interest::READABLE)?;
        Ok(Reload { hangups, reread, answer: None, is_asked_again: false, waker })
    }

    /// SIGHUP came.
    pub fn on_hangup(&mut self, is_draining: bool, supervisor: &mut Supervisor) {
        if self.hangups.take() > 0 {
            self.ask(is_draining, supervisor);
        }
    }

    /// Reads the settings again.
    pub fn ask(&mut self, is_draining: bool, supervisor: &mut Supervisor) {
        if is_draining {
            return log::info!("the settings are not read again: the end is near");
        }
        if self.answer.is_some() {
            self.is_asked_again = true;
        } else if !self.begin() {
            log::error!("the settings cannot be read again: there is no thread to be had");
        } else {
            supervisor.reloading();
        }
    }

    /// The thread that reads the settings may be done. Returns its result once.
    pub fn take(&mut self) -> Option<Result<TakeOver, Vec<String>>> {
        let found = match self.answer.as_ref()?.try_recv() {
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => Err(vec!["they could not be read".to_owned()]),
            Ok(found) => found,
        };
        self.answer = None;
        let is_outdated = std::mem::take(&mut self.is_asked_again) && self.begin();
        (!is_outdated).then_some(found)
    }

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
}
