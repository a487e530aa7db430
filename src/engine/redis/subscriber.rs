//! The subscription at Redis: greet, subscribe, stay alive, and make sure that messages come.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use redis::{PushKind, ServerError, Value};

use crate::clock::Millis;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::far_end::{by_info, by_role};
use crate::engine::redis::greeting::{Greeting, sound, write_info, write_role};
use crate::engine::redis::probe::Probe;
use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Framer, Whole};
use crate::engine::redis::scanner::Grammar;
use crate::engine::redis::session::{Due, Session};
use crate::engine::redis::{advice, glob};

/// What the link has to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Every pattern is acknowledged.
    Up,
    /// Once per published message, however many of our patterns match its channel.
    Message { channel: &'a [u8], payload: &'a [u8] },
    /// A message above `payload_bytes_max` went by, and is lost. (One that two patterns match is told twice.)
    Oversized,
    /// The text says what to do. The caller drops the socket and calls `down`.
    Failed(String),
}

/// A subscriber. The caller owns the socket and the clock, and drives the session.
pub struct RedisSubscriber {
    pub session: Session,
    /// Which answer comes next, while it is greeting.
    greeting: Greeting,
    framer: Framer,
    /// One for each pattern: whether Redis acknowledged it.
    acknowledged: Vec<bool>,
    /// Commands since it is up, whose answers are still to come.
    asked: VecDeque<Asked>,
    /// Where the far end said its mode: it is looked at after each silence.
    looks: bool,
    probe: Probe,
    /// When the probe's latest message must be back.
    back_by: Option<Millis>,
    /// Why the last connection carried no messages, if that ended it.
    deaf: Option<String>,
    /// A message that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
}

/// A command of a connection that is up.
#[derive(Clone, Copy)]
enum Asked {
    Ping,
    Role,
    Info,
    Publish,
}

/// What one value from Redis means.
enum Meaning {
    Nothing,
    Up,
    Message {
        channel: Range<usize>,
        payload: Range<usize>,
    },
    Oversized,
    Failed(String),
    /// The same, for a far end that carries no messages.
    Deaf(String),
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
            deaf: None,
            session: Session::new(config, now),
            greeting: Greeting::Hello,
            framer: Framer::new(Grammar::Replies),
            lent: Vec::new(),
        }
    }

    /// The socket is connected: queues the greeting.
    pub fn connected(&mut self, now: Millis) {
        self.session.connected(now);
        self.greeting = self.session.speak(Greeting::begin);
    }

    /// Takes from `input` up to the next event; `None`: it is used up. Call until then, so that nothing is held that need not be.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        now: Millis,
    ) -> Option<Event<'a>> {
        self.lent = Vec::new();
        if !input.is_empty() {
            self.hear(now);
        }
        let bytes_max = self.config().payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
        while self.session.is_greeting() || self.session.is_ready() {
            let value = match self.framer.next(input, bytes_max) {
                Ok(Some(Whole::Value(value))) => value,
                Ok(Some(Whole::Oversized { .. })) => return Some(Event::Oversized),
                Ok(None) => return None,
                Err(garbage) => return Some(self.fail(advice::garbage(self.config(), garbage))),
            };
            match self.interpret(&value, now) {
                Meaning::Nothing => {}
                Meaning::Up => return Some(Event::Up),
                Meaning::Oversized => return Some(Event::Oversized),
                Meaning::Failed(text) => return Some(self.fail(text)),
                Meaning::Deaf(text) => return Some(self.fail_deaf(text)),
                // The gap is told once the link is up. A message told before it would hide what was lost before that message.
                Meaning::Message { .. } if self.session.is_greeting() => {}
                Meaning::Message { channel, payload } => {
                    if self.back_by.is_some() {
                        self.probe.prove();
                        self.end_probe(now);
                    }
                    let value: &'a [u8] = match value {
                        Cow::Borrowed(value) => value,
                        Cow::Owned(value) => {
                            self.lent = value;
                            &self.lent
                        }
                    };
                    return Some(Event::Message {
                        channel: &value[channel],
                        payload: &value[payload],
                    });
                }
            }
        }
        *input = &[];
        None
    }

    /// Bytes came: nothing is awaited any more but the probe.
    fn hear(&mut self, now: Millis) {
        self.session.heard(now);
        if let Some(by) = self.back_by {
            self.session.expect(by);
        }
    }

    /// The probe's message is back, or the probe is not permitted.
    fn end_probe(&mut self, now: Millis) {
        if self.probe.is_settled() {
            self.back_by = None;
            self.session.heard(now);
        }
    }

    /// Returns why no messages came, where that ended the last connection.
    pub fn deaf(&self) -> Option<&str> {
        self.deaf.as_deref()
    }

    /// Queues a PING after silence, and looks at the far end again; fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event<'static>> {
        match self.session.due(now)? {
            Due::Overdue if self.is_probe_overdue(now) => {
                Some(self.fail_deaf(advice::deaf(self.config())))
            }
            Due::Overdue => {
                let is_greeting = self.session.is_greeting();
                let command = if is_greeting { self.greeting.command() } else { "PING" };
                let text = self.session.overdue(command);
                Some(self.fail(text))
            }
            Due::Silence => {
                // What is still queued is asking already.
                if self.session.output().is_empty() {
                    self.ask(now);
                }
                self.session.expect(now.saturating_add(self.config().timeout));
                None
            }
        }
    }

    /// Asks whether it lives, and where it is looked at, whether messages still come.
    fn ask(&mut self, now: Millis) {
        let (looks, probe) = (self.looks, &mut self.probe);
        self.session.speak(|_, output| {
            output.extend(redis::cmd("PING").get_packed_command());
            if looks {
                write_role(output);
                write_info(output);
                probe.again(output);
            }
        });
        self.asked.push_back(Asked::Ping);
        if looks {
            self.asked.extend([Asked::Role, Asked::Info]);
        }
        if looks && self.probe.is_permitted() {
            self.asked.push_back(Asked::Publish);
            self.back_by = Some(now.saturating_add(self.config().timeout));
        }
    }

    /// Whether all that is still to come is the probe's message.
    fn is_probe_overdue(&self, now: Millis) -> bool {
        match self.session.is_greeting() {
            true => self.looks && !self.acknowledged.contains(&false),
            false => self.back_by.is_some_and(|by| by <= now),
        }
    }

    /// The connection is gone, or could not be made. Says whether it was up; see [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.reset();
        self.session.down(now, random)
    }

    fn config(&self) -> &RedisConfig {
        self.session.config()
    }

    fn fail_deaf(&mut self, text: String) -> Event<'static> {
        let failed = self.fail(text.clone());
        self.deaf = Some(text);
        failed
    }

    fn fail(&mut self, text: String) -> Event<'static> {
        self.deaf = None;
        self.reset();
        self.session.fail();
        Event::Failed(text)
    }

    /// Nothing of one connection may reach the next.
    fn reset(&mut self) {
        self.framer = Framer::new(Grammar::Replies);
        self.acknowledged.fill(false);
        self.asked.clear();
        self.looks = false;
        self.probe.end();
        self.back_by = None;
    }

    fn interpret(&mut self, value: &[u8], now: Millis) -> Meaning {
        if let Some(meaning) = self.read_message(value) {
            return meaning;
        }
        let mut value = match redis::parse_redis_value(value) {
            Ok(value) => value,
            Err(_) => return Meaning::Failed(advice::not_redis(self.config(), "malformed reply")),
        };
        while let Value::Attribute { data, .. } = value {
            value = *data;
        }
        if let Some((is_added, pattern)) = subscription_change(&value) {
            return self.subscription_changed(is_added, pattern, now);
        }
        match value {
            Value::Push { kind, data } => self.pushed(&kind, &data, now),
            value if self.session.is_greeting() => self.greet(&value, now),
            value => self.answered(&value, now),
        }
    }

    /// A push about the probe; others are not ours.
    fn pushed(&mut self, kind: &PushKind, data: &[Value], now: Millis) -> Meaning {
        match (kind, data) {
            (PushKind::Subscribe, [Value::BulkString(channel), ..]) => {
                self.probe.subscribed(channel);
            }
            (PushKind::Message, [Value::BulkString(channel), Value::BulkString(payload)]) => {
                self.probe.came(channel, payload);
            }
            _ => return Meaning::Nothing,
        }
        self.proceed(now)
    }

    /// The answer to what was asked first of a connection that is up.
    fn answered(&mut self, answer: &Value, now: Millis) -> Meaning {
        let asked = self.asked.pop_front();
        let judged = match (asked, answer) {
            (None, Value::ServerError(error)) => return self.error_while_up(error),
            (Some(Asked::Publish), answer) => {
                self.probe.answered(matches!(answer, Value::ServerError(_)));
                return self.proceed(now);
            }
            // Any answer proves life, `-MISCONF` and `-LOADING` too.
            (_, Value::ServerError(_)) | (None | Some(Asked::Ping), _) => return Meaning::Nothing,
            (Some(Asked::Role), answer) => sound(self.config(), by_role(answer)),
            (Some(Asked::Info), answer) => sound(self.config(), by_info(answer)),
        };
        judged.map_or_else(Meaning::Deaf, |()| Meaning::Nothing)
    }

    /// Something that was awaited came: it may have been the last of it.
    fn proceed(&mut self, now: Millis) -> Meaning {
        if !self.session.is_greeting() {
            self.end_probe(now);
            return Meaning::Nothing;
        }
        if self.acknowledged.contains(&false) || (self.looks && !self.probe.is_settled()) {
            return Meaning::Nothing;
        }
        self.session.ready(now);
        self.deaf = None;
        Meaning::Up
    }

    /// The hot path: a flat `pmessage`, straight from the bytes. `None` if it is anything else.
    fn read_message(&self, value: &[u8]) -> Option<Meaning> {
        let mut bulks = resp::bulks(value)?;
        if bulks.left() != 4 || &value[bulks.next()?] != b"pmessage" {
            return None;
        }
        let (by, channel, payload) = (bulks.next()?, bulks.next()?, bulks.next()?);
        let patterns = &self.config().patterns;
        let Some(index) = patterns.iter().position(|ours| ours.as_bytes() == &value[by.clone()])
        else {
            return Some(Meaning::Nothing);
        };
        // An earlier pattern has delivered it, if it was subscribed to by then; acknowledgements come in that order, too.
        let mut earlier = patterns[..index].iter().zip(&self.acknowledged);
        if earlier.any(|(ours, &is_acknowledged)| {
            is_acknowledged && glob::matches(ours.as_bytes(), &value[channel.clone()])
        }) {
            return Some(Meaning::Nothing);
        }
        if payload.len() > self.config().payload_bytes_max {
            return Some(Meaning::Oversized);
        }
        Some(Meaning::Message { channel, payload })
    }

    fn subscription_changed(&mut self, is_added: bool, pattern: &[u8], now: Millis) -> Meaning {
        let mut patterns = self.config().patterns.iter();
        let Some(index) = patterns.position(|ours| ours.as_bytes() == pattern) else {
            return Meaning::Nothing;
        };
        if !is_added {
            let why = format!("punsubscribe of {}", self.config().patterns[index]);
            return Meaning::Failed(advice::lost(self.config(), &why));
        }
        self.acknowledged[index] = true;
        if self.session.is_greeting() { self.proceed(now) } else { Meaning::Nothing }
    }

    fn greet(&mut self, answer: &Value, now: Millis) -> Meaning {
        if self.looks && !self.acknowledged.contains(&false) {
            self.probe.answered(matches!(answer, Value::ServerError(_)));
            return self.proceed(now);
        }
        let greeting = self.greeting;
        let next = self.session.speak(|config, output| match answer {
            Value::ServerError(error) => {
                greeting.refused(config, output, error).map_err(Meaning::Failed)
            }
            _ => greeting.accepted(config, output, answer).map_err(Meaning::Deaf),
        });
        match next {
            Ok(next) => self.greeting = next,
            Err(meaning) => return meaning,
        }
        if greeting == Greeting::Hello && self.greeting.looks_closely() {
            self.looks = true;
            let probe = &mut self.probe;
            self.session.speak(|_, output| probe.begin(output));
        }
        Meaning::Nothing
    }

    /// An error that nobody asked for is about the connection.
    fn error_while_up(&mut self, error: &ServerError) -> Meaning {
        match error.code() {
            code @ ("NOPERM" | "NOAUTH") => Meaning::Failed(advice::lost(self.config(), code)),
            _ => Meaning::Nothing,
        }
    }
}

/// Whether this is about a subscription, as an array (RESP2) or a push (RESP3): added or not, and its pattern.
fn subscription_change(value: &Value) -> Option<(bool, &[u8])> {
    let (is_added, pattern) = match value {
        Value::Push { kind: PushKind::PSubscribe, data } => (true, data.first()?),
        Value::Push { kind: PushKind::PUnsubscribe, data } => (false, data.first()?),
        Value::Array(items) => match items.as_slice() {
            [Value::BulkString(kind), pattern, _] if kind == b"psubscribe" => (true, pattern),
            [Value::BulkString(kind), pattern, _] if kind == b"punsubscribe" => (false, pattern),
            _ => return None,
        },
        _ => return None,
    };
    match pattern {
        Value::BulkString(pattern) => Some((is_added, pattern)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
