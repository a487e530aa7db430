//! Our connection to Redis: connect, greet, subscribe, stay alive, back off.
//!
//! ```text
//!            connecting()             connected()                every pattern acknowledged
//! Waiting ───────────────► Connecting ───────────► Greeting ───────────────────────────────► Up
//!    ▲                         │                       │                                      │
//!    └──────── down() ─────────┴── Failed, or closed ──┴──────────────────────────────────────┘
//! ```

use std::borrow::Cow;
use std::ops::Range;

use redis::{PushKind, ServerError, Value};

use super::greeting::Greeting;
use super::link_config::{Address, LinkConfig};
use super::resp::{self, ENVELOPE_BYTES_MAX, Framer, Whole};
use super::scanner::Grammar;
use super::{pattern, refusal};
use crate::clock::Millis;

const BACKOFF_FIRST: Millis = 50;
/// No attempt follows the last one sooner, whatever the settings say.
const BACKOFF_MIN: Millis = 10;

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

/// The state of the connection. The caller owns the socket and the clock.
pub struct Link {
    config: LinkConfig,
    state: State,
    framer: Framer,
    /// One for each pattern: whether Redis acknowledged it.
    acknowledged: Vec<bool>,
    /// PINGs whose answers are still to come.
    pings_unanswered: u32,
    /// Since when every pattern is acknowledged; stays until `down`.
    up_since: Option<Millis>,
    /// Attempts since it last stayed up.
    attempts: u32,
    output: Vec<u8>,
    /// A message that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
}

enum State {
    Waiting {
        until: Millis,
    },
    Connecting {
        deadline: Millis,
    },
    Greeting {
        next: Greeting,
        deadline: Millis,
    },
    Up {
        heard: Millis,
        pinged: Option<Millis>,
    },
    /// Failed, and not yet `down`.
    Broken,
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
            config,
            state: State::Waiting { until: now },
            framer: Framer::new(Grammar::Replies),
            pings_unanswered: 0,
            up_since: None,
            attempts: 0,
            output: Vec::new(),
            lent: Vec::new(),
        }
    }

    pub fn address(&self) -> &Address {
        &self.config.address
    }

    /// Whether every pattern is acknowledged and the connection is not known to be broken.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether the wait for the next attempt is over.
    pub fn wants_connect(&self, now: Millis) -> bool {
        matches!(self.state, State::Waiting { until } if now >= until)
    }

    /// The caller begins to resolve or to connect. One deadline covers everything up to `Event::Up`.
    pub fn connecting(&mut self, now: Millis) {
        self.state = State::Connecting { deadline: now.saturating_add(self.config.timeout) };
    }

    /// The socket is connected: queues the greeting.
    pub fn connected(&mut self, now: Millis) {
        let deadline = match self.state {
            State::Connecting { deadline } => deadline,
            _ => now.saturating_add(self.config.timeout),
        };
        let next = Greeting::begin(&self.config, &mut self.output);
        self.state = State::Greeting { next, deadline };
    }

    /// Takes from `input` up to the next event; `None`: it is used up. Call until then, so that nothing is held that need not be.
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        now: Millis,
    ) -> Option<Event<'a>> {
        self.lent = Vec::new();
        if let State::Up { heard, pinged } = &mut self.state
            && !input.is_empty()
        {
            (*heard, *pinged) = (now, None);
        }
        let bytes_max = self.config.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
        while let State::Greeting { .. } | State::Up { .. } = self.state {
            let value = match self.framer.next(input, bytes_max) {
                Ok(Some(Whole::Value(value))) => value,
                Ok(Some(Whole::Oversized { .. })) => return Some(Event::Oversized),
                Ok(None) => return None,
                Err(garbage) => return Some(self.fail(refusal::garbage(&self.config, garbage))),
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

    /// Bytes for the socket.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// The socket took the first `count` bytes of `output`.
    pub fn wrote(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// When to look again: connect (`wants_connect`) while waiting, else `on_time`.
    pub fn deadline(&self) -> Option<Millis> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { deadline } | State::Greeting { deadline, .. } => Some(deadline),
            State::Up { pinged: Some(since), .. } => {
                Some(since.saturating_add(self.config.timeout))
            }
            State::Up { heard, .. } => Some(heard.saturating_add(self.config.silence)),
            State::Broken => None,
        }
    }

    /// Queues a PING after silence; fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event<'static>> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        let text = match &mut self.state {
            State::Waiting { .. } | State::Broken => return None,
            State::Up { pinged: pinged @ None, .. } => {
                *pinged = Some(now);
                // What is still queued is asking already.
                if self.output.is_empty() {
                    self.output = redis::cmd("PING").get_packed_command();
                    self.pings_unanswered += 1;
                }
                return None;
            }
            State::Up { .. } => refusal::silent(&self.config),
            State::Connecting { .. } => refusal::unreachable(&self.config),
            State::Greeting { next, .. } => refusal::unanswered(&self.config, next.command()),
        };
        Some(self.fail(text))
    }

    /// The connection is gone, or could not be made: waits before the next attempt, longer each time until one stays up.
    /// `random` is any 64 bits; they keep many servers from coming back in step. Says whether it was up.
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        let up_since = self.up_since.take();
        // To be subscribed is not yet to stay: a Redis that cuts us off each time would otherwise be back 30 times a second,
        // and each time every client is told to fetch its state.
        if up_since.is_some_and(|since| now.saturating_sub(since) >= self.config.backoff_max) {
            self.attempts = 0;
        }
        let doubled = BACKOFF_FIRST.saturating_mul(1 << self.attempts.min(32));
        let longest = doubled.min(self.config.backoff_max).max(BACKOFF_MIN);
        let shortest = (longest / 4).max(BACKOFF_MIN);
        let wait = shortest + random % (longest - shortest + 1);
        self.attempts = self.attempts.saturating_add(1);
        self.reset(State::Waiting { until: now.saturating_add(wait) });
        up_since.is_some()
    }

    fn fail(&mut self, text: String) -> Event<'static> {
        self.reset(State::Broken);
        Event::Failed(text)
    }

    /// Nothing of one connection may reach the next.
    fn reset(&mut self, state: State) {
        self.state = state;
        self.framer = Framer::new(Grammar::Replies);
        self.acknowledged.fill(false);
        self.pings_unanswered = 0;
        self.output = Vec::new();
    }

    fn interpret(&mut self, value: &[u8], now: Millis) -> Meaning {
        if let Some(meaning) = self.read_message(value) {
            return meaning;
        }
        let mut value = match redis::parse_redis_value(value) {
            Ok(value) => value,
            Err(_) => return Meaning::Failed(refusal::not_redis(&self.config, "malformed reply")),
        };
        while let Value::Attribute { data, .. } = value {
            value = *data;
        }
        if let Some((is_added, pattern)) = subscription_change(&value) {
            return self.subscription_changed(is_added, pattern, now);
        }
        match (&self.state, value) {
            (_, Value::Push { .. }) => Meaning::Nothing,
            (&State::Greeting { next, deadline }, value) => self.greet(next, deadline, &value),
            (_, Value::ServerError(error)) => self.error_while_up(&error),
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
        let patterns = &self.config.patterns;
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
        if payload.len() > self.config.payload_bytes_max {
            return Some(Meaning::Oversized);
        }
        Some(Meaning::Message { channel, payload })
    }

    fn subscription_changed(&mut self, is_added: bool, pattern: &[u8], now: Millis) -> Meaning {
        let mut patterns = self.config.patterns.iter();
        let Some(index) = patterns.position(|ours| ours.as_bytes() == pattern) else {
            return Meaning::Nothing;
        };
        if !is_added {
            let why = format!("punsubscribe of {}", self.config.patterns[index]);
            return Meaning::Failed(refusal::lost(&self.config, &why));
        }
        self.acknowledged[index] = true;
        let is_greeting = matches!(self.state, State::Greeting { .. });
        if !is_greeting || self.acknowledged.contains(&false) {
            return Meaning::Nothing;
        }
        self.state = State::Up { heard: now, pinged: None };
        self.up_since = Some(now);
        Meaning::Up
    }

    fn greet(&mut self, greeting: Greeting, deadline: Millis, answer: &Value) -> Meaning {
        let (config, output) = (&self.config, &mut self.output);
        let next = match answer {
            Value::ServerError(error) => greeting.refused(config, output, error),
            _ => Ok(greeting.accepted(config, output)),
        };
        match next {
            Ok(next) => self.state = State::Greeting { next, deadline },
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
            code @ ("NOPERM" | "NOAUTH") => Meaning::Failed(refusal::lost(&self.config, code)),
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
