//! A worker of a simulation, from its start to its end, with the clients at it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use mio::Events;
use rustix::net::{RecvFlags, recv};

use crate::engine::client::State;
use crate::engine::client::in_memory::install;
use crate::engine::random::Random;
use crate::engine::reactor::tests::simulated_clients::{Shared, SimulatedClients};
use crate::engine::reactor::{Ended, Reactor, Readiness};
use crate::engine::slots::ConnId;
use crate::loops::limits::notes::LimitNotes;
use crate::loops::limits::users::{self, UserNeeds};
use crate::loops::link::next_frame;
use crate::loops::simulation::process;
use crate::loops::simulation::wire::Wire;
use crate::loops::worker::WorkerStart;

/// The progress of a worker.
enum Progress {
    /// The parent's first words come.
    Greeted(UnixStream),
    /// The parent's state comes.
    Asking(Box<WorkerStart>, Box<Reactor>),
    Serving(Box<Reactor>),
}

pub struct SimulatedWorker {
    pub id: u32,
    pub wire: Wire,
    /// `None`: it has ended.
    progress: Option<Progress>,
    pub clients: Shared,
    /// Clients that have not ended.
    pub present: BTreeSet<ConnId>,
    /// Turns in which it does nothing.
    pub paused: usize,
}

impl SimulatedWorker {
    pub fn new((id, stdin): (u32, OwnedFd), clients: SimulatedClients) -> SimulatedWorker {
        let (wire, link) = Wire::new(stdin);
        SimulatedWorker {
            id,
            wire,
            progress: Some(Progress::Greeted(link)),
            clients: Shared(Rc::new(RefCell::new(clients))),
            present: BTreeSet::new(),
            paused: 0,
        }
    }

    /// The loop, once it serves.
    pub fn reactor(&mut self) -> Option<&mut Reactor> {
        match &mut self.progress {
            Some(Progress::Serving(reactor)) => Some(reactor),
            _ => None,
        }
    }

    pub fn is_serving(&self) -> bool {
        matches!(self.progress, Some(Progress::Serving(_)))
    }

    /// Goes on for a turn. `fresh` makes a loop, which `time` gives the time.
    pub fn turn(
        &mut self,
        random: &mut Random,
        fresh: impl FnOnce() -> Reactor,
        time: impl FnOnce(&mut Reactor),
    ) {
        if self.paused > 0 {
            self.paused -= 1;
            return;
        }
        self.progress = match self.progress.take() {
            Some(Progress::Greeted(link)) => greet(link, fresh),
            Some(Progress::Asking(start, reactor)) => ask(start, reactor, random, time),
            Some(Progress::Serving(reactor)) => self.serve(reactor, time),
            None => None,
        };
        if self.progress.is_none() {
            process::end(self.id);
        }
    }

    fn serve(
        &mut self,
        mut reactor: Box<Reactor>,
        time: impl FnOnce(&mut Reactor),
    ) -> Option<Progress> {
        time(&mut reactor);
        install(Some(Box::new(self.clients.clone())));
        deliver_events(&self.clients, &mut reactor);
        let turned = reactor.turn(&mut Events::with_capacity(64), Some(Duration::ZERO));
        match turned.expect("the loop turns") {
            None => Some(Progress::Serving(reactor)),
            Some(ended) => {
                let is_alone = self.wire.is_over || self.wire.was_noisy;
                let seed = self.clients.0.borrow().seed;
                assert!(is_alone || ended == Ended::Drained, "seed {seed}: {ended:?}");
                None
            }
        }
    }

    /// Checks the invariants of the loop.
    pub fn check(&mut self) {
        let seed = self.clients.0.borrow().seed;
        let Some(reactor) = self.reactor() else { return };
        let server = &reactor.router.server;
        let mut subscriptions = 0;
        for (_, client) in server.clients.iter() {
            let of = server.hubs[0].topics(&client.subscriptions).count();
            subscriptions += of;
            assert!(client.state() == State::Open || of == 0, "seed {seed}: a subscriber is gone");
        }
        assert_eq!(server.hubs[0].subscriptions_len(), subscriptions, "seed {seed}");
    }
}

/// Reads the parent's first words, once all of them are there.
fn greet(link: UnixStream, fresh: impl FnOnce() -> Reactor) -> Option<Progress> {
    let mut buffer = [0; 4096];
    let seen = recv(&link, &mut buffer[..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    match seen.map(|(length, _)| length).map_err(io::Error::from) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            return Some(Progress::Greeted(link));
        }
        Ok(0) | Err(_) => return None,
        Ok(length) if matches!(next_frame(&mut &buffer[..length]), Ok(None)) => {
            return Some(Progress::Greeted(link));
        }
        Ok(_) => {}
    }
    let shared = link.try_clone().expect("descriptors are left");
    let mut start = WorkerStart::read(link).ok()?;
    let reactor = {
        let mut reactor = fresh();
        start.name(&mut reactor.router.server);
        reactor
    };
    // The parent may be gone.
    let is_asked = start.ask().is_ok();
    // So does every descriptor of this socket now.
    shared.set_nonblocking(true).expect("a socket takes its options");
    is_asked.then(|| Progress::Asking(Box::new(start), Box::new(reactor)))
}

/// Takes what has come of the parent's state.
fn ask(
    mut start: Box<WorkerStart>,
    mut reactor: Box<Reactor>,
    random: &mut Random,
    time: impl FnOnce(&mut Reactor),
) -> Option<Progress> {
    let mut buffer = vec![0; random.choose(&[7, 100, 4096])];
    while !start.take_state(&mut reactor.router).ok()? {
        match start.read_on(&mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Some(Progress::Asking(start, reactor));
            }
            Err(_) => return None,
        }
    }
    time(&mut reactor);
    reactor.end_by_order();
    let notes = LimitNotes::new(start.hello.share).expect("descriptors are left");
    reactor.router.add_feature(|_| notes);
    start.begin(&mut reactor).expect("it is a socket");
    let needs = UserNeeds { are_counted: true, ordered: vec![true] };
    users::need(&mut reactor.router, needs);
    Some(Progress::Serving(reactor))
}

/// Tells the loop which of its clients' sockets have changed.
fn deliver_events(clients: &Shared, reactor: &mut Reactor) {
    let mut clients = clients.0.borrow_mut();
    let readable: Vec<ConnId> = std::mem::take(&mut clients.readable).into_iter().collect();
    let writable: Vec<ConnId> = std::mem::take(&mut clients.writable).into_iter().collect();
    let ending = |id: &ConnId| clients.all[id].ended || clients.all[id].reset;
    let readable: Vec<(ConnId, bool)> = readable.iter().map(|id| (*id, ending(id))).collect();
    drop(clients);
    for (id, ending) in readable {
        reactor.on_ready(id, Readiness { readable: true, ending, writable: false });
    }
    for id in writable {
        reactor.on_ready(id, Readiness { writable: true, ..Readiness::default() });
    }
}
