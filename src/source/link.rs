//! The subscription at Redis: greet, subscribe, stay alive.

use std::borrow::Cow;
use std::ops::Range;

use redis::{PushKind, ServerError, Value};

use super::greeting::Greeting;
use super::link_config::LinkConfig;
use super::resp::{self, ENVELOPE_BYTES_MAX, Framer, Whole};
use super::scanner::Grammar;
use super::session::{Due, Session};
use super::{pattern, refusal};
use crate::clock::Millis;

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
pub struct Link {
    pub session: Session,
    /// Which answer comes next, while it is greeting.
    greeting: Greeting,
    framer: Framer,
    /// One for each pattern: whether Redis acknowledged it.
    acknowledged: Vec<bool>,
    /// PINGs whose answers are still to come.
    pings_unanswered: u32,
    /// A message that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
}

/// What one value from Redis means.
enum Meaning {
    Nothing,
    Up,
    Message { channel: Range<usize>, payload: Range<usize> },
    Oversized,
    Failed(String),
}

impl Link {
    /// The first attempt is due at once.
    pub fn new(mut config: LinkConfig, now: Millis) -> Link {
        // Redis acknowledges a repeated pattern, and delivers by it once.
        let mut seen: Vec<String> = Vec::with_capacity(config.patterns.len());
        config.patterns.retain(|pattern| {
            let is_new = !seen.contains(pattern);
            seen.push(pattern.clone());
            is_new
        });
        Link {
            acknowledged: vec![false; config.patterns.len()],
            session: Session::new(config, now),
            greeting: Greeting::Hello,
            framer: Framer::new(Grammar::Replies),
            pings_unanswered: 0,
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
            self.session.heard(now);
        }
        let bytes_max = self.config().payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
        while self.session.is_greeting() || self.session.is_ready() {
            let value = match self.framer.next(input, bytes_max) {
                Ok(Some(Whole::Value(value))) => value,
                Ok(Some(Whole::Oversized { .. })) => return Some(Event::Oversized),
                Ok(None) => return None,
                Err(garbage) => return Some(self.fail(refusal::garbage(self.config(), garbage))),
            };
            match self.interpret(&value, now) {
                Meaning::Nothing => {}
                Meaning::Up => return Some(Event::Up),
                Meaning::Oversized => return Some(Event::Oversized),
                Meaning::Failed(text) => return Some(self.fail(text)),
                Meaning::Message { channel, payload } => {
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

    /// Queues a PING after silence; fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event<'static>> {
        match self.session.due(now)? {
            Due::Overdue => {
                let is_greeting = self.session.is_greeting();
                let command = if is_greeting { self.greeting.command() } else { "PING" };
                let text = self.session.overdue(command);
                Some(self.fail(text))
            }
            Due::Silence => {
                // What is still queued is asking already.
                if self.session.output().is_empty() {
                    self.session
                        .speak(|_, output| *output = redis::cmd("PING").get_packed_command());
                    self.pings_unanswered += 1;
                }
                self.session.expect(now.saturating_add(self.config().timeout));
                None
            }
        }
    }

    /// The connection is gone, or could not be made. Says whether it was up; see [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.reset();
        self.session.down(now, random)
    }

    fn config(&self) -> &LinkConfig {
        self.session.config()
    }

    fn fail(&mut self, text: String) -> Event<'static> {
        self.reset();
        self.session.fail();
        Event::Failed(text)
    }

    /// Nothing of one connection may reach the next.
    fn reset(&mut self) {
        self.framer = Framer::new(Grammar::Replies);
        self.acknowledged.fill(false);
        self.pings_unanswered = 0;
    }

    fn interpret(&mut self, value: &[u8], now: Millis) -> Meaning {
        if let Some(meaning) = self.read_message(value) {
            return meaning;
        }
        let mut value = match redis::parse_redis_value(value) {
            Ok(value) => value,
            Err(_) => return Meaning::Failed(refusal::not_redis(self.config(), "malformed reply")),
        };
        while let Value::Attribute { data, .. } = value {
            value = *data;
        }
        if let Some((is_added, pattern)) = subscription_change(&value) {
            return self.subscription_changed(is_added, pattern, now);
        }
        match value {
            Value::Push { .. } => Meaning::Nothing,
            value if self.session.is_greeting() => self.greet(&value),
            Value::ServerError(error) => self.error_while_up(&error),
            _ => {
                self.pings_unanswered = self.pings_unanswered.saturating_sub(1);
                Meaning::Nothing
            }
        }
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
            is_acknowledged && pattern::matches(ours.as_bytes(), &value[channel.clone()])
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
            return Meaning::Failed(refusal::lost(self.config(), &why));
        }
        self.acknowledged[index] = true;
        if !self.session.is_greeting() || self.acknowledged.contains(&false) {
            return Meaning::Nothing;
        }
        self.session.ready(now);
        Meaning::Up
    }

    fn greet(&mut self, answer: &Value) -> Meaning {
        let greeting = self.greeting;
        let next = self.session.speak(|config, output| match answer {
            Value::ServerError(error) => greeting.refused(config, output, error),
            _ => Ok(greeting.accepted(config, output)),
        });
        match next {
            Ok(next) => self.greeting = next,
            Err(text) => return Meaning::Failed(text),
        }
        Meaning::Nothing
    }

    /// Any answer to PING proves life, `-MISCONF` and `-LOADING` too. An error that nobody asked for is about the connection.
    fn error_while_up(&mut self, error: &ServerError) -> Meaning {
        if self.pings_unanswered > 0 {
            self.pings_unanswered -= 1;
            return Meaning::Nothing;
        }
        match error.code() {
            code @ ("NOPERM" | "NOAUTH") => Meaning::Failed(refusal::lost(self.config(), code)),
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
