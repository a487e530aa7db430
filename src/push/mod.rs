//! The product: decides which client may hear a topic, as a [`Handler`] like any other.
//!
//! The subscriptions of a connection are in the hub, each with its [`Reason`]. Kept here is only what few connections have: a
//! token that is still to come, and rights beyond those of the route.

mod command;
pub mod explain;
mod quota;
mod rights;
pub mod token;
mod upstream;
mod welcome;
pub mod wire;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use crate::config::{self, Format, RouteConfig, RouteSettings};
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::{Request, Response};
use crate::engine::client::outbox::Slow;
use crate::engine::handler::{Handler, Message, Reject, RouteEvent};
use crate::engine::origin::Origins;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::user_topic;
use crate::engine::server::{ReplayItem, RouteOptions, Scope};
use crate::engine::slots::ConnId;
use command::{Action, Auth, ClientCommand, Reference};
pub use rights::grants;
use rights::{TopicRefusal, TopicRights, echo, own_topic};
use token::place::{MissingToken, TokenPlace, find};
use token::{Identity, Keys, TokenRefusal};
use upstream::Upstream;
use welcome::{send_refusals, topics_of, welcome};

/// The subprotocol of the JSON frames.
pub const PROTOCOL: &str = "oneloop.v1";

/// The handler of a route on which users subscribe to topics.
pub struct Push {
    keys: Rc<Keys>,
    format: Format,
    /// Origins whose pages may present a cookie.
    origins: Origins,
    single_session: bool,
    rights: TopicRights,
    /// Connections without a token so far, and what they presented in its place.
    waiting: HashMap<ConnId, MissingToken>,
    slow: config::Slow,
    upstream: Option<Upstream>,
}

impl Push {
    /// A route with these settings, whose tokens are checked with these keys.
    ///
    /// # Errors
    /// A sentence that names the malformed grant.
    pub fn new(keys: Rc<Keys>, route: &RouteConfig) -> Result<Push, String> {
        Ok(Push {
            keys,
            format: route.format,
            origins: route.origins.clone(),
            single_session: route.single_session,
            rights: TopicRights::new(route)?,
            waiting: HashMap::new(),
            slow: route.slow,
            upstream: route.upstream.clone().map(Upstream::new),
        })
    }

    /// Takes over new settings. Connected clients keep what they were granted until their token ends or they renew it.
    fn reload(&mut self, RouteSettings { jwt, route }: &RouteSettings) {
        let keys = match jwt.has_key() {
            true => Keys::new(jwt).map(Rc::new),
            // The process generated its secret itself.
            false => Ok(Rc::clone(&self.keys)),
        };
        match keys.and_then(|keys| Push::new(keys, route)) {
            Ok(Push { keys, origins, rights, single_session, .. }) => {
                (self.keys, self.origins, self.single_session) = (keys, origins, single_session);
                self.rights.reload(rights);
            }
            Err(problem) => log::error!("{} stays as it was: {problem}", route.path),
        }
    }

    /// Checks a token, and counts the time that it takes.
    fn check(&self, server: &mut Scope<'_>, token: &str) -> Result<Identity, TokenRefusal> {
        let (checked, microseconds) = self.keys.check_at_a_price(token, server.now().unix);
        server.count_costly(microseconds);
        checked
    }

    /// Subscribes a user's connection to the topics of its token. Returns those that it may not have.
    fn enter(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        identity: &Identity,
    ) -> Result<Vec<TopicRefusal>, Close> {
        let own = user_topic(&identity.sub).expect("a checked token has a valid sub");
        let max = server.bounds().clients_per_user_max;
        if self.single_session {
            for older in server.owners(&own) {
                server.close(older, Close::REPLACED);
            }
        }
        if max > 0 {
            let others = server.owners_anywhere(&own);
            // The user's phone may have changed its network, which leaves a dead connection that nobody has noticed yet.
            if others.len() >= max && server.vacate_unresponsive(others.into_iter(), 0).is_none() {
                return Err(Close::busy(1000, "clients_per_user_max: close another connection"));
            }
        }
        server.welcome(id);
        server.subscribe(id, &own, Reason::Own);
        Ok(self.rights.grant(server, id, identity))
    }

    /// Completes a handshake that carries everything: `topic`, possibly several times, asks for more than the token grants, and
    /// `since` for the messages missed on all of these topics.
    fn complete(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        sub: Option<&str>,
        request: &Request,
        excess: Vec<TopicRefusal>,
    ) {
        let mut refused = self.rights.subscribe_all(server, id, request.query_all("topic"));
        refused.extend(excess);
        if self.format == Format::Json {
            welcome(server, id, sub, request.query("since"));
            send_refusals(server, id, &refused);
        }
    }

    /// Obeys `auth`: the token that was awaited, or a newer one.
    fn authenticate(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        auth: &Auth<'_>,
        reference: Option<Reference<'_>>,
    ) {
        let result = self.check(server, &auth.token).map_err(|refusal| bad_token(&refusal));
        let result = result.and_then(|identity| {
            let excess = match own_topic(server, id) {
                Some(own) if user_topic(&identity.sub).as_ref() != Some(&own) => {
                    let detail = format!("a renewal must keep {}", self.keys.user_claim());
                    Err(bad_token(&TokenRefusal::Claims(detail.into())))
                }
                Some(_) => Ok(self.rights.renew(server, id, &identity)),
                None => {
                    // The token replaces what the client could have without one.
                    for (key, reason) in server.topics(id) {
                        if reason != Reason::Joined {
                            server.unsubscribe(id, &key);
                        }
                    }
                    self.enter(server, id, &identity)
                }
            };
            excess.map(|excess| (identity, excess))
        });
        let (identity, excess) = match result {
            Ok(authenticated) => authenticated,
            Err(close) => return server.close(id, close),
        };
        let mut refused = Vec::new();
        if self.waiting.remove(&id).is_some() {
            let asked = auth.topics.iter().map(|topic| Cow::Borrowed(&**topic));
            refused = self.rights.subscribe_all(server, id, asked);
            if self.format == Format::Json {
                welcome(server, id, Some(&identity.sub), auth.since.as_deref());
            }
        }
        refused.extend(excess);
        let text = wire::authed(&identity.sub, &topics_of(server, id), reference);
        server.send(id, &Frame::text(&text));
        if self.format == Format::Json {
            send_refusals(server, id, &refused);
        }
    }

    fn obey(&mut self, server: &mut Scope<'_>, id: ConnId, text: &str, command: ClientCommand<'_>) {
        let reference = command.reference;
        let missing = self.waiting.get(&id).copied();
        let answer = match command.action {
            Action::Ping { wants_cursor } => {
                let cursor = wants_cursor.then(|| server.place_of(id)).flatten();
                wire::pong(cursor.as_deref(), reference)
            }
            Action::Auth(_) => return server.defer(id, text),
            _ if missing.is_some() => {
                let missing = missing.filter(|missing| *missing != MissingToken::Nothing);
                return server.close(id, no_token(missing.unwrap_or(MissingToken::Command)));
            }
            Action::Subscribe(topics) => {
                let subscribe = |topic: &str, server: &mut Scope<'_>| {
                    let subscribed = self.rights.subscribe(server, id, topic);
                    subscribed.map(|()| wire::subscribed(topic, reference))
                };
                return answer_each(server, id, &topics, reference, subscribe);
            }
            Action::Unsubscribe(topics) => {
                let unsubscribe = |topic: &str, server: &mut Scope<'_>| {
                    let unsubscribed = self.rights.unsubscribe(server, id, topic);
                    unsubscribed.map(|()| wire::unsubscribed(topic, reference))
                };
                return answer_each(server, id, &topics, reference, unsubscribe);
            }
            Action::Send { data, topic } => {
                match self.pass_on(server, id, data, topic.as_deref(), reference) {
                    Ok(()) => return,
                    Err(code) => wire::error(code, topic.as_deref().and_then(echo), reference),
                }
            }
        };
        server.send(id, &Frame::text(&answer));
    }
}

/// Answers a command for each topic that it names. Beyond `topics_per_client_max` of them, one error stands for the rest.
fn answer_each(
    server: &mut Scope<'_>,
    id: ConnId,
    topics: &[Cow<'_, str>],
    reference: Option<Reference<'_>>,
    mut obey: impl FnMut(&str, &mut Scope<'_>) -> Result<String, &'static str>,
) {
    if topics.is_empty() {
        // Reading it was not free.
        server.count_topic(id);
    }
    for (number, topic) in topics.iter().enumerate() {
        let is_beyond = number >= server.bounds().topics_per_client_max;
        let answer = if is_beyond {
            server.metrics().topics_refused += 1;
            wire::error("too_many_topics", None, reference)
        } else if !server.count_topic(id) {
            server.metrics().topics_refused += 1;
            wire::error("busy", echo(topic), reference)
        } else {
            obey(topic, server).unwrap_or_else(|code| wire::error(code, echo(topic), reference))
        };
        server.send(id, &Frame::text(&answer));
        if is_beyond {
            return;
        }
    }
}

impl Handler for Push {
    fn on_open(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        request: &Request,
    ) -> Result<(), Reject> {
        let cookie = self.keys.cookie();
        let Some((token, place)) = find(request, cookie, &self.origins) else {
            if !self.rights.has_anonymous() {
                self.waiting.insert(id, MissingToken::of(request, cookie.is_some()));
                server.await_token(id, request.address());
                return Ok(());
            }
            let excess = self.rights.grant_anonymous(server, id);
            self.complete(server, id, None, request, excess);
            return Ok(());
        };
        let identity = self.check(server, &token).map_err(|refusal| match place {
            TokenPlace::Header => Reject::Http(unauthorized(&refusal)),
            TokenPlace::Address => Reject::Close(bad_token(&refusal)),
        })?;
        let excess = self.enter(server, id, &identity).map_err(Reject::Close)?;
        self.complete(server, id, Some(&identity.sub), request, excess);
        Ok(())
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        match message {
            // A mini program cannot send ping frames.
            Message::Text("ping") => server.send(id, &Frame::text("pong")),
            Message::Text(text) => match ClientCommand::parse(text) {
                Ok(command) => self.obey(server, id, text, command),
                Err(malformed) => {
                    let reason = wire::refusal("command", malformed.0);
                    server.close(id, Close::BAD_COMMAND.because(reason));
                }
            },
            Message::Deferred(text) => {
                if let Ok(ClientCommand { action: Action::Auth(auth), reference }) =
                    ClientCommand::parse(text)
                {
                    self.authenticate(server, id, &auth, reference);
                }
            }
            Message::Binary(_) => unreachable!("the route takes no binary messages"),
        }
    }

    fn on_event(&mut self, server: &mut Scope<'_>, event: RouteEvent<'_>) {
        let (id, code) = match event {
            RouteEvent::Timeout { id, code } => (id, code),
            RouteEvent::Reload(settings) => {
                let settings = settings.downcast_ref();
                return self
                    .reload(settings.expect("the settings of a route on which users subscribe"));
            }
            RouteEvent::Answer { number, answer } => {
                return self.tell_sender(server, number, answer);
            }
        };
        match self.waiting.get(&id) {
            Some(missing) if code == Close::NO_TOKEN.code => server.close(id, no_token(*missing)),
            None if code == Close::EXPIRED.code => server.close(id, Close::EXPIRED),
            _ => {}
        }
    }

    fn options(&self) -> RouteOptions {
        RouteOptions {
            slow: match (self.slow, self.format) {
                (config::Slow::Close, _) => Slow::Close,
                (config::Slow::KeepNewest, _) => Slow::KeepNewest,
                (config::Slow::DropOldest, Format::Raw) => Slow::DropOldest(None),
                (config::Slow::DropOldest, Format::Json) => {
                    Slow::DropOldest(Some(|from| Frame::text(&wire::gap(from))))
                }
            },
            encode: match self.format {
                Format::Raw => |_| None,
                Format::Json => |item| Some(encode(item)),
            },
            protocols: token::place::protocols(),
            asks_for_topics: command::asks_for_topics,
            ..RouteOptions::default()
        }
    }

    fn on_publish(&mut self, server: &mut Scope<'_>, topic: &str, payload: &[u8]) -> usize {
        let format = self.format;
        server.publish(topic, |cursor| match format {
            Format::Raw => Frame::message(payload),
            Format::Json => enveloped(cursor, topic, payload),
        })
    }

    fn on_close(&mut self, _server: &mut Scope<'_>, id: ConnId) {
        self.waiting.remove(&id);
        self.rights.forget(id);
    }
}

/// The frame of a message that a client missed, or of the notice that some may be missing.
fn encode(item: &ReplayItem<'_>) -> Frame {
    match item {
        ReplayItem::Message { cursor, topic, payload } => enveloped(cursor, topic, payload),
        ReplayItem::Gap { from } => Frame::text(&wire::gap(from)),
    }
}

/// The frame of a message.
fn enveloped(cursor: &str, topic: &str, payload: &[u8]) -> Frame {
    let length = wire::message_length(topic, cursor, payload);
    Frame::json(length, |out| wire::message(topic, cursor, payload, out))
}

fn bad_token(refusal: &TokenRefusal) -> Close {
    let close = if refusal.is_for_now() { Close::EARLY } else { Close::BAD_TOKEN };
    close.because(reason_of(refusal))
}

fn no_token(missing: MissingToken) -> Close {
    Close::NO_TOKEN.because(wire::refusal("no_token", &missing.advice()))
}

/// The answer to a bad token in a header (RFC 6750 section 3.1).
fn unauthorized(refusal: &TokenRefusal) -> Response {
    let response = Response::json(401, reason_of(refusal))
        .with("WWW-Authenticate", "Bearer error=\"invalid_token\"");
    match refusal {
        TokenRefusal::Early { retry_seconds, .. } => {
            response.with("Retry-After", retry_seconds.to_string())
        }
        _ => response,
    }
}

fn reason_of(refusal: &TokenRefusal) -> String {
    match refusal {
        TokenRefusal::Early { retry_seconds, .. } => {
            wire::refusal_for_now(refusal.name(), &refusal.detail(), retry_seconds * 1000)
        }
        _ => wire::refusal(refusal.name(), &refusal.detail()),
    }
}
