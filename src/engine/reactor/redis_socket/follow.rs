//! The connections follow the primary that the Sentinels name.

use super::{RedisSocket, RedisSockets};
use crate::engine::redis::config::RedisServer;
use crate::engine::redis::sentinel::{Fare, is_sentinel};
use crate::engine::router::Router;

/// Tells the watch over the Sentinels how the others fare, and the others of the primary.
pub(super) fn follow(sockets: &mut RedisSockets, router: &mut Router) {
    let Some((watch, others)) = sockets.0.split_first_mut() else { return };
    if !is_sentinel(watch.config()) {
        return;
    }
    let is_up = others.iter().any(|other| other.protocol.session().is_ready());
    let fare = Fare { is_up, vain: others.iter().map(|other| other.vain).sum() };
    let named = watch.protocol.name_server(fare, router.server.now.millis);
    for other in others {
        match &named {
            Some(server) => turn_to(other, router, server),
            // Requests wait for the end of the first attempt, which has not even a server.
            None if watch.vain > 0 && lacks_server(other) => {
                other.fail(router, "no Sentinel has named the primary yet".to_owned());
            }
            None => {}
        }
    }
}

/// Returns whether the first attempt waits for a server.
fn lacks_server(socket: &RedisSocket) -> bool {
    let session = socket.protocol.session();
    session.config.servers.is_empty() && session.is_first()
}

/// Connects to this server from now on, and gives up what is under way with another one.
fn turn_to(socket: &mut RedisSocket, router: &mut Router, server: &RedisServer) {
    let session = socket.protocol.session_mut();
    let was_named = !session.config.servers.is_empty();
    session.config.servers = vec![server.clone()];
    let is_elsewhere = session.config.server.address != server.address;
    if !session.is_waiting() && is_elsewhere {
        router.server.metrics.redis_switches += 1;
        socket.fail(router, format!("Redis at {} is the primary now", server.address));
    }
    if was_named || socket.vain > 0 {
        let random = (socket.random)();
        socket.protocol.session_mut().hurry(router.server.now.millis, random);
    }
}
