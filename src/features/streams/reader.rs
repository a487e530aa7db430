//! Reads streams at Redis: from their end when it starts, on from the last entry whenever it comes back.
//!
//! ```text
//! handshake ─► XINFO of each stream ─► XREVRANGE, page by page ─► XREAD BLOCK ─► XREAD BLOCK ─► …
//!               where do we stand?      once: recent entries            └── XINFO again, a second later at the earliest
//! ```
//!
//! One command is under way at a time (XINFO: one for each stream), and a new connection goes on where the last one stopped:
//! nothing is lost and nothing comes twice. `Position` notices what Redis itself no longer holds.

use std::collections::VecDeque;

use redis::ServerError;

use crate::clock::Millis;
use crate::engine::reactor::RedisProtocol;
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::entries::{Entries, EntryContent, EntryMessage, Piece};
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::session::Session;
use crate::engine::redis::stream_info::{StreamInfoReader, StreamInfoReply};
use crate::engine::resume::cursor::EntryId;
use crate::engine::router::Router;
use crate::features::streams::commands;
use crate::features::streams::progress::{Position, Progress};
use crate::features::streams::read_count::ReadCount;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// Its name in `CLIENT LIST`.
const NAME: &str = "oneloop-reader";
/// The shortest pause between two looks for missing entries. XINFO brings the first and the last entry whole.
const CHECK_PAUSE: Millis = 1000;
/// An entry that is older was given its id by hand.
const LAG_MAX: Millis = 86_400_000;

/// `stream` is a stream's place among the names.
#[derive(Debug)]
pub enum StreamEvent<'a> {
    /// For the first time: every entry after `covered_from` will come.
    Begins { stream: usize, covered_from: EntryId },
    /// An entry that was there before, the latest one first; see [`StreamReader::end_earlier`].
    Earlier { stream: usize, id: EntryId, message: EntryMessage<'a> },
    /// The streams are read from now on.
    Reading,
    /// A new entry.
    Entry { stream: usize, id: EntryId, message: EntryMessage<'a> },
    /// An entry that is no message was passed over: it is above `payload_bytes_max`, or has no topic or data.
    Passed { stream: usize, id: EntryId, is_oversized: bool, bytes: u64 },
    /// Entries before `covered_from` are gone that were never read. Every entry after it will come.
    Lost { stream: usize, covered_from: EntryId },
}

/// A connection that reads streams. The caller owns the socket and the clock, and drives the session.
pub struct StreamReader {
    pub session: Session,
    /// The reply that comes next; behind it, those about the other streams of a check.
    awaited: VecDeque<Awaited>,
    streams: Vec<Progress>,
    reads: ReadCount,
    /// `Reading` was returned on this connection.
    is_reading: bool,
    /// When this connection last looked for missing entries; `None`: it has yet to do so.
    checked: Option<Millis>,
    /// This connection has yet to end its first look.
    is_new: bool,
}

/// A reply, and how far it has come.
enum Awaited {
    Info(usize, StreamInfoReader),
    /// Entries from before the start, and their number.
    Earlier(Entries, usize),
    Read(Entries),
}

impl StreamReader {
    /// A reader of the streams that the settings name. The first attempt is due at once.
    pub fn new(config: RedisConfig, now: Millis) -> StreamReader {
        let handshake = Handshake::of_commands(NAME);
        StreamReader {
            streams: vec![Progress::new(); config.streams.len()],
            session: Session::new("link to Redis for streams", handshake, config, now),
            awaited: VecDeque::new(),
            reads: ReadCount::default(),
            is_reading: false,
            checked: None,
            is_new: true,
        }
    }

    /// Returns whether the streams are being read.
    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// No more earlier entries of this stream are wanted.
    pub fn end_earlier(&mut self, stream: usize) {
        self.streams[stream].stop_looking_back();
    }

    /// Takes from `input` up to the next event; `None`: it is used up.
    ///
    /// # Errors
    /// The connection is given up, and the text says what to do. The caller drops the socket and calls `down`.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<StreamEvent<'a>>, String> {
        if !self.session.begin_input(input, now) {
            return Ok(None);
        }
        let event = self.read(input, now).map_err(|failure| self.session.fail(failure))?;
        if event.is_none() {
            self.session.expect_reply(now);
        }
        Ok(event)
    }

    /// The connection is gone, or could not be made. Returns whether the streams were being read; see [`Session::down`].
    pub fn down(&mut self, now: Millis, random: u64) -> bool {
        self.awaited.clear();
        (self.checked, self.is_new) = (None, true);
        self.session.down(now, random);
        std::mem::take(&mut self.is_reading)
    }

    fn read<'a>(
        &mut self,
        input: &mut &'a [u8],
        now: Millis,
    ) -> Result<Option<StreamEvent<'a>>, RedisFailure> {
        if self.session.is_greeting() && !self.session.read_handshake(input, now)? {
            return Ok(None);
        }
        loop {
            let Session { config, replies, .. } = &mut self.session;
            let event = match self.awaited.front_mut() {
                None => self.go_on(now),
                Some(Awaited::Info(stream, reader)) => {
                    let Some(reply) = reader.next(replies, input)? else { return Ok(None) };
                    let stream = *stream;
                    self.check(stream, reply)?
                }
                Some(Awaited::Earlier(entries, count)) => {
                    let Some(piece) = entries.next(replies, input, &[])? else { return Ok(None) };
                    let stream = entries.stream();
                    match piece {
                        Piece::Entry { id, bytes, content, .. } => {
                            *count += 1;
                            self.reads.add(bytes);
                            let is_wanted = self.streams[stream].look_back(id);
                            match content {
                                EntryContent::Message(message) if is_wanted => {
                                    Some(StreamEvent::Earlier { stream, id, message })
                                }
                                _ => None,
                            }
                        }
                        Piece::End => {
                            self.streams[stream].end_page(*count, self.reads.count(1));
                            self.reads.end(1);
                            self.awaited.pop_front();
                            None
                        }
                        Piece::Refused(error) => {
                            return Err(self.refused("XREVRANGE", stream, &error));
                        }
                    }
                }
                Some(Awaited::Read(entries)) => {
                    match entries.next(replies, input, &config.streams)? {
                        None => return Ok(None),
                        Some(Piece::Entry { stream, id, bytes, content }) => {
                            self.pass(stream, id, bytes, content)
                        }
                        Some(Piece::End) => {
                            self.reads.end(self.streams.len());
                            self.awaited.pop_front();
                            None
                        }
                        Some(Piece::Refused(error)) => return Err(self.refused("XREAD", 0, &error)),
                    }
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Compares what Redis says about a stream with its position.
    fn check(
        &mut self,
        stream: usize,
        reply: StreamInfoReply,
    ) -> Result<Option<StreamEvent<'static>>, RedisFailure> {
        let info = match reply {
            StreamInfoReply::Info(info) => info,
            StreamInfoReply::Refused(error) => return Err(self.refused("XINFO", stream, &error)),
        };
        self.awaited.pop_front();
        let is_new = self.is_new;
        self.is_new &= !self.awaited.is_empty();
        let Some(position) = &mut self.streams[stream].position else {
            self.streams[stream].position = Some(Position::at_end(&info));
            return Ok(Some(StreamEvent::Begins { stream, covered_from: info.last }));
        };
        let lost = position.check(&info, is_new);
        Ok(lost.map(|covered_from| StreamEvent::Lost { stream, covered_from }))
    }

    /// Takes a new entry into account.
    fn pass<'a>(
        &mut self,
        stream: usize,
        id: EntryId,
        bytes: u64,
        content: EntryContent<'a>,
    ) -> Option<StreamEvent<'a>> {
        self.reads.add(bytes);
        let position = self.streams[stream].position.as_mut();
        let is_new = position.is_some_and(|position| position.pass(id));
        let is_oversized = match content {
            _ if !is_new => return None,
            EntryContent::Message(message) => {
                return Some(StreamEvent::Entry { stream, id, message });
            }
            EntryContent::Oversized => true,
            EntryContent::Malformed => false,
        };
        Some(StreamEvent::Passed { stream, id, is_oversized, bytes })
    }

    fn refused(&self, command: &str, stream: usize, error: &ServerError) -> RedisFailure {
        let config = &self.session.config;
        RedisFailure::Refused(advice::of_stream(config, command, &config.streams[stream], error))
    }

    /// Sends the next commands: nothing is awaited.
    fn go_on(&mut self, now: Millis) -> Option<StreamEvent<'static>> {
        let Session {
            config: RedisConfig { streams: names, payload_bytes_max, silence, timeout, .. },
            ..
        } = &self.session;
        let (payload_bytes_max, silence, timeout) = (*payload_bytes_max, *silence, *timeout);
        if self.checked.is_none_or(|checked| now >= checked.saturating_add(CHECK_PAUSE)) {
            self.checked = Some(now);
            let commands: Vec<u8> = names.iter().flat_map(|name| commands::info(name)).collect();
            let streams = 0..self.streams.len();
            self.awaited.extend(streams.map(|one| Awaited::Info(one, StreamInfoReader::new())));
            self.session.send(&commands);
            self.session.expect_reply(now);
            return None;
        }
        if let Some(stream) = self.streams.iter().position(Progress::is_looking_back) {
            let page = self.streams[stream].next_page(&names[stream], self.reads.count(1));
            self.awaited
                .push_back(Awaited::Earlier(Entries::of_range(stream, payload_bytes_max), 0));
            self.session.send(&page.unwrap_or_default());
            self.session.expect_reply(now);
            return None;
        }
        let after: Vec<EntryId> = self.streams.iter().map(Progress::last).collect();
        let count = self.reads.count(self.streams.len());
        let command = commands::read_on(names, &after, count, silence.max(1));
        self.awaited.push_back(Awaited::Read(Entries::of_read(payload_bytes_max)));
        self.session.send(&command);
        // An answer comes after `silence` at the latest: the sign of life of a connection that waits inside of Redis, and cannot
        // be asked for one.
        self.session.expect(now.saturating_add(silence).saturating_add(timeout));
        let was_reading = std::mem::replace(&mut self.is_reading, true);
        (!was_reading).then_some(StreamEvent::Reading)
    }
}

impl RedisProtocol for StreamReader {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn on_input(&mut self, router: &mut Router, input: &mut &[u8]) -> Result<bool, String> {
        let now = router.server.now.millis;
        while !router.server.is_pressed() {
            match self.next(input, now)? {
                None => return Ok(true),
                Some(StreamEvent::Entry { stream, id, message }) => {
                    let age = router.server.now.unix_millis.saturating_sub(id.millis);
                    router.server.metrics.stream_lag_micros.record(age.min(LAG_MAX) * 1000);
                    router.publish_entry(
                        stream,
                        id,
                        (message.topic(), message.key()),
                        message.data(),
                        message.receipt(),
                    );
                }
                Some(StreamEvent::Passed { stream, id, is_oversized, bytes }) => {
                    router.pass_entry(stream, id, is_oversized, bytes as usize);
                }
                Some(StreamEvent::Begins { stream, covered_from }) => {
                    router.stream_begins(stream, covered_from);
                }
                Some(StreamEvent::Earlier { stream, id, message }) => {
                    let name = (message.topic(), message.key());
                    if !router.prefill_entry(stream, id, name, message.data()) {
                        self.end_earlier(stream);
                    }
                }
                Some(StreamEvent::Lost { stream, covered_from }) => {
                    router.on_stream_lost(stream, covered_from);
                }
                Some(StreamEvent::Reading) => {
                    log::info!("reading streams from Redis");
                    router.on_reader(true);
                }
            }
        }
        Ok(false)
    }

    /// Something is always awaited: silence is never a question here.
    fn on_time(&mut self, now: Millis) -> Result<(), String> {
        self.session.is_silent(now, "XREAD").map(|_| ())
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        self.streams.iter().for_each(|progress| progress.save(writer));
    }

    /// Goes on from the same entries, by a connection of its own.
    fn restore(
        &mut self,
        _: &mut Router,
        reader: &mut StateReader<'_>,
        _has_socket: bool,
    ) -> Result<bool, StateError> {
        for progress in &mut self.streams {
            *progress = Progress::restored(reader)?;
        }
        Ok(false)
    }

    fn down(&mut self, router: &mut Router, random: u64) -> bool {
        router.on_reader(false);
        StreamReader::down(self, router.server.now.millis, random)
    }
}

#[cfg(test)]
mod tests;
