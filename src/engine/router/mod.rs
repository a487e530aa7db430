//! Routing: the calls from the loop to the handlers of the routes.

mod addresses;
pub mod admin;
mod challenges;
pub(crate) mod demand;
mod event_streams;
pub mod files;
mod messages;
mod plain;
pub(crate) mod refusals;
pub(crate) mod saved;
pub mod sources;

use std::any::Any;

use crate::clock::{Millis, RateLimit};
use crate::engine::admission::address_counts::AddressLoad;
use crate::engine::client::deflate::{Deflate, offer};
use crate::engine::client::encoding::Encoding;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::{Method, Request, Response};
use crate::engine::client::{ClientEvent, Unwritten};
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::handler::{Message, Reject, Route, RouteEvent, admits, foreign};
use crate::engine::origin::Origins;
use crate::engine::server::{ADMIN_ROUTE, Server};
use crate::engine::slots::ConnId;
use crate::observe::metrics::Gauges;
use addresses::{CROWDED, peer};
pub use addresses::{ClientAddresses, ProxyPolicy};
pub use admin::Health;
use admin::{Admin, AdminRequest};
use challenges::Challenges;
use files::Files;
use plain::LEAVING;
pub(crate) use refusals::fault_of;
use sources::SourceObserver;

/// The most routes there can be.
pub const ROUTES_MAX: usize = ADMIN_ROUTE as usize;

/// The server and its routes.
pub struct Router {
    /// The connections and the verbs on them.
    pub server: Server,
    /// The addresses of clients.
    pub addresses: ClientAddresses,
    pub health: Health,
    /// Connections of ports, for `/metrics`.
    pub port_connections: usize,
    /// A large payload came since this was last taken.
    pub had_large_payload: bool,
    routes: Vec<Route>,
    /// Additions to the engine, in the order in which they are called.
    pub features: Vec<Box<dyn Feature>>,
    /// Sees the input of sources.
    pub observer: Option<Box<dyn SourceObserver>>,
    /// The page and the files that are served besides WebSockets.
    pub files: Files,
    /// The files of an ACME client.
    pub challenges: Challenges,
    /// Cut from a channel's name.
    prefix: String,
    /// For dropped payloads.
    dropped_logged: RateLimit,
    /// The latest message when the link to Redis was lost, and its cursor.
    pub lost_at: Option<(u64, String)>,
    /// For commands that Redis refused.
    refused_logged: RateLimit,
    admin: Admin,
    /// Requests for pages that others answer, if there are such: see [`admin::answer`].
    pub admin_requests: Option<Vec<AdminRequest>>,
}

impl Router {
    /// A router of at most [`ROUTES_MAX`] routes.
    pub fn new(
        server: Server,
        routes: Vec<Route>,
        prefix: String,
        addresses: ClientAddresses,
    ) -> Router {
        assert!(routes.len() <= ROUTES_MAX, "routes are numbered in a byte");
        Router {
            server,
            addresses,
            health: Health::default(),
            port_connections: 0,
            had_large_payload: false,
            routes,
            features: Vec::new(),
            observer: None,
            files: Files::default(),
            challenges: Challenges::default(),
            prefix,
            dropped_logged: RateLimit::default(),
            lost_at: None,
            refused_logged: RateLimit::default(),
            admin: Admin::default(),
            admin_requests: None,
        }
    }

    /// The clients with the deepest backlogs, as JSON.
    pub fn slowest(&mut self) -> String {
        self.admin.slowest(&mut self.server, &self.routes)
    }

    /// The values of this moment, beside the counters.
    pub fn gauges(&self) -> Gauges {
        self.admin.gauges(&self.server, &self.health, self.port_connections)
    }

    /// Adds a feature.
    pub fn add_feature<F: Feature + 'static>(&mut self, make: impl FnOnce(&mut Server) -> F) {
        let feature = make(&mut self.server);
        self.features.push(Box::new(feature));
    }

    /// Calls all features for an event.
    pub fn notify_features(&mut self, event: FeatureEvent<'_>) {
        self.features.iter_mut().for_each(|feature| feature.on_event(&mut self.server, event));
    }

    /// The earliest time at which a feature must be called again.
    pub fn features_deadline(&self) -> Option<Millis> {
        let of_features = self.features.iter().filter_map(|feature| feature.deadline(&self.server));
        // A feature tells of them.
        let has_changes = self.addresses.counts.has_changes();
        of_features.chain(has_changes.then_some(self.server.now.millis)).min()
    }

    /// Ends a turn for the features, which first learn of users that came and went.
    pub fn end_turn(&mut self) {
        for change in self.server.users.take() {
            self.notify_features(FeatureEvent::User(&change));
        }
        self.notify_features(FeatureEvent::TurnEnd);
    }

    /// Begins a drain: handshakes are refused from now on.
    pub fn drain(&mut self) {
        self.health.draining = true;
        self.server.users.ignore();
        self.notify_features(FeatureEvent::Drain);
    }

    /// The paths of the routes, in the order of their numbers.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| route.path.as_str())
    }

    /// Gives a route, if there is one with this path, its new origins, and its handler the new settings.
    pub fn reload_route(&mut self, path: &str, origins: Origins, settings: &dyn Any) {
        let Some(number) = self.routes.iter().position(|route| route.path == path) else { return };
        let route = &mut self.routes[number];
        route.origins = origins;
        let event = RouteEvent::Reload(settings);
        route.handler.on_event(&mut self.server.scope(number as u8), event);
    }

    /// Tells the handler of a route of something in another process.
    pub fn on_elsewhere(&mut self, route: u8, event: RouteEvent<'_>) {
        if let Some(of) = self.routes.get_mut(route as usize) {
            of.handler.on_event(&mut self.server.scope(route), event);
        }
    }

    /// Something came from a client. `replies`: what its codec answered so far.
    pub fn on_event(&mut self, id: ConnId, event: ClientEvent, replies: Option<Vec<u8>>) {
        let replies = replies.map(Frame::ready);
        if let ClientEvent::Closed = event {
            return self.server.finish(id, replies.as_ref(), Unwritten::Sent);
        }
        if let Some(replies) = replies {
            self.server.send(id, &replies);
        }
        match event {
            ClientEvent::Request(request) => self.on_request(id, request),
            ClientEvent::Refused(response) => {
                if !self.is_admin(id) {
                    self.complain_of_answer(id, None, &response);
                }
                self.server.respond(id, &response);
            }
            ClientEvent::Unproxied => {
                let why = "sent no PROXY header of version 2, or one too long";
                let address = peer(&mut self.server, id);
                self.addresses.count_unproxied(&mut self.server, address, why);
                self.server.terminate(id);
            }
            ClientEvent::Text(text) => self.on_message(id, Message::Text(text.as_str())),
            ClientEvent::Binary(bytes) => self.on_message(id, Message::Binary(&bytes)),
            ClientEvent::Violation(close) => self.server.close(id, close),
            ClientEvent::BrokenClose(close) => {
                self.server.close(id, close);
                self.server.answered(id);
            }
            ClientEvent::Answered => self.server.answered(id),
            ClientEvent::Stray => {
                self.admit_message(id, false);
            }
            ClientEvent::Closed => {}
        }
    }

    /// Closes a connection whose time is over with `code`; its handler may give a reason.
    pub fn on_timeout(&mut self, id: ConnId, code: u16) {
        if let Some(route) = self.server.client(id).map(|client| client.route)
            && let Some(of) = self.routes.get_mut(route as usize)
        {
            let event = RouteEvent::Timeout { id, code };
            of.handler.on_event(&mut self.server.scope(route), event);
        }
        self.server.close(id, Close::plain(code));
    }

    /// A connection is gone: its handler is told, its slot is freed.
    pub fn reap(&mut self, id: ConnId) {
        let Some(client) = self.server.client(id) else { return };
        let (opened, route) = (client.is_opened(), client.route);
        if opened {
            self.routes[route as usize].handler.on_close(&mut self.server.scope(route), id);
        }
        self.addresses.leave(id);
        self.server.free(id);
    }

    /// A client's message goes to the handler of its route. A deferred one was counted when it came.
    pub fn on_message(&mut self, id: ConnId, message: Message<'_>) {
        let Some(route) = self.server.client(id).map(|client| client.route) else { return };
        let options = &self.server.options[route as usize];
        let (takes_binary, asks_for_topics) = (options.takes_binary, options.asks_for_topics);
        let is_admitted = match message {
            Message::Text(text) => self.admit_message(id, asks_for_topics(text)),
            Message::Binary(_) => self.admit_message(id, false),
            Message::Deferred(_) => true,
        };
        self.server.metrics.commands += u64::from(!matches!(message, Message::Deferred(_)));
        if !is_admitted {
            return;
        }
        if matches!(message, Message::Binary(_)) && !takes_binary {
            return self.server.close(id, Close::UNSUPPORTED);
        }
        let handler = &mut self.routes[route as usize].handler;
        handler.on_message(&mut self.server.scope(route), id, message);
    }

    /// Charges a client for a message. Returns whether it may be handled: a client that sends too many is closed. Topics are charged
    /// for by the handler, one by one.
    fn admit_message(&mut self, id: ConnId, is_for_topics: bool) -> bool {
        let allowance = self.server.allowance();
        let Some(client) = self.server.client(id) else { return false };
        let is_over = match is_for_topics {
            true => allowance.is_flooded(client.spend(0)),
            false => allowance.is_spent(client.spend(allowance.command)),
        };
        if is_over {
            self.server.close(id, Close::busy(1000, "commands_per_second_max: send less often"));
        }
        !is_over
    }

    fn is_admin(&mut self, id: ConnId) -> bool {
        self.server.client(id).is_some_and(|client| client.route == ADMIN_ROUTE)
    }

    fn on_request(&mut self, id: ConnId, request: Request) {
        let method = request.method();
        if self.is_admin(id) {
            return admin::on_request(self, id, &request);
        }
        let number = self.routes.iter().position(|route| route.path == request.path());
        if let Some(response) = plain::answer_probe(self.health.draining, &request) {
            let route = number.map(|number| (&self.routes[number], &self.server.options[number]));
            let response = event_streams::preflight(route, &request, response);
            return self.server.respond(id, &response.answering(method));
        }
        let request = self.addresses.locate(&mut self.server, id, request);
        if self.addresses.load(id) == AddressLoad::FarAbove {
            return self.refuse_crowded(id, method);
        }
        let accepted = match number {
            Some(number) => self.accept(id, number, &request),
            None => Err(self
                .files
                .answer(&request)
                .or_else(|| self.challenges.answer(&mut self.server, &request))
                .unwrap_or_else(|| plain::no_such_path(&self.routes, &self.server.options))),
        };
        match (number, accepted) {
            (Some(number), Ok(accepted)) => self.open(id, number as u8, &request, accepted),
            (_, Ok(_)) => unreachable!("only a route accepts"),
            (_, Err(response)) => {
                self.complain_of_answer(id, Some(&request), &response);
                let response = match number {
                    Some(number)
                        if event_streams::is_for(&self.server.options[number], &request) =>
                    {
                        event_streams::shared(&self.routes[number], &request, response)
                    }
                    _ => response,
                };
                self.server.respond(id, &response.answering(method));
            }
        }
    }

    /// Counts a client under the address of its PROXY header, though its request is not complete.
    pub(crate) fn on_announced(&mut self, id: ConnId) {
        if self.addresses.count_announced(&mut self.server, id) {
            self.refuse_crowded(id, Method::Get);
        }
    }

    /// Refuses a connection of an address that is far above its limit, and frees its slot at once: while it lingers it would
    /// take the slot from the clients of all others.
    fn refuse_crowded(&mut self, id: ConnId, method: Method) {
        let response = Response::text(429, CROWDED).with("Retry-After", "5").answering(method);
        self.complain_of_answer(id, None, &response);
        self.server.turn_away(id, &response);
    }

    /// The answer that makes a handshake a WebSocket or an event stream, or the one that refuses it.
    fn accept(
        &mut self,
        id: ConnId,
        number: usize,
        request: &Request,
    ) -> Result<(Encoding, Vec<u8>), Response> {
        let is_stream = event_streams::is_for(&self.server.options[number], request);
        if self.health.draining
            || self.server.is_refusing
            || self.server.places.is_full(&self.server.clients, &self.server.bounds)
        {
            let text = if self.health.draining { LEAVING } else { "this server is full" };
            return Err(Response::text(503, text).with("Retry-After", "5"));
        }
        let is_above = self.addresses.load(id) > AddressLoad::Within;
        if is_above
            && !((request.is_upgrade() || is_stream)
                && self.addresses.has_unresponsive_neighbour(&self.server, id))
        {
            return Err(Response::text(429, CROWDED).with("Retry-After", "5"));
        }
        if is_stream {
            return event_streams::accept(id, &self.routes[number], request);
        }
        let options = &self.server.options[number];
        let extension = match options.deflate {
            Deflate::Off => None,
            _ => offer::accept(request.lines("sec-websocket-extensions")),
        };
        let accepted = request.accept(options.protocol(request), extension)?;
        let encoding = if extension.is_some() { Encoding::Deflated } else { Encoding::WebSocket };
        Ok((encoding, accepted))
    }

    /// Reports a request that gets this response to the operator; `request`: if its head could be read.
    pub(crate) fn complain_of_answer(
        &mut self,
        id: ConnId,
        request: Option<&Request>,
        response: &Response,
    ) {
        let Router { server, routes, health, .. } = self;
        refusals::of_answer(server, routes, health.draining, id, (request, response));
    }

    /// The reason why no client can receive from a channel, as an error for its publisher; `None` if one could.
    pub fn refusal_of(&self, channel: &[u8]) -> Option<String> {
        let is_taken = self
            .features
            .iter()
            .any(|feature| feature.channel().map(str::as_bytes) == Some(channel));
        let fault = fault_of(&self.prefix, channel).filter(|_| !is_taken)?;
        Some(format!("ERR nobody hears this: {fault}"))
    }

    fn open(
        &mut self,
        id: ConnId,
        number: u8,
        request: &Request,
        (encoding, accepted): (Encoding, Vec<u8>),
    ) {
        let accepted = Frame::ready(accepted);
        let is_stream = encoding.is_one_way();
        self.server.open(id, number, encoding);
        let route = &mut self.routes[number as usize];
        // By a name that nobody can point here (DNS rebinding).
        let is_of_page = self.files.has_page_for(request)
            && files::is_address(request.header("host"))
            && admits(&Origins::SameHost, request);
        let is_admitted = match is_stream {
            true => event_streams::admits(&route.origins, request),
            false => admits(&route.origins, request),
        };
        let result = if is_of_page || is_admitted {
            route.handler.on_open(&mut self.server.scope(number), id, request)
        } else {
            refusals::of_page(&mut self.server, id, request);
            Err(Reject::Close(foreign(request)))
        };
        let client = self.server.client(id).expect("a verb frees nothing");
        match result {
            Ok(()) => {
                client.set_opened();
                client.queue_first(&accepted);
                self.server.metrics.opened += 1;
                self.server.metrics.event_streams += u64::from(is_stream);
                self.server.metrics.deflate_opened += u64::from(encoding == Encoding::Deflated);
                self.server.schedule_flush(id, crate::engine::pending_writes::Lane::Urgent);
                if self.server.places.opened_len(&self.server.clients)
                    > self.server.bounds.clients_max
                {
                    self.server.vacate_unproven();
                }
                self.addresses.leave_crowd(&mut self.server, id);
            }
            Err(Reject::Http(response)) => {
                self.complain_of_answer(id, Some(request), &response);
                let route = &self.routes[number as usize];
                let response = match is_stream {
                    true => event_streams::shared(route, request, response),
                    false => response,
                };
                self.server.refuse(id, &response);
            }
            Err(Reject::Close(close)) if is_stream => {
                self.server.complain_of_close(id, &close);
                let route = &self.routes[number as usize];
                self.server.refuse(id, &event_streams::refusal(route, request, &close));
            }
            Err(Reject::Close(close)) => {
                client.queue_first(&accepted);
                self.server.metrics.handshakes_rejected += 1;
                self.server.close(id, close);
            }
        }
    }
}
