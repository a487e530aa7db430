//! Reads streams at Redis: from their end when it starts, on from the last entry whenever it comes back.
//!
//! ```text
//! greeting ─► XINFO of each stream ─► XREVRANGE, page by page ─► XREAD BLOCK ─► XREAD BLOCK ─► …
//!              where do we stand?      once: what was said lately     └── XINFO again, a second later at the earliest
//! ```
//!
//! One command is under way at a time (XINFO: one for each stream), and a new connection goes on where the last one stopped:
//! nothing is lost and nothing comes twice. What Redis itself no longer holds is noticed by `Position`.

use std::collections::VecDeque;

use redis::ServerError;

use crate::clock::Millis;
use crate::engine::reactor::RedisProtocol;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::entries::{Entries, EntryContent, EntryMessage, MessageFields, Piece};
use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::opening::Opening;
use crate::engine::redis::reply_parts::Tokens;
use crate::engine::redis::resp::Whole;
use crate::engine::redis::session::{Due, Session};
use crate::engine::redis::stream_info::{StreamInfoReader, StreamInfoReply};
use crate::engine::resume::cursor::EntryId;
use crate::engine::router::Router;
use crate::features::streams::commands;
use crate::features::streams::progress::{Position, Progress};
use crate::features::streams::read_count::ReadCount;

/// How it calls itself in `CLIENT LIST`.
const NAME: &str = "oneloop-reader";
/// Of an answer to the greeting.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How often it is looked whether entries went missing, at most. XINFO brings the first and the last entry whole.
const CHECK_PAUSE: Millis = 1000;
/// An entry that is older was given its id by hand.
const LAG_MAX: Millis = 86_400_000;

/// What the reader has to say. `stream` is a stream's place among the names.
#[derive(Debug)]
pub enum Event<'a> {
    /// For the first time: every entry after `covered_from` will come.
    Begins { stream: usize, covered_from: EntryId },
    /// An entry that was there before, the latest one first; see [`Reader::end_earlier`].
    Earlier { stream: usize, id: EntryId, topic: &'a [u8], data: &'a [u8] },
    /// The streams are read from now on.
    Reading,
    /// What somebody added.
    Entry { stream: usize, id: EntryId, topic: &'a [u8], data: &'a [u8], receipt: Option<&'a [u8]> },
    /// An entry that is no message was passed over: it is above `payload_bytes_max`, or has no topic or data.
    Passed { stream: usize, id: EntryId, is_oversized: bool, bytes: u64 },
    /// Entries before `covered_from` are gone that were never read. Every entry after it will come.
    Lost { stream: usize, covered_from: EntryId },
    /// The text says what to do. The caller drops the socket and calls `down`.
    Failed(String),
}

/// A connection that reads streams. The caller owns the socket and the clock, and drives the session.
pub struct Reader {
    pub session: Session,
    tokens: Tokens,
    /// Whose answer comes next; behind it, the other streams of a check.
    awaited: VecDeque<Awaited>,
    streams: Vec<Progress>,
    reads: ReadCount,
    /// It was said on this connection that the streams are read.
    is_reading: bool,
    /// When it was last looked on this connection whether entries went missing; `None`: it is to be done.
    checked: Option<Millis>,
    /// No look was taken on this connection yet.
    is_new: bool,
    /// An entry that came in pieces, while the caller looks at it.
    lent: Vec<u8>,
}

/// What was asked, and how far its answer has come.
enum Awaited {
    Opening(Opening),
    Extent(usize, StreamInfoReader),
    /// Entries of before the start, and how many there were.
    Earlier(Entries, usize),
    Read(Entries),
}

/// What one step came to.
enum Step<'a> {
    Tell(Event<'static>),
    Entry {
        stream: usize,
        is_earlier: bool,
        message: EntryMessage<'a>,
        id: EntryId,
    },
    GoOn,
    /// The input is used up.
    Wait,
}

impl Reader {
    /// Of the streams that the settings name. The first attempt is due at once.
    pub fn new(config: RedisConfig, now: Millis) -> Reader {
        Reader {
            streams: vec![Progress::new(); config.streams.len()],
            session: Session::new(config, now),
            tokens: Tokens::new(),
            awaited: VecDeque::new(),
            reads: ReadCount::default(),
            is_reading: false,
            checked: None,
            is_new: true,
            lent: Vec::new(),
        }
    }

    /// Whether the streams are being read.
    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// The socket is connected: queues the greeting.
    pub fn connected(&mut self, now: Millis) {
        self.session.connected(now);
        let opening = self.session.speak(|config, output| Opening::begin(NAME, config, output));
        self.awaited.push_back(Awaited::Opening(opening));
    }

    /// What was said earlier in this stream is not wanted any more.
    pub fn end_earlier(&mut self, stream: usize) {
        self.streams[stream].stop_looking_back();
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
            let (stream, is_earlier, message, id) = match self.step(input, now) {
                Err(garbage) => {
                    return Some(self.fail(advice::garbage(self.session.config(), garbage)));
                }
                Ok(Step::Tell(event)) => return Some(event),
                Ok(Step::GoOn) => continue,
                Ok(Step::Wait) => {
                    self.session.expect(now.saturating_add(self.session.config().timeout));
                    return None;
                }
                Ok(Step::Entry { stream, is_earlier, message, id }) => {
                    (stream, is_earlier, message, id)
                }
            };
            let MessageFields { topic, data, receipt } = message.lend(&mut self.lent);
            return Some(match is_earlier {
                true => Event::Earlier { stream, id, topic, data },
                false => Event::Entry { stream, id, topic, data, receipt },
            });
        }
        *input = &[];
        None
    }

    /// Fails what is overdue. Input that is there must have been read before.
    pub fn on_time(&mut self, now: Millis) -> Option<Event<'static>> {
        // Something is always awaited: silence is never a question here.
        self.session.due(now).filter(|due| *due == Due::Overdue)?;
        let command = match self.awaited.front() {
            Some(Awaited::Opening(opening)) => opening.command(),
            _ => "XREAD",
        };
        let text = self.session.overdue(command);
        Some(self.fail(text))
    }

    /// The connection is gone, or could not be made. Says whether the streams were being read; see [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.tokens = Tokens::new();
        self.awaited.clear();
        (self.checked, self.is_new) = (None, true);
        self.session.down(now, random);
        std::mem::take(&mut self.is_reading)
    }

    fn fail(&mut self, text: String) -> Event<'static> {
        self.session.fail();
        Event::Failed(text)
    }

    /// Takes one piece of what is awaited, or asks for what comes next.
    fn step<'a>(&mut self, input: &mut &'a [u8], now: Millis) -> Result<Step<'a>, Garbage> {
        let (tokens, names) = (&mut self.tokens, &self.session.config().streams);
        match self.awaited.front_mut() {
            None => Ok(self.go_on(now)),
            Some(Awaited::Opening(opening)) => match tokens.value(input, ANSWER_BYTES_MAX)? {
                None => Ok(Step::Wait),
                Some(answer) => {
                    let opening = *opening;
                    self.greet(opening, &answer, now)
                }
            },
            Some(Awaited::Extent(stream, extent)) => match extent.next(tokens, input)? {
                None => Ok(Step::Wait),
                Some(told) => {
                    let stream = *stream;
                    Ok(self.check(stream, told))
                }
            },
            Some(Awaited::Earlier(entries, count)) => match entries.next(tokens, input, names)? {
                None => Ok(Step::Wait),
                Some(Piece::Entry { stream, id, bytes, content }) => {
                    *count += 1;
                    Ok(self.earlier(stream, id, bytes, content))
                }
                Some(Piece::End) => {
                    let (stream, count) = (entries.stream(), *count);
                    self.streams[stream].end_page(count, self.reads.count(1));
                    self.reads.end(1);
                    self.awaited.pop_front();
                    Ok(Step::GoOn)
                }
                Some(Piece::Refused(error)) => {
                    let stream = entries.stream();
                    Ok(self.refused("XREVRANGE", stream, &error))
                }
            },
            Some(Awaited::Read(entries)) => match entries.next(tokens, input, names)? {
                None => Ok(Step::Wait),
                Some(Piece::Entry { stream, id, bytes, content }) => {
                    Ok(self.pass(stream, id, bytes, content))
                }
                Some(Piece::End) => {
                    self.reads.end(self.streams.len());
                    self.awaited.pop_front();
                    Ok(Step::GoOn)
                }
                Some(Piece::Refused(error)) => Ok(self.refused("XREAD", 0, &error)),
            },
        }
    }

    fn greet(
        &mut self,
        opening: Opening,
        answer: &Whole,
        now: Millis,
    ) -> Result<Step<'static>, Garbage> {
        let Whole::Value(answer) = answer else { return Err(Garbage::Size) };
        let kind = answer.first().copied().unwrap_or_default();
        let answer = redis::parse_redis_value(answer).map_err(|_| Garbage::Type(kind))?;
        self.awaited.pop_front();
        match opening.answered(self.session.config(), &answer) {
            Err(text) => return Ok(Step::Tell(self.fail(text))),
            Ok(Some(next)) => self.awaited.push_front(Awaited::Opening(next)),
            Ok(None) => self.session.ready(now),
        }
        Ok(Step::GoOn)
    }

    /// Redis said what a stream holds.
    fn check(&mut self, stream: usize, told: StreamInfoReply) -> Step<'static> {
        let extent = match told {
            StreamInfoReply::Info(extent) => extent,
            StreamInfoReply::Refused(error) => return self.refused("XINFO", stream, &error),
        };
        self.awaited.pop_front();
        let is_new = self.is_new;
        self.is_new &= !self.awaited.is_empty();
        let Some(position) = &mut self.streams[stream].position else {
            self.streams[stream].position = Some(Position::at_end(&extent));
            return Step::Tell(Event::Begins { stream, covered_from: extent.last });
        };
        match position.check(&extent, is_new) {
            Some(covered_from) => Step::Tell(Event::Lost { stream, covered_from }),
            None => Step::GoOn,
        }
    }

    /// An entry from before the start.
    fn earlier<'a>(
        &mut self,
        stream: usize,
        id: EntryId,
        bytes: u64,
        content: EntryContent<'a>,
    ) -> Step<'a> {
        self.reads.add(bytes);
        let is_wanted = self.streams[stream].look_back(id);
        match content {
            EntryContent::Message(message) if is_wanted => {
                Step::Entry { stream, is_earlier: true, message, id }
            }
            _ => Step::GoOn,
        }
    }

    /// An entry that was added.
    fn pass<'a>(
        &mut self,
        stream: usize,
        id: EntryId,
        bytes: u64,
        content: EntryContent<'a>,
    ) -> Step<'a> {
        self.reads.add(bytes);
        let position = self.streams[stream].position.as_mut();
        if !position.is_some_and(|position| position.pass(id)) {
            return Step::GoOn;
        }
        let is_oversized = match content {
            EntryContent::Message(message) => {
                return Step::Entry { stream, is_earlier: false, message, id };
            }
            EntryContent::Oversized => true,
            EntryContent::Malformed => false,
        };
        Step::Tell(Event::Passed { stream, id, is_oversized, bytes })
    }

    fn refused(&mut self, command: &str, stream: usize, error: &ServerError) -> Step<'static> {
        let config = self.session.config();
        let text = advice::of_stream(config, command, &config.streams[stream], error);
        Step::Tell(self.fail(text))
    }

    /// Nothing is awaited: asks for what comes next.
    fn go_on(&mut self, now: Millis) -> Step<'static> {
        if self.checked.is_none_or(|checked| now >= checked.saturating_add(CHECK_PAUSE)) {
            self.checked = Some(now);
            self.ask_extents(now);
            return Step::GoOn;
        }
        if let Some(stream) = self.streams.iter().position(Progress::is_looking_back) {
            self.ask_earlier(stream, now);
            return Step::GoOn;
        }
        self.read_on(now);
        match std::mem::replace(&mut self.is_reading, true) {
            true => Step::GoOn,
            false => Step::Tell(Event::Reading),
        }
    }

    fn ask_extents(&mut self, now: Millis) {
        self.session.speak(|config, output| {
            config.streams.iter().for_each(|stream| output.extend(commands::info(stream)));
        });
        let streams = 0..self.streams.len();
        self.awaited.extend(streams.map(|one| Awaited::Extent(one, StreamInfoReader::new())));
        self.session.expect(now.saturating_add(self.session.config().timeout));
    }

    fn ask_earlier(&mut self, number: usize, now: Millis) {
        let progress = self.streams[number];
        let count = self.reads.count(1);
        let page = self.session.speak(|config, output| {
            output.extend(progress.next_page(&config.streams[number], count).into_iter().flatten());
            Entries::of_range(number, config.payload_bytes_max)
        });
        self.awaited.push_back(Awaited::Earlier(page, 0));
        self.session.expect(now.saturating_add(self.session.config().timeout));
    }

    /// An answer comes after `silence` at the latest: that is the sign of life on a connection which waits inside of Redis, and
    /// cannot be asked for one.
    fn read_on(&mut self, now: Millis) {
        let after: Vec<EntryId> = self.streams.iter().map(Progress::last).collect();
        let count = self.reads.count(self.streams.len());
        let entries = self.session.speak(|config, output| {
            let block = config.silence.max(1);
            output.extend(commands::read_on(&config.streams, &after, count, block));
            Entries::of_read(config.payload_bytes_max)
        });
        self.awaited.push_back(Awaited::Read(entries));
        let RedisConfig { silence, timeout, .. } = self.session.config();
        self.session.expect(now.saturating_add(*silence).saturating_add(*timeout));
    }
}

impl RedisProtocol for Reader {
    fn name(&self) -> &'static str {
        "link to Redis for streams"
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn is_up(&self) -> bool {
        self.is_reading()
    }

    fn connected(&mut self, now: Millis) {
        Reader::connected(self, now);
    }

    fn take_in(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        while !router.server.is_pressed() {
            match self.next(input, now) {
                None => return Ok(true),
                Some(Event::Entry { stream, id, topic, data, receipt }) => {
                    let age = router.server.now.unix_millis.saturating_sub(id.millis);
                    router.server.metrics.stream_lag_micros.record(age.min(LAG_MAX) * 1000);
                    router.publish_entry(stream, id, topic, data, receipt);
                }
                Some(Event::Passed { stream, id, is_oversized, bytes }) => {
                    router.pass_entry(stream, id, is_oversized, bytes as usize);
                }
                Some(Event::Begins { stream, covered_from }) => {
                    router.stream_begins(stream, covered_from);
                }
                Some(Event::Earlier { stream, id, topic, data }) => {
                    if !router.prefill_entry(stream, id, topic, data) {
                        self.end_earlier(stream);
                    }
                }
                Some(Event::Lost { stream, covered_from }) => {
                    router.on_stream_lost(stream, covered_from);
                }
                Some(Event::Failed(why)) => return Err(why),
                Some(Event::Reading) => {
                    log::info!("reading streams from Redis");
                    router.on_reader(true);
                }
            }
        }
        Ok(false)
    }

    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        match Reader::on_time(self, now) {
            Some(Event::Failed(why)) => Err(why),
            _ => Ok(()),
        }
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        router.on_reader(false);
        Reader::down(self, router.server.now.millis, random)
    }
}

#[cfg(test)]
mod tests;
