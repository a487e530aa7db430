//! The product: decides who may hear what, as a [`Handler`] like any other.
//!
//! What a connection is and listens to stands in the hub: its own topic is there for the reason [`Reason::Own`]. Here is
//! kept only what few connections have: a token that is still to come, and rights beyond those of the route.

mod command;
pub mod explain;
mod orders;
mod quota;
mod subscriptions;
pub mod token;
mod upstream;
mod welcome;
pub mod wire;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::config::{self, Config, Format, RouteConfig};
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::{Request, Response};
use crate::engine::client::outbox::Slow;
use crate::engine::handler::{Handler, Message, Reject, RouteEvent};
use crate::engine::origin::Origins;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::{Grant, text_of_key, user_topic};
use crate::engine::server::{ReplayItem, RouteOptions, Scope};
use crate::engine::slots::ConnId;
use crate::features::control::order::Order;
use command::{Action, Auth, ClientCommand, Reference};
use subscriptions::{echo, heard, join_all, own_topic};
use token::place::{MissingToken, TokenPlace, instead, presented};
use token::{Identity, KeySettings, Keys, TokenRefusal};
use upstream::Upstream;

/// The subprotocol of the JSON frames.
pub const PROTOCOL: &str = "oneloop.v1";

/// What a connection may do beyond what its route's settings say.
#[derive(Default)]
struct Rights {
    may: Vec<Grant>,
    admin: bool,
}

/// The handler of a route on which users hear their topics.
pub struct Push {
    keys: Rc<Keys>,
    format: Format,
    /// Origins whose pages may show a cookie.
    origins: Origins,
    topics: Vec<Grant>,
    may: Vec<Grant>,
    anonymous: Vec<Grant>,
    single_session: bool,
    /// Connections that have shown no token yet, and what they showed instead.
    waiting: HashMap<ConnId, MissingToken>,
    /// Of those whose token carries `may` or `admin`.
    rights: HashMap<ConnId, Rights>,
    slow: config::Slow,
    upstream: Option<Upstream>,
}

impl Push {
    /// A route with these settings, whose tokens are checked with these keys.
    ///
    /// # Errors
    /// A sentence that names the malformed grant.
    pub fn new(keys: Rc<Keys>, route: &RouteConfig) -> Result<Push, String> {
        let anonymous = grants("anonymous", &route.anonymous)?;
        if let Some(grant) = anonymous.iter().find(|grant| grant.is_user()) {
            return Err(format!(
                "anonymous: `{grant}` would be a user's topic: those need a token"
            ));
        }
        Ok(Push {
            keys,
            format: route.format,
            origins: route.origins.clone(),
            topics: grants("topics", &route.topics)?,
            may: grants("may", &route.may)?,
            anonymous,
            single_session: route.single_session,
            waiting: HashMap::new(),
            rights: HashMap::new(),
            slow: route.slow,
            upstream: route.upstream.clone().map(Upstream::new),
        })
    }

    /// A user's connection begins to listen. Returns the keys above `topics_per_client_max`.
    fn enter(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        identity: &Identity,
    ) -> Result<Vec<String>, Close> {
        let own = user_topic(&identity.sub).expect("a checked token has a valid sub");
        let max = server.bounds().clients_per_user_max;
        if self.single_session {
            for older in server.owners(&own) {
                server.close(older, Close::REPLACED);
            }
        }
        if max > 0 {
            let twins = server.owners_anywhere(&own);
            // A twin whose phone has changed the network since is dead, and nobody has noticed yet.
            if twins.len() >= max && server.vacate_dead(twins.into_iter(), 0).is_none() {
                return Err(Close::busy(1000, "clients_per_user_max: close another connection"));
            }
        }
        server.welcome(id);
        server.subscribe(id, &own, Reason::Own);
        Ok(self.grant(server, id, identity))
    }

    /// What a token says beyond who its user is. Returns the keys above `topics_per_client_max`.
    fn grant(&mut self, server: &mut Scope<'_>, id: ConnId, identity: &Identity) -> Vec<String> {
        let granted = identity.topics.iter().chain(&self.topics);
        let excess = join_all(server, id, granted.flat_map(|grant| grant.keys(identity.admin)));
        if identity.admin || !identity.may.is_empty() {
            let rights = Rights { may: identity.may.clone(), admin: identity.admin };
            self.rights.insert(id, rights);
        } else {
            self.rights.remove(&id);
        }
        server.close_at(id, identity.expires, Close::EXPIRED.code);
        excess
    }

    /// The same user's newer token: it replaces what the older one granted. What was asked for stays as far as the newer one
    /// permits it.
    fn renew(&mut self, server: &mut Scope<'_>, id: ConnId, identity: &Identity) -> Vec<String> {
        let granted: HashSet<&str> = identity
            .topics
            .iter()
            .chain(&self.topics)
            .flat_map(|grant| grant.keys(identity.admin))
            .collect();
        for (key, reason) in server.topics(id) {
            let stays = match reason {
                Reason::Own | Reason::Joined => true,
                _ if granted.contains(key.as_str()) => {
                    server.set_reason(id, &key, Reason::Granted);
                    true
                }
                Reason::Asked => Grant::parse(&text_of_key(&key)).is_some_and(|wanted| {
                    let mut may = identity.may.iter().chain(&self.may);
                    may.any(|grant| grant.permits(identity.admin, &wanted))
                }),
                Reason::Granted => false,
            };
            if !stays {
                server.unsubscribe(id, &key);
            }
        }
        self.grant(server, id, identity)
    }

    /// The command `auth`: the token that was awaited, or a newer one.
    fn authenticate(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        auth: &Auth<'_>,
        reference: Option<Reference<'_>>,
    ) {
        let (checked, microseconds) = self.keys.check_at_a_price(&auth.token, server.now().unix);
        server.count_costly(microseconds);
        let identity = match checked {
            Ok(identity) => identity,
            Err(refusal) => return server.close(id, bad_token(&refusal)),
        };
        let own = own_topic(server, id);
        let result = match &own {
            Some(own) if user_topic(&identity.sub).as_ref() != Some(own) => {
                let detail = format!("a renewal must keep {}", self.keys.user_claim());
                Err(bad_token(&TokenRefusal::Claims(detail.into())))
            }
            Some(_) => Ok(self.renew(server, id, &identity)),
            None => {
                // What an anonymous client heard ends: the token says what it hears from now on.
                for (key, reason) in server.topics(id) {
                    if reason != Reason::Joined {
                        server.unsubscribe(id, &key);
                    }
                }
                self.enter(server, id, &identity)
            }
        };
        let excess = match result {
            Ok(excess) => excess,
            Err(close) => return server.close(id, close),
        };
        if self.waiting.remove(&id).is_some() {
            let asked = auth.topics.iter().map(|topic| Cow::Borrowed(&**topic));
            let refused = self.ask_for(server, id, asked);
            self.welcome(server, id, Some(&identity.sub), auth.since.as_deref());
            let text = wire::authed(&identity.sub, &heard(server, id), reference);
            server.send(id, &Frame::text(&text));
            self.tell_refused(server, id, &refused);
        } else {
            let text = wire::authed(&identity.sub, &heard(server, id), reference);
            server.send(id, &Frame::text(&text));
        }
        self.tell_excess(server, id, &excess);
    }

    fn obey(&mut self, server: &mut Scope<'_>, id: ConnId, text: &str, command: ClientCommand<'_>) {
        let reference = command.reference;
        let instead = self.waiting.get(&id).copied();
        let answer = match command.action {
            Action::Ping { wants_cursor } => {
                let cursor = wants_cursor.then(|| server.place_of(id)).flatten();
                wire::pong(cursor.as_deref(), reference)
            }
            Action::Auth(_) => return server.defer(id, text),
            _ if instead.is_some() => {
                let instead = instead.filter(|instead| *instead != MissingToken::Nothing);
                return server.close(id, no_token(instead.unwrap_or(MissingToken::Command)));
            }
            Action::Subscribe(topics) => {
                return self.each_topic(server, id, &topics, reference, Push::subscribe);
            }
            Action::Unsubscribe(topics) => {
                return self.each_topic(server, id, &topics, reference, Push::unsubscribe);
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

impl Handler for Push {
    fn on_open(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        request: &Request,
    ) -> Result<(), Reject> {
        let cookie = self.keys.cookie();
        let in_cookie =
            || cookie.and_then(|name| token::cookie::token(request, name, &self.origins));
        let Some((token, place)) = presented(request, in_cookie) else {
            if self.anonymous.is_empty() {
                self.waiting.insert(id, instead(request, cookie.is_some()));
                server.await_token(id, request.address());
                return Ok(());
            }
            let keys = self.anonymous.iter().flat_map(|grant| grant.keys(false));
            let excess = join_all(server, id, keys);
            self.arrive(server, id, None, request, &excess);
            return Ok(());
        };
        let (checked, microseconds) = self.keys.check_at_a_price(&token, server.now().unix);
        server.count_costly(microseconds);
        let identity = checked.map_err(|refusal| match place {
            TokenPlace::Header => Reject::Http(unauthorized(&refusal)),
            TokenPlace::Address => Reject::Close(bad_token(&refusal)),
        })?;
        let excess = self.enter(server, id, &identity).map_err(Reject::Close)?;
        self.arrive(server, id, Some(&identity.sub), request, &excess);
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

    fn on_event(&mut self, server: &mut Scope<'_>, event: RouteEvent) {
        let (id, code) = match event {
            RouteEvent::Timeout { id, code } => (id, code),
            RouteEvent::Answer { number, answer } => {
                return self.tell_sender(server, number, answer);
            }
        };
        match self.waiting.get(&id) {
            Some(instead) if code == Close::NO_TOKEN.code => server.close(id, no_token(*instead)),
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
        self.rights.remove(&id);
    }

    fn on_order(&mut self, server: &mut Scope<'_>, order: &Order) -> usize {
        self.carry_out(server, order)
    }

    /// Clients who are connected keep what they were granted, until they renew their token or it ends.
    fn on_reload(&mut self, config: &Config, route: &RouteConfig) {
        let keys = match config.jwt.has_key() {
            true => Keys::new(&KeySettings::of(&config.jwt)).map(Rc::new),
            // The process made its secret itself.
            false => Ok(Rc::clone(&self.keys)),
        };
        match keys.and_then(|keys| Push::new(keys, route)) {
            Ok(Push { keys, origins, topics, may, anonymous, single_session, .. }) => {
                (self.keys, self.origins, self.single_session) = (keys, origins, single_session);
                (self.topics, self.may, self.anonymous) = (topics, may, anonymous);
            }
            Err(problem) => log::error!("{} stays as it was: {problem}", route.path),
        }
    }
}

/// The frame of a message that a client missed, or of the notice that messages may be missing.
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

fn no_token(instead: MissingToken) -> Close {
    Close::NO_TOKEN.because(wire::refusal("no_token", &instead.advice()))
}

/// RFC 6750 section 3.1.
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

/// The grants of a setting.
///
/// # Errors
/// A sentence that names the first malformed one.
pub fn grants(setting: &str, texts: &[String]) -> Result<Vec<Grant>, String> {
    let parse = |text: &String| {
        Grant::parse(text).ok_or_else(|| {
            format!("{setting}: `{text}` is no topic (`news`, `room.7`), nor `room.*`, nor `*`")
        })
    };
    texts.iter().map(parse).collect()
}
