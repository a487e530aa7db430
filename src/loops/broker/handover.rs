//! The parent's part in an upgrade: its workers come to rest and hand over as it does, each to a worker of the other parent.
//!
//! ```text
//! parent                 worker                  its successor             other parent
//!    ├─ PREPARE, socket ───►├─ listeners, age ──────────►│◄─ HELLO, socket ───────┤
//!    │                      │                            ├─ ready ───────────────►│
//!    │◄──────────────────────────────────────────────────────────────── ready ────┤
//!    ├─ REST ──────────────►│                            │                        │
//!    │◄────────────── AT_REST                            │                        │
//!    ├─ HAND_OVER ─────────►├─ state ───────────────────►├─ taken ───────────────►│
//!    │◄──────────────────────────────────────────────────────────────── taken ────┤
//!    └─ exit ──────────────►└─ exit ────────────────────►│◄─ the last part ───────┘
//! ```
//!
//! The parent's end is the moment at which everything passes. Its workers end with it; their successors serve once they are gone, and
//! the other parent has told them to. If anything fails before, the parent ends the other one first, then it lets its workers go on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{Broker, LoopPlace};
use crate::clock::Millis;
use crate::engine::reactor::{HandedListeners, HandoverStep, SharedListeners};
use crate::engine::router::Router;
use crate::loops::forwarding::Forwarding;
use crate::loops::hello::Hello;
use crate::loops::kinds::{GO_ON, HAND_OVER, PREPARE, REST};
use crate::loops::link::write_frame;
use crate::loops::process::{WorkerProcess, WorkerStage};
use crate::loops::state::write_end;
use crate::upgrade::{HandoverWord, StateError, StateLink, StateReader, StateWriter, VALUES_MAX};

/// The parent's progress in an upgrade.
#[derive(Default)]
pub(super) struct LoopsHandover {
    /// For each worker, the end of the way to its successor that the other parent is given.
    ends: Vec<OwnedFd>,
    /// Workers that are at rest, a bit for each.
    pub rested: u64,
    /// The workers have the order to hand over.
    is_called: bool,
}

/// Everything that a parent needs of another one to start its workers.
pub struct HandedLoops {
    pub listeners: Vec<HandedListeners>,
    /// For each place, the workers that had it before, and the way to the one that has it.
    workers: Vec<(u64, OwnedFd)>,
}

impl HandedLoops {
    /// Reads it, for as many loops.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(reader: &mut StateReader<'_>, loops: usize) -> Result<HandedLoops, StateError> {
        let listeners =
            reader.list(VALUES_MAX, |reader| HandedListeners::restored(reader, loops))?;
        let mut workers = Vec::new();
        for _ in 0..loops {
            workers.push((reader.u64()?, reader.descriptor()?));
        }
        Ok(HandedLoops { listeners, workers })
    }
}

impl Broker {
    /// Takes part in a step of the handover.
    pub(super) fn step(&mut self, step: HandoverStep, now: Millis) -> Result<(), String> {
        match step {
            HandoverStep::Wait => return self.check_all_serve(),
            HandoverStep::Prepare => {
                let failed = |error: io::Error| format!("the loops cannot be told: {error}");
                self.prepare().map_err(failed)?;
            }
            HandoverStep::Rest => {
                self.handover = LoopsHandover::default();
                self.order(REST);
            }
            HandoverStep::AtRest => {}
            HandoverStep::HandOver => {
                self.handover.is_called = true;
                self.order(HAND_OVER);
                // The turns are over, unless this fails.
                self.workers().for_each(|(_, worker)| worker.link.write(now));
            }
            HandoverStep::GoOn => {
                if self.handover.is_called {
                    // One that is gone is replaced in the next turn.
                    let words = self.workers().map(|(_, worker)| &mut worker.words);
                    words.for_each(|words| _ = words.say(HandoverWord::GoOn));
                }
                self.handover = LoopsHandover::default();
                self.order(GO_ON);
            }
        }
        Ok(())
    }

    fn order(&mut self, kind: u8) {
        self.attached().for_each(|(_, worker)| write_frame(&mut worker.link.tail, kind, |_| {}));
    }

    fn check_all_serve(&self) -> Result<(), String> {
        let is_serving = |place: &LoopPlace| matches!(place, LoopPlace::Taken(worker) if worker.stage == WorkerStage::Serving);
        match self.places.iter().position(|place| !is_serving(place)) {
            None => Ok(()),
            Some(place) => Err(format!("loop {place} does not serve")),
        }
    }

    /// Gives each worker a way to its successor.
    fn prepare(&mut self) -> io::Result<()> {
        let mut ends = Vec::new();
        for (_, worker) in self.workers() {
            let (its, other) = UnixStream::pair()?;
            worker.words.pass(its.as_fd())?;
            write_frame(&mut worker.link.tail, PREPARE, |_| {});
            ends.push(other.into());
        }
        self.handover.ends = ends;
        Ok(())
    }

    /// Writes the listeners of all workers, and the ways to them.
    pub(super) fn write_ahead<'a>(&'a self, writer: &mut StateWriter<'a>) {
        self.listeners.iter().for_each(|listeners| listeners.save(writer));
        for (history, end) in self.histories.iter().zip(&self.handover.ends) {
            writer.u64(history.starts - 1);
            writer.descriptor(end.as_fd());
        }
    }

    /// Returns whether all workers are at rest, and nothing is under way to or from them.
    pub(super) fn rests(&self, router: &Router) -> bool {
        let is_quiet = |place: &LoopPlace| match place {
            LoopPlace::Taken(worker) => worker.link.unwritten() == 0 && !worker.link.has_more(),
            LoopPlace::Vacant { .. } => false,
        };
        self.handover.rested.count_ones() as usize == self.places.len()
            && self.places.iter().all(is_quiet)
            && self.counts.is_empty()
            && self.publications.is_empty()
            && Forwarding::seen(router).is_none_or(|forwarding| forwarding.batch.is_empty())
    }

    /// Starts workers that take the places of another parent's, and waits until all are ready for that.
    ///
    /// # Errors
    /// A worker cannot be started, or has ended.
    pub fn start_heirs(&mut self, handed: HandedLoops, now: Millis) -> io::Result<()> {
        let Some(listeners) = &self.listeners else { return Ok(()) };
        for (place, (predecessors, way)) in handed.workers.into_iter().enumerate() {
            self.histories[place].starts = predecessors + 1;
            let (share, takes_over) = (self.limits.shares.begin(place), true);
            let hello =
                Hello { number: place, predecessors, share, takes_over, ..self.hello.clone() };
            let own = &listeners.of_each[place];
            let worker = WorkerProcess::start(&self.line, &hello, own, Some(way), now)?;
            self.places[place] = LoopPlace::Taken(Box::new(worker));
        }
        self.hear_all(StateLink::hear_start)
    }

    /// Waits until all workers have taken over.
    ///
    /// # Errors
    /// One has ended, or says nothing.
    pub fn await_heirs(&mut self) -> io::Result<()> {
        self.hear_all(|words| words.hear(HandoverWord::Taken))
    }

    fn hear_all(&mut self, hear: impl Fn(&mut StateLink) -> io::Result<()>) -> io::Result<()> {
        for (place, worker) in self.workers() {
            hear(&mut worker.words).map_err(|error| {
                let text = format!("loop {place} (process {}) does not take over", worker.id());
                io::Error::new(error.kind(), format!("{text}: {error}"))
            })?;
        }
        Ok(())
    }

    /// Lets the workers serve: those that they took over from have gone, or go.
    pub fn begin_with_heirs(&mut self, router: &Router) {
        self.hello.cursor_key = router.server.resume.signer.own_key();
        self.listeners.iter_mut().for_each(SharedListeners::own_files);
        for (place, worker) in self.workers() {
            write_end(&mut worker.link.tail, router);
            worker.stage = WorkerStage::Serving;
            log::info!("loop {place} is process {}", worker.id());
        }
        self.unready = 0;
        self.limits.begin_with_heirs();
        self.exchange.members.await_all(self.places.len());
    }
}
