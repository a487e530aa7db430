//! The drain: no new connections, and a close for present clients.

use crate::clock::Millis;
use crate::engine::client::frame::Close;
use crate::engine::reactor::redis_socket::RedisSocket;
use crate::engine::reactor::{Ended, Reactor};
use crate::engine::slots::ConnId;

impl Reactor {
    /// Closes the listeners, and asks each client in a time slot of its own to reconnect elsewhere.
    pub(super) fn drain(&mut self) {
        self.router.drain();
        let server = &mut self.router.server;
        log::info!("draining {} connections", server.clients.len());
        self.supervisor.stopping(server.clients_len(), server.bounds.drain_seconds);
        self.drain_until =
            Some(server.now.millis + Millis::from(server.bounds.drain_seconds) * 1000);
        self.listeners.close();
        let rate = u64::from(server.bounds.drain_per_second);
        let now = server.now.millis;
        self.port.iter_mut().for_each(|port| port.close(now));
        let all: Vec<ConnId> = self.router.server.clients.iter().map(|(id, _)| id).collect();
        for (place, id) in all.into_iter().enumerate() {
            let retry = (place as u64 + 1) * 1000 / rate;
            self.router.server.close(id, Close::GOING_AWAY.retry_after(retry));
        }
    }

    /// Discards pending writes when the time is up, so that the kernel does not keep them beyond the process.
    pub(super) fn cut(&self) {
        let clients = self.router.server.clients.iter().map(|(_, client)| client);
        clients.filter(|client| client.backlog_bytes() > 0).for_each(|client| {
            client.transport.discard();
        });
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        if self.signals_seen > 1 {
            return Some(Ended::Forced);
        }
        let until = self.drain_until?;
        let is_settled = self.router.server.requests_len() == 0
            && self.redis.iter().all(RedisSocket::is_settled);
        let has_connections = self.port.as_ref().is_some_and(|port| port.connections() > 0);
        let empty = self.router.server.clients.is_empty() && !has_connections && is_settled;
        (empty || self.router.server.now.millis >= until).then_some(Ended::Drained)
    }
}
