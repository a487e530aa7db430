//! The topics that a connection may have: those that its token and its route grant, and those that it may ask for.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::token::Identity;
use super::wire;
use crate::config::RouteConfig;
use crate::engine::client::frame::Close;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::{Grant, TOPIC_BYTES_MAX, text_of_key};
use crate::engine::server::Scope;
use crate::engine::slots::ConnId;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// The grants of a route's settings, and the rights that single connections have beyond them.
pub(super) struct TopicRights {
    topics: Vec<Grant>,
    may: Vec<Grant>,
    anonymous: Vec<Grant>,
    /// Connections whose token has `may` or `admin`, or that gave up a granted topic.
    beyond: HashMap<ConnId, ClientRights>,
}

#[derive(Default)]
struct ClientRights {
    may: Vec<Grant>,
    admin: bool,
}

impl TopicRights {
    /// # Errors
    /// A sentence that names the malformed grant.
    pub fn new(route: &RouteConfig) -> Result<TopicRights, String> {
        let anonymous = grants_beside_users("anonymous", &route.anonymous)?;
        let (topics, may) = (grants("topics", &route.topics)?, grants("may", &route.may)?);
        Ok(TopicRights { topics, may, anonymous, beyond: HashMap::new() })
    }

    /// Takes over the grants of newer settings. Connections keep their own rights.
    pub fn reload(&mut self, newer: TopicRights) {
        let beyond = std::mem::take(&mut self.beyond);
        *self = TopicRights { beyond, ..newer };
    }

    /// Writes the rights of single connections.
    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.len(self.beyond.len());
        for (id, ClientRights { may, admin }) in &self.beyond {
            writer.u64(id.number());
            writer.bool(*admin);
            writer.len(may.len());
            may.iter().for_each(|grant| writer.text(&text_of_key(grant.key())));
        }
    }

    /// Takes over the rights that were written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        for _ in 0..reader.len(VALUES_MAX)? {
            let (id, admin) = (ConnId::of_number(reader.u64()?), reader.bool()?);
            let may = reader.list(VALUES_MAX, |reader| {
                let grant = Grant::parse(&reader.text(BYTES_MAX)?);
                grant.ok_or(StateError::Malformed("a grant"))
            })?;
            self.beyond.insert(id, ClientRights { may, admin });
        }
        Ok(())
    }

    /// Forgets a connection that is gone.
    pub fn forget(&mut self, id: ConnId) {
        self.beyond.remove(&id);
    }

    /// Returns whether clients may come without a token.
    pub fn has_anonymous(&self) -> bool {
        !self.anonymous.is_empty()
    }

    /// Subscribes a client without a token. Returns an error for each topic above `topics_per_client_max`.
    pub fn grant_anonymous(&self, server: &mut Scope<'_>, id: ConnId) -> Vec<String> {
        subscribe_granted(server, id, self.anonymous.iter().flat_map(|grant| grant.keys(false)))
    }

    /// The keys that a token and the settings grant.
    fn granted<'a>(&'a self, user: &'a Identity) -> impl Iterator<Item = &'a str> {
        let grants = user.topics.iter().chain(&self.topics);
        grants.flat_map(|grant| grant.keys(user.admin))
    }

    /// Subscribes a client to the topics of its token, which ends the connection when it expires. Returns an error for each topic
    /// above `topics_per_client_max`.
    pub fn grant(&mut self, server: &mut Scope<'_>, id: ConnId, user: &Identity) -> Vec<String> {
        let excess = subscribe_granted(server, id, self.granted(user));
        if user.admin || !user.may.is_empty() {
            let rights = ClientRights { may: user.may.clone(), admin: user.admin };
            self.beyond.insert(id, rights);
        } else {
            self.beyond.remove(&id);
        }
        server.close_at(id, user.expires, Close::EXPIRED.code);
        server.revocations.note(id, user.issued);
        excess
    }

    /// Replaces the grants of the same user's older token. Topics that the client asked for stay if the newer token permits them.
    pub fn renew(&mut self, server: &mut Scope<'_>, id: ConnId, user: &Identity) -> Vec<String> {
        let granted: HashSet<&str> = self.granted(user).collect();
        for (key, reason) in server.topics(id) {
            let mut may = user.may.iter().chain(&self.may);
            match reason {
                Reason::Own | Reason::Joined | Reason::Watching => {}
                _ if granted.contains(key.as_str()) => server.set_reason(id, &key, Reason::Granted),
                Reason::Asked if may.any(|grant| grant.covers(user.admin, &key)) => {}
                Reason::Asked | Reason::Granted => {
                    server.unsubscribe(id, &key);
                }
            }
        }
        self.grant(server, id, user)
    }

    /// Subscribes a client to the topics that it asked for in its handshake. Returns an error for each that it may not have.
    pub fn subscribe_all<'a>(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topics: impl Iterator<Item = Cow<'a, str>>,
    ) -> Vec<String> {
        let mut errors = Vec::new();
        for (number, topic) in topics.enumerate() {
            if number >= server.bounds().topics_per_client_max {
                server.metrics().topics_refused += 1;
                errors.push(wire::error("too_many_topics", None, None));
                break;
            }
            if let Err(code) = self.subscribe(server, id, &topic) {
                errors.push(wire::error(code, echo(&topic), None));
            }
        }
        errors
    }

    /// Subscribes a client at its own request.
    ///
    /// # Errors
    /// The code for the client.
    pub fn subscribe(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topic: &str,
    ) -> Result<(), &'static str> {
        let own = own_topic(server, id);
        if own.as_deref() == Some(topic) {
            return Ok(());
        }
        let wanted = Grant::parse(topic).ok_or("bad_topic")?;
        let admin = self.is_admin(id);
        let permitted = self.may(id, own.is_some()).any(|grant| grant.permits(admin, &wanted));
        let missing: Vec<&str> =
            wanted.keys(admin).filter(|key| server.reason(id, key).is_none()).collect();
        let reason = server.reason(id, wanted.key());
        // A topic that a back end joined outlives newer tokens, even if the client asks for it as well.
        if permitted && reason.is_some() && reason != Some(Reason::Joined) {
            server.set_reason(id, wanted.key(), Reason::Asked);
        }
        if reason.is_some() && (missing.is_empty() || !permitted) {
            return Ok(());
        }
        if !permitted {
            return Err("forbidden");
        }
        if server.topics_len(id) + missing.len() > server.bounds().topics_per_client_max {
            server.metrics().topics_refused += 1;
            return Err("too_many_topics");
        }
        for key in missing {
            server.subscribe(id, key, Reason::Asked);
        }
        Ok(())
    }

    /// Returns whether a client may have earlier messages of a topic: one that it was granted or may ask for. A back end that joins a
    /// client to a topic lets it hear what comes from then on, and no more.
    pub fn looks_back(&self, server: &mut Scope<'_>, id: ConnId, topic: &str) -> bool {
        let own = own_topic(server, id);
        if own.as_deref() == Some(topic) {
            return true;
        }
        let Some(wanted) = Grant::parse(topic) else { return false };
        let admin = self.is_admin(id);
        self.may(id, own.is_some()).any(|grant| grant.permits(admin, &wanted))
            || matches!(server.reason(id, wanted.key()), Some(Reason::Granted | Reason::Asked))
    }

    /// The keys of a topic that a client subscribes to.
    pub fn keys(&self, server: &mut Scope<'_>, id: ConnId, topic: &str) -> Vec<String> {
        if own_topic(server, id).as_deref() == Some(topic) {
            return vec![topic.to_owned()];
        }
        let wanted = Grant::parse(topic);
        let keys = wanted.iter().flat_map(|wanted| wanted.keys(self.is_admin(id)));
        keys.filter(|key| server.reason(id, key).is_some()).map(str::to_owned).collect()
    }

    /// Unsubscribes a client at its own request.
    ///
    /// # Errors
    /// The code for the client.
    pub fn unsubscribe(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topic: &str,
    ) -> Result<(), &'static str> {
        if own_topic(server, id).as_deref() == Some(topic) {
            // Bounds per user, single sessions and control commands find a user's connections by this subscription.
            return Err("forbidden");
        }
        let grant = Grant::parse(topic).ok_or("bad_topic")?;
        for key in grant.keys(true) {
            let granted = server.reason(id, key) == Some(Reason::Granted);
            server.unsubscribe(id, key);
            if granted && key == grant.key() {
                // The client may come back to a topic that its token granted.
                self.beyond.entry(id).or_default().may.push(grant.clone());
            }
        }
        Ok(())
    }

    /// Returns whether a user's client may publish on a topic: it has subscribed to it, or may.
    pub fn may_publish(&self, server: &mut Scope<'_>, id: ConnId, topic: &str) -> bool {
        let admin = self.is_admin(id);
        server.is_recipient(id, topic) || self.may(id, true).any(|grant| grant.covers(admin, topic))
    }

    fn is_admin(&self, id: ConnId) -> bool {
        self.beyond.get(&id).is_some_and(|rights| rights.admin)
    }

    /// The topics that a connection may ask for. Those that it was granted and gave up are among them.
    fn may(&self, id: ConnId, has_sub: bool) -> impl Iterator<Item = &Grant> {
        let of_route = match has_sub {
            true => [&self.may[..], &self.topics[..]],
            false => [&self.anonymous[..], &[]],
        };
        let own = self.beyond.get(&id).map_or(&[][..], |rights| &rights.may);
        own.iter().chain(of_route[0]).chain(of_route[1])
    }
}

/// Subscribes a client to granted keys. Returns an error for each above `topics_per_client_max`.
fn subscribe_granted<'a>(
    server: &mut Scope<'_>,
    id: ConnId,
    keys: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    let mut errors = Vec::new();
    for key in keys {
        let is_known = server.reason(id, key).is_some();
        if is_known || server.topics_len(id) < server.bounds().topics_per_client_max {
            server.subscribe(id, key, Reason::Granted);
        } else {
            server.metrics().topics_refused += 1;
            errors.push(wire::error("too_many_topics", Some(&text_of_key(key)), None));
        }
    }
    errors
}

/// The topic of the connection's user; an anonymous one has none.
pub(super) fn own_topic(server: &mut Scope<'_>, id: ConnId) -> Option<String> {
    server.key_for(id, Reason::Own)
}

/// A topic to repeat in an error; `None` if it is too long to be one.
pub(super) fn echo(topic: &str) -> Option<&str> {
    (topic.len() <= TOPIC_BYTES_MAX).then_some(topic)
}

/// Parses the grants of a setting that is not about the topics of users.
///
/// # Errors
/// A sentence that names the first grant that is malformed, or a user's.
pub(super) fn grants_beside_users(setting: &str, texts: &[String]) -> Result<Vec<Grant>, String> {
    let grants = grants(setting, texts)?;
    match grants.iter().find(|grant| grant.is_user()) {
        None => Ok(grants),
        Some(grant) => Err(format!(
            "{setting}: `{grant}` would be a user's topic: those are for one user alone, with a token"
        )),
    }
}

/// Parses the grants of a setting.
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
