//! Recent messages: one ring of bytes for the whole server.
//!
//! A message lies here as it came, behind a few bytes of a header, and its frame is made again for each client that comes back. So
//! recording costs a copy and no allocation, and two bounds hold to the byte: `history_bytes_max` and `history_messages_max`. A
//! table beside the bytes has 8 of them for each message: the place, and a hash of the topic, by which most messages that are not
//! for a client are passed by without being looked at.
//!
//! A message with a key supersedes the one before it with the same topic and key, which is marked for it and passed by from then on.
//! An index of the newest message of each key finds that one; messages without a key cost nothing there. An index of entries for each
//! stream finds the place of a client that comes from another process.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::engine::pubsub::topic::Subject;
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::entry_index::EntryIndex;

pub mod notes;
mod saved;
#[cfg(test)]
mod tests;

/// The number of the first message of a process; entries of streams from before its start have lower ones.
pub const ORIGIN: u64 = 1 << 40;

const MESSAGE: u8 = 0;
const ENTRY: u8 = 1;
const GAP: u8 = 2;
const MARK: u8 = 3;
/// The bits of the kind; the others are those below.
const KIND: u8 = 3;
/// The record has a key behind its topic: a byte for the length, and the text.
const KEYED: u8 = 0x40;
/// A later message with the same topic and key is held.
const SUPERSEDED: u8 = 0x80;

/// Bytes of the index for each key, about.
const NEWEST_BYTES: usize = 32;

/// Bytes of a record before its topic: its kind, the topic's length (two bytes), and for an entry its stream and its id.
const HEAD_BYTES: usize = 3;
const ENTRY_HEAD_BYTES: usize = HEAD_BYTES + 17;

/// The record under one number.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message of a channel.
    Message { subject: Subject<'a>, payload: &'a [u8] },
    /// An entry of a stream, by the stream's number.
    Entry { stream: usize, id: EntryId, subject: Subject<'a>, payload: &'a [u8] },
    /// Messages after the one with this number may have been missed.
    Gap { from: u64 },
    /// Topics were subscribed to: their messages are held from here on.
    Mark,
}

#[derive(Clone, Copy)]
struct RecordPlace {
    /// [`hash_of`] the topic; 0 for a gap.
    hash: u32,
    /// The offset of the first byte, counted on and on.
    offset: u32,
}

/// A ring of records.
pub struct History {
    messages_max: usize,
    bytes_max: usize,
    bytes: VecDeque<u8>,
    places: VecDeque<RecordPlace>,
    /// The number of the newest message of each topic and key, by their hash. No more than messages with a key that are held.
    newest: HashMap<u64, u64>,
    /// The number of the first record held.
    first: u64,
    /// The offset of the first byte held.
    base: u32,
    /// For each stream: every entry after this one is held, or still to come.
    covered: Vec<EntryId>,
    /// For each stream: entries with lower numbers are from before a loss in it.
    whole_from: Vec<u64>,
    /// For each stream: the places of entries since then.
    indexes: Vec<EntryIndex>,
}

impl History {
    /// An empty ring with these bounds; if one of them is 0, nothing is ever held. Memory for all of it is reserved now, and becomes
    /// resident once it is written to.
    pub fn new(messages_max: usize, bytes_max: usize, streams: usize) -> History {
        let messages_max = if bytes_max == 0 { 0 } else { messages_max };
        History {
            messages_max,
            bytes_max: bytes_max.min(u32::MAX as usize),
            bytes: VecDeque::with_capacity(if messages_max == 0 { 0 } else { bytes_max }),
            places: VecDeque::with_capacity(messages_max),
            newest: HashMap::new(),
            first: ORIGIN,
            base: 0,
            covered: vec![EntryId::MAX; streams],
            whole_from: vec![0; streams],
            indexes: vec![EntryIndex::default(); streams],
        }
    }

    /// An empty ring with the same bounds, for so many streams.
    pub fn with_streams(&self, streams: usize) -> History {
        History::new(self.messages_max, self.bytes_max, streams)
    }

    /// The number of the first message held.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next message gets.
    pub fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Bytes of all that is held.
    pub fn bytes(&self) -> usize {
        let index = self.newest.len() * NEWEST_BYTES;
        self.bytes.len() + self.places.len() * size_of::<RecordPlace>() + index
    }

    /// Returns whether the history ever holds anything.
    pub fn is_on(&self) -> bool {
        self.messages_max > 0
    }

    /// For each stream the entry after which every one is held, or still to come.
    pub fn covered(&self) -> &[EntryId] {
        &self.covered
    }

    /// Marks every entry of a stream after `id` as held or still to come.
    pub fn cover(&mut self, stream: usize, id: EntryId) {
        self.covered[stream] = id;
    }

    /// The same after a loss: entries that are held from before it prove nothing any more.
    pub fn cover_anew(&mut self, stream: usize, id: EntryId) {
        self.covered[stream] = id;
        self.whole_from[stream] = self.next();
        // From now on the ids may be lower than before.
        self.indexes[stream] = EntryIndex::default();
    }

    /// For each stream the number of the first entry after the latest loss in it.
    pub fn whole_from(&self) -> &[u64] {
        &self.whole_from
    }

    /// Takes over the places of another history, whose records were pushed here.
    pub fn set_places(&mut self, covered: Vec<EntryId>, whole_from: Vec<u64>) {
        (self.covered, self.whole_from) = (covered, whole_from);
    }

    /// Gives the first record this number. The history must be empty.
    pub fn begin_at(&mut self, first: u64) {
        assert!(self.is_empty(), "a record has a number already");
        self.first = first;
    }

    /// Returns whether an entry from before a loss in the stream is held.
    pub fn has_hole(&self, stream: usize) -> bool {
        self.whole_from[stream] > self.first
    }

    /// Records a message of a channel.
    pub fn push<'a>(&mut self, subject: impl Into<Subject<'a>>, payload: &[u8]) {
        let subject = subject.into();
        let [low, high] = (subject.topic.len() as u16).to_le_bytes();
        self.record_message(&[MESSAGE | keyed(subject), low, high], subject, payload);
    }

    /// Records an entry of a stream.
    pub fn push_entry<'a>(
        &mut self,
        stream: usize,
        id: EntryId,
        subject: impl Into<Subject<'a>>,
        payload: &[u8],
    ) {
        let subject = subject.into();
        let number = self.next();
        if self.record_message(&entry_head(stream, id, subject), subject, payload) {
            self.indexes[stream].push(number, id);
        } else {
            self.covered[stream] = id;
        }
    }

    fn record_message(&mut self, head: &[u8], subject: Subject<'_>, payload: &[u8]) -> bool {
        let Subject { topic, key } = subject;
        let number = self.next();
        let length = key.map(|key| [key.len() as u8]);
        let length = length.as_ref().map_or(&[][..], |length| length);
        let key = key.unwrap_or_default().as_bytes();
        let parts = [head, topic.as_bytes(), length, key, payload];
        let is_held = self.record(hash_of(topic), &parts);
        if is_held && subject.key.is_some() {
            if let Some(place) = self.newest_place(subject) {
                let begin = self.begin(place);
                self.bytes[begin] |= SUPERSEDED;
            }
            self.newest.insert(subject_hash(subject), number);
        }
        is_held
    }

    /// The place of the newest message with this topic and key, if one is held.
    fn newest_place(&self, subject: Subject<'_>) -> Option<usize> {
        subject.key?;
        let number = *self.newest.get(&subject_hash(subject))?;
        let place = number.checked_sub(self.first)? as usize;
        let is_same = match self.get(number, &mut Vec::new()) {
            Record::Message { subject: of, .. } | Record::Entry { subject: of, .. } => {
                of == subject
            }
            Record::Gap { .. } | Record::Mark => false,
        };
        is_same.then_some(place)
    }

    /// Returns whether a message with this topic and key is held.
    pub fn has_newer(&self, subject: Subject<'_>) -> bool {
        self.newest_place(subject).is_some()
    }

    /// Returns whether a later message with the same topic and key as the one with this number is held.
    pub fn is_superseded(&self, number: u64) -> bool {
        self.bytes[self.begin((number - self.first) as usize)] & SUPERSEDED != 0
    }

    /// Puts an entry before all others, which are later. `false`: there is no room, and none for an older one.
    pub fn push_before<'a>(
        &mut self,
        stream: usize,
        id: EntryId,
        subject: impl Into<Subject<'a>>,
        payload: &[u8],
    ) -> bool {
        let subject = subject.into();
        let mut head = entry_head(stream, id, subject);
        let is_superseded = self.has_newer(subject);
        head[0] |= if is_superseded { SUPERSEDED } else { 0 };
        let Subject { topic, key } = subject;
        let key_bytes = key.map_or(0, |key| 1 + key.len());
        let length = head.len() + topic.len() + key_bytes + payload.len();
        if self.places.len() >= self.messages_max || self.bytes.len() + length > self.bytes_max {
            return false;
        }
        let mut put = |part: &[u8]| part.iter().rev().for_each(|byte| self.bytes.push_front(*byte));
        put(payload);
        if let Some(key) = key {
            put(key.as_bytes());
            put(&[key.len() as u8]);
        }
        put(topic.as_bytes());
        put(&head);
        self.base = self.base.wrapping_sub(length as u32);
        self.places.push_front(RecordPlace { hash: hash_of(topic), offset: self.base });
        self.first -= 1;
        self.indexes[stream].push_before(self.first, id);
        if key.is_some() && !is_superseded {
            self.newest.insert(subject_hash(subject), self.first);
        }
        true
    }

    /// The record under a number that is held. One that lies across the ring's end is put together in `scratch`.
    pub fn get<'a>(&'a self, number: u64, scratch: &'a mut Vec<u8>) -> Record<'a> {
        let place = (number - self.first) as usize;
        let (begin, end) = (self.begin(place), self.begin(place + 1));
        let (front, back) = self.bytes.as_slices();
        let record = if end <= front.len() {
            &front[begin..end]
        } else if begin >= front.len() {
            &back[begin - front.len()..end - front.len()]
        } else {
            scratch.clear();
            scratch.extend_from_slice(&front[begin..]);
            scratch.extend_from_slice(&back[..end - front.len()]);
            scratch
        };
        read(record)
    }

    /// The hash of the topic of a record that is held.
    pub fn hash(&self, number: u64) -> u32 {
        self.places[(number - self.first) as usize].hash
    }

    /// The number from which on there are later entries of a stream than `id`, a place that nothing was lost behind: the ids of each
    /// stream rise with the numbers since its last loss.
    pub fn after(&self, stream: usize, id: EntryId) -> u64 {
        self.indexes[stream].first_after(id, self.first..self.next(), |number| {
            let entry = self.entry((number - self.first) as usize);
            entry.filter(|(of, _)| *of == stream).map(|(_, found)| found)
        })
    }

    /// The first byte of the record in a place; behind the last one, the number of bytes.
    fn begin(&self, place: usize) -> usize {
        let place = self.places.get(place);
        place.map_or(self.bytes.len(), |place| place.offset.wrapping_sub(self.base) as usize)
    }

    /// The stream and the id of the record in a place, if it is an entry.
    fn entry(&self, place: usize) -> Option<(usize, EntryId)> {
        let mut head = [0; ENTRY_HEAD_BYTES];
        let bytes = self.bytes.range(self.begin(place)..);
        bytes.zip(&mut head).for_each(|(byte, place)| *place = *byte);
        (head[0] & KIND == ENTRY).then(|| read_entry_head(&head))
    }

    /// Drops all records, and returns their memory to the system.
    pub fn clear(&mut self) {
        while !self.places.is_empty() {
            self.drop_first();
        }
        self.newest = HashMap::new();
        self.bytes = VecDeque::with_capacity(self.bytes.capacity());
        self.places = VecDeque::with_capacity(self.places.capacity());
    }

    /// Returns whether the record is held: one that is larger than the ring is not, nor is any before it.
    fn record(&mut self, hash: u32, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        while !self.places.is_empty()
            && (self.places.len() >= self.messages_max
                || self.bytes.len() + length > self.bytes_max)
        {
            self.drop_first();
        }
        if self.messages_max == 0 || length > self.bytes_max {
            self.first += 1;
            return false;
        }
        let offset = self.base.wrapping_add(self.bytes.len() as u32);
        self.places.push_back(RecordPlace { hash, offset });
        parts.iter().for_each(|part| self.bytes.extend(part.iter()));
        true
    }

    /// Takes the first record out of the index, if it is the newest one of its key.
    fn forget_newest(&mut self) {
        let mut scratch = Vec::new();
        if let Record::Message { subject, .. } | Record::Entry { subject, .. } =
            self.get(self.first, &mut scratch)
        {
            let hash = subject_hash(subject);
            if self.newest.get(&hash) == Some(&self.first) {
                self.newest.remove(&hash);
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some((stream, id)) = self.entry(0)
            && self.first >= self.whole_from[stream]
        {
            self.covered[stream] = id;
            self.indexes[stream].forget_before(self.first + 1);
        }
        if self.bytes.front().is_some_and(|kind| kind & (KEYED | SUPERSEDED) == KEYED) {
            self.forget_newest();
        }
        let length = self.begin(1);
        self.places.pop_front();
        self.bytes.drain(..length);
        self.base = self.base.wrapping_add(length as u32);
        self.first += 1;
    }
}

/// The mark of a message with a key.
fn keyed(subject: Subject<'_>) -> u8 {
    if subject.key.is_some() { KEYED } else { 0 }
}

/// The hash of a topic and a key. Two that have the same one are told apart by a look at the record; the older is then not found.
fn subject_hash(subject: Subject<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (subject.topic, subject.key).hash(&mut hasher);
    hasher.finish()
}

/// The hash of a topic, to tell most topics apart without comparing them (FNV-1a). It needs no key: publishers choose topics, and
/// are trusted.
pub fn hash_of(topic: &str) -> u32 {
    topic.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn entry_head(stream: usize, id: EntryId, subject: Subject<'_>) -> [u8; ENTRY_HEAD_BYTES] {
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[0] = ENTRY | keyed(subject);
    head[1..3].copy_from_slice(&(subject.topic.len() as u16).to_le_bytes());
    head[3] = stream as u8;
    head[4..12].copy_from_slice(&id.millis.to_le_bytes());
    head[12..].copy_from_slice(&id.number.to_le_bytes());
    head
}

fn read_entry_head(record: &[u8]) -> (usize, EntryId) {
    let id = EntryId { millis: read_u64(&record[4..]), number: read_u64(&record[12..]) };
    (record[3] as usize, id)
}

fn read_u64(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}

fn read(record: &[u8]) -> Record<'_> {
    let text = |bytes| std::str::from_utf8(bytes).expect("it was a text when it was recorded");
    let split = |begin: usize| {
        let length = u16::from_le_bytes([record[1], record[2]]);
        let (topic, rest) = record[begin..].split_at(length.into());
        if record[0] & KEYED == 0 {
            return (Subject { topic: text(topic), key: None }, rest);
        }
        let (key, payload) = rest[1..].split_at(rest[0].into());
        (Subject { topic: text(topic), key: Some(text(key)) }, payload)
    };
    match record[0] & KIND {
        MESSAGE => {
            let (subject, payload) = split(HEAD_BYTES);
            Record::Message { subject, payload }
        }
        ENTRY => {
            let (stream, id) = read_entry_head(record);
            let (subject, payload) = split(ENTRY_HEAD_BYTES);
            Record::Entry { stream, id, subject, payload }
        }
        MARK => Record::Mark,
        _ => Record::Gap { from: read_u64(&record[HEAD_BYTES..]) },
    }
}
