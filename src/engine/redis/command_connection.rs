//! Executes commands at Redis: they go out as they come, and each is answered once.

use std::collections::VecDeque;

use redis::Value;

use crate::clock::Millis;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::entries::{EntryContent, EntryMessage, MessageFields};
use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::opening::Opening;
use crate::engine::redis::page::{PagePart, PageReader};
use crate::engine::redis::reply_parts::Tokens;
use crate::engine::redis::request::{
    Answer, PageEnd, REQUEST_BYTES_MAX, REQUESTS_MAX, ReplyForm, Request, Ticket,
};
use crate::engine::redis::resp::Whole;
use crate::engine::redis::session::{Due, Session};
use crate::engine::redis::stream_info::{StreamInfo, StreamInfoReader, StreamInfoReply};
use crate::engine::resume::cursor::EntryId;

/// How it calls itself in `CLIENT LIST`.
const NAME: &str = "oneloop-commander";
/// A larger answer is not held, and counts as refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What the commander has to say.
#[derive(Debug)]
pub enum Event<'a> {
    /// Commands are taken from now on.
    Ready,
    /// What became of a request.
    Answer(Ticket, Answer),
    /// An entry of a page.
    Entry { ticket: Ticket, stream: usize, entry: EntryId, topic: &'a [u8], data: &'a [u8] },
    /// The page has ended; if it is not available, why Redis refused it.
    PageEnd { ticket: Ticket, stream: usize, end: PageEnd, refused: Option<String> },
    /// What a stream holds; if Redis refused to say it, why.
    Extent { stream: usize, extent: Option<StreamInfo>, refused: Option<String> },
    /// The text says what to do. The caller drops the socket and calls `down`.
    Failed(String),
}

/// A connection that executes commands. The caller owns the socket and the clock, and drives the session.
pub struct CommandConnection {
    pub session: Session,
    /// Which answer comes next, while it is greeting.
    opening: Option<Opening>,
    tokens: Tokens,
    /// In the order in which their answers come.
    unanswered: VecDeque<Unanswered>,
    /// Of their commands.
    unanswered_bytes: usize,
    /// Commands that wait for the end of the first attempt.
    early: Vec<u8>,
    /// Whose answers will not come any more.
    lost: VecDeque<Unanswered>,
    /// The page that is being answered.
    page: Option<PageReader>,
    /// What a stream holds, while that is being answered.
    extent: Option<StreamInfoReader>,
    /// An entry that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
}

/// What one step came to.
enum Step<'a> {
    Tell(Event<'static>),
    /// A message of a page.
    Entry(Ticket, usize, EntryId, EntryMessage<'a>),
    GoOn,
    /// The input is used up.
    Wait,
}

struct Unanswered {
    /// The owner of the answer and its form; `None`: a PING of this connection.
    asked: Option<(Ticket, ReplyForm)>,
    bytes: usize,
}

impl CommandConnection {
    /// The first attempt is due at once.
    pub fn new(config: RedisConfig, now: Millis) -> CommandConnection {
        CommandConnection {
            session: Session::new(config, now),
            opening: None,
            tokens: Tokens::new(),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            early: Vec::new(),
            lost: VecDeque::new(),
            page: None,
            extent: None,
            lent: Vec::new(),
        }
    }

    /// The socket is connected: queues the greeting.
    pub fn connected(&mut self, now: Millis) {
        self.session.connected(now);
        self.opening = Some(self.session.speak(|config, out| Opening::begin(NAME, config, out)));
    }

    /// Sends a request. While the very first attempt is under way it waits for its end: a process that just started is asked
    /// before it can be connected.
    /// Returns `false` if it cannot be sent: there is no connection, or too much waits for it already.
    pub fn ask(&mut self, request: Request, now: Millis) -> bool {
        let Request { command, ticket, form } = request;
        let has_room = self.unanswered.len() < REQUESTS_MAX
            && self.unanswered_bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let is_open = self.session.is_ready() || self.session.is_first();
        let is_sent = has_room && is_open && !command.is_empty();
        if is_sent {
            self.send(&command, Some((ticket, form)), now);
        }
        is_sent
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
        while self.session.is_greeting() || self.session.is_ready() {
            let (ticket, stream, entry, message) = match self.step(input, now) {
                Err(garbage) => {
                    return Some(self.fail(advice::garbage(self.session.config(), garbage)));
                }
                Ok(Step::Tell(event)) => return Some(event),
                Ok(Step::GoOn) => continue,
                Ok(Step::Wait) => {
                    self.expect_answer(now);
                    return None;
                }
                Ok(Step::Entry(ticket, stream, entry, message)) => (ticket, stream, entry, message),
            };
            let MessageFields { topic, data, .. } = message.lend(&mut self.lent);
            return Some(Event::Entry { ticket, stream, entry, topic, data });
        }
        *input = &[];
        None
    }

    /// Queues a PING after silence; fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event<'static>> {
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
        self.tokens = Tokens::new();
        (self.page, self.extent) = (None, None);
        self.lost.append(&mut self.unanswered);
        self.unanswered_bytes = 0;
        self.early = Vec::new();
        self.session.down(now, random)
    }

    /// Takes one of the requests that a broken connection left unanswered. Redis may have executed it.
    pub fn next_lost(&mut self) -> Option<(Ticket, ReplyForm)> {
        while let Some(lost) = self.lost.pop_front() {
            if lost.asked.is_some() {
                return lost.asked;
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
        self.lost.is_empty() && self.unanswered.iter().all(|one| one.asked.is_none())
    }

    fn send(&mut self, command: &[u8], asked: Option<(Ticket, ReplyForm)>, now: Millis) {
        match self.session.is_ready() {
            true => self.session.speak(|_, output| output.extend_from_slice(command)),
            false => self.early.extend_from_slice(command),
        }
        self.unanswered.push_back(Unanswered { asked, bytes: command.len() });
        self.unanswered_bytes += command.len();
        self.expect_answer(now);
    }

    fn expect_answer(&mut self, now: Millis) {
        if !self.unanswered.is_empty() {
            self.session.expect(now.saturating_add(self.session.config().timeout));
        }
    }

    fn fail(&mut self, text: String) -> Event<'static> {
        self.session.fail();
        Event::Failed(text)
    }

    /// Takes one piece of what is awaited.
    fn step<'a>(&mut self, input: &mut &'a [u8], now: Millis) -> Result<Step<'a>, Garbage> {
        let awaited = self.unanswered.front().filter(|_| self.session.is_ready());
        match awaited.and_then(|one| one.asked) {
            Some((ticket, ReplyForm::Page { stream })) => {
                return self.turn_page(ticket, stream, input);
            }
            Some((_, ReplyForm::StreamInfo { stream })) => return self.look(stream, input),
            Some((_, ReplyForm::Value)) | None => {}
        }
        let Some(value) = self.tokens.value(input, ANSWER_BYTES_MAX)? else {
            return Ok(Step::Wait);
        };
        match self.opening {
            Some(opening) => self.greet(opening, &value, now),
            None => self.answer(&value),
        }
    }

    fn greet(
        &mut self,
        opening: Opening,
        value: &Whole,
        now: Millis,
    ) -> Result<Step<'static>, Garbage> {
        match opening.answered(self.session.config(), &parse(value)?) {
            Err(text) => return Ok(Step::Tell(self.fail(text))),
            Ok(next) => self.opening = next,
        }
        if self.opening.is_some() {
            return Ok(Step::GoOn);
        }
        self.session.ready(now);
        let early = std::mem::take(&mut self.early);
        self.session.speak(|_, output| output.extend_from_slice(&early));
        self.expect_answer(now);
        Ok(Step::Tell(Event::Ready))
    }

    fn answer(&mut self, value: &Whole) -> Result<Step<'static>, Garbage> {
        let answer = match value {
            Whole::Oversized { .. } => {
                Answer::Refused(format!("its answer is above {ANSWER_BYTES_MAX} bytes"))
            }
            Whole::Value(_) => self.read_answer(parse(value)?),
        };
        if self.unanswered.is_empty() {
            let why = "an answer to nothing that was asked";
            let text = advice::not_redis(self.session.config(), why);
            return Ok(Step::Tell(self.fail(text)));
        }
        Ok(match self.answered() {
            Some((ticket, _)) => Step::Tell(Event::Answer(ticket, answer)),
            None => Step::GoOn,
        })
    }

    /// Whose the answer is that came.
    fn answered(&mut self) -> Option<(Ticket, ReplyForm)> {
        let Unanswered { asked, bytes } = self.unanswered.pop_front()?;
        self.unanswered_bytes -= bytes;
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        asked
    }

    fn turn_page<'a>(
        &mut self,
        ticket: Ticket,
        stream: usize,
        input: &mut &'a [u8],
    ) -> Result<Step<'a>, Garbage> {
        let payload_bytes_max = self.session.config().payload_bytes_max;
        let page = self.page.get_or_insert_with(|| PageReader::new(stream, payload_bytes_max));
        match page.next(&mut self.tokens, input)? {
            None => Ok(Step::Wait),
            Some(PagePart::Entry(entry, EntryContent::Message(message))) => {
                Ok(Step::Entry(ticket, stream, entry, message))
            }
            // An entry that is no message was none when it was new.
            Some(PagePart::Entry(..)) => Ok(Step::GoOn),
            Some(PagePart::End(end, refused)) => {
                self.page = None;
                self.answered();
                let config = self.session.config();
                let refused = refused.map(|error| advice::of_command(config, &error));
                Ok(Step::Tell(Event::PageEnd { ticket, stream, end, refused }))
            }
        }
    }

    /// Reads what a stream holds.
    fn look(&mut self, stream: usize, input: &mut &[u8]) -> Result<Step<'static>, Garbage> {
        let reader = self.extent.get_or_insert_with(StreamInfoReader::new);
        let (extent, refused) = match reader.next(&mut self.tokens, input)? {
            None => return Ok(Step::Wait),
            Some(StreamInfoReply::Info(extent)) => (Some(extent), None),
            Some(StreamInfoReply::Refused(error)) => (None, Some(error)),
        };
        self.extent = None;
        self.answered();
        let refused = refused.map(|error| advice::of_command(self.session.config(), &error));
        Ok(Step::Tell(Event::Extent { stream, extent, refused }))
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
                Answer::Refused(advice::of_command(self.session.config(), &error))
            }
            _ => Answer::Refused("its answer is of a kind that RESP2 does not have".to_owned()),
        }
    }
}

fn parse(value: &Whole) -> Result<Value, Garbage> {
    let Whole::Value(value) = value else { return Err(Garbage::Size) };
    let kind = value.first().copied().unwrap_or_default();
    redis::parse_redis_value(value).map_err(|_| Garbage::Type(kind))
}

#[cfg(test)]
mod tests;
