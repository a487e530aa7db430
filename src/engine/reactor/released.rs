//! Clients that waited for Redis to subscribe to their topics, and are read again.

use crate::engine::client::{Client, Reading};
use crate::engine::reactor::clients::ClientIo;
use crate::engine::router::{self, Router};
use crate::engine::server::demand;

/// Brings the topics at Redis up to date, and reads on with clients that waited for that.
pub fn settle_demand(clients: &mut ClientIo, router: &mut Router) {
    router::demand::settle(router);
    read_released(clients, router);
}

/// Reads on with clients that are held no longer.
pub fn read_released(clients: &mut ClientIo, router: &mut Router) {
    for id in demand::take_released(&mut router.server) {
        let waits = |client: &mut Client| client.reading != Reading::Idle;
        if router.server.client(id).is_some_and(waits) {
            clients.queue_for_reading(router, id);
        }
    }
}
