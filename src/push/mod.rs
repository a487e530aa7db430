//! The product: decides who may hear what, as a [`Handler`] like any other.
//!
//! What a connection is and listens to stands in the hub: its own topic is there for the reason [`Reason::Own`]. Here is
//! kept only what few connections have: a token that is still to come, and rights beyond those of the route.

pub mod auth;
mod claims;
mod command;
pub mod explain;
mod keys;
mod place;
pub mod wire;

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use crate::client::frame::{Close, Frame};
use crate::client::http::{Request, Response};
use crate::client::outbox::Slow;
use crate::config::{self, Format, RouteConfig};
use crate::handler::{Handler, Reject};
use crate::hub::Reason;
use crate::server::Server;
use crate::slots::ConnId;
use crate::topic::{Grant, TOPIC_BYTES_MAX, text_of_key, user_topic};
use auth::{Identity, Keys, Refusal};
use command::{Action, Command, Reference};
use place::{Place, presented};

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
    topics: Vec<Grant>,
    may: Vec<Grant>,
    anonymous: Vec<Grant>,
    single_session: bool,
    /// Connections that have shown no token yet.
    waiting: HashSet<ConnId>,
    /// Of those whose token carries `may` or `admin`.
    rights: HashMap<ConnId, Rights>,
    /// The cursor at which the link to Redis was lost.
    lost_at: Option<String>,
    slow: config::Slow,
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
            topics: grants("topics", &route.topics)?,
            may: grants("may", &route.may)?,
            anonymous,
            single_session: route.single_session,
            waiting: HashSet::new(),
            rights: HashMap::new(),
            lost_at: None,
            slow: route.slow,
        })
    }

    /// A user's connection begins to listen. Returns the keys above `topics_per_client_max`.
    fn enter(
        &mut self,
        server: &mut Server,
        id: ConnId,
        identity: &Identity,
    ) -> Result<Vec<String>, Close> {
        let own = user_topic(&identity.sub).expect("a checked token has a valid sub");
        let max = server.bounds().clients_per_user_max;
        if self.single_session {
            for older in server.owners(&own) {
                server.close(older, Close::REPLACED);
            }
        } else if max > 0 && server.owners(&own).len() >= max {
            return Err(Close::BUSY.retry_after(1000));
        }
        server.join(id, &own, Reason::Own);
        Ok(self.grant(server, id, identity))
    }

    /// What a token says beyond who its user is. Returns the keys above `topics_per_client_max`.
    fn grant(&mut self, server: &mut Server, id: ConnId, identity: &Identity) -> Vec<String> {
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

    /// Tells a client what it was granted and does not hear.
    fn tell_excess(&self, server: &mut Server, id: ConnId, excess: &[String]) {
        for key in excess.iter().filter(|_| self.format == Format::Json) {
            let error = wire::error("too_many_topics", Some(&text_of_key(key)), None);
            server.send(id, &Frame::text(&error));
        }
    }

    /// The same user's newer token: it replaces what the older one granted. What was asked for stays as far as the newer one
    /// permits it.
    fn renew(&mut self, server: &mut Server, id: ConnId, identity: &Identity) -> Vec<String> {
        let granted: HashSet<&str> = identity
            .topics
            .iter()
            .chain(&self.topics)
            .flat_map(|grant| grant.keys(identity.admin))
            .collect();
        for (key, reason) in server.topics(id) {
            let stays = match reason {
                Reason::Own => true,
                _ if granted.contains(key.as_str()) => {
                    server.set_reason(id, &key, Reason::Granted);
                    true
                }
                Reason::Asked => Grant::parse(&text_of_key(&key)).is_some_and(|wanted| {
                    let mut may = identity.may.iter().chain(&self.may);
                    may.any(|grant| grant.covers(identity.admin, &wanted))
                }),
                Reason::Granted => false,
            };
            if !stays {
                server.leave(id, &key);
            }
        }
        self.grant(server, id, identity)
    }

    fn welcome(&self, server: &mut Server, id: ConnId, sub: Option<&str>) {
        if self.format == Format::Json {
            let topics = heard(server, id);
            let ping = u64::from(server.bounds().ping_seconds);
            let cursor = server.cursor();
            let text = wire::welcome(&id.to_string(), sub, &topics, ping, &cursor);
            server.send(id, &Frame::text(&text));
        }
    }

    /// The command `auth`: the token that was awaited, or a newer one.
    fn authenticate(
        &mut self,
        server: &mut Server,
        id: ConnId,
        token: &str,
        reference: Option<Reference<'_>>,
    ) {
        // Up to 182 µs (ES256): fifty of one client in one turn held everyone up for 10 ms.
        server.end_turn_of_client();
        let identity = match self.keys.check(token, server.now().unix) {
            Ok(identity) => identity,
            Err(refusal) => return server.close(id, bad_token(refusal)),
        };
        let own = own_topic(server, id);
        let result = match &own {
            Some(own) if user_topic(&identity.sub).as_ref() != Some(own) => {
                Err(bad_token(Refusal::Claims("a renewal must keep sub")))
            }
            Some(_) => Ok(self.renew(server, id, &identity)),
            None => {
                // What an anonymous client heard ends: the token says what it hears from now on.
                for (key, _) in server.topics(id) {
                    server.leave(id, &key);
                }
                self.enter(server, id, &identity)
            }
        };
        let excess = match result {
            Ok(excess) => excess,
            Err(close) => return server.close(id, close),
        };
        if self.waiting.remove(&id) {
            self.welcome(server, id, Some(&identity.sub));
        }
        let text = wire::authed(&identity.sub, &heard(server, id), reference);
        server.send(id, &Frame::text(&text));
        self.tell_excess(server, id, &excess);
    }

    /// The answer to `subscribe`.
    fn subscribe(
        &mut self,
        server: &mut Server,
        id: ConnId,
        topic: &str,
        reference: Option<Reference<'_>>,
    ) -> String {
        let refuse = |code| wire::error(code, echo(topic), reference);
        let own = own_topic(server, id);
        if own.as_deref() == Some(topic) {
            return wire::subscribed(topic, reference);
        }
        let Some(wanted) = Grant::parse(topic) else {
            return refuse("bad_topic");
        };
        let admin = self.rights.get(&id).is_some_and(|rights| rights.admin);
        let permitted = self.may(id, own.is_some()).any(|grant| grant.covers(admin, &wanted));
        let missing: Vec<&str> =
            wanted.keys(admin).filter(|key| server.reason(id, key).is_none()).collect();
        let hears = server.reason(id, wanted.key()).is_some();
        if permitted && hears {
            server.set_reason(id, wanted.key(), Reason::Asked);
        }
        if hears && (missing.is_empty() || !permitted) {
            return wire::subscribed(topic, reference);
        }
        if !permitted {
            return refuse("forbidden");
        }
        if server.topics_len(id) + missing.len() > server.bounds().topics_per_client_max {
            server.metrics().topics_refused += 1;
            return refuse("too_many_topics");
        }
        for key in missing {
            server.join(id, key, Reason::Asked);
        }
        wire::subscribed(topic, reference)
    }

    /// What a connection may ask for. What it was granted and gave up is among its rights.
    fn may(&self, id: ConnId, has_sub: bool) -> impl Iterator<Item = &Grant> {
        let of_route = match has_sub {
            true => [&self.may[..], &self.topics[..]],
            false => [&self.anonymous[..], &[]],
        };
        let own = self.rights.get(&id).map_or(&[][..], |rights| &rights.may);
        own.iter().chain(of_route[0]).chain(of_route[1])
    }

    /// The answer to `unsubscribe`.
    fn unsubscribe(
        &mut self,
        server: &mut Server,
        id: ConnId,
        topic: &str,
        reference: Option<Reference<'_>>,
    ) -> String {
        if own_topic(server, id).as_deref() == Some(topic) {
            // Bounds per user, single sessions and the back end's hand on a user all rest on this membership.
            return wire::error("forbidden", Some(topic), reference);
        }
        let Some(grant) = Grant::parse(topic) else {
            return wire::error("bad_topic", echo(topic), reference);
        };
        let keys: Vec<String> = grant.keys(true).map(str::to_owned).collect();
        for key in keys {
            let granted = server.reason(id, &key) == Some(Reason::Granted);
            server.leave(id, &key);
            if granted && key == grant.key() {
                // It may come back to what its token gave it.
                self.rights.entry(id).or_default().may.push(grant.clone());
            }
        }
        wire::unsubscribed(topic, reference)
    }

    fn obey(&mut self, server: &mut Server, id: ConnId, command: Command<'_>) {
        let reference = command.reference;
        let has_token = !self.waiting.contains(&id);
        let answer = match command.action {
            Action::Ping => wire::pong(reference),
            Action::Auth(token) => return self.authenticate(server, id, &token, reference),
            _ if !has_token => return server.close(id, Close::NO_TOKEN),
            Action::Subscribe(topic) => self.subscribe(server, id, &topic, reference),
            Action::Unsubscribe(topic) => self.unsubscribe(server, id, &topic, reference),
        };
        server.send(id, &Frame::text(&answer));
    }

    /// Whoever listens to nothing, with the token still to come, has missed nothing.
    fn send_gap(&self, server: &mut Server, from: &str) {
        if self.format == Format::Json {
            server.send_to_listeners(Frame::text(&wire::gap(from)));
        }
    }
}

impl Handler for Push {
    fn on_open(
        &mut self,
        server: &mut Server,
        id: ConnId,
        request: &Request,
    ) -> Result<(), Reject> {
        let Some((token, place)) = presented(request) else {
            if self.anonymous.is_empty() {
                self.waiting.insert(id);
                server.close_after(id, server.bounds().auth_seconds, Close::NO_TOKEN.code);
                return Ok(());
            }
            let keys = self.anonymous.iter().flat_map(|grant| grant.keys(false));
            let excess = join_all(server, id, keys);
            self.welcome(server, id, None);
            self.tell_excess(server, id, &excess);
            return Ok(());
        };
        let identity =
            self.keys.check(token, server.now().unix).map_err(|refusal| match place {
                Place::Header => Reject::Http(unauthorized(refusal)),
                Place::Address => Reject::Close(bad_token(refusal)),
            })?;
        let excess = self.enter(server, id, &identity).map_err(Reject::Close)?;
        self.welcome(server, id, Some(&identity.sub));
        self.tell_excess(server, id, &excess);
        Ok(())
    }

    fn on_message(&mut self, server: &mut Server, id: ConnId, text: &str) {
        // A mini program cannot send ping frames.
        if text == "ping" {
            return server.send(id, &Frame::text("pong"));
        }
        match Command::parse(text) {
            Ok(command) => self.obey(server, id, command),
            Err(malformed) => {
                let reason = wire::refusal("command", malformed.0);
                server.close(id, Close::BAD_COMMAND.because(reason));
            }
        }
    }

    fn on_publish(&mut self, server: &mut Server, topic: &str, payload: &[u8]) -> usize {
        let format = self.format;
        server.publish(topic, |cursor| match format {
            Format::Raw => Frame::message(payload),
            Format::Json => {
                let length = wire::message_length(topic, cursor, payload);
                Frame::json(length, |out| wire::message(topic, cursor, payload, out))
            }
        })
    }

    fn on_close(&mut self, _server: &mut Server, id: ConnId) {
        self.waiting.remove(&id);
        self.rights.remove(&id);
    }

    fn on_source(&mut self, server: &mut Server, up: bool) {
        if !up {
            self.lost_at = Some(server.cursor());
            return;
        }
        let from = self.lost_at.take().unwrap_or_else(|| server.cursor());
        self.send_gap(server, &from);
    }

    fn on_loss(&mut self, server: &mut Server) {
        self.send_gap(server, &server.cursor());
    }

    fn slow(&self) -> Slow {
        match (self.slow, self.format) {
            (config::Slow::Close, _) => Slow::Close,
            (config::Slow::KeepNewest, _) => Slow::KeepNewest,
            (config::Slow::DropOldest, Format::Raw) => Slow::DropOldest(None),
            (config::Slow::DropOldest, Format::Json) => {
                Slow::DropOldest(Some(|from| Frame::text(&wire::gap(from))))
            }
        }
    }

    fn protocol(&self) -> Option<&'static str> {
        Some(PROTOCOL)
    }
}

fn bad_token(refusal: Refusal) -> Close {
    Close::BAD_TOKEN.because(wire::refusal(refusal.name(), refusal.detail()))
}

/// RFC 6750 section 3.1.
fn unauthorized(refusal: Refusal) -> Response {
    Response::json(401, wire::refusal(refusal.name(), refusal.detail()))
        .with("WWW-Authenticate", "Bearer error=\"invalid_token\"")
}

/// The topic of the connection's user; an anonymous one has none.
fn own_topic(server: &mut Server, id: ConnId) -> Option<String> {
    server.key_for(id, Reason::Own)
}

/// Joins what has been granted, and returns the keys above `topics_per_client_max`.
fn join_all<'a>(
    server: &mut Server,
    id: ConnId,
    keys: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut excess = Vec::new();
    for key in keys {
        let known = server.reason(id, key).is_some();
        if known || server.topics_len(id) < server.bounds().topics_per_client_max {
            server.join(id, key, Reason::Granted);
        } else {
            server.metrics().topics_refused += 1;
            excess.push(key.to_owned());
        }
    }
    excess
}

/// What a connection listens to, as people write it, sorted.
fn heard(server: &mut Server, id: ConnId) -> Vec<String> {
    let topics = server.topics(id);
    let mut texts: Vec<String> =
        topics.iter().map(|(key, _)| text_of_key(key).into_owned()).collect();
    texts.sort_unstable();
    texts
}

/// A topic as it is repeated in an error: not at all if it is too long to be one.
fn echo(topic: &str) -> Option<&str> {
    (topic.len() <= TOPIC_BYTES_MAX).then_some(topic)
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
