//! The part of this process in a server of several loops.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;

use crate::config::Config;
use crate::engine::bounds::Bounds;
use crate::engine::reactor::{Reactor, SharedListeners};
use crate::features::publisher::PublisherPort;
use crate::features::zeromq::ZeromqPort;
use crate::loops::broker::Broker;
use crate::loops::deliveries::DeliveryNotes;
use crate::loops::forwarding::Forwarding;
use crate::loops::hello::Hello;
use crate::loops::process::CommandLine;
use crate::loops::roster::RosterNotes;
use crate::loops::worker::WorkerStart;

/// The part of a process.
pub enum LoopRole {
    /// It has everything.
    Alone,
    /// It has everything but the clients.
    Parent(ParentRole),
    /// It has a share of the clients.
    Worker(Box<WorkerStart>),
}

/// The things that a parent gives to its workers beside the settings.
pub struct ParentRole {
    pub line: CommandLine,
    /// Signs tokens, if the settings have no key.
    pub secret: Option<Vec<u8>>,
    /// The nonce of the page, if it may publish.
    pub nonce: Option<String>,
}

impl LoopRole {
    pub(super) fn is_parent(&self) -> bool {
        matches!(self, LoopRole::Parent(_))
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self, LoopRole::Alone)
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self, LoopRole::Worker(_))
    }

    /// The most clients that this process has or speaks for, if a process has room for `here`.
    pub(super) fn clients_max(&self, config: &Config, here: usize) -> usize {
        match (self, config.bounds.clients_max) {
            (LoopRole::Parent(_), 0) => here.saturating_mul(config.loops()),
            (LoopRole::Parent(_), most) => most.min(here.saturating_mul(config.loops())),
            _ => here,
        }
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
            LoopRole::Parent(_) => {
                let (passed, loops) = (std::mem::take(listeners), config.loops());
                let shared = SharedListeners::open(&config.listen, passed, &config.unix, loops)?;
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
                (config.publishers, config.zeromq.address, config.admin) = (None, None, None);
                Ok(None)
            }
        }
    }

    /// Gives a worker its name, and the places in these streams.
    pub(super) fn name(&self, reactor: &mut Reactor, streams: Vec<String>) {
        let LoopRole::Worker(start) = self else { return };
        start.name(&mut reactor.router.server);
        reactor.router.server.resume.read_streams(streams);
        let named = [PublisherPort::NAME, ZeromqPort::NAME].into_iter().filter_map(|name| {
            let port = start.hello.ports.iter().find(|port| port.0 == name)?;
            Some((name, port.1))
        });
        reactor.addresses.ports = named.collect();
    }

    /// Begins to work with the other processes.
    pub(super) fn begin(
        self,
        reactor: &mut Reactor,
        config: &Config,
        shared: Option<SharedListeners>,
        cursor_key: Option<[u8; 16]>,
    ) -> io::Result<()> {
        match (self, shared) {
            (LoopRole::Parent(ParentRole { line, secret, nonce }), Some(shared)) => {
                reactor.addresses.clients = shared.addresses.clone();
                let ports = reactor.addresses.ports.iter();
                let hello = Hello {
                    number: 0,
                    predecessors: 0,
                    loops: config.loops(),
                    node: reactor.router.server.resume.node(),
                    cursor_key,
                    secret,
                    nonce,
                    ports: ports.map(|(name, address)| ((*name).to_owned(), *address)).collect(),
                    fingerprint: fingerprint(config),
                };
                reactor.router.admin_requests = Some(Vec::new());
                reactor.router.observer = Some(Box::new(Forwarding::default()));
                reactor.add_port(Box::new(Broker::new(line, hello, shared)));
                Ok(())
            }
            (LoopRole::Worker(start), _) => {
                let router = &mut reactor.router;
                if config.events.is_some() {
                    router.add_feature(RosterNotes::new);
                }
                if gives_receipts(config) {
                    router.add_feature(|_| DeliveryNotes::new(config.receipts.clone()));
                }
                start.attach(reactor)
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether messages may have receipts.
pub(super) fn gives_receipts(config: &Config) -> bool {
    config.receipts.is_some() || !config.streams.is_empty()
}

/// Divides the bounds on all clients together among so many loops.
pub(super) fn share(bounds: &mut Bounds, loops: usize) {
    for bound in [
        &mut bounds.clients_max,
        &mut bounds.handshakes_max,
        &mut bounds.unfinished_total_bytes_max,
        &mut bounds.backlog_total_bytes_max,
        &mut bounds.subscriptions_bytes_max,
        &mut bounds.memory_max,
    ] {
        *bound = bound.div_ceil(loops);
    }
    bounds.handshakes_per_second_max = bounds.handshakes_per_second_max.div_ceil(loops as u32);
}

/// A number for the settings by which the processes number messages: they must be the same in all.
fn fingerprint(config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&config.prefix, &config.control, &config.streams, config.loops()).hash(&mut hasher);
    let Bounds { history_messages_max, history_bytes_max, payload_bytes_max, .. } = &config.bounds;
    (history_messages_max, history_bytes_max, payload_bytes_max).hash(&mut hasher);
    (config.redis.is_some(), config.proxy_protocol).hash(&mut hasher);
    (config.events.is_some(), &config.receipts).hash(&mut hasher);
    config.listen.iter().for_each(|listen| listen.to_string().hash(&mut hasher));
    hasher.finish()
}
