//! Clients that come back: what they missed is read from the history, a slice at a time.
//!
//! A slice is taken when all that was given before is written, so a replay obeys the backlog's bound whatever its length, and
//! whoever reads slowly holds a place in the ring and no frames.

use crate::engine::client::frame::Frame;
use crate::engine::resume::replay::{Change, Page, Replay};
use crate::engine::client::{Client, State};
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Hub;
use crate::engine::pubsub::topic::covers;
use crate::engine::resume::cursor::{Cursor, EntryId};
use crate::engine::resume::history::{History, Said};
use crate::engine::server::Server;
use crate::engine::resume::filter::Filter;
use crate::engine::slots::ConnId;

/// Bytes of frames that are queued for a client at a time.
pub(super) const SLICE_BYTES: usize = 32 * 1024;

/// Prices, in units of which a write is worth [`WRITE`]: 5 ns or so each. A step of a replay is as long as what it is given for
/// these, and passes it by the last message at most.
const WRITE: usize = 1024;
/// Of a key of the client's, each time that it is given a step: the keys are put in order for it.
const KEY: usize = 24;
/// Of a message whose hash shows that it is not for the client.
const LOOK: usize = 1;
/// Of one whose topic has to be looked at, and of each 4 bytes of it if the client listens to patterns.
const OPENED: usize = 16;
/// Of a frame that is made, and of each 8 bytes of it.
const FRAME: usize = 32;

/// A step is worth so many writes at least behind its keys, or whoever has many of them would never get on.
const WRITES_MIN: usize = 1;

/// What came of a cursor that a client came back with.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumed {
    /// What it missed follows. The cursor stands where its own does, among those of this connection.
    From(String),
    /// What it missed is not held any more, or the cursor is none of ours; what came after the cursor here is held.
    No(String),
}

/// What stands next in a client's replay.
pub enum ReplayItem<'a> {
    /// A message, and the cursor that includes it.
    Message { cursor: &'a str, topic: &'a str, payload: &'a [u8] },
    /// Messages after this cursor may be missing.
    Gap { from: &'a str },
}

/// Whether an entry that has no number any more is for a client, as [`Filter::matches`] has it; no filter is made for one entry.
pub(super) fn is_entry_for(
    (hub, client, changes): (&Hub, &Client, &[Change]),
    (stream, id): (usize, EntryId),
    topic: &str,
) -> bool {
    let counts = |change: &Change| {
        change.after.get(stream).is_none_or(|after| id > *after)
            && change.up_to.get(stream).is_none_or(|up_to| id <= *up_to)
    };
    let since = |key: &str| changes.iter().find(|one| *one.key == *key && one.until == u64::MAX);
    let (mut then, mut now) = (false, false);
    for (key, _) in hub.topics(&client.subscriptions).filter(|(key, _)| covers(key, topic)) {
        (then, now) = (then || since(key).is_none_or(counts), true);
    }
    let mut left = changes.iter().filter(|one| one.until < u64::MAX);
    now && (then || left.any(|one| covers(&one.key, topic) && counts(one)))
}

impl Server {
    /// Gives a client that came back what it missed since this cursor, as soon as the running handler is done with it: what it
    /// listens to by then counts.
    pub fn resume(&mut self, id: ConnId, since: &str) -> Resumed {
        let place = self.signer.read(since).and_then(|since| self.place_after(since));
        let is_caught_up = self.caught_up(id);
        let Some(replay) = place.filter(|_| is_caught_up) else {
            self.metrics.resumes_refused += 1;
            return Resumed::No(self.oldest());
        };
        self.metrics.resumes += 1;
        let mut cursor = String::new();
        self.write_replays_cursor(&mut cursor, replay.next - 1, &replay);
        if (replay.next < self.history.next() || replay.page == Page::Due)
            && let Some(client) = self.open_client(id)
        {
            client.begin_replay(replay);
            self.schedule_flush(id, Lane::Bulk);
        }
        Resumed::From(cursor)
    }

    /// The cursor that includes all that a client was told so far, and nothing of its topics that it was not: none while it is
    /// given what it missed. Whoever hears little would else come back with an old one.
    pub fn place_of(&mut self, id: ConnId) -> Option<String> {
        let is_live = self.caught_up(id) && !self.client(id)?.is_replaying();
        is_live.then(|| self.cursor())
    }

    /// The cursor behind which everything is held.
    pub fn oldest(&self) -> String {
        let mut text = String::new();
        let number = self.history.first() - 1;
        self.write_cursor(&mut text, number, self.history.covered());
        text
    }

    /// Where in the history whoever has this cursor is to go on.
    fn place_after(&self, since: Cursor) -> Option<Replay> {
        let (first, next) = (self.history.first(), self.history.next());
        let is_none_of_redis = since.entries.contains(&EntryId::MAX);
        if !self.history.is_on() || since.entries.len() != self.entries.len() || is_none_of_redis {
            return None;
        }
        // From before the streams were known: what was added between then and the first look at them was told to nobody.
        let mut places = since.entries.iter().zip(&self.begins);
        if since.has_channels && places.any(|(has, begin)| has < begin) {
            return None;
        }
        if since.node == self.node && since.number + 1 >= first && since.number < next {
            let (next, entries) = (since.number + 1, since.entries);
            let is_portable = !since.has_channels;
            return Some(Replay { is_portable, ..Replay::new(next, 0, entries) });
        }
        // What another process said, or this one longer ago than it remembers: its place in the streams says what it had.
        let is_portable = !self.entries.is_empty() && !self.has_channels && !since.has_channels;
        // Entries of before the history have no number.
        is_portable.then(|| Replay {
            page: Page::Due,
            is_portable,
            ..Replay::new(1, next, since.entries)
        })
    }

    /// Queues the next slice for a client whose replay waits for it; `make` makes the frames, and `None` where there is nothing to
    /// tell. It takes about as long as so many `writes`. Returns how many it took the place of; 0: the client does not wait for any.
    pub(crate) fn replay(
        &mut self,
        id: ConnId,
        writes: usize,
        make: impl FnMut(ReplayItem<'_>) -> Option<Frame>,
    ) -> usize {
        let client = self.client(id).filter(|client| client.state() == State::Open);
        let replay =
            client.filter(|client| client.wants_replay()).and_then(|one| one.take_replay());
        let Some(mut replay) = replay else { return 0 };
        if replay.page == Page::Due {
            self.turn_page(id, &mut replay);
            if replay.page != Page::None {
                self.clients[id.index].put_replay(replay);
                self.call_waiting();
                return 1;
            }
        }
        let mut frames = Vec::new();
        let price = self.read_history(id, &mut replay, writes * WRITE, make, &mut frames);
        let is_at_end = replay.next == self.history.next() && replay.page == Page::None;
        let is_ahead = replay.entries.iter().zip(&self.entries).any(|(has, told)| has > told);
        if is_at_end && is_ahead {
            replay.page = Page::Due;
            if self.unsure(&replay).is_none() {
                replay.page = Page::Ahead;
                self.wait_for_more(id, &replay);
            }
        }
        let is_over = is_at_end && !is_ahead;
        let client = self.clients.get_mut(id).expect("it was just found");
        if is_over {
            // What was dealt out meanwhile stood in the history.
            client.mark_delivered(self.fanout.latest());
        } else {
            client.put_replay(replay);
        }
        let slow = self.options[client.route as usize].slow;
        for frame in &frames {
            let queued = client.queue(frame, &self.backlog, slow);
            debug_assert_eq!(queued, Some(0), "its socket is not full");
        }
        self.metrics.replayed += frames.len() as u64;
        client.settle_replayed();
        price.div_ceil(WRITE)
    }

    /// Reads on in the history until a slice is full, or as far as it may for this price. Returns what it came to.
    fn read_history(
        &self,
        id: ConnId,
        replay: &mut Replay,
        price_max: usize,
        mut make: impl FnMut(ReplayItem<'_>) -> Option<Frame>,
        frames: &mut Vec<Frame>,
    ) -> usize {
        if replay.next < self.history.first() && replay.is_portable && !self.has_channels {
            // The ring has overtaken it, and Redis has what it left behind.
            replay.page = Page::Due;
            return WRITE;
        }
        let client = &self.clients[id.index];
        let filter = Filter::new(&self.hubs[client.route as usize], client, &replay.changes);
        let mut price = (filter.len() + replay.changes.len()) * KEY;
        let price_max = price_max.max(price + WRITES_MIN * WRITE);
        let (mut cursor, mut scratch, mut key) = (String::new(), Vec::new(), String::new());
        let (mut bytes, mut made) = (0, 0);
        if replay.next < self.history.first() {
            self.write_replays_cursor(&mut cursor, replay.next - 1, replay);
            frames.extend(make(ReplayItem::Gap { from: &cursor }));
            replay.next = self.history.first();
        }
        let bytes_max = SLICE_BYTES.min(self.backlog.bytes_max / 4);
        let frames_max = self.backlog.frames_max.div_ceil(4);
        while replay.next < self.history.next()
            && bytes <= bytes_max
            && made < frames_max
            && price < price_max
        {
            let number = replay.next;
            replay.next += 1;
            price += LOOK;
            let hash = self.history.hash(number);
            if hash != 0 && self.entries.is_empty() && !filter.may_match(hash) {
                continue;
            }
            price += OPENED;
            let said = self.history.get(number, &mut scratch);
            cursor.clear();
            let mut is_for_it = |topic: &str| {
                price += if filter.has_patterns() { topic.len() / 4 } else { 0 };
                filter.matches(number, hash, topic, &mut key)
            };
            let missed = match said {
                Said::Gap { from }
                    if (number >= replay.live || !self.has_channels) && filter.len() > 0 =>
                {
                    self.write_replays_cursor(&mut cursor, from, replay);
                    Some(ReplayItem::Gap { from: &cursor })
                }
                Said::Message { topic, payload } if number >= replay.live && is_for_it(topic) => {
                    self.write_replays_cursor(&mut cursor, number, replay);
                    Some(ReplayItem::Message { cursor: &cursor, topic, payload })
                }
                Said::Entry { stream, id, topic, payload } if id > replay.entries[stream] => {
                    replay.entries[stream] = id;
                    is_for_it(topic).then(|| {
                        self.write_replays_cursor(&mut cursor, number, replay);
                        ReplayItem::Message { cursor: &cursor, topic, payload }
                    })
                }
                _ => None,
            };
            let Some(missed) = missed else { continue };
            made += 1;
            if let Some(frame) = make(missed) {
                bytes += frame.as_bytes().len();
                price += FRAME + frame.as_bytes().len() / 8;
                frames.push(frame);
            }
        }
        price
    }

    /// Messages come by these streams.
    pub(crate) fn read_streams(&mut self, names: Vec<String>) {
        let bounds = &self.bounds;
        self.entries = vec![EntryId::ZERO; names.len()];
        self.begins = self.entries.clone();
        self.history =
            History::new(bounds.history_messages_max, bounds.history_bytes_max, names.len());
        self.give_pages_of(names.len());
        self.streams = names;
    }

    /// Whether a cursor is as good at another process: its place in each stream says all, and is known.
    fn is_portable(&self) -> bool {
        !self.has_channels && !self.history.covered().contains(&EntryId::MAX)
    }

    /// Appends the text of a cursor of one that came back: what it says of the streams is known as far as it was when it came.
    pub(super) fn write_replays_cursor(&self, out: &mut String, number: u64, replay: &Replay) {
        let has_channels = self.has_channels || !replay.is_portable;
        self.signer.write(out, self.node, number, has_channels, &replay.entries);
    }

    /// Appends the text of a cursor of this process.
    pub(super) fn write_cursor(&self, out: &mut String, number: u64, entries: &[EntryId]) {
        self.signer.write(out, self.node, number, !self.is_portable(), entries);
    }
}
