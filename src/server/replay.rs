//! Clients that come back: what they missed is read from the history, a slice at a time.
//!
//! A slice is taken when all that was given before is written, so a replay obeys the backlog's bound whatever its length, and
//! whoever reads slowly holds a place in the ring and no frames.

use crate::client::State;
use crate::client::frame::Frame;
use crate::client::replay::Replay;
use crate::cursor::{self, Cursor};
use crate::flush::Lane;
use crate::history::{Said, hash_of};
use crate::hub::Hub;
use crate::server::Server;
use crate::slots::ConnId;
use crate::topic::is_user_topic;

/// Bytes of frames that are queued for a client at a time.
const SLICE_BYTES: usize = 32 * 1024;

/// Messages that are looked at for it at a time.
const SLICE_MESSAGES: usize = 4096;

/// So many frames made, or so many messages looked at, take about as long as a write.
const FRAMES_PER_WRITE: usize = 32;
const MESSAGES_PER_WRITE: usize = 1024;

/// What came of a cursor that a client came back with.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumed {
    /// What it missed follows. The cursor stands where its own does, among those of this connection.
    From(String),
    /// What it missed is not held any more, or the cursor is none of ours; what came after the cursor here is held.
    No(String),
}

/// What stands next in a client's replay.
pub(crate) enum Missed<'a> {
    /// A message, and the cursor that includes it.
    Message { cursor: &'a str, topic: &'a str, payload: &'a [u8] },
    /// Messages after this cursor may be missing.
    Gap { from: &'a str },
}

/// What a client listens to, as its replay asks for it.
struct Filter<'a> {
    /// The hash of an exact topic, the topic, and the first number for which it counts.
    topics: Vec<(u32, &'a str, u64)>,
    /// The same of patterns: what the topic begins with.
    prefixes: Vec<(&'a str, u64)>,
}

impl<'a> Filter<'a> {
    fn new(
        hub: &'a Hub,
        client: &'a crate::client::Client,
        late: &[(Box<str>, u64)],
    ) -> Filter<'a> {
        let mut filter = Filter { topics: Vec::new(), prefixes: Vec::new() };
        for (key, _) in hub.topics(&client.memberships) {
            let from = late.iter().find(|(of, _)| **of == *key).map_or(0, |(_, from)| *from);
            match key.strip_suffix('\0') {
                Some(prefix) => filter.prefixes.push((prefix, from)),
                None => filter.topics.push((hash_of(key), key, from)),
            }
        }
        filter
    }

    fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.prefixes.is_empty()
    }

    /// Whether a topic with this hash may be one of them: what is not need not be looked at.
    fn may_match(&self, hash: u32) -> bool {
        !self.prefixes.is_empty() || self.topics.iter().any(|(of, ..)| *of == hash)
    }

    /// Whether the message with this number is for it.
    fn matches(&self, number: u64, hash: u32, topic: &str) -> bool {
        let is_users = is_user_topic(topic);
        self.topics.iter().any(|(of, name, from)| *of == hash && *from <= number && *name == topic)
            || self.prefixes.iter().any(|(prefix, from)| {
                *from <= number && is_users == is_user_topic(prefix) && topic.starts_with(prefix)
            })
    }
}

impl Server {
    /// Gives a client that came back what it missed since this cursor, as soon as the running handler is done with it: what it
    /// listens to by then counts.
    pub fn resume(&mut self, id: ConnId, since: &str) -> Resumed {
        let place = Cursor::parse(since).and_then(|since| self.place_after(since));
        let is_caught_up = self.caught_up(id);
        let Some(replay) = place.filter(|_| is_caught_up) else {
            self.metrics.resumes_refused += 1;
            return Resumed::No(self.oldest());
        };
        self.metrics.resumes += 1;
        let mut cursor = String::new();
        let number = replay.next - 1;
        cursor::write(&mut cursor, self.node, number, self.has_channels, &replay.entries);
        if replay.next < self.history.next()
            && let Some(client) = self.open_client(id)
        {
            client.begin_replay(replay);
            self.owe(id, Lane::Bulk);
        }
        Resumed::From(cursor)
    }

    /// The cursor behind which everything is held.
    pub fn oldest(&self) -> String {
        let mut text = String::new();
        let number = self.history.first() - 1;
        cursor::write(&mut text, self.node, number, self.has_channels, self.history.covered());
        text
    }

    /// Where in the history whoever has this cursor is to go on.
    fn place_after(&self, since: Cursor) -> Option<Replay> {
        let (first, next) = (self.history.first(), self.history.next());
        if !self.history.is_on() || since.entries.len() != self.entries.len() {
            return None;
        }
        if since.node == self.node && since.number + 1 >= first && since.number < next {
            let (next, entries) = (since.number + 1, since.entries);
            return Some(Replay { next, live: 0, entries, late: Vec::new() });
        }
        let mut covered = self.history.covered().iter().zip(&since.entries);
        let is_held = !self.entries.is_empty()
            && !self.has_channels
            && !since.has_channels
            && covered.all(|(covered, has)| covered <= has);
        is_held.then_some(Replay {
            next: first,
            live: next,
            entries: since.entries,
            late: Vec::new(),
        })
    }

    /// Queues the next slice for a client whose replay waits for it; `make` makes the frames, and `None` where there is nothing to
    /// tell. Returns how many writes that takes the place of; 0: it does not wait for any.
    pub(crate) fn replay(
        &mut self,
        id: ConnId,
        make: impl FnMut(Missed<'_>) -> Option<Frame>,
    ) -> usize {
        let client = self.client(id).filter(|client| client.state() == State::Open);
        let replay =
            client.filter(|client| client.wants_replay()).and_then(|one| one.take_replay());
        let Some(mut replay) = replay else { return 0 };
        let mut frames = std::mem::take(&mut self.owed);
        let looked_at = self.read_history(id, &mut replay, make, &mut frames);
        let is_over = replay.next == self.history.next();
        let client = self.clients.get_mut(id.index).expect("it was just found");
        if is_over {
            // What was dealt out meanwhile stood in the history.
            client.serve(self.broadcasts.latest());
        } else {
            client.put_replay(replay);
        }
        let slow = self.slow[client.route as usize];
        for frame in &frames {
            let queued = client.queue(frame, &self.backlog, slow);
            debug_assert_eq!(queued, Some(0), "its socket is not full");
        }
        let made = frames.len();
        self.metrics.replayed += made as u64;
        frames.clear();
        self.owed = frames;
        client.settle_replayed();
        1 + made / FRAMES_PER_WRITE + looked_at / MESSAGES_PER_WRITE
    }

    /// Reads on in the history until a slice is full. Returns how many messages were looked at.
    fn read_history(
        &self,
        id: ConnId,
        replay: &mut Replay,
        mut make: impl FnMut(Missed<'_>) -> Option<Frame>,
        frames: &mut Vec<Frame>,
    ) -> usize {
        let client = &self.clients[id.index];
        let filter = Filter::new(&self.hubs[client.route as usize], client, &replay.late);
        let (mut cursor, mut scratch) = (String::new(), Vec::new());
        let mut take = |missed: Option<Missed<'_>>| -> usize {
            let frame = missed.and_then(&mut make);
            let bytes = frame.as_ref().map_or(0, |frame| frame.as_bytes().len());
            frames.extend(frame);
            bytes
        };
        let (mut bytes, mut looked_at) = (0, 0);
        if replay.next < self.history.first() {
            // The ring has overtaken it.
            self.write_cursor(&mut cursor, replay.next - 1, &replay.entries);
            bytes += take(Some(Missed::Gap { from: &cursor }));
            replay.next = self.history.first();
        }
        let bytes_max = SLICE_BYTES.min(self.backlog.bytes_max / 4);
        let most = self.backlog.frames_max.div_ceil(4);
        let mut made = 0;
        while replay.next < self.history.next()
            && bytes <= bytes_max
            && made < most
            && looked_at < SLICE_MESSAGES
        {
            let number = replay.next;
            replay.next += 1;
            looked_at += 1;
            let hash = self.history.hash(number);
            if hash != 0 && self.entries.is_empty() && !filter.may_match(hash) {
                continue;
            }
            let said = self.history.get(number, &mut scratch);
            cursor.clear();
            let missed = match said {
                Said::Gap { from } if number >= replay.live && !filter.is_empty() => {
                    self.write_cursor(&mut cursor, from, &replay.entries);
                    Some(Missed::Gap { from: &cursor })
                }
                Said::Message { topic, payload }
                    if number >= replay.live && filter.matches(number, hash, topic) =>
                {
                    self.write_cursor(&mut cursor, number, &replay.entries);
                    Some(Missed::Message { cursor: &cursor, topic, payload })
                }
                Said::Entry { stream, id, topic, payload } if id > replay.entries[stream] => {
                    replay.entries[stream] = id;
                    self.write_cursor(&mut cursor, number, &replay.entries);
                    let is_for_it = filter.matches(number, hash, topic);
                    is_for_it.then_some(Missed::Message { cursor: &cursor, topic, payload })
                }
                _ => None,
            };
            made += usize::from(missed.is_some());
            bytes += take(missed);
        }
        looked_at
    }

    /// Appends the text of a cursor of this process.
    pub(super) fn write_cursor(&self, out: &mut String, number: u64, entries: &[cursor::EntryId]) {
        cursor::write(out, self.node, number, self.has_channels, entries);
    }
}
