//! The operator's endpoints: `/metrics`, `/healthz`, `/readyz` and `/clients` on the admin listener.

use crate::clock::RateLimit;
use crate::engine::client::frame::{frames_bytes, frames_len};
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::demand::Demand;
use crate::engine::handler::Route;
use crate::engine::pubsub::hub::{Hub, Reason};
use crate::engine::pubsub::topic::user_of;
use crate::engine::router::{Router, files};
use crate::engine::server::Server;
use crate::engine::slots::ConnId;
use crate::json;
use crate::observe::backlog_report::{BacklogReport, CLIENTS_MAX, SlowClient};
use crate::observe::metrics::{Gauges, Process};

/// Why `/readyz` is red, if it is.
#[derive(Default)]
pub struct Health {
    /// The server is leaving.
    pub draining: bool,
    /// There is no subscription to Redis.
    pub no_subscriber: bool,
    /// Messages cannot come, though there is a Redis to be had: why.
    pub deaf: Option<String>,
    /// Commands do not reach Redis.
    pub no_commands: bool,
    /// The streams are not read.
    pub no_streams: bool,
}

impl Health {
    /// Returns why messages do not arrive, if they do not.
    pub fn problem(&self) -> Option<&str> {
        let deaf = || self.deaf.as_deref().unwrap_or("no link to Redis");
        self.draining
            .then_some("draining")
            .or_else(|| self.no_subscriber.then(deaf))
            .or(self.no_commands.then_some("no link to Redis for commands"))
            .or(self.no_streams.then_some("no link to Redis for streams"))
    }
}

/// A page about the whole server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminPage {
    Metrics,
    Clients,
    Ready,
}

impl AdminPage {
    pub const ALL: [AdminPage; 3] = [AdminPage::Metrics, AdminPage::Clients, AdminPage::Ready];

    /// The page that a request is entitled to see; `None` for any other request.
    fn of(request: &Request) -> Option<AdminPage> {
        match request.path() {
            _ if request.method() == Method::Options => None,
            "/metrics" => Some(AdminPage::Metrics),
            // A page of another site whose name was pointed here must not read who is connected.
            "/clients" if files::is_address(request.header("host")) => Some(AdminPage::Clients),
            "/readyz" => Some(AdminPage::Ready),
            _ => None,
        }
    }

    /// The answer with these contents. `Ready`: they are the reason why it is not.
    pub fn answer(self, contents: String) -> Response {
        match self {
            AdminPage::Metrics => Response {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Response::text(200, &contents)
            },
            AdminPage::Clients => Response::json(200, contents),
            AdminPage::Ready if contents.is_empty() => Response::text(200, "ok"),
            AdminPage::Ready => Response::text(503, &contents),
        }
    }
}

/// A request for a page that others know more of than the router.
#[derive(Debug)]
pub struct AdminRequest {
    pub id: ConnId,
    pub page: AdminPage,
    method: Method,
}

/// The answers that take more than a look at a counter.
#[derive(Default)]
pub(super) struct Admin {
    process: Process,
    /// For looking at all clients.
    looked: RateLimit,
    slowest: String,
}

/// Answers a request at the admin listener, or leaves it to those who know more.
pub(super) fn on_request(router: &mut Router, id: ConnId, request: &Request) {
    let (page, method) = (AdminPage::of(request), request.method());
    if let (Some(page), Some(requests)) = (page, &mut router.admin_requests) {
        return requests.push(AdminRequest { id, page, method });
    }
    let response = match (page, request.path()) {
        (Some(AdminPage::Metrics), _) => {
            let gauges = router.gauges();
            AdminPage::Metrics.answer(router.server.metrics.render(&gauges))
        }
        (Some(AdminPage::Clients), _) => AdminPage::Clients.answer(router.slowest()),
        (Some(AdminPage::Ready), _) => {
            AdminPage::Ready.answer(router.health.problem().unwrap_or_default().to_owned())
        }
        _ if method == Method::Options => Response::options(),
        (None, "/healthz") => Response::text(200, "ok"),
        (None, "/clients") => Response::text(403, "ask by an IP address or localhost"),
        _ => Response::text(404, "here are /clients, /healthz, /metrics and /readyz"),
    };
    router.server.respond(id, &response.answering(method));
}

/// Answers a request that was left to others.
pub fn answer(server: &mut Server, request: &AdminRequest, contents: &str) {
    let response = request.page.answer(contents.to_owned());
    server.respond(request.id, &response.answering(request.method));
}

impl Admin {
    pub fn gauges(&self, server: &Server, health: &Health, port_connections: usize) -> Gauges {
        let sum = |of: fn(&Hub) -> usize| server.hubs.iter().map(of).sum::<usize>() as u64;
        let demand = |of: &dyn Fn(&Demand) -> usize| server.demand.as_deref().map_or(0, of) as u64;
        Gauges {
            clients: server.clients_len() as u64,
            topics: sum(Hub::topics_len),
            memberships: sum(Hub::subscriptions_len),
            publishers: port_connections as u64,
            history_messages: server.resume.history.len() as u64,
            history_bytes: server.resume.history.bytes() as u64,
            source_up: u64::from(!health.no_subscriber),
            demand_topics: demand(&|demand| demand.topics_len()),
            demand_pending: demand(&|demand| demand.pending_len()),
            demand_waiting: demand(&|demand| demand.waits.len()),
            handshakes_under_way: server.places.handshakes.len() as u64,
            backlog_frames: frames_len() as u64,
            backlog_bytes: frames_bytes() as u64,
            unfinished_bytes: server.clients.unfinished_bytes as u64,
            slots_bytes: (server.clients.bytes() + server.revocations.slots_bytes()) as u64,
            memberships_bytes: sum(Hub::bytes) + demand(&Demand::bytes),
            process: self.process.usage(),
        }
    }

    /// The clients with the deepest backlogs, as JSON. All slots are looked at (0.1 ms for 20,000 clients), so once a second at
    /// most: an earlier request gets the last answer again.
    pub fn slowest(&mut self, server: &mut Server, routes: &[Route]) -> String {
        if self.looked.allow(server.now.millis) {
            server.metrics.backlog_walks += 1;
            self.slowest = slowest(server, routes);
        }
        self.slowest.clone()
    }
}

fn slowest(server: &Server, routes: &[Route]) -> String {
    let mut deepest: Vec<(usize, ConnId)> = Vec::with_capacity(CLIENTS_MAX + 1);
    for (id, client) in server.clients.iter() {
        let bytes = client.backlog_bytes();
        let least = deepest.get(CLIENTS_MAX - 1).map_or(0, |last| last.0);
        // Plain responses are no client's backlog.
        if bytes > least && client.is_opened() {
            let place = deepest.partition_point(|one| one.0 >= bytes);
            deepest.insert(place, (bytes, id));
            deepest.truncate(CLIENTS_MAX);
        }
    }
    let clients = deepest.into_iter().map(|(bytes, id)| {
        let client = &server.clients[id.index];
        let topics = || server.hubs[client.route as usize].topics(&client.subscriptions);
        let own = topics().find(|(_, reason)| *reason == Reason::Own);
        SlowClient {
            conn: server.name_of(id),
            route: &routes[client.route as usize].path,
            sub: own.and_then(|(key, _)| user_of(key)),
            bytes,
            frames: client.backlog_frames(),
            full: client.is_blocked(),
            topics: topics().count(),
        }
    });
    json::encode(&BacklogReport { clients: clients.collect() })
}
