//! The loop in tests: far ends in memory, routes without a socket, and what several of these files share.

mod conflation;
mod costs;
mod deflate;
mod durable;
mod event_streams;
mod expiry;
mod fanout;
mod flush;
pub(crate) mod harness;
mod one_stream;
mod page_bounds;
mod page_model;
mod pages;
mod parcel;
mod proxies;
mod replay;
mod requests;
pub(crate) mod simulated_clients;
pub(crate) mod simulated_messages;
mod simulated_redis;
mod simulation;
mod since;
mod slowest;
mod tls;
mod upstream;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;

use crate::config::{Config, Proxies};
use crate::engine::bounds::Bounds;
use crate::engine::client::in_memory::{FarEnds, install};
use crate::engine::handler::{Handler, Route};
use crate::engine::origin::Origins;
use crate::engine::random::Random;
use crate::engine::reactor::*;
use crate::engine::resume::cursor::Signer;
use crate::features::overload::Overload;
use crate::{Message, Scope};

impl Reactor {
    /// The part of a turn that reads clients.
    pub(super) fn read_clients(&mut self) {
        self.clients.read(&mut self.router, &mut self.buffer);
    }

    /// Takes this as the time, in microseconds of its own and in milliseconds since 1970.
    pub(crate) fn set_time(&mut self, micros: u64, unix_millis: u64) {
        self.clock = Clock::Scripted(micros, unix_millis);
    }
}

pub(super) struct Silent;

impl Handler for Silent {
    fn on_message(&mut self, _: &mut Scope<'_>, _: ConnId, _: Message<'_>) {}
}

/// Signs cursors with the key of all processes in the tests.
pub(super) fn signer() -> Signer {
    Signer::with_key(&[7; 16])
}

/// A route with these bounds, on a port that the system chooses.
pub(crate) fn plan(handler: impl Handler + 'static, change: impl FnOnce(&mut Bounds)) -> Plan {
    let mut bounds = Config::default().bounds;
    bounds.clients_max = 1_000_000;
    change(&mut bounds);
    let handler = Box::new(handler);
    Plan {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        listeners: Vec::new(),
        unix: UnixAccess::default(),
        proxies: Box::new(Proxies::default()),
        proxy_protocol: false,
        ports: Vec::new(),
        admin: None,
        subscriber: None,
        commands: None,
        streams: None,
        expects_channels: true,
        demand: None,
        routes: vec![Route { path: "/".into(), origins: Origins::Any, handler }],
        features: vec![Box::new(Overload::new(None))],
        prefix: String::new(),
        signer: signer(),
        bounds,
        handover: Default::default(),
        trim: None,
    }
}

/// The bytes that clients received, and the sockets that are full.
pub(super) struct ClientSockets {
    pub random: Random,
    /// The share of partial writes: one in this many.
    pub cut: usize,
    pub got: HashMap<ConnId, Vec<u8>>,
    pub blocked: BTreeSet<ConnId>,
}

#[derive(Clone)]
pub(super) struct Shared(pub Rc<RefCell<ClientSockets>>);

impl Shared {
    /// Makes these the sockets of this thread's clients. One write in `cut` is partial; 0: none.
    pub fn install(random: Random, cut: usize) -> Shared {
        let sockets = ClientSockets { random, cut, got: HashMap::new(), blocked: BTreeSet::new() };
        let shared = Shared(Rc::new(RefCell::new(sockets)));
        install(Some(Box::new(shared.clone())));
        shared
    }

    /// Makes some full sockets writable again, `most` at most.
    pub fn unblock(&self, reactor: &mut Reactor, most: usize) {
        let mut sockets = self.0.borrow_mut();
        let some: Vec<ConnId> = sockets.blocked.iter().take(most).copied().collect();
        for id in &some {
            sockets.blocked.remove(id);
        }
        drop(sockets);
        for id in some {
            reactor.on_ready(id, Readiness { writable: true, ..Readiness::default() });
        }
    }
}

impl FarEnds for Shared {
    fn read(&mut self, _: ConnId, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut sockets = self.0.borrow_mut();
        assert!(
            !sockets.blocked.contains(&id),
            "a full socket is written to before it said it takes more"
        );
        let one_in = sockets.cut;
        let cut = one_in > 0 && sockets.random.below(one_in) == 0;
        let taken = if cut { sockets.random.below(bytes.len()) } else { bytes.len() };
        sockets.got.entry(id).or_default().extend_from_slice(&bytes[..taken]);
        if taken < bytes.len() {
            sockets.blocked.insert(id);
        }
        if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, _: ConnId) {}
}
