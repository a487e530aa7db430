//! The subscription at Redis: greet, subscribe, stay alive, and make sure that messages come.

pub mod saved;
pub mod share;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use redis::{PushKind, Value};

use crate::clock::Millis;
use crate::engine::demand::{Demand, DemandSettings};
use crate::engine::redis::cluster;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::far_end::{by_info, by_role};
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::probe::{CHANNEL, Probe};
use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::engine::redis::session::{Due, Session};
use crate::engine::redis::{advice, glob};
use share::{ShareChange, ShareLink, change_of};

/// Its name in `CLIENT LIST`.
const NAME: &str = "oneloop";

#[derive(Debug, PartialEq, Eq)]
pub enum SubscriptionEvent<'a> {
    /// Every pattern is acknowledged.
    Up,
    /// Once per published message, however many of our patterns match its channel.
    Message(ChannelMessage<'a>),
    /// A message above `payload_bytes_max` went by, and is lost. (One that two patterns match is counted twice.)
    Oversized,
    /// Redis acknowledged a command of a [`Share`](crate::engine::demand::Demand).
    Changed(ShareChange),
}

/// A published message.
#[derive(Debug, PartialEq, Eq)]
pub struct ChannelMessage<'a> {
    value: Cow<'a, [u8]>,
    channel: Range<usize>,
    payload: Range<usize>,
    /// It came by the pattern for all channels of a connection that subscribes on demand.
    pub by_everything: bool,
}

impl ChannelMessage<'_> {
    pub fn channel(&self) -> &[u8] {
        &self.value[self.channel.clone()]
    }

    pub fn payload(&self) -> &[u8] {
        &self.value[self.payload.clone()]
    }
}

/// A subscriber. The caller owns the socket and the clock, and drives the session.
pub struct RedisSubscriber {
    pub session: Session,
    /// For each pattern: Redis acknowledged it.
    acknowledged: Vec<bool>,
    /// Commands since it is up whose answers are still to come.
    asked: VecDeque<Asked>,
    /// The far end said its mode: its state is asked for after each silence.
    looks: bool,
    probe: Probe,
    /// When the probe's latest message must be back.
    back_by: Option<Millis>,
    /// The topics that it subscribes to on demand.
    share: Option<ShareLink>,
}

/// A command of a connection that is up.
#[derive(Clone, Copy)]
enum Asked {
    Ping,
    Role,
    Info,
    ClusterInfo,
    Publish,
}

/// A message in a value from Redis.
enum Delivery {
    /// The channel, the payload, and whether it came by the pattern for all channels.
    Due(Range<usize>, Range<usize>, bool),
    Oversized,
    /// Another pattern delivered it, or none of ours asked for it.
    Ignored,
}

impl RedisSubscriber {
    /// The first attempt is due at once.
    pub fn new(mut config: RedisConfig, now: Millis) -> RedisSubscriber {
        // Redis acknowledges a repeated pattern, and delivers by it once.
        let mut seen: Vec<String> = Vec::with_capacity(config.patterns.len());
        config.patterns.retain(|pattern| {
            let is_new = !seen.contains(pattern);
            seen.push(pattern.clone());
            is_new
        });
        RedisSubscriber {
            acknowledged: vec![false; config.patterns.len()],
            probe: Probe::new(&config.node),
            asked: VecDeque::new(),
            looks: false,
            back_by: None,
            share: None,
            session: Session::new("link to Redis", Handshake::of_subscription(NAME), config, now),
        }
    }

    /// One of the connections that share the topics on demand. The first one subscribes to the channels of features as well.
    pub fn of_share(
        mut config: RedisConfig,
        settings: &DemandSettings,
        number: usize,
        now: Millis,
    ) -> RedisSubscriber {
        let own = settings.own.iter().filter(|_| number == 0);
        config.patterns = own.map(|channel| glob::escaped(channel)).collect();
        let everything = [&settings.prefix, "*"].concat();
        let share = ShareLink { number, everything, acknowledged_by: None, has_commands: false };
        RedisSubscriber { share: Some(share), ..RedisSubscriber::new(config, now) }
    }

    /// The number of its share, if it subscribes on demand.
    pub fn share(&self) -> Option<usize> {
        self.share.as_ref().map(|share| share.number)
    }

    /// Queues the next commands for its share, once those before are written.
    pub fn subscribe(&mut self, demand: &mut Demand, now: Millis) {
        let Some(share) = &mut self.share else { return };
        if !self.session.is_ready() {
            share.has_commands = false;
            return;
        }
        if self.session.output().is_empty() {
            let mut commands = Vec::new();
            demand.write_commands(share.number, &mut commands, now);
            self.session.send(&commands);
        }
        share.has_commands = demand.has_commands(share.number);
        share.acknowledged_by = demand.acknowledged_by(share.number);
        share.acknowledged_by.into_iter().for_each(|by| self.session.expect(by));
    }

    /// Redis acknowledged commands of its share.
    pub fn acknowledged(&mut self, demand: &Demand) {
        let Some(share) = &mut self.share else { return };
        share.acknowledged_by = demand.acknowledged_by(share.number);
        self.session.expect_nothing();
        let awaited = [self.back_by, share.acknowledged_by];
        awaited.into_iter().flatten().min().into_iter().for_each(|by| self.session.expect(by));
    }

    /// Returns whether another command can be queued for its share.
    pub fn has_commands(&self) -> bool {
        self.share.as_ref().is_some_and(|share| share.has_commands)
            && self.session.output().is_empty()
    }

    /// Takes from `input` up to the next event; `None`: it is used up.
    ///
    /// # Errors
    /// The connection is given up, and the text says what to do. The caller drops the socket and calls `down`.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<SubscriptionEvent<'a>>, String> {
        if !self.session.begin_input(input, now) {
            return Ok(None);
        }
        let acknowledged_by = self.share.as_ref().and_then(|share| share.acknowledged_by);
        if let Some(by) = [self.back_by, acknowledged_by].into_iter().flatten().min() {
            self.session.expect(by);
        }
        self.read(input, now).map_err(|failure| self.session.fail(failure))
    }

    /// Queues a PING after silence, and looks at the far end again. Input that is there must have been read before.
    ///
    /// # Errors
    /// Something is overdue; see [`RedisSubscriber::next`].
    pub fn on_time(&mut self, now: Millis) -> Result<(), String> {
        if self.session.due(now) == Some(Due::Overdue) && self.is_probe_overdue(now) {
            let text = advice::deaf(&self.session.config);
            return Err(self.session.fail(RedisFailure::Deaf(text)));
        }
        let share = self.share.as_ref().and_then(|share| share.acknowledged_by);
        let awaited = if share.is_some_and(|by| by <= now) { "SUBSCRIBE" } else { "PING" };
        if self.session.is_silent(now, awaited)? {
            // A queued command asks already.
            if self.session.output().is_empty() {
                self.ask(now);
            }
            self.session.expect_reply(now);
        }
        Ok(())
    }

    /// The connection is gone, or could not be made. Returns whether it was up; see [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.acknowledged.fill(false);
        self.asked.clear();
        self.looks = false;
        self.probe.end();
        self.back_by = None;
        if let Some(share) = &mut self.share {
            (share.acknowledged_by, share.has_commands) = (None, false);
        }
        self.session.down(now, random)
    }

    fn read<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<SubscriptionEvent<'a>>, RedisFailure> {
        let bytes_max = self.session.config.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
        while let Some(value) = self.session.replies.value(input, bytes_max)? {
            let Whole::Value(value) = value else {
                return Ok(Some(SubscriptionEvent::Oversized));
            };
            match self.read_message(&value) {
                Some(Delivery::Ignored) => {}
                Some(Delivery::Oversized) => return Ok(Some(SubscriptionEvent::Oversized)),
                // The gap is reported once the connection is up. A message before that would hide what was lost before it.
                Some(Delivery::Due(..)) if self.session.is_greeting() => {}
                Some(Delivery::Due(channel, payload, by_everything)) => {
                    if self.back_by.is_some() {
                        self.probe.prove();
                        self.end_probe(now);
                    }
                    let message = ChannelMessage { value, channel, payload, by_everything };
                    return Ok(Some(SubscriptionEvent::Message(message)));
                }
                None => {
                    let value = resp::parse(&value)?;
                    if let Some(change) = share::share_change(self, &value) {
                        return Ok(Some(SubscriptionEvent::Changed(change)));
                    }
                    if self.on_reply(value, now)? {
                        return Ok(Some(SubscriptionEvent::Up));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The hot path: a flat `pmessage`, straight from the bytes. `None` if it is anything else.
    fn read_message(&self, value: &[u8]) -> Option<Delivery> {
        let mut bulks = resp::bulks(value)?;
        if bulks.left() == 3 && self.share.is_some() && &value[bulks.next()?] == b"message" {
            let (channel, payload) = (bulks.next()?, bulks.next()?);
            if value[channel.clone()].starts_with(CHANNEL.as_bytes()) {
                return None;
            }
            return Some(self.delivery(channel, payload, false));
        }
        if bulks.left() != 4 || &value[bulks.next()?] != b"pmessage" {
            return None;
        }
        let (by, channel, payload) = (bulks.next()?, bulks.next()?, bulks.next()?);
        if self.share.as_ref().is_some_and(|one| one.everything.as_bytes() == &value[by.clone()]) {
            return Some(self.delivery(channel, payload, true));
        }
        let patterns = &self.session.config.patterns;
        let Some(index) = patterns.iter().position(|ours| ours.as_bytes() == &value[by.clone()])
        else {
            return Some(Delivery::Ignored);
        };
        // An earlier pattern has delivered it, if it was subscribed to by then; acknowledgements come in that order, too.
        let mut earlier = patterns[..index].iter().zip(&self.acknowledged);
        let is_delivered = earlier.any(|(ours, &is_acknowledged)| {
            is_acknowledged && glob::matches(ours.as_bytes(), &value[channel.clone()])
        });
        Some(match is_delivered {
            true => Delivery::Ignored,
            false => self.delivery(channel, payload, false),
        })
    }

    fn delivery(
        &self,
        channel: Range<usize>,
        payload: Range<usize>,
        by_everything: bool,
    ) -> Delivery {
        match payload.len() > self.session.config.payload_bytes_max {
            true => Delivery::Oversized,
            false => Delivery::Due(channel, payload, by_everything),
        }
    }

    /// Takes a value that is no message. Returns whether the connection is up now.
    fn on_reply(&mut self, mut value: Value, now: Millis) -> Result<bool, RedisFailure> {
        while let Value::Attribute { data, .. } = value {
            value = *data;
        }
        if let Some((true, is_added, pattern)) = change_of(&value) {
            return self.on_subscription(is_added, pattern, now);
        }
        match value {
            Value::Push { kind, data } => match (kind, &data[..]) {
                (PushKind::Subscribe, [Value::BulkString(channel), ..]) => {
                    self.probe.subscribed(channel);
                }
                (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                    self.probe.came(channel, payload)
                }
                _ => return Ok(false),
            },
            // The patterns are acknowledged: these replies are the probe's.
            reply
                if self.session.is_greeting()
                    && self.looks
                    && self.session.is_answered()
                    && !self.acknowledged.contains(&false) =>
            {
                self.probe.answered(matches!(reply, Value::ServerError(_)));
            }
            reply if self.session.is_greeting() => {
                if self.session.on_handshake_reply(&reply)? && !self.looks {
                    self.looks = true;
                    self.session.send(&self.probe.begin());
                }
                if !self.acknowledged.is_empty() || !self.session.is_answered() {
                    return Ok(false);
                }
            }
            reply => match (self.asked.pop_front(), &reply) {
                (Some(Asked::Publish), reply) => {
                    self.probe.answered(matches!(reply, Value::ServerError(_)));
                }
                // An error that nobody asked for is about the connection.
                (None, Value::ServerError(error))
                    if matches!(error.code(), "NOPERM" | "NOAUTH") =>
                {
                    return Err(self.lost(error.code()));
                }
                // Any answer proves life, `-MISCONF` and `-LOADING` too.
                (_, Value::ServerError(_)) | (None | Some(Asked::Ping), _) => return Ok(false),
                (Some(Asked::Role), role) => {
                    return by_role(role).check(&self.session.config).map(|()| false);
                }
                (Some(Asked::Info), info) => {
                    return by_info(info).check(&self.session.config).map(|()| false);
                }
                (Some(Asked::ClusterInfo), info) => {
                    return cluster::check_state(info, &self.session.config).map(|()| false);
                }
            },
        }
        Ok(self.proceed(now))
    }

    fn on_subscription(
        &mut self,
        is_added: bool,
        pattern: &[u8],
        now: Millis,
    ) -> Result<bool, RedisFailure> {
        let mut patterns = self.session.config.patterns.iter();
        let Some(index) = patterns.position(|ours| ours.as_bytes() == pattern) else {
            return Ok(false);
        };
        if !is_added {
            let pattern = &self.session.config.patterns[index];
            return Err(self.lost(&format!("punsubscribe of {pattern}")));
        }
        self.acknowledged[index] = true;
        Ok(self.session.is_greeting() && self.proceed(now))
    }

    fn lost(&self, why: &str) -> RedisFailure {
        let rights = self.share.as_ref().filter(|_| why == "NOPERM").map(ShareLink::rights);
        let why = rights.as_deref().unwrap_or(why);
        RedisFailure::Refused(advice::lost(&self.session.config, why))
    }

    /// Something that was awaited came: it may have been the last of it. Returns whether the connection is up now.
    fn proceed(&mut self, now: Millis) -> bool {
        if !self.session.is_greeting() {
            self.end_probe(now);
            return false;
        }
        let is_up = !self.acknowledged.contains(&false) && (!self.looks || self.probe.is_settled());
        if is_up {
            self.session.ready(now);
        }
        is_up
    }

    /// The probe's message is back, or the probe is not permitted.
    fn end_probe(&mut self, now: Millis) {
        if self.probe.is_settled() {
            self.back_by = None;
            self.session.on_bytes(now);
        }
    }

    /// Returns whether only the probe's message is still to come.
    fn is_probe_overdue(&self, now: Millis) -> bool {
        match self.session.is_greeting() {
            true => self.looks && self.session.is_answered() && !self.acknowledged.contains(&false),
            false => self.back_by.is_some_and(|by| by <= now),
        }
    }

    /// Asks for a sign of life, and for the state of a far end that said its mode, and whether messages still come.
    fn ask(&mut self, now: Millis) {
        self.session.send(&redis::cmd("PING").get_packed_command());
        self.asked.push_back(Asked::Ping);
        if !self.looks {
            return;
        }
        self.session.send(&redis::cmd("ROLE").get_packed_command());
        self.session.send(&redis::cmd("INFO").arg("replication").get_packed_command());
        self.asked.extend([Asked::Role, Asked::Info]);
        if cluster::is_node(&self.session.config) {
            self.session.send(&redis::cmd("CLUSTER").arg("INFO").get_packed_command());
            self.asked.push_back(Asked::ClusterInfo);
        }
        if let Some(publish) = self.probe.again() {
            self.session.send(&publish);
            self.asked.push_back(Asked::Publish);
            self.back_by = Some(now.saturating_add(self.session.config.timeout));
        }
    }
}

#[cfg(test)]
mod tests;
