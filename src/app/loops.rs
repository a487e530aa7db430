//! The part of this process in a server of several loops.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;

use super::{handover, publishers_max};
use crate::config::Config;
use crate::engine::bounds::Bounds;
use crate::engine::reactor::{Inherited, Reactor, SharedListeners, on_alone, take_over};
use crate::features::publisher::PublisherPort;
use crate::features::zeromq::ZeromqPort;
use crate::loops::broker::{Broker, HandedLoops};
use crate::loops::deliveries::DeliveryNotes;
use crate::loops::forwarding::Forwarding;
use crate::loops::hello::Hello;
use crate::loops::limits::notes::LimitNotes;
use crate::loops::limits::users::{self, UserNeeds};
use crate::loops::process::CommandLine;
use crate::loops::roster::RosterNotes;
use crate::loops::worker::WorkerStart;
use crate::observe::descriptors;
use crate::upgrade::{Predecessor, StateError, StateReader};

/// The part of a process.
pub enum LoopRole {
    /// It has everything.
    Alone,
    /// It has everything but the clients.
    Parent(ParentRole),
    /// It has a share of the clients.
    Worker(Box<WorkerStart>),
}

/// The part of a process, without what it needs to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopPart {
    Alone,
    Parent,
    Worker,
}

/// The things that a parent gives to its workers beside the settings.
pub struct ParentRole {
    pub line: CommandLine,
    /// Signs tokens, if the settings have no key.
    pub secret: Option<Vec<u8>>,
    /// The nonce of the page, if it may publish.
    pub nonce: Option<String>,
    /// The workers of the parent whose place this one takes.
    pub handed: Option<HandedLoops>,
}

impl LoopRole {
    pub(super) fn part(&self) -> LoopPart {
        match self {
            LoopRole::Alone => LoopPart::Alone,
            LoopRole::Parent(_) => LoopPart::Parent,
            LoopRole::Worker(_) => LoopPart::Worker,
        }
    }

    pub(super) fn is_parent(&self) -> bool {
        matches!(self, LoopRole::Parent(_))
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self, LoopRole::Worker(_))
    }

    /// The bounds of this process, and the most clients that it has or speaks for.
    pub(super) fn bounds(&self, config: &Config) -> io::Result<(Bounds, usize)> {
        let mut bounds = config.bounds.clone();
        let most = if self.is_parent() { 0 } else { bounds.clients_max };
        let here = descriptors::clients_max(most, publishers_max(config))?;
        if !self.is_parent() {
            bounds.clients_max = here;
            return Ok((bounds, here));
        }
        // A parent lends the whole to processes that have as many descriptors each.
        let everywhere = here.saturating_mul(config.loops());
        let clients_max = bounds.clients_max;
        Ok((bounds, if clients_max == 0 { everywhere } else { clients_max.min(everywhere) }))
    }

    /// Reads the part of a parent's state that this one needs to begin.
    pub(super) fn inherit(
        &mut self,
        config: &Config,
        reader: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        if let LoopRole::Parent(role) = self {
            role.handed = Some(HandedLoops::restored(reader, config.loops())?);
        }
        Ok(())
    }

    /// The key of cursors that the parent has chosen.
    pub(super) fn cursor_key(&self) -> Option<[u8; 16]> {
        match self {
            LoopRole::Worker(start) => start.hello.cursor_key,
            _ => None,
        }
    }

    /// Leaves in the settings what is for this process. A parent opens the listeners of all.
    pub(super) fn prepare(
        &mut self,
        config: &mut Config,
        listeners: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<SharedListeners>> {
        match self {
            LoopRole::Alone => Ok(None),
            LoopRole::Parent(role) => {
                let (passed, loops) = (std::mem::take(listeners), config.loops());
                let handed = role.handed.as_mut().map(|of| std::mem::take(&mut of.listeners));
                let handed = handed.unwrap_or_default();
                let (listen, bounds) = (&config.listen, Inherited::of(&config.bounds));
                let access = (&config.unix, bounds);
                let shared = SharedListeners::open(listen, passed, access, loops, handed)?;
                config.listen = Vec::new();
                Ok(Some(shared))
            }
            LoopRole::Worker(start) => {
                if start.hello.fingerprint != fingerprint(config) {
                    let text = "the settings have changed since the server started, and it must be restarted for them";
                    return Err(io::Error::other(text));
                }
                *listeners = std::mem::take(&mut start.listeners);
                share(&mut config.bounds, start.hello.loops);
                config.bounds.clients_max = start.hello.share.unwrap_or(0);
                (config.publishers, config.zeromq.address, config.admin) = (None, None, None);
                Ok(None)
            }
        }
    }

    /// Gives a worker its name, and the places in these streams.
    pub(super) fn name(&self, reactor: &mut Reactor, streams: Vec<String>) {
        let LoopRole::Worker(start) = self else { return };
        reactor.end_by_order();
        start.name(&mut reactor.router.server);
        reactor.router.server.resume.read_streams(streams);
        let named = [PublisherPort::NAME, ZeromqPort::NAME].into_iter().filter_map(|name| {
            let port = start.hello.ports.iter().find(|port| port.0 == name)?;
            Some((name, port.1))
        });
        reactor.addresses.ports = named.collect();
    }

    /// Takes the place of another process, if there is one, and begins to work with the others.
    pub(super) fn begin(
        self,
        reactor: &mut Reactor,
        config: &Config,
        shared: Option<SharedListeners>,
        predecessor: Option<Predecessor>,
    ) -> io::Result<()> {
        match (self, shared) {
            (LoopRole::Parent(role), Some(shared)) => {
                begin_parent(reactor, config, role, shared, predecessor)
            }
            (LoopRole::Worker(start), _) => {
                let router = &mut reactor.router;
                if config.lists_members() {
                    router.server.members.begin_exchange();
                }
                if config.events.is_some() {
                    router.add_feature(RosterNotes::new);
                }
                if gives_receipts(config) {
                    router.add_feature(|_| DeliveryNotes::new(config.receipts.clone()));
                }
                let notes = LimitNotes::new(start.hello.share)?;
                router.add_feature(|_| notes);
                let takes_over = start.hello.takes_over;
                predecessor.map_or(Ok(()), |of| replace(reactor, of, || Ok(())))?;
                start.attach(reactor)?;
                need_users(reactor, config);
                if takes_over {
                    // Clients that were handed over are told of before any that come.
                    reactor.router.end_turn();
                }
                Ok(())
            }
            _ => predecessor.map_or(Ok(()), |of| replace(reactor, of, || Ok(()))),
        }
    }
}

/// Returns whether messages may have receipts.
pub(super) fn gives_receipts(config: &Config) -> bool {
    config.receipts.is_some() || !config.streams.is_empty()
}

fn begin_parent(
    reactor: &mut Reactor,
    config: &Config,
    role: ParentRole,
    shared: SharedListeners,
    predecessor: Option<Predecessor>,
) -> io::Result<()> {
    reactor.addresses.clients = shared.addresses.clone();
    let ParentRole { line, secret, nonce, handed } = role;
    let ports = reactor.addresses.ports.iter();
    let hello = Hello {
        number: 0,
        predecessors: 0,
        loops: config.loops(),
        share: Some(config.bounds.clients_max).filter(|most| *most > 0),
        node: reactor.router.server.resume.node(),
        cursor_key: reactor.router.server.resume.signer.own_key(),
        secret,
        nonce,
        ports: ports.map(|(name, address)| ((*name).to_owned(), *address)).collect(),
        fingerprint: fingerprint(config),
        takes_over: false,
    };
    let mut broker = Broker::new(line, hello, shared);
    let forwarding = Forwarding::new(predecessor.is_some());
    if let (Some(predecessor), Some(handed)) = (predecessor, handed) {
        broker.start_heirs(handed, reactor.router.server.now().millis)?;
        replace(reactor, predecessor, || broker.await_heirs())?;
        broker.begin_with_heirs(&reactor.router);
    }
    reactor.router.admin_requests = Some(Vec::new());
    if config.lists_members() {
        reactor.router.server.members.begin_exchange();
    }
    reactor.router.observer = Some(Box::new(forwarding));
    reactor.add_port(Box::new(broker));
    Ok(())
}

/// Takes the place of another process: takes over its state, waits until others have done so too, and until it is gone.
fn replace(
    reactor: &mut Reactor,
    mut predecessor: Predecessor,
    others: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    predecessor.ask()?;
    take_over(reactor, &mut StateReader::new(Vec::new(), predecessor.link()))?;
    others()?;
    predecessor.replace()?;
    on_alone(reactor);
    Ok(())
}

/// Divides among so many loops the bounds that each holds alone.
pub(super) fn share(bounds: &mut Bounds, loops: usize) {
    for bound in [
        &mut bounds.handshakes_max,
        &mut bounds.unfinished_total_bytes_max,
        &mut bounds.backlog_total_bytes_max,
        &mut bounds.subscriptions_bytes_max,
        &mut bounds.members_total_bytes_max,
        &mut bounds.memory_max,
    ] {
        *bound = bound.div_ceil(loops);
    }
    bounds.handshakes_per_second_max = bounds.handshakes_per_second_max.div_ceil(loops as u32);
}

/// Tells a worker for which settings its parent must know of users. Elsewhere it does nothing.
pub(super) fn need_users(reactor: &mut Reactor, config: &Config) {
    let router = &mut reactor.router;
    if LimitNotes::of(router).is_none() {
        return;
    }
    let has_one_client =
        |path: &str| config.routes.iter().any(|route| route.path == path && route.single_session);
    let ordered = router.paths().map(has_one_client).collect();
    let are_counted = config.bounds.clients_per_user_max > 0;
    users::need(router, UserNeeds { are_counted, ordered });
}

/// A number for the settings by which the processes number messages, and hand clients over: they must be the same in all.
fn fingerprint(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    (handover::shape(config), &config.control, config.loops()).hash(&mut hasher);
    let Bounds { history_messages_max, history_bytes_max, payload_bytes_max, .. } = &config.bounds;
    (history_messages_max, history_bytes_max, payload_bytes_max).hash(&mut hasher);
    (config.redis.is_some(), config.proxy_protocol).hash(&mut hasher);
    (config.events.is_some(), config.lists_members(), &config.receipts).hash(&mut hasher);
    config.listen.iter().for_each(|listen| listen.to_string().hash(&mut hasher));
    hasher.finish()
}
