//! The connection that executes commands at Redis: they go out as they come, and each is answered once.

use std::collections::VecDeque;

use redis::Value;

use crate::clock::Millis;
use crate::engine::redis::advice;
use crate::engine::redis::config::{RedisConfig, ServerKind};
use crate::engine::redis::entries::{Entries, EntryContent, EntryMessage, Piece};
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::far_end::{FarEnd, by_role};
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::request::{
    Answer, PageEnd, REQUEST_BYTES_MAX, REQUESTS_MAX, RedisRequest, ReplyForm, Ticket,
};
use crate::engine::redis::resp::Whole;
use crate::engine::redis::session::{REPLY_BYTES_MAX, Session};
use crate::engine::redis::stream_info::{StreamInfo, StreamInfoReader, StreamInfoReply};
use crate::engine::resume::cursor::EntryId;

/// Its name in `CLIENT LIST`.
const NAME: &str = "oneloop-commander";

#[derive(Debug)]
pub enum CommandEvent<'a> {
    /// Commands are taken from now on.
    Ready,
    Answer(Ticket, Answer),
    /// A message of a page.
    Entry {
        ticket: Ticket,
        stream: usize,
        id: EntryId,
        message: EntryMessage<'a>,
    },
    /// The end of a page; `refused`: why Redis refused it.
    PageEnd {
        ticket: Ticket,
        stream: usize,
        end: PageEnd,
        refused: Option<String>,
    },
    /// The extent of a stream, or why Redis refused to say it.
    Info {
        stream: usize,
        info: Option<StreamInfo>,
        refused: Option<String>,
    },
}

/// A connection that executes commands. The caller owns the socket and the clock, and drives the session.
pub struct CommandConnection {
    pub session: Session,
    /// Requests in the order in which their answers come.
    unanswered: VecDeque<Unanswered>,
    /// Bytes of their commands.
    unanswered_bytes: usize,
    /// Commands that wait for the end of the first attempt.
    early: Vec<u8>,
    /// Requests whose answers will not come any more.
    lost: VecDeque<Unanswered>,
    /// The page that is being read, and its size so far.
    page: Option<(Entries, PageEnd)>,
    /// The extent of a stream that is being read.
    info: Option<StreamInfoReader>,
}

struct Unanswered {
    /// The owner of the answer and its form; `None`: a PING of this connection.
    asked: Option<(Ticket, ReplyForm)>,
    bytes: usize,
}

impl CommandConnection {
    /// The first attempt is due at once.
    pub fn new(config: RedisConfig, now: Millis) -> CommandConnection {
        let handshake = Handshake::of_commands(NAME);
        CommandConnection {
            session: Session::new("link to Redis for commands", handshake, config, now),
            unanswered: VecDeque::new(),
            unanswered_bytes: 0,
            early: Vec::new(),
            lost: VecDeque::new(),
            page: None,
            info: None,
        }
    }

    /// Sends a request. While the very first attempt is under way it waits for its end: a process that just started is asked
    /// before it can be connected.
    /// Returns `false` if it cannot be sent: there is no connection, or too much waits for it already.
    pub fn ask(&mut self, request: RedisRequest, now: Millis) -> bool {
        let RedisRequest { command, ticket, form } = request;
        let has_room = self.unanswered.len() < REQUESTS_MAX
            && self.unanswered_bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let is_open = self.session.is_ready() || self.session.is_first();
        let is_sent = has_room && is_open && !command.is_empty();
        if is_sent {
            self.send(&command, Some((ticket, form)), now);
        }
        is_sent
    }

    /// Takes from `input` up to the next event; `None`: it is used up.
    ///
    /// # Errors
    /// The connection is given up, and the text says what to do. The caller drops the socket and calls `down`.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<CommandEvent<'a>>, String> {
        if !self.session.begin_input(input, now) {
            return Ok(None);
        }
        let event = self.read(input, now).map_err(|failure| self.session.fail(failure))?;
        match self.unanswered.is_empty() {
            true => self.session.expect_nothing(),
            false => self.session.expect_reply(now),
        }
        Ok(event)
    }

    /// Queues a PING after silence, or ROLE to a primary that a Sentinel has named. Input that is there must have been read before.
    ///
    /// # Errors
    /// Something is overdue; see [`CommandConnection::next`].
    pub fn on_time(&mut self, now: Millis) -> Result<(), String> {
        if self.session.is_silent(now, "a command")? {
            let is_named = self.session.config.server.kind == ServerKind::Primary;
            let command = redis::cmd(if is_named { "ROLE" } else { "PING" });
            self.send(&command.get_packed_command(), None, now);
        }
        Ok(())
    }

    /// The connection is gone, or could not be made: unanswered requests are lost. Returns whether it was ready; see
    /// [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        (self.page, self.info) = (None, None);
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

    /// Returns whether `next_lost` has yet to be called.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Returns whether every request has its answer.
    pub fn is_settled(&self) -> bool {
        self.lost.is_empty() && self.unanswered.iter().all(|one| one.asked.is_none())
    }

    fn send(&mut self, command: &[u8], asked: Option<(Ticket, ReplyForm)>, now: Millis) {
        match self.session.is_ready() {
            true => self.session.send(command),
            false => self.early.extend_from_slice(command),
        }
        self.unanswered.push_back(Unanswered { asked, bytes: command.len() });
        self.unanswered_bytes += command.len();
        self.session.expect_reply(now);
    }

    fn read<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<CommandEvent<'a>>, RedisFailure> {
        if self.session.is_greeting() {
            let is_over = self.session.read_handshake(input, now)?;
            if is_over {
                self.session.send(&std::mem::take(&mut self.early));
            }
            return Ok(is_over.then_some(CommandEvent::Ready));
        }
        loop {
            let Session { config, replies, .. } = &mut self.session;
            match self.unanswered.front().and_then(|one| one.asked) {
                Some((ticket, ReplyForm::Page { stream })) => {
                    return self.read_page(ticket, stream, input);
                }
                Some((_, ReplyForm::StreamInfo { stream })) => {
                    let reader = self.info.get_or_insert_with(StreamInfoReader::new);
                    let (info, refused) = match reader.next(replies, input)? {
                        None => return Ok(None),
                        Some(StreamInfoReply::Info(info)) => (Some(info), None),
                        Some(StreamInfoReply::Refused(error)) => {
                            (None, Some(advice::of_command(config, &error)))
                        }
                    };
                    self.info = None;
                    self.pop_answered();
                    return Ok(Some(CommandEvent::Info { stream, info, refused }));
                }
                Some((_, ReplyForm::Value)) | None => {
                    let Some(reply) = replies.value(input, REPLY_BYTES_MAX)? else {
                        return Ok(None);
                    };
                    let answer = match reply {
                        Whole::Oversized { .. } => {
                            Answer::Refused(format!("its answer is above {REPLY_BYTES_MAX} bytes"))
                        }
                        Whole::Value(_) => {
                            let value = reply.parse()?;
                            if self.unanswered.front().is_some_and(|one| one.asked.is_none()) {
                                by_role(&value).check(config)?;
                            } else if is_readonly(&value) {
                                FarEnd::InSync.check(config)?;
                            }
                            answer(config, value)
                        }
                    };
                    if self.unanswered.is_empty() {
                        let why = "an answer to nothing that was asked";
                        return Err(RedisFailure::Refused(advice::not_redis(config, why)));
                    }
                    if let Some((ticket, _)) = self.pop_answered() {
                        return Ok(Some(CommandEvent::Answer(ticket, answer)));
                    }
                }
            }
        }
    }

    fn read_page<'a>(
        &mut self,
        ticket: Ticket,
        stream: usize,
        input: &mut &'a [u8],
    ) -> Result<Option<CommandEvent<'a>>, RedisFailure> {
        let Session { config, replies, .. } = &mut self.session;
        let (entries, end) = self.page.get_or_insert_with(|| {
            let entries = Entries::of_range(stream, config.payload_bytes_max);
            (entries, PageEnd { is_available: true, ..PageEnd::UNAVAILABLE })
        });
        let refused = loop {
            match entries.next(replies, input, &[])? {
                None => return Ok(None),
                Some(Piece::Entry { id, bytes, content, .. }) => {
                    end.add(id, bytes);
                    // An entry that is no message was none when it was new.
                    if let EntryContent::Message(message) = content {
                        return Ok(Some(CommandEvent::Entry { ticket, stream, id, message }));
                    }
                }
                Some(Piece::End) => break None,
                Some(Piece::Refused(error)) => break Some(advice::of_command(config, &error)),
            }
        };
        let end = PageEnd { is_available: refused.is_none(), ..*end };
        self.page = None;
        self.pop_answered();
        Ok(Some(CommandEvent::PageEnd { ticket, stream, end, refused }))
    }

    /// Takes the oldest request off the queue: its answer came.
    fn pop_answered(&mut self) -> Option<(Ticket, ReplyForm)> {
        let Unanswered { asked, bytes } = self.unanswered.pop_front()?;
        self.unanswered_bytes -= bytes;
        if self.unanswered.is_empty() {
            self.unanswered = VecDeque::new();
        }
        asked
    }
}

/// Returns whether a replica refused to write.
fn is_readonly(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == "READONLY")
}

fn answer(config: &RedisConfig, value: Value) -> Answer {
    match value {
        Value::Int(number) => Answer::Integer(number),
        Value::BulkString(bytes) => Answer::Text(bytes),
        Value::SimpleString(text) => Answer::Text(text.into_bytes()),
        Value::Okay => Answer::Text(b"OK".to_vec()),
        Value::Nil => Answer::Nothing,
        Value::Array(items) => {
            Answer::List(items.into_iter().map(|item| answer(config, item)).collect())
        }
        Value::ServerError(error) => Answer::Refused(advice::of_command(config, &error)),
        _ => Answer::Refused("its answer is of a kind that RESP2 does not have".to_owned()),
    }
}

#[cfg(test)]
mod tests;
