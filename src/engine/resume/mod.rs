//! Resuming: the history of recent messages, the cursors into it, and what a client that comes back still has to be given.
//!
//! A [`Replay`] is a client's place in the history. It reads slice by slice with [`Resume::read_on`], and is over when it reaches
//! the end. If the history lacks entries of streams that the client missed, [`Resume::lacking`] names them: the source of older
//! messages (a feature) sends them first.

pub mod cursor;
mod entry_index;
mod entry_sizes;
mod filter;
pub mod history;
pub mod places;
pub mod replay;
pub mod saved;

use std::collections::BTreeSet;

use crate::engine::pubsub::hub::{Hub, Subscriptions};
use crate::engine::pubsub::topic::Subject;
use crate::engine::slots::ConnId;
use cursor::{EntryId, Node, Signer};
pub use entry_sizes::EntrySizes;
pub use filter::is_entry_for;
use filter::{FilterPlace, ReplayFilter};
use history::{History, Record, hash_of};
use replay::{Replay, ReplayItem, ReplayStage};

/// The length of a cursor, to reserve for it: exact without streams.
const CURSOR_BYTES: usize = 35;

/// The price of one write, in units of about 5 ns. A step of a replay takes as long as the writes that it is given for it, and
/// exceeds them by the last message at most.
pub const WRITE_PRICE: usize = 1024;
/// The price of a key of the client's, for each step: the keys are sorted for it.
const KEY_PRICE: usize = 24;
/// The price of a message whose hash shows that it is not for the client.
const HASH_PRICE: usize = 1;
/// The price of a message whose topic has to be looked at, and of each 4 bytes of it if the client subscribes to patterns.
const TOPIC_PRICE: usize = 16;
/// The price of a frame that is made, and of each 8 bytes of it.
const FRAME_PRICE: usize = 32;

/// The most records that are looked at to find the newest message of a topic: as many as the history holds by default.
const LOOKED_BACK_MAX: usize = 65_536;
/// Steps of one look back: half a millisecond. A record is one, and more with many topics; to read it is eight.
const LOOK_STEPS_MAX: usize = 4 * LOOKED_BACK_MAX;
const HASHES_PER_STEP: usize = 8;
const STEPS_PER_RECORD: usize = 8;

/// The bounds of one slice of a replay.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// The writes whose time the slice may take.
    pub writes: usize,
    pub bytes: usize,
    pub frames: usize,
}

/// Entries of a stream that a client missed and the history does not hold: those behind `after`, including `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingEntries {
    pub stream: usize,
    pub after: EntryId,
    pub up_to: EntryId,
}

/// The history of this process, its place in each stream, and its signature.
pub struct Resume {
    /// This process, in cursors.
    node: Node,
    pub signer: Signer,
    pub history: History,
    /// The keys of the streams that are read.
    pub streams: Vec<String>,
    /// The latest entry of each stream that was published.
    pub entries: Vec<EntryId>,
    /// The latest entry of each stream at the first look at it: this process published what came after.
    begins: Vec<EntryId>,
    /// Every stream was looked at, and the history holds what it can of it.
    pub are_streams_known: bool,
    /// Messages of channels are among those that were published, or may be.
    pub has_channels: bool,
    /// The size of recent entries of each stream.
    pub sizes: Vec<EntrySizes>,
    /// Clients that have more of a stream than this process has read, by the stream and their latest entry of it: they wait, so
    /// that nothing is sent to them twice. Some may be gone by now.
    pub ahead: BTreeSet<(usize, EntryId, ConnId)>,
    /// The most messages by which a cursor of this sequence may be ahead of this process: 0 unless another process numbers them.
    pub ahead_max: u64,
    /// Clients that were sent more of this sequence by another process than this one has recorded, by the number of the first
    /// message that they lack. Some may be gone by now.
    pub ahead_by_number: BTreeSet<(u64, ConnId)>,
}

impl Resume {
    /// An empty history, without streams.
    pub fn new(node: Node, signer: Signer, history: History) -> Resume {
        Resume {
            node,
            signer,
            history,
            streams: Vec::new(),
            entries: Vec::new(),
            begins: Vec::new(),
            are_streams_known: false,
            has_channels: true,
            sizes: Vec::new(),
            ahead: BTreeSet::new(),
            ahead_max: 0,
            ahead_by_number: BTreeSet::new(),
        }
    }

    /// Begins anew with these streams, of which nothing is known yet.
    pub fn read_streams(&mut self, names: Vec<String>) {
        let streams = names.len();
        self.streams = names;
        self.entries = vec![EntryId::ZERO; streams];
        self.begins = self.entries.clone();
        self.history = self.history.with_streams(streams);
        self.sizes = vec![EntrySizes::default(); streams];
        self.ahead = BTreeSet::new();
        self.ahead_by_number = BTreeSet::new();
    }

    /// The cursor of the latest message: opaque to clients, and rising as text, across restarts too.
    pub fn cursor(&self) -> String {
        self.cursor_at(self.history.next() - 1)
    }

    /// The cursor of the message with this number, which is the latest one or one shortly before it.
    pub fn cursor_at(&self, number: u64) -> String {
        self.own_cursor(number, &self.entries)
    }

    /// The cursor after which everything is held of what is held from this number on.
    pub fn oldest(&self, number: u64) -> String {
        self.own_cursor(number.max(self.history.first() - 1), self.history.covered())
    }

    fn own_cursor(&self, number: u64, entries: &[EntryId]) -> String {
        let mut text = String::with_capacity(CURSOR_BYTES);
        self.signer.write(&mut text, self.node, number, !self.is_portable(), entries);
        text
    }

    /// Returns whether another process can resume from a cursor: the places in the streams say everything, and are known.
    fn is_portable(&self) -> bool {
        !self.has_channels && !self.history.covered().contains(&EntryId::MAX)
    }

    /// Appends the cursor of a client in a replay at this number. Its place in the streams is known as far as it was when it came.
    pub fn write_cursor(&self, out: &mut String, number: u64, replay: &Replay) {
        let has_channels = self.has_channels || !replay.is_portable;
        self.signer.write(out, self.node, number, has_channels, &replay.entries);
    }

    /// The cursor of a client in a replay when it had `stream` up to the entry `after`.
    pub fn cursor_before(&self, replay: &mut Replay, stream: usize, after: EntryId) -> String {
        let mut from = String::new();
        let has = std::mem::replace(&mut replay.entries[stream], after);
        self.write_cursor(&mut from, replay.next - 1, replay);
        replay.entries[stream] = has;
        from
    }

    /// Begins the replay of a client that has this cursor; `None` if the messages that it missed are not held.
    pub fn replay_from(&self, since: &str) -> Option<Replay> {
        let since = self.signer.read(since)?;
        let (first, next) = (self.history.first(), self.history.next());
        let is_of_these_streams =
            since.entries.len() == self.entries.len() && !since.entries.contains(&EntryId::MAX);
        if !self.history.is_on() || !is_of_these_streams {
            return None;
        }
        // From before the streams were known: entries added between then and the first look at them were never published.
        let mut places = since.entries.iter().zip(&self.begins);
        if since.has_channels && places.any(|(has, begin)| has < begin) {
            return None;
        }
        let most = next.saturating_add(self.ahead_max);
        if since.node == self.node && since.number + 1 >= first && since.number < most {
            let replay = Replay::new(since.number + 1, 0, since.entries);
            return Some(Replay { is_portable: !since.has_channels, ..replay });
        }
        // A cursor of another process, or from before the history: its place in the streams says what the client had.
        let is_portable = !self.entries.is_empty() && !self.has_channels && !since.has_channels;
        // Entries from before the history have no number.
        is_portable.then(|| Replay {
            stage: ReplayStage::Undecided,
            ..Replay::new(1, next, since.entries)
        })
    }

    /// The replay of a client that has everything.
    pub fn replay_of_nothing(&self) -> Replay {
        let replay = Replay::new(self.history.next(), 0, self.entries.clone());
        Replay { is_portable: self.is_portable(), ..replay }
    }

    /// Begins the replay of a single topic for a client that has this cursor; `None` if its messages are not held, or the cursor
    /// is ahead of this process, which cannot tell then what the client has.
    pub fn topic_replay_from(&self, since: &str) -> Option<Replay> {
        let are_places_known = self.entries.is_empty() || self.are_streams_known;
        self.replay_from(since).filter(|replay| are_places_known && !self.is_ahead(replay))
    }

    /// The newest message of each of these topics, which differ, and the steps that it took to look for them. The look back ends
    /// after `LOOKED_BACK_MAX` records or `LOOK_STEPS_MAX` steps, and at a gap: newer ones than those before it may be lost.
    pub fn newest(&self, topics: &[&str]) -> (Vec<Option<u64>>, usize) {
        let mut found = vec![None; topics.len()];
        let places = topics.iter().enumerate();
        let mut missing: Vec<(u32, usize)> =
            places.map(|(place, topic)| (hash_of(topic), place)).collect();
        let (mut steps, mut scratch) = (0, Vec::new());
        let (first, next) = (self.history.first(), self.history.next());
        let numbers = first.max(next.saturating_sub(LOOKED_BACK_MAX as u64))..next;
        for number in numbers.rev() {
            if missing.is_empty() || steps >= LOOK_STEPS_MAX {
                break;
            }
            steps += 1 + missing.len() / HASHES_PER_STEP;
            let hash = self.history.hash(number);
            if hash == 0 && matches!(self.history.get(number, &mut scratch), Record::Gap { .. }) {
                break;
            }
            let mut at = 0;
            while let Some(further) = missing[at..].iter().position(|(one, _)| *one == hash) {
                at += further;
                steps += STEPS_PER_RECORD;
                let place = missing[at].1;
                match self.history.get(number, &mut scratch) {
                    Record::Message { subject, .. } | Record::Entry { subject, .. }
                        if subject.topic == topics[place] =>
                    {
                        found[place] = Some(number);
                        missing.swap_remove(at);
                    }
                    _ => at += 1,
                }
            }
        }
        (found, steps)
    }

    /// The first stream of which the client missed entries that the history does not hold.
    pub fn lacking(&self, replay: &Replay) -> Option<MissingEntries> {
        let mut places = self.history.covered().iter().zip(&replay.entries).enumerate();
        let lacking = places.find(|(_, (covered, has))| covered > has);
        lacking.map(|(stream, (&up_to, &after))| MissingEntries { stream, after, up_to })
    }

    /// A stream of which the client has more than this process, and which was not checked for the client, with the client's place.
    /// Either this process lags, or the stream was recreated: only Redis can tell.
    pub fn uncertain(&self, replay: &Replay) -> Option<(usize, EntryId)> {
        let mut places = replay.entries.iter().zip(&self.entries).enumerate();
        let is_checked = |stream: usize| replay.checked_ahead & 1 << stream != 0;
        let uncertain = places.find(|(stream, (has, read))| has > read && !is_checked(*stream));
        uncertain.map(|(stream, (has, _))| (stream, *has))
    }

    /// Returns whether the client has more of a stream than this process.
    pub fn is_ahead(&self, replay: &Replay) -> bool {
        replay.next > self.history.next()
            || replay.entries.iter().zip(&self.entries).any(|(has, read)| has > read)
    }

    /// Adds a client with these entries to those that are ahead, for each stream of which fewer were read.
    pub fn wait_ahead(&mut self, id: ConnId, entries: &[EntryId]) {
        for (stream, (has, read)) in entries.iter().zip(&self.entries).enumerate() {
            if has > read {
                self.ahead.insert((stream, *has, id));
            }
        }
    }

    /// Takes a client that was ahead of this process and has no more of the stream than the latest entry.
    pub fn pop_reached(&mut self, stream: usize) -> Option<ConnId> {
        let least = (stream, EntryId::ZERO, ConnId { index: 0, generation: 0 });
        let first = *self.ahead.range(least..).next()?;
        let (of, has, id) = first;
        (of == stream && has <= self.entries[stream] && self.ahead.remove(&first)).then_some(id)
    }

    /// A stream was recreated, with fewer entries than the client has: the client had none of it.
    pub fn forget_place(&self, replay: &mut Replay, stream: usize) {
        replay.entries[stream] = self.history.covered()[stream].min(self.entries[stream]);
    }

    /// Decides how a replay goes on. Returns `false` if the source of older messages must be asked first.
    pub fn decide(&self, replay: &mut Replay) -> bool {
        if replay.stage != ReplayStage::Undecided {
            return true;
        }
        if self.lacking(replay).is_some() || self.uncertain(replay).is_some() {
            return false;
        }
        replay.stage = ReplayStage::History;
        let first = self.history.first();
        // Messages of channels that came meanwhile may have left the history: then the client is sent a gap.
        let live = replay.live.max(replay.next);
        if self.has_channels && live < first {
            replay.next = live;
            return true;
        }
        // Entries that the client has are passed over without being looked at, but not messages published here since it came. (If
        // nothing of a stream is later, all of the history would be searched for it in vain.)
        let places = replay.entries.iter().zip(&self.entries).enumerate();
        let behind = places.filter(|(_, (has, read))| has < read);
        let next = behind.map(|(stream, (has, _))| self.history.after(stream, *has)).min();
        let next = next.unwrap_or(u64::MAX).min(replay.live).max(first);
        replay.next = next.max(replay.next);
        true
    }

    /// Reads on in the history until a slice is full. `emit` encodes an item, queues the frame and returns its length; `None` if
    /// there is nothing to send. Returns the price, and how many messages for the client newer ones supersede.
    pub fn read_on(
        &self,
        replay: &mut Replay,
        (hub, subscriptions): (&Hub, &Subscriptions),
        slice: Slice,
        mut emit: impl FnMut(ReplayItem<'_>) -> Option<usize>,
    ) -> (usize, u64) {
        let first = self.history.first();
        if replay.next < first && replay.is_portable && !self.has_channels {
            // The history has overtaken the client, and Redis has what was dropped.
            replay.stage = ReplayStage::Undecided;
            return (WRITE_PRICE, 0);
        }
        let filter = ReplayFilter::new(hub, subscriptions, (&replay.others, &replay.changes));
        let mut price = (filter.len() + replay.changes.len()) * KEY_PRICE;
        // At least one write beside the keys: otherwise a client with many of them would never advance.
        let price_max = (slice.writes * WRITE_PRICE).max(price + WRITE_PRICE);
        let (mut cursor, mut scratch, mut key) = (String::new(), Vec::new(), String::new());
        let (mut bytes, mut made, mut superseded) = (0, 0, 0);
        if replay.next < first {
            self.write_cursor(&mut cursor, replay.next - 1, replay);
            emit(ReplayItem::Gap { from: &cursor });
            replay.next = first;
        }
        while replay.next < self.history.next()
            && bytes <= slice.bytes
            && made < slice.frames
            && price < price_max
        {
            let number = replay.next;
            replay.next += 1;
            price += HASH_PRICE;
            let hash = self.history.hash(number);
            if hash != 0 && self.entries.is_empty() && !filter.may_match(hash) {
                continue;
            }
            price += TOPIC_PRICE;
            cursor.clear();
            let mut is_due = |place: FilterPlace, topic: &str| {
                price += if filter.has_patterns() { topic.len() / 4 } else { 0 };
                let is_for_client = filter.matches(place, hash, topic, &mut key);
                let is_superseded = is_for_client && self.history.is_superseded(number);
                superseded += u64::from(is_superseded);
                is_for_client && !is_superseded
            };
            let item = match self.history.get(number, &mut scratch) {
                Record::Gap { from }
                    if (number >= replay.live || !self.has_channels) && filter.len() > 0 =>
                {
                    self.write_cursor(&mut cursor, from, replay);
                    ReplayItem::Gap { from: &cursor }
                }
                Record::Message { subject, payload }
                    if number >= replay.live
                        && is_due(FilterPlace::Number(number), subject.topic) =>
                {
                    self.write_cursor(&mut cursor, number, replay);
                    ReplayItem::Message { cursor: &cursor, subject, payload }
                }
                Record::Entry { stream, id, subject, payload } if id > replay.entries[stream] => {
                    replay.entries[stream] = id;
                    let place = FilterPlace::Entry(stream, id);
                    if !is_due(place, subject.topic) {
                        continue;
                    }
                    self.write_cursor(&mut cursor, number, replay);
                    ReplayItem::Message { cursor: &cursor, subject, payload }
                }
                _ => continue,
            };
            made += 1;
            if let Some(length) = emit(item) {
                bytes += length;
                price += FRAME_PRICE + length / 8;
            }
        }
        (price, superseded)
    }

    pub fn record(&mut self, subject: Subject<'_>, payload: &[u8]) {
        self.has_channels = true;
        self.history.push(subject, payload);
    }

    pub fn record_entry(
        &mut self,
        stream: usize,
        id: EntryId,
        subject: Subject<'_>,
        payload: &[u8],
    ) {
        self.sizes[stream].add(subject.topic.len() + subject.key_len() + payload.len());
        self.history.push_entry(stream, id, subject, payload);
    }

    /// Takes the first look at a stream into account: every entry after `covered_from` will be published.
    pub fn begin_stream(&mut self, stream: usize, covered_from: EntryId) {
        self.begins[stream] = covered_from;
        self.entries[stream] = covered_from;
        self.history.cover(stream, covered_from);
    }

    /// Takes a loss into account: entries before `covered_from` are gone, every entry after it will be published.
    pub fn lose_entries(&mut self, stream: usize, covered_from: EntryId) {
        self.entries[stream] = covered_from;
        self.history.cover_anew(stream, covered_from);
    }

    /// Records an entry from before the start, the latest one first; no subject: it is no message. Returns `false` if the history has no
    /// room for older ones.
    pub fn prefill(
        &mut self,
        stream: usize,
        id: EntryId,
        subject: Option<Subject<'_>>,
        payload: &[u8],
    ) -> bool {
        if self.history.has_hole(stream) {
            return false;
        }
        let name_len = subject.map_or(0, |subject| subject.topic.len() + subject.key_len());
        self.sizes[stream].add(name_len + payload.len());
        // An entry that is no message was never published.
        let is_held =
            subject.is_none_or(|subject| self.history.push_before(stream, id, subject, payload));
        if is_held {
            self.history.cover(stream, id.before().unwrap_or(EntryId::ZERO));
        }
        is_held
    }
}
