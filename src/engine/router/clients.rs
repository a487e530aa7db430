//! Who is owed most: what the operator is told at `/clients`.

use super::Router;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::user_of;
use crate::engine::slots::ConnId;
use crate::features::control::report::Owed;

/// So many clients are told of.
const DEEPEST_MAX: usize = 10;

impl Router {
    /// The clients with the deepest backlogs, as JSON. All slots are looked at for it (0.1 ms for 20,000 clients), which is why that
    /// is done once a second at most: whoever asks earlier gets the answer before.
    pub(crate) fn clients_owed_most(&mut self) -> String {
        if self.walked.allow(self.server.now.millis) {
            self.server.metrics.backlog_walks += 1;
            self.owed_most = self.find_owed_most();
        }
        self.owed_most.clone()
    }

    fn find_owed_most(&self) -> String {
        let mut deepest: Vec<(usize, ConnId)> = Vec::with_capacity(DEEPEST_MAX + 1);
        for (id, client) in self.server.clients.iter() {
            let bytes = client.backlog_bytes();
            let least = deepest.get(DEEPEST_MAX - 1).map_or(0, |last| last.0);
            // Plain responses are no client's backlog.
            if bytes > least && client.opened {
                let place = deepest.partition_point(|one| one.0 >= bytes);
                deepest.insert(place, (bytes, id));
                deepest.truncate(DEEPEST_MAX);
            }
        }
        let mut told = "{\"clients\":[".to_owned();
        for (place, (bytes, id)) in deepest.into_iter().enumerate() {
            let client = &self.server.clients[id.index];
            let topics = || self.server.hubs[client.route as usize].topics(&client.subscriptions);
            let own = topics().find(|(_, reason)| *reason == Reason::Own);
            let owed = Owed {
                conn: self.server.name_of(id),
                route: &self.routes[client.route as usize].path,
                sub: own.and_then(|(key, _)| user_of(key)),
                bytes,
                frames: client.backlog_frames(),
                full: client.is_blocked(),
                topics: topics().count(),
            };
            told.push_str(if place > 0 { "," } else { "" });
            owed.write(&mut told);
        }
        told + "]}"
    }
}
