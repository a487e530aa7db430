//! The loop: the only module that polls or reads the clock.
//!
//! A turn is always sleep, dispatch, tick, flush, reap. While events are dispatched, nothing is written to a socket and nothing
//! is freed. A job cut short by its bound leaves a note, so that the next poll does not sleep.

mod accept;
mod clients;
mod drain;
mod file_watch;
mod flush;
mod handover;
mod listen;
mod listeners;
mod listening_socket;
mod plan;
mod port;
mod port_connections;
mod port_socket;
mod redis_protocol;
mod redis_socket;
mod redis_stream;
mod released;
mod reload;
mod resolver;
mod shared_listeners;
#[cfg(test)]
pub(crate) mod tests;
mod time;
mod token;
mod trim;
mod unix_socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Waker};

use crate::clock::Millis;
use crate::engine::bounds::Bounds;
use crate::engine::feature::FeatureEvent;
use crate::engine::redis::tls::RedisTls;
use crate::engine::router::files::{File, Page};
use crate::engine::router::{ClientAddresses, Router};
use crate::engine::server::{Server, demand, saved};
use crate::engine::signals::{Signals, Unused};
use crate::engine::slots::ConnId;
use crate::engine::timers::{TICK, tick};
use crate::observe::metrics::Metrics;
use crate::observe::systemd::Supervisor;
use clients::ClientIo;
pub use clients::Readiness;
use drain::Drain;
pub use file_watch::{FileState, FileWatches, Look, LookResult, SeenFiles, states};
pub use handover::{GOES_ON, on_alone, take_over};
pub use listen::Listen;
use listeners::Listeners;
pub use listeners::{Purpose, turn_away};
pub use listening_socket::{BACKLOG, Inherited};
pub use plan::{Addresses, Ended, HandoverPlan, Inheritance, Plan};
use port::Ports;
pub use port::{HandoverStep, LoopOrder, OtherPorts, Port, PortRegistry, publish_beside};
pub use port_connections::{PortConnection, PortConnections};
pub use port_socket::{InputState, PeerState, PortSocket};
pub use redis_protocol::RedisProtocol;
use redis_socket::{RedisSocket, RedisSockets};
use reload::Reload;
pub use reload::{Reread, TakeOver, shared_level};
pub use shared_listeners::{HandedListeners, SharedListeners};
use time::Clock;
pub use token::Source;
use trim::Trim;
pub use unix_socket::{UnixAccess, UnixGroup};

/// Events taken from one poll.
const EVENTS: usize = 1024;

/// The loop's read buffer, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// The reserved size of that buffer. From 128 KiB on, glibc takes a block from the system and need not clear it: its pages become
/// resident only as input is read into them, which saves 64 KiB at start.
const BUFFER_BYTES_RESERVED: usize = 128 * 1024;

/// A sleep that exceeds its timeout by this means that the whole process stood still.
const FROZEN: Millis = 2000;

/// The state of the loop.
pub struct Reactor {
    poll: Poll,
    clock: Clock,
    pub(crate) router: Router,
    listeners: Listeners,
    redis: RedisSockets,
    /// Listeners of features, with connections of their own.
    ports: Ports,
    signals: Signals,
    unused_signals: Unused,
    clients: ClientIo,
    /// The buffer into which every socket is read.
    buffer: Vec<u8>,
    trim: Trim,
    /// The process's age, in microseconds, when the turn's sleep ended.
    woken: u64,
    pub(crate) addresses: Addresses,
    /// When the turn's sleep was to end at the latest.
    awaited: Option<Millis>,
    supervisor: Supervisor,
    reload: Option<Reload>,
    file_watches: FileWatches,
    /// Wakes the loop from another thread.
    waker: Arc<Waker>,
    drain: Drain,
    handover: handover::Handover,
}

impl Reactor {
    /// Opens the listeners.
    ///
    /// # Errors
    /// An address that cannot be bound, or a lack of descriptors.
    pub fn new(plan: Plan) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let registry = poll.registry();
        let HandoverPlan { shape, inheritance, program } = plan.handover;
        let (elapsed, node, handed_over) = Inheritance::parts(inheritance);
        let clock = Clock::aged(elapsed);
        let now = clock.now(clock.micros() / 1000);
        let mut listeners = Listeners::new(&plan.bounds, handed_over);
        let clients = listeners.open_clients(registry, &plan.listen, plan.listeners, &plan.unix)?;
        let mut open = |address, purpose| listeners.open(registry, address, purpose);
        let (mut ports, mut port_addresses) = (Ports::default(), Vec::new());
        for (address, port) in plan.ports {
            let (name, refusal) = (port.name(), port.refusal());
            let purpose = Purpose::Port { number: ports.add(port), refusal };
            port_addresses.push((name, open((name, address), purpose)?));
        }
        let admin =
            plan.admin.map(|address| open(("admin", address), Purpose::Admin)).transpose()?;
        let addresses = Addresses { clients, ports: port_addresses, admin };
        let mut signals = Signals::new()?;
        let token = Source::Signals.token();
        registry.register(&mut signals.receiver, token, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(registry, Source::Resolver.token())?);
        let client_io = ClientIo::new(&plan.bounds);
        let mut buffer = vec![0; BUFFER_BYTES_RESERVED];
        buffer.truncate(BUFFER_BYTES);
        let options = plan.routes.iter().map(|route| route.handler.options()).collect();
        let per_address_max = plan.bounds.clients_per_address_max;
        let by_address = ClientAddresses::new(plan.proxies, plan.proxy_protocol, per_address_max);
        let mut server = Server::new(plan.bounds, options, plan.signer, now);
        node.into_iter().for_each(|node| saved::take_name(&mut server, node));
        let mut router = Router::new(server, plan.routes, plan.prefix, by_address);
        router.features = plan.features;
        router.server.resume.has_channels = plan.streams.is_none() || plan.expects_channels;
        plan.demand.into_iter().for_each(|of| demand::begin(&mut router.server, of));
        let protocols =
            redis_protocol::all(plan.subscriber, plan.streams, plan.commands, &mut router);
        let sockets = protocols.into_iter().enumerate();
        let redis = sockets
            .map(|(number, protocol)| RedisSocket::new(protocol, number, Arc::clone(&waker)))
            .collect();
        Ok(Reactor {
            redis: RedisSockets(redis),
            clock,
            router,
            listeners,
            ports,
            signals,
            unused_signals: Unused::new(program.is_some())?,
            handover: handover::Handover::new(registry, program, shape)?,
            poll,
            clients: client_io,
            buffer,
            trim: Trim::new(plan.trim),
            woken: 0,
            addresses,
            awaited: None,
            supervisor: Supervisor::default(),
            reload: None,
            file_watches: FileWatches::new(Arc::clone(&waker)),
            waker,
            drain: Drain::default(),
        })
    }

    /// The addresses of its listeners, with the ports that the system chose.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The metrics so far.
    pub fn metrics(&self) -> &Metrics {
        &self.router.server.metrics
    }

    /// Serves a page at `/`.
    pub fn serve_page(&mut self, page: Page) {
        self.router.files.set_page(page);
    }

    /// Serves a file to pages of every origin.
    pub fn serve_file(&mut self, file: File) {
        self.router.files.add(file);
    }

    /// Reports to a supervisor that the process is alive, and whether it is ready.
    pub fn report_to(&mut self, supervisor: Supervisor) {
        self.supervisor = supervisor;
    }

    /// Reads the settings again whenever SIGHUP comes. Without this, SIGHUP ends the process.
    ///
    /// # Errors
    /// A descriptor that cannot be had.
    pub fn reload_by(&mut self, reread: Reread) -> io::Result<()> {
        self.reload = Some(Reload::new(self.poll.registry(), Arc::clone(&self.waker), reread)?);
        Ok(())
    }

    /// Looks at files from time to time, in place of those that were watched for this subject before.
    pub fn watch_files(&mut self, subject: &'static str, look: Option<Look>) {
        self.file_watches.begin(subject, look, self.router.server.now.millis);
    }

    /// Adds a port without a listener.
    pub fn add_port(&mut self, port: Box<dyn Port>) {
        self.ports.add(port);
    }

    /// Leaves the signals that end the process to another process, whose orders come by a port.
    pub fn end_by_order(&mut self) {
        self.drain.is_by_order = true;
    }

    /// Replaces the bounds.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.clients.set_bounds(&bounds);
        self.router.server.set_bounds(bounds);
    }

    /// Replaces the settings of TLS to Redis, for the next connections. Whether TLS is spoken at all stays as it was.
    pub fn set_redis_tls(&mut self, tls: &RedisTls) {
        self.redis.set_tls(tls);
    }

    /// Runs turns until a signal ends the loop.
    ///
    /// # Errors
    /// The errors of `epoll_wait`, none of which a peer can cause.
    pub fn run(mut self) -> io::Result<Ended> {
        let mut events = Events::with_capacity(EVENTS);
        let mut is_ready = false;
        loop {
            if !is_ready && self.ports.are_ready() {
                is_ready = true;
                self.supervisor.ready(self.ports.clients(&self.router.server));
            }
            if let Some(ended) = self.turn(&mut events, None)? {
                return Ok(handover::leave(self, ended));
            }
        }
    }

    /// Runs one turn, which sleeps no longer than `longest`: for programs that drive the loop themselves, as benches do.
    ///
    /// # Errors
    /// The errors of `epoll_wait`, none of which a peer can cause.
    pub fn turn(
        &mut self,
        events: &mut Events,
        longest: Option<Duration>,
    ) -> io::Result<Option<Ended>> {
        self.sleep(events, longest)?;
        self.dispatch(events);
        self.tick();
        self.flush();
        self.reap();
        Ok(self.ended())
    }

    /// Returns how the loop ends, if it does after this turn.
    fn ended(&mut self) -> Option<Ended> {
        let is_settled = self.redis.is_settled()
            && self.router.server.requests.is_empty()
            && self.ports.connections() == 0;
        if handover::end(self) {
            return Some(Ended::HandedOver);
        }
        let ended = self.drain.ended(&self.router, is_settled)?;
        drain::cut(&self.router);
        Some(ended)
    }

    /// Polls for events: at most until the next deadline, and without sleeping if work is left.
    fn sleep(&mut self, events: &mut Events, longest: Option<Duration>) -> io::Result<()> {
        let wake = self.next_wake(self.router.server.now.millis);
        let turned = self.clock.micros();
        self.router.server.metrics.turn_micros.record(turned - self.woken);
        // The clock has moved on since the turn began.
        let timeout = wake.map(|wake| Duration::from_millis(wake.saturating_sub(turned / 1000)));
        let timeout = [timeout, longest].into_iter().flatten().min();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            result => result?,
        }
        self.awaited = wake;
        self.woken = self.clock.micros();
        self.router.server.now = self.clock.now(self.woken / 1000);
        self.router.server.follow_wall_clock();
        Ok(())
    }

    /// Dispatches events with one `match` over the closed set of sources: events become notes, then the notes are worked off.
    /// Redis comes first: it disconnects us if we lag.
    fn dispatch(&mut self, events: &Events) {
        for event in events {
            match Source::of(event.token()) {
                Source::Redis(number) => {
                    self.redis.on_ready(&mut self.router, self.poll.registry(), number, event);
                }
                Source::Resolver => {
                    self.redis.on_resolved(&mut self.router, self.poll.registry());
                    reload::on_files_read(self);
                }
                Source::Hangup => {
                    let is_draining = self.router.health.draining;
                    let Reactor { reload, supervisor, .. } = self;
                    reload.iter_mut().for_each(|it| it.on_hangup(is_draining, supervisor));
                }
                Source::Port { port, number } => self.ports.on_ready(port, number, event),
                Source::Listener(number) => self.listeners.note(number),
                Source::Client(id) => self.on_ready(id, Readiness::of(event)),
                Source::Signals => self.drain.on_signals(self.signals.take()),
                Source::Handover => self.handover.is_asked = true,
                Source::Successor => self.handover.has_heard = true,
            }
        }
        if handover::rests(self) {
            return;
        }
        self.read_sources();
        self.accept();
        self.router.port_connections = self.ports.connections();
        self.clients.read(&mut self.router, &mut self.buffer);
        self.ports.publish_for_handlers(&mut self.router);
        released::settle_demand(&mut self.clients, &mut self.router);
        self.redis.hand_over_requests(&mut self.router);
        reload::obey_all(self);
        if self.drain.is_due() {
            drain::begin(self);
        }
        self.unused_signals.report();
    }

    /// Reads Redis and the ports. If Redis' messages fill the clients' backlogs in every turn, nothing is read from the ports. They
    /// therefore go first in the turn after.
    fn read_sources(&mut self) {
        let are_ports_first = self.ports.have_waited;
        if !are_ports_first {
            self.redis.read(&mut self.router, &mut self.buffer, false);
        }
        self.ports.read(&mut self.router, &mut self.buffer, false);
        if are_ports_first {
            self.redis.read(&mut self.router, &mut self.buffer, false);
        }
    }

    /// Handles passed deadlines.
    fn tick(&mut self) {
        let now = self.router.server.now.millis;
        if self.awaited.is_some_and(|awaited| now > awaited + FROZEN) {
            // The process stood still (SIGSTOP, a laptop's lid) and read nothing meanwhile: no client counts as silent before a
            // ping went out and its answer had time to come.
            let timing = &mut self.router.server.clients.timing;
            timing.floor = tick(now).saturating_sub(timing.ping);
        }
        self.clients.tick(&mut self.router);
        self.ports.tick(&mut self.router, self.poll.registry());
        if !self.router.health.draining {
            self.redis.tick(&mut self.router, self.poll.registry());
            self.file_watches.tick(now);
        }
        self.router.server.complaints.tick(now);
        let clients = self.ports.clients(&self.router.server);
        self.supervisor.tick(now, clients, self.router.health.draining);
        self.router.notify_features(FeatureEvent::Tick);
        if self.trim.at.is_some_and(|at| at <= now) && !self.router.server.has_pending_writes() {
            self.clients.shrink();
            self.router.server.shrink();
            self.trim.give_back();
        }
    }

    /// Writes pending output.
    fn flush(&mut self) {
        let had_large_payload = std::mem::take(&mut self.router.had_large_payload);
        self.trim.note(self.router.server.pending.len(), had_large_payload);
        self.redis.flush(&mut self.router);
        self.ports.flush(&mut self.router.server);
        self.clients.flush(&mut self.router, &mut self.trim);
    }

    /// Frees terminated connections.
    fn reap(&mut self) {
        let mut freed = self.clients.reap(&mut self.router, &mut self.trim);
        freed |= self.ports.reap();
        if freed {
            self.listeners.on_freed();
        }
        let has_clients = !self.router.server.clients.is_empty();
        self.trim.end_turn(self.router.server.now.millis, has_clients);
        self.router.end_turn();
    }

    /// Records a change of a client's transport.
    pub fn on_ready(&mut self, id: ConnId, readiness: Readiness) {
        self.clients.on_ready(&mut self.router, id, readiness);
    }

    /// Returns when the loop must turn next without an event; `None`: not before an event.
    fn next_wake(&self, now: Millis) -> Option<Millis> {
        let server = &self.router.server;
        let is_work_left = server.has_pending_writes()
            || !self.clients.is_read()
            || !server.clients.gone.is_empty()
            || !server.requests.is_empty()
            || self.redis.has_note();
        if is_work_left {
            // While the sources are held there is nothing to be done but to look again.
            return Some(now + u64::from(server.pending.is_held));
        }
        let times = [
            server.clients.timers.next().map(|tick| Millis::from(tick) * TICK),
            self.redis.deadline().filter(|_| !self.router.health.draining),
            self.file_watches.deadline().filter(|_| !self.router.health.draining),
            self.ports.deadline(now).map(|at| at.max(now + u64::from(server.pending.is_held))),
            server.complaints.deadline(),
            self.router.features_deadline(),
            server.demand.as_ref().and_then(|demand| demand.deadline(now)),
            self.next_accept(),
            self.drain.until,
            self.handover.deadline(now),
            self.trim.at,
            self.supervisor.deadline(),
        ];
        times.into_iter().flatten().min()
    }
}
