//! The product: decides which client may receive a topic, as a [`Handler`] like any other.
//!
//! The subscriptions of a connection are in the hub, each with its [`Reason`]. This room keeps only what few connections have: a
//! missing token, and rights beyond those of the route.

mod awaited;
mod command;
pub mod explain;
mod identity;
mod refusals;
mod rights;
mod subscribe;
pub mod token;
mod upstream;
mod upstream_limits;
mod wire;
mod withheld;

use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;

use crate::config::{self, Format, RouteConfig, RouteSettings};
use crate::engine::client::deflate::Deflate;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::Request;
use crate::engine::client::outbox::Slow;
use crate::engine::handler::{Handler, Message, Reject, RouteEvent};
use crate::engine::origin::Origins;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::{Grant, Subject, user_topic};
use crate::engine::server::{ReplayItem, RouteOptions, Scope};
use crate::engine::slots::ConnId;
use crate::upgrade::{StateError, StateReader, StateWriter, VALUES_MAX};
use command::{Action, Auth, ClientCommand, RawJson, Start};
use refusals::{bad_token, no_token, unauthorized};
use rights::{TopicRights, echo, grants_beside_users, own_topic};
use subscribe::{answer_each, list_members, list_topics, subscribe};
use token::place::{MissingToken, TokenPlace, find};
use token::{Identity, Keys, TokenRefusal};
use upstream::Upstream;
use withheld::{Authed, Change, WithheldAnswers};

/// The subprotocol of the JSON frames.
pub const PROTOCOL: &str = "oneloop.v1";

/// The handler of a route on which users subscribe to topics.
pub struct Push {
    keys: Rc<Keys>,
    format: Format,
    /// Origins whose pages may present a cookie.
    origins: Origins,
    single_session: bool,
    /// The header in which a trusted proxy names the user, where it is read.
    identity: Option<String>,
    rights: TopicRights,
    /// Connections without a token so far, and what they presented in its place.
    waiting: HashMap<ConnId, MissingToken>,
    withheld: WithheldAnswers,
    slow: config::SlowPolicy,
    /// Topics whose subscribers may list each other.
    members: Vec<Grant>,
    deflate: Deflate,
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
            identity: route.identity.clone(),
            rights: TopicRights::new(route)?,
            waiting: HashMap::new(),
            withheld: WithheldAnswers::default(),
            slow: route.slow,
            members: grants_beside_users("members", &route.members)?,
            deflate: route.deflate,
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
            Ok(Push { keys, origins, rights, single_session, identity, .. }) => {
                (self.keys, self.origins, self.single_session) = (keys, origins, single_session);
                self.identity = identity;
                self.rights.reload(rights);
            }
            Err(problem) => log::error!("{} stays as it was: {problem}", route.path),
        }
    }

    /// Checks a token, and counts the time that it takes.
    fn check(&self, server: &mut Scope<'_>, token: &str) -> Result<Identity, TokenRefusal> {
        let (checked, microseconds) = self.keys.check_at_a_price(token, server.now().unix);
        server.count_costly(microseconds);
        let user = checked?;
        if server.revocations.refuses(&user.sub, user.issued) {
            server.metrics().tokens_revoked += 1;
            return Err(TokenRefusal::Revoked);
        }
        Ok(user)
    }

    /// Finds the user of a handshake: the one that a proxy names, or else that of the first token.
    fn user_of(
        &self,
        server: &mut Scope<'_>,
        request: &Request,
    ) -> Result<Option<Identity>, Reject> {
        if let Some(header) = &self.identity {
            let named = identity::find(request, header, &self.origins);
            server.metrics().identities_refused += u64::from(named.is_err());
            if let Some(sub) = named? {
                return Ok(Some(Identity::named_by_proxy(sub, server.now().unix)));
            }
        }
        let found = find(request, self.keys.cookie(), &self.origins);
        let Some((token, place)) = found else { return Ok(None) };
        let checked = self.check(server, &token);
        checked.map(Some).map_err(|refusal| match place {
            TokenPlace::Header if request.is_upgrade() => Reject::Http(unauthorized(&refusal)),
            _ => Reject::Close(bad_token(&refusal)),
        })
    }

    /// Returns what a handshake without a user has in place of a token.
    fn missing(&self, request: &Request) -> MissingToken {
        match MissingToken::of(request, self.keys.cookie().is_some()) {
            MissingToken::Nothing if self.identity.is_some() => MissingToken::Identity,
            missing => missing,
        }
    }

    /// Subscribes a user's connection to the topics of its token. Returns an error for each that it may not have.
    fn enter(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        user: &Identity,
    ) -> Result<Vec<String>, Close> {
        let own = user_topic(&user.sub).expect("a checked token has a valid sub");
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
                return Err(crowded());
            }
        }
        server.welcome(id);
        server.subscribe(id, &own, Reason::Own);
        Ok(self.rights.grant(server, id, user))
    }

    /// Executes `auth`: the client's first token, or a newer one.
    fn authenticate(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        auth: &Auth<'_>,
        reference: Option<RawJson<'_>>,
    ) -> Result<(), Close> {
        let user = self.check(server, &auth.token).map_err(|refusal| bad_token(&refusal))?;
        awaited::answer_before(self, server, id, &Change::Token);
        let excess = match own_topic(server, id) {
            Some(own) if user_topic(&user.sub).as_ref() != Some(&own) => {
                let detail = format!("a renewal must keep {}", self.keys.user_claim());
                return Err(bad_token(&TokenRefusal::Claims(detail.into())));
            }
            Some(_) => self.rights.renew(server, id, &user),
            None => {
                // The token replaces what the client could have without one.
                for (key, reason) in server.topics(id) {
                    if reason != Reason::Joined {
                        server.unsubscribe(id, &key);
                    }
                }
                self.enter(server, id, &user)?
            }
        };
        let mut errors = Vec::new();
        let is_first = self.waiting.remove(&id).is_some();
        if is_first {
            let asked = auth.topics.iter().map(|topic| Cow::Borrowed(&**topic));
            errors = self.rights.subscribe_all(server, id, asked);
        }
        errors.extend(excess);
        let reference = reference.map(|one| one.text().to_owned());
        let authed = Authed { sub: user.sub.clone(), reference, errors };
        if is_first {
            let (since, errors) = (auth.since.as_deref(), Vec::new());
            awaited::welcome_or_wait(
                self,
                server,
                id,
                (Some(&user.sub), since),
                errors,
                Some(authed),
            );
        } else {
            awaited::answer_or_wait(self, server, id, authed);
        }
        Ok(())
    }

    fn execute(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        text: &str,
        command: ClientCommand<'_>,
    ) {
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
            Action::Subscribe(topics, start) => {
                let has_cursors = self.format == Format::Json;
                let start = Some(start).filter(|_| has_cursors).unwrap_or(Start::Live);
                awaited::answer_before(self, server, id, &Change::Subscribe);
                let keepers = (&mut self.rights, &mut self.withheld);
                return subscribe(keepers, (server, id), &topics, &start, reference);
            }
            Action::Unsubscribe(topics) => {
                awaited::answer_before(self, server, id, &Change::Unsubscribe(&topics));
                let unsubscribe = |topic: &str, server: &mut Scope<'_>| {
                    let unsubscribed = self.rights.unsubscribe(server, id, topic);
                    unsubscribed.map(|()| wire::unsubscribed(topic, reference).into())
                };
                return answer_each(server, id, &topics, reference, unsubscribe);
            }
            Action::Topics => list_topics((server, id), reference),
            Action::Members(topic) => match list_members((server, id), &topic, reference) {
                Ok(()) => return,
                Err(code) => wire::error(code, echo(&topic), reference),
            },
            Action::Send { data, topic } => {
                match self.send_upstream(server, id, data, topic.as_deref(), reference) {
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
        let (user, excess) = match self.user_of(server, request)? {
            Some(user) => {
                let excess = self.enter(server, id, &user).map_err(Reject::Close)?;
                (Some(user), excess)
            }
            None if self.rights.has_anonymous() => (None, self.rights.grant_anonymous(server, id)),
            // An event stream has no command that could bring one.
            None if !request.is_upgrade() => {
                return Err(Reject::Close(no_token(self.missing(request))));
            }
            None => {
                self.waiting.insert(id, self.missing(request));
                server.await_token(id, request.address());
                return Ok(());
            }
        };
        // `topic`, possibly several times, asks for more than is granted, and `since` for the messages missed on all of these.
        let mut errors = self.rights.subscribe_all(server, id, request.query_all("topic"));
        errors.extend(excess);
        let sub = user.as_ref().map(|user| user.sub.as_str());
        awaited::welcome_or_wait(self, server, id, (sub, request.since()), errors, None);
        Ok(())
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        match message {
            // A mini program cannot send ping frames.
            Message::Text("ping") => server.send(id, &Frame::text("pong")),
            Message::Text(text) => match ClientCommand::parse(text) {
                Ok(command) => self.execute(server, id, text, command),
                Err(malformed) => {
                    let reason = wire::refusal("command", malformed, None);
                    server.close(id, Close::BAD_COMMAND.because(reason));
                }
            },
            Message::Deferred(text) => {
                if let Ok(ClientCommand { action: Action::Auth(auth), reference }) =
                    ClientCommand::parse(text)
                    && let Err(close) = self.authenticate(server, id, &auth, reference)
                {
                    server.close(id, close);
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
                return self.answer_sender(server, number, answer);
            }
            RouteEvent::Subscribed { id, number } => {
                let answer = self.withheld.take(id, number);
                return answer
                    .iter()
                    .for_each(|one| awaited::answer_withheld(self, server, id, one));
            }
            RouteEvent::UserElsewhere { own, later } => {
                let older = if self.single_session { server.owners(own) } else { Vec::new() };
                let older = older.into_iter().filter(|id| !later.contains(id));
                return older.for_each(|id| server.close(id, Close::REPLACED));
            }
            // Where only the newest client of a user stays, the older ones are about to go.
            RouteEvent::UserCrowded { .. } if self.single_session => return,
            RouteEvent::UserCrowded { id } => return server.close(id, crowded()),
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
                (config::SlowPolicy::Close, _) => Slow::Close,
                (config::SlowPolicy::KeepNewest, _) => Slow::KeepNewest,
                (config::SlowPolicy::Latest, _) => Slow::Latest,
                (config::SlowPolicy::DropOldest, Format::Raw) => Slow::DropOldest(None),
                (config::SlowPolicy::DropOldest, Format::Json) => Slow::DropOldest(Some(wire::gap)),
            },
            encode: match self.format {
                Format::Raw => |_| None,
                Format::Json => |item| {
                    Some(match item {
                        ReplayItem::Message { cursor, subject, payload } => {
                            wire::message_frame(*subject, cursor, payload)
                        }
                        ReplayItem::Gap { from } => wire::gap(from),
                    })
                },
            },
            protocols: token::place::protocols(),
            has_event_streams: true,
            deflate: self.deflate,
            asks_for_topics: command::asks_for_topics,
            members: self.members.clone(),
            ..RouteOptions::default()
        }
    }

    fn on_publish(
        &mut self,
        server: &mut Scope<'_>,
        subject: Subject<'_>,
        payload: &[u8],
    ) -> usize {
        let format = self.format;
        server.publish(subject, |cursor| match format {
            Format::Raw => Frame::message(payload),
            Format::Json => wire::message_frame(subject, cursor, payload),
        })
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        writer.len(self.waiting.len());
        for (id, missing) in &self.waiting {
            writer.u64(id.number());
            missing.save(writer);
        }
        self.rights.save(writer);
    }

    fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        for _ in 0..reader.len(VALUES_MAX)? {
            let id = ConnId::of_number(reader.u64()?);
            self.waiting.insert(id, MissingToken::restored(reader)?);
        }
        self.rights.restore(reader)
    }

    fn on_close(&mut self, server: &mut Scope<'_>, id: ConnId) {
        server.revocations.forget(id);
        self.waiting.remove(&id);
        self.withheld.forget(id);
        self.rights.forget(id);
    }
}

fn crowded() -> Close {
    Close::busy(1000, "clients_per_user_max: close another connection")
}
