//! Executes commands at Redis: they go out as they come, and each is answered once.

use std::collections::VecDeque;

use redis::Value;

use super::link_config::LinkConfig;
use super::opening::Opening;
use super::refusal;
use super::request::{Answer, Purpose, REQUEST_BYTES_MAX, REQUESTS_MAX, Request};
use super::resp::{Framer, Whole};
use super::scanner::Grammar;
use super::session::{Due, Session};
use crate::clock::Millis;

/// How it calls itself in `CLIENT LIST`.
const NAME: &str = "oneloop-commander";
/// A larger answer is not held, and counts as refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the commander has to say.
#[derive(Debug)]
pub enum Event {
    /// Commands are taken from now on.
    Ready,
    /// What became of a request.
    Answer(Purpose, Answer),
    /// The text says what to do. The caller drops the socket and calls `down`.
    Failed(String),
}

/// A connection that executes commands. The caller owns the socket and the clock, and drives the session.
pub struct Commander {
    pub session: Session,
    /// Which answer comes next, while it is greeting.
    opening: Option<Opening>,
    framer: Framer,
    /// In the order in which their answers come.
    unanswered: VecDeque<Unanswered>,
    /// Of their commands.
    unanswered_bytes: usize,
    /// Commands that wait for the end of the first attempt.
    early: Vec<u8>,
    /// Whose answers will not come any more.
    lost: VecDeque<Unanswered>,
}

struct Unanswered {
    /// `None`: a PING of ours.
    purpose: Option<Purpose>,
    bytes: usize,
}

impl Commander {
    /// The first attempt is due at once.
    pub fn new(config: LinkConfig, now: Millis) -> Commander {
        Commander {
            session: Session::new(config, now),
            opening: None,
            framer: Framer::new(Grammar::Replies),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            early: Vec::new(),
            lost: VecDeque::new(),
        }
    }

    /// The socket is connected: queues the greeting.
    pub fn connected(&mut self, now: Millis) {
        self.session.connected(now);
        self.opening = Some(self.session.speak(|config, out| Opening::begin(NAME, config, out)));
    }

    /// Sends a request. While the very first attempt is under way it waits for its end: a process that just started is asked
    /// before it can be connected.
    ///
    /// # Errors
    /// The purpose of one that cannot be sent: there is no connection, or too much waits for it already.
    pub fn ask(&mut self, request: Request, now: Millis) -> Result<(), Purpose> {
        let Request { command, purpose } = request;
        let has_room = self.unanswered.len() < REQUESTS_MAX
            && self.unanswered_bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let is_open = self.session.is_ready() || self.session.is_first();
        if !has_room || !is_open || command.is_empty() {
            return Err(purpose);
        }
        self.send(&command, Some(purpose), now);
        Ok(())
    }

    /// Takes from `input` up to the next event; `None`: it is used up.
    pub fn next(&mut self, input: &mut &[u8], now: Millis) -> Option<Event> {
        if !input.is_empty() {
            self.session.heard(now);
        }
        while self.session.is_greeting() || self.session.is_ready() {
            let value = match self.framer.next(input, ANSWER_BYTES_MAX) {
                Ok(Some(value)) => value,
                Ok(None) => {
                    self.expect_answer(now);
                    return None;
                }
                Err(garbage) => {
                    return Some(self.fail(refusal::garbage(self.session.config(), garbage)));
                }
            };
            let event = match self.opening {
                Some(opening) => self.greet(opening, value, now),
                None => self.answer(value),
            };
            if event.is_some() {
                return event;
            }
        }
        *input = &[];
        None
    }

    /// Queues a PING after silence; fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event> {
        match self.session.due(now)? {
            Due::Silence => {
                self.send(&redis::cmd("PING").get_packed_command(), None, now);
                None
            }
            Due::Overdue => {
                let command = self.opening.map_or("a command", Opening::command);
                let text = self.session.overdue(command);
                Some(self.fail(text))
            }
        }
    }

    /// The connection is gone, or could not be made: what is unanswered is lost. Says whether it was ready; see
    /// [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.opening = None;
        self.framer = Framer::new(Grammar::Replies);
        self.lost.append(&mut self.unanswered);
        self.unanswered_bytes = 0;
        self.early = Vec::new();
        self.session.down(now, random)
    }

    /// Takes one of the requests that a broken connection left unanswered. Redis may have executed it.
    pub fn next_lost(&mut self) -> Option<Purpose> {
        while let Some(lost) = self.lost.pop_front() {
            if lost.purpose.is_some() {
                return lost.purpose;
            }
        }
        self.lost = VecDeque::new();
        None
    }

    /// Whether requests are lost and nobody was told yet.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Whether every request has its answer.
    pub fn is_settled(&self) -> bool {
        self.lost.is_empty() && self.unanswered.iter().all(|one| one.purpose.is_none())
    }

    fn send(&mut self, command: &[u8], purpose: Option<Purpose>, now: Millis) {
        match self.session.is_ready() {
            true => self.session.speak(|_, output| output.extend_from_slice(command)),
            false => self.early.extend_from_slice(command),
        }
        self.unanswered.push_back(Unanswered { purpose, bytes: command.len() });
        self.unanswered_bytes += command.len();
        self.expect_answer(now);
    }

    fn expect_answer(&mut self, now: Millis) {
        if !self.unanswered.is_empty() {
            self.session.expect(now.saturating_add(self.session.config().timeout));
        }
    }

    fn fail(&mut self, text: String) -> Event {
        self.session.fail();
        Event::Failed(text)
    }

    fn greet(&mut self, opening: Opening, value: Whole, now: Millis) -> Option<Event> {
        let Some(value) = parse(&value) else { return Some(self.malformed()) };
        match opening.answered(self.session.config(), &value) {
            Err(text) => return Some(self.fail(text)),
            Ok(next) => self.opening = next,
        }
        if self.opening.is_some() {
            return None;
        }
        self.session.ready(now);
        let early = std::mem::take(&mut self.early);
        self.session.speak(|_, output| output.extend_from_slice(&early));
        self.expect_answer(now);
        Some(Event::Ready)
    }

    fn answer(&mut self, value: Whole) -> Option<Event> {
        let answer = match &value {
            Whole::Oversized { .. } => {
                Answer::Refused(format!("its answer is above {ANSWER_BYTES_MAX} bytes"))
            }
            Whole::Value(_) => match parse(&value) {
                Some(value) => self.read_answer(value),
                None => return Some(self.malformed()),
            },
        };
        let Some(Unanswered { purpose, bytes }) = self.unanswered.pop_front() else {
            let why = "an answer to nothing that was asked";
            return Some(self.fail(refusal::not_redis(self.session.config(), why)));
        };
        self.unanswered_bytes -= bytes;
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        Some(Event::Answer(purpose?, answer))
    }

    fn malformed(&mut self) -> Event {
        self.fail(refusal::not_redis(self.session.config(), "malformed reply"))
    }

    fn read_answer(&self, value: Value) -> Answer {
        match value {
            Value::Int(number) => Answer::Integer(number),
            Value::BulkString(bytes) => Answer::Text(bytes),
            Value::SimpleString(text) => Answer::Text(text.into_bytes()),
            Value::Okay => Answer::Text(b"OK".to_vec()),
            Value::Nil => Answer::Nothing,
            Value::Array(items) => {
                Answer::List(items.into_iter().map(|item| self.read_answer(item)).collect())
            }
            Value::ServerError(error) => {
                Answer::Refused(refusal::of_command(self.session.config(), &error))
            }
            _ => Answer::Refused("its answer is of a kind that RESP2 does not have".to_owned()),
        }
    }
}

fn parse(value: &Whole) -> Option<Value> {
    match value {
        Whole::Value(value) => redis::parse_redis_value(value).ok(),
        Whole::Oversized { .. } => None,
    }
}

#[cfg(test)]
mod tests;
