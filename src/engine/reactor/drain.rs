//! The drain: no new connections, and a close for present clients.

use crate::clock::Millis;
use crate::engine::client::frame::Close;
use crate::engine::reactor::{Ended, Reactor};
use crate::engine::router::Router;
use crate::engine::slots::ConnId;

/// The end of the process as its signals ask for it: the first begins a drain, another one ends it.
#[derive(Default)]
pub(super) struct Drain {
    /// The number of signals received.
    pub signals: usize,
    /// When the remaining connections are cut.
    pub until: Option<Millis>,
    /// Signals are left to another process, whose orders come.
    pub is_by_order: bool,
    /// The place of this process among those that drain together, and their number; 0: it drains alone.
    pub places: (u64, u64),
}

impl Drain {
    /// Takes note of signals that end the process.
    pub fn on_signals(&mut self, count: usize) {
        self.signals += if self.is_by_order { 0 } else { count };
    }

    /// Returns whether a drain is due that has not begun.
    pub fn is_due(&self) -> bool {
        self.signals > 0 && self.until.is_none()
    }

    /// Asks each client in a time slot of its own to reconnect elsewhere.
    pub fn begin(&mut self, router: &mut Router) {
        router.drain();
        let server = &mut router.server;
        log::info!("draining {} connections", server.clients.len());
        self.until = Some(server.now.millis + Millis::from(server.bounds.drain_seconds) * 1000);
        let rate = u64::from(server.bounds.drain_per_second);
        let (first, step) = (self.places.0, self.places.1.max(1));
        let all: Vec<ConnId> = server.clients.iter().map(|(id, _)| id).collect();
        for (place, id) in all.into_iter().enumerate() {
            let retry = (place as u64 * step + first + 1) * 1000 / rate;
            server.close(id, Close::GOING_AWAY.retry_after(retry));
        }
    }

    /// Returns whether the loop ends, and how. `is_settled`: nothing is left to be done for a back end.
    pub fn ended(&self, router: &Router, is_settled: bool) -> Option<Ended> {
        if self.signals > 1 {
            return Some(Ended::Forced);
        }
        let until = self.until?;
        let is_empty = router.server.clients.is_empty() && is_settled;
        (is_empty || router.server.now.millis >= until).then_some(Ended::Drained)
    }
}

/// Begins the drain: closes the listeners, and what they accepted.
pub(super) fn begin(reactor: &mut Reactor) {
    let server = &reactor.router.server;
    let now = server.now.millis;
    reactor.supervisor.stopping(reactor.ports.clients(server), server.bounds.drain_seconds);
    reactor.listeners.close();
    reactor.ports.close(now);
    reactor.drain.begin(&mut reactor.router);
}

/// Discards pending writes when the time is up, so that the kernel does not keep them beyond the process.
pub(super) fn cut(router: &Router) {
    let clients = router.server.clients.iter().map(|(_, client)| client);
    clients.filter(|client| client.backlog_bytes() > 0).for_each(|client| {
        client.transport.discard();
    });
}
