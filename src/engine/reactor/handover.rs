//! The change of the process under the connections: another one is started, this one comes to rest, and hands everything over.
//!
//! Until the other process says that it has everything, this one can go on as if nothing had happened: it only reads its own state.
//! Its sockets stay in its poll, which nobody looks at meanwhile, and the other one serves none before this one has ended.
//!
//! Processes that work together do so at the same time: one of them gets the signal and has the last word, and the others take its
//! orders by a port.

use mio::net::UnixStream;
use mio::{Interest, Registry};

use crate::clock::Millis;
use crate::engine::client::State;
use crate::engine::client::flight::saved::is_bound;
use crate::engine::client::frame::Close;
use crate::engine::feature::FeatureEvent;
use crate::engine::reactor::port::HandoverStep;
use crate::engine::reactor::reload::obey_all;
use crate::engine::reactor::token::Source;
use crate::engine::reactor::{Ended, Reactor, redis_socket, released};
use crate::engine::router::{demand, saved};
use crate::engine::signals::Signals;
use crate::engine::slots::ConnId;
use crate::upgrade::{Program, StateError, StateReader, StateWriter, Successor};

/// The time that the other process may take to read its settings.
const START: Millis = 10_000;
/// The time in which the loop comes to rest.
const REST: Millis = 2_000;
/// After this, connections are closed that have something under way that cannot be handed over.
const BOUND: Millis = 200;

/// The end of the line that says why there was no upgrade.
pub const GOES_ON: &str = "this process goes on, and everybody stays connected";

/// A handover, from the signal to its end.
pub(super) struct Handover {
    /// The program, and its signal.
    program: Option<(Program, Signals)>,
    shape: Vec<(&'static str, String)>,
    /// The signal came.
    pub is_asked: bool,
    /// The state is to be written as soon as the loop is at rest: at once, unless orders come.
    pub is_called: bool,
    /// The other process has said something, or ended.
    pub has_heard: bool,
    stage: HandoverStage,
}

enum HandoverStage {
    Idle,
    /// The other process reads its settings.
    Starting {
        successor: Box<Successor>,
        watch: UnixStream,
        until: Millis,
        /// It was given the first part of the state.
        is_prepared: bool,
    },
    /// The other process was given the first part of the state: an order follows.
    Prepared {
        successor: Box<Successor>,
    },
    /// The sources are not read any more.
    Resting {
        successor: Box<Successor>,
        began: Millis,
    },
    /// The same in a test, which writes the state itself.
    #[cfg(test)]
    Rehearsed,
}

impl Handover {
    pub fn new(
        registry: &Registry,
        program: Option<Program>,
        shape: Vec<(&'static str, String)>,
    ) -> std::io::Result<Handover> {
        let mut program = match program {
            Some(program) => Some((program, Signals::handover()?)),
            None => None,
        };
        if let Some((_, signals)) = &mut program {
            let token = Source::Handover.token();
            registry.register(&mut signals.receiver, token, Interest::READABLE)?;
        }
        Ok(Handover {
            program,
            shape,
            is_asked: false,
            is_called: false,
            has_heard: false,
            stage: HandoverStage::Idle,
        })
    }

    pub fn is_resting(&self) -> bool {
        use HandoverStage::{Idle, Prepared, Starting};
        !matches!(self.stage, Idle | Starting { .. } | Prepared { .. })
    }

    /// Returns whether orders come from another process, which comes to rest as well.
    fn is_by_order(&self) -> bool {
        match &self.stage {
            HandoverStage::Prepared { .. } => true,
            HandoverStage::Resting { successor, .. } => successor.pid().is_none(),
            _ => false,
        }
    }

    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        match self.stage {
            HandoverStage::Idle | HandoverStage::Prepared { .. } => None,
            HandoverStage::Starting { until, .. } => Some(until),
            _ => Some(now + 1),
        }
    }
}

/// Does what an event or the time asks for. Returns whether the loop comes to rest: then the rest of the dispatch phase is done.
pub(super) fn rests(reactor: &mut Reactor) -> bool {
    advance(reactor);
    let rests = reactor.handover.is_resting();
    if rests {
        dispatch(reactor);
    }
    rests
}

fn advance(reactor: &mut Reactor) {
    let now = reactor.router.server.now.millis;
    let Reactor { handover, .. } = &mut *reactor;
    let mut program = None;
    if std::mem::take(&mut handover.is_asked)
        && let Some((of, signals)) = &mut handover.program
        && signals.take() > 0
    {
        program = Some(of.clone());
    }
    match (&handover.stage, program) {
        (HandoverStage::Idle, None) => return,
        (HandoverStage::Idle, Some(program)) => return start(reactor, &program),
        (_, Some(_)) => log::info!("upgrade: one is under way already"),
        _ => {}
    }
    if reactor.handover.is_by_order() {
        return;
    }
    if reactor.drain.signals > 0 {
        return fail(reactor, "this process is asked to stop");
    }
    if let Err(why) = reactor.ports.on_handover(HandoverStep::Wait, now) {
        return fail(reactor, &why);
    }
    let HandoverStage::Starting { until, .. } = reactor.handover.stage else { return };
    let has_heard = std::mem::take(&mut reactor.handover.has_heard);
    if !has_heard && now < until {
        return;
    }
    let stage = std::mem::replace(&mut reactor.handover.stage, HandoverStage::Idle);
    let HandoverStage::Starting { mut successor, watch, is_prepared, .. } = stage else { return };
    let step = match (has_heard, is_prepared) {
        (false, _) => Err("it does not answer".to_owned()),
        (true, false) => successor.check().and_then(|()| prepare(reactor, &mut successor)),
        (true, true) => successor.check_ready(),
    };
    match step {
        Ok(()) if is_prepared => {
            reactor.handover.is_called = true;
            rest(reactor, successor);
        }
        Ok(()) => {
            let is_prepared = true;
            reactor.handover.stage =
                HandoverStage::Starting { successor, watch, until, is_prepared };
        }
        Err(why) => {
            drop(successor);
            fail(reactor, &why);
        }
    }
}

/// Gives the other process the first part of the state: everything that it needs to be there. This one goes on meanwhile.
fn prepare(reactor: &mut Reactor, successor: &mut Successor) -> Result<(), String> {
    reactor.ports.on_handover(HandoverStep::Prepare, reactor.router.server.now.millis)?;
    let mut writer = StateWriter::new(&mut successor.link);
    save_ahead(reactor, &mut writer);
    let written = writer.finish();
    written.map_err(|error| successor.explain(&error))
}

fn save_ahead<'a>(reactor: &'a Reactor, writer: &mut StateWriter<'a>) {
    let shape = &reactor.handover.shape;
    writer.len(shape.len());
    for (name, value) in shape {
        writer.text(name);
        writer.text(value);
    }
    writer.u64(reactor.clock.micros());
    writer.u64(reactor.router.server.resume.node().number());
    reactor.listeners.save(writer);
    reactor.ports.save_ahead(writer);
}

/// Reads the sources no more.
fn rest(reactor: &mut Reactor, successor: Box<Successor>) {
    let began = reactor.router.server.now.millis;
    reactor.handover.stage = HandoverStage::Resting { successor, began };
    demand::end_waits(&mut reactor.router);
    released::read_released(&mut reactor.clients, &mut reactor.router);
    reactor.router.notify_features(FeatureEvent::Rest);
    if let Err(why) = reactor.ports.on_handover(HandoverStep::Rest, began) {
        fail(reactor, &why);
    }
}

/// Gives a process the first part of the state, which waits for it.
pub(super) fn prepare_by_order(reactor: &mut Reactor, mut successor: Box<Successor>) {
    match prepare(reactor, &mut successor) {
        Ok(()) => reactor.handover.stage = HandoverStage::Prepared { successor },
        // That process ends without it, and by that the upgrade.
        Err(why) => log::warn!("upgrade: {why}"),
    }
}

/// Comes to rest by order.
pub(super) fn rest_by_order(reactor: &mut Reactor) {
    let stage = std::mem::replace(&mut reactor.handover.stage, HandoverStage::Idle);
    if let HandoverStage::Prepared { successor } = stage {
        reactor.handover.is_called = false;
        rest(reactor, successor);
    }
}

/// Goes on as before.
pub(super) fn go_on(reactor: &mut Reactor) {
    // Dropped, a process that this one has started is killed: before anything is read again.
    reactor.handover.stage = HandoverStage::Idle;
    let now = reactor.router.server.now.millis;
    reactor.ports.on_handover(HandoverStep::GoOn, now).expect("nothing prevents it");
    reactor.router.server.requests.release();
}

/// Starts the other process. This one goes on as before until that one has read its settings.
fn start(reactor: &mut Reactor, program: &Program) {
    let now = reactor.router.server.now.millis;
    if std::process::id() == 1 {
        return refuse(
            "this process is the first one here, and its end would be that of the container",
        );
    }
    if reactor.router.health.draining {
        return refuse("this process is to stop");
    }
    if let Err(why) = reactor.ports.on_handover(HandoverStep::Wait, now) {
        return refuse(&why);
    }
    log::info!("upgrade: {} is started", program.path.display());
    let started = program.start().and_then(|successor| {
        let mut watch = UnixStream::from_std(successor.link.duplicate()?);
        let token = Source::Successor.token();
        reactor.poll.registry().register(&mut watch, token, Interest::READABLE)?;
        Ok((Box::new(successor), watch))
    });
    match started {
        Ok((successor, watch)) => {
            let until = now + START;
            reactor.handover.has_heard = false;
            let is_prepared = false;
            reactor.handover.stage =
                HandoverStage::Starting { successor, watch, until, is_prepared };
        }
        Err(error) => refuse(&format!("it cannot be started: {error}")),
    }
}

/// Lets the loop come to rest without another process.
#[cfg(test)]
pub(super) fn rehearse(reactor: &mut Reactor) {
    reactor.handover.stage = HandoverStage::Rehearsed;
    demand::end_waits(&mut reactor.router);
    released::read_released(&mut reactor.clients, &mut reactor.router);
    reactor.router.notify_features(FeatureEvent::Rest);
}

/// Ends the other process, and goes on.
pub(super) fn fail(reactor: &mut Reactor, why: &str) {
    go_on(reactor);
    refuse(why);
}

fn refuse(why: &str) {
    log::error!("upgrade: {why}; {GOES_ON}");
}

/// Dispatches while the loop comes to rest: what is under way ends, and nothing new begins.
fn dispatch(reactor: &mut Reactor) {
    let Reactor { redis, router, clients, buffer, ports, .. } = &mut *reactor;
    redis.read(router, buffer, true);
    ports.read(router, buffer, true);
    clients.read_bound(router, buffer);
    demand::end_waits(router);
    released::read_released(clients, router);
    ports.publish_for_handlers(router);
    redis.hand_over_requests(router);
    obey_all(reactor);
}

/// Hands over at the end of a turn, if the loop is at rest. Returns whether this process is to end.
pub(super) fn end(reactor: &mut Reactor) -> bool {
    let is_given = reactor.router.server.fanout.is_empty();
    if reactor.handover.is_resting() && is_given && reactor.ports.are_at_rest(&reactor.router) {
        // Receipts were asked for before: all recipients were known.
        reactor.router.server.requests.hold();
    }
    let HandoverStage::Resting { began, .. } = reactor.handover.stage else { return false };
    let (now, is_by_order) = (reactor.router.server.now.millis, reactor.handover.is_by_order());
    if !is_at_rest(reactor) {
        let waited = now - began;
        if waited >= REST && !is_by_order {
            fail(reactor, "this process does not come to rest: does Redis answer?");
        } else if waited >= BOUND {
            close_bound(reactor);
        }
        return false;
    }
    let is_called = std::mem::take(&mut reactor.handover.is_called);
    let step = if is_called { HandoverStep::HandOver } else { HandoverStep::AtRest };
    if let Err(why) = reactor.ports.on_handover(step, now) {
        fail(reactor, &why);
    }
    is_called && hand_over(reactor)
}

/// Hands over to the other process. Returns whether it has everything, and this process is to end.
fn hand_over(reactor: &mut Reactor) -> bool {
    let is_by_order = reactor.handover.is_by_order();
    let stage = std::mem::replace(&mut reactor.handover.stage, HandoverStage::Idle);
    let HandoverStage::Resting { mut successor, .. } = stage else { return false };
    let mut writer = StateWriter::new(&mut successor.link);
    save(reactor, &mut writer);
    let written = writer.finish();
    match successor.conclude(written) {
        Ok(()) => {
            if let Some(pid) = successor.pid() {
                reactor.supervisor.replaced_by(pid);
                let clients = reactor.ports.clients(&reactor.router.server);
                log::info!("upgrade: process {pid} has taken over {clients} clients");
            }
            successor.leave();
            return true;
        }
        Err(_) if is_by_order => go_on(reactor),
        Err(error) => {
            let why = successor.explain(&error);
            drop(successor);
            fail(reactor, &why);
        }
    }
    false
}

/// Lets go of a loop that has ended in this way: one that was handed over leaves its sockets and files as they are.
pub(super) fn leave(reactor: Reactor, ended: Ended) -> Ended {
    if ended == Ended::HandedOver {
        std::mem::forget(reactor);
    }
    ended
}

/// Returns whether everything that is there can be written: nobody waits for the fan-out or for an answer, and nothing is under way
/// that cannot be written.
pub(super) fn is_at_rest(reactor: &Reactor) -> bool {
    let server = &reactor.router.server;
    server.requests.are_held()
        && server.fanout.is_empty()
        && server.clients.gone.is_empty()
        && server.requests.is_empty()
        && reactor.ports.are_at_rest(&reactor.router)
        && reactor.redis.0.iter().all(|socket| socket.is_at_rest())
        && !server.clients.iter().any(|(_, client)| is_bound(client))
}

/// Closes the connections that have something under way that cannot be written: their clients come back at once.
pub(super) fn close_bound(reactor: &mut Reactor) {
    let server = &mut reactor.router.server;
    let bound = server.clients.iter().filter(|(_, client)| is_bound(client));
    let bound: Vec<ConnId> = bound.map(|(id, _)| id).collect();
    for id in bound {
        match server.client(id).map(|client| client.state()) {
            Some(State::Open) => server.close(id, Close::plain(1012).retry_after(1)),
            _ => server.terminate(id),
        }
    }
}

/// Writes the connections and all that belongs to them.
pub(super) fn save<'a>(reactor: &'a Reactor, writer: &mut StateWriter<'a>) {
    saved::save(&reactor.router, writer);
    redis_socket::save(&reactor.redis, writer);
    reactor.ports.save(writer);
}

/// Takes over the connections of the process whose place this one takes, once all features are there.
///
/// # Errors
/// The state is malformed, or did not come.
pub fn take_over(reactor: &mut Reactor, reader: &mut StateReader<'_>) -> Result<(), StateError> {
    reactor.router.server.now = reactor.clock.now(reactor.clock.micros() / 1000);
    restore(reactor, reader)
}

/// The process whose place this one takes has gone.
pub fn on_alone(reactor: &mut Reactor) {
    reactor.listeners.own_files();
}

/// Takes over the connections and all that belongs to them.
///
/// # Errors
/// The state is malformed.
pub(super) fn restore(
    reactor: &mut Reactor,
    reader: &mut StateReader<'_>,
) -> Result<(), StateError> {
    let Reactor { router, clients, redis, ports, poll, .. } = reactor;
    let registry = poll.registry();
    let unread = saved::restore(router, reader)?;
    redis_socket::restore(redis, router, registry, reader)?;
    saved::lose_source(router);
    ports.restore(&mut router.server, registry, reader)?;
    let ids: Vec<ConnId> = router.server.clients.iter().map(|(id, _)| id).collect();
    for id in ids {
        let Some(client) = router.server.client(id) else { continue };
        if client.transport.register(registry, Source::Client(id).token()).is_err() {
            return Err(StateError::Malformed("a socket"));
        }
    }
    unread.into_iter().for_each(|id| clients.queue_for_reading(router, id));
    Ok(())
}
