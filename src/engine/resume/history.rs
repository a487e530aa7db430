//! Recent messages: one ring of bytes for the whole server.
//!
//! A message lies here as it came, behind a few bytes of a header, and its frame is made again for each client that comes back. So
//! recording costs a copy and no allocation, and two bounds hold to the byte: `history_bytes_max` and `history_messages_max`. A
//! table beside the bytes has 8 of them for each message: the place, and a hash of the topic, by which most messages that are not
//! for a client are passed by without being looked at.

use std::collections::VecDeque;

use crate::engine::resume::cursor::EntryId;

#[cfg(test)]
mod tests;

/// The number of the first message of a process; entries of streams from before its start have lower ones.
pub const ORIGIN: u64 = 1 << 40;

const MESSAGE: u8 = 0;
const ENTRY: u8 = 1;
const GAP: u8 = 2;

/// Bytes of a record before its topic: its kind, the topic's length (two bytes), and for an entry its stream and its id.
const HEAD_BYTES: usize = 3;
const ENTRY_HEAD_BYTES: usize = HEAD_BYTES + 17;

/// The record under one number.
#[derive(Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A message of a channel.
    Message { topic: &'a str, payload: &'a [u8] },
    /// An entry of a stream, by the stream's number.
    Entry { stream: usize, id: EntryId, topic: &'a str, payload: &'a [u8] },
    /// Messages after the one with this number may have been missed.
    Gap { from: u64 },
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
    /// The number of the first record held.
    first: u64,
    /// The offset of the first byte held.
    base: u32,
    /// For each stream: every entry after this one is held, or still to come.
    covered: Vec<EntryId>,
    /// For each stream: entries with lower numbers are from before a loss in it.
    whole_from: Vec<u64>,
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
            first: ORIGIN,
            base: 0,
            covered: vec![EntryId::MAX; streams],
            whole_from: vec![0; streams],
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
        self.bytes.len() + self.places.len() * size_of::<RecordPlace>()
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
    }

    /// Returns whether an entry from before a loss in the stream is held.
    pub fn has_hole(&self, stream: usize) -> bool {
        self.whole_from[stream] > self.first
    }

    /// Records a message of a channel.
    pub fn push(&mut self, topic: &str, payload: &[u8]) {
        let [low, high] = (topic.len() as u16).to_le_bytes();
        let head = [MESSAGE, low, high];
        self.record(hash_of(topic), &[&head, topic.as_bytes(), payload]);
    }

    /// Records an entry of a stream.
    pub fn push_entry(&mut self, stream: usize, id: EntryId, topic: &str, payload: &[u8]) {
        let head = entry_head(stream, id, topic);
        if !self.record(hash_of(topic), &[&head, topic.as_bytes(), payload]) {
            self.covered[stream] = id;
        }
    }

    /// Records that messages after the one with the number `from` may have been missed.
    pub fn push_gap(&mut self, from: u64) {
        self.record(0, &[&[GAP, 0, 0], &from.to_le_bytes()]);
    }

    /// Puts an entry before all others, which are later. `false`: there is no room, and none for an older one.
    pub fn push_before(&mut self, stream: usize, id: EntryId, topic: &str, payload: &[u8]) -> bool {
        let head = entry_head(stream, id, topic);
        let length = head.len() + topic.len() + payload.len();
        if self.places.len() >= self.messages_max || self.bytes.len() + length > self.bytes_max {
            return false;
        }
        for part in [payload, topic.as_bytes(), &head] {
            part.iter().rev().for_each(|byte| self.bytes.push_front(*byte));
        }
        self.base = self.base.wrapping_sub(length as u32);
        self.places.push_front(RecordPlace { hash: hash_of(topic), offset: self.base });
        self.first -= 1;
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

    /// The number from which on there are later entries of a stream than `id`: the ids of each stream rise with the numbers.
    pub fn after(&self, stream: usize, id: EntryId) -> u64 {
        let (mut low, mut high) = (self.first, self.next());
        while low < high {
            let middle = low + (high - low) / 2;
            // The record in the middle may be of another stream, or of none.
            let next = (middle..high).find_map(|number| {
                let entry = self.entry((number - self.first) as usize);
                entry.filter(|(of, _)| *of == stream).map(|(_, found)| (number, found))
            });
            match next {
                Some((number, found)) if found <= id => low = number + 1,
                _ => high = middle,
            }
        }
        low
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
        (head[0] == ENTRY).then(|| read_entry_head(&head))
    }

    /// Drops all records, and returns their memory to the system.
    pub fn clear(&mut self) {
        while !self.places.is_empty() {
            self.drop_first();
        }
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

    fn drop_first(&mut self) {
        if let Some((stream, id)) = self.entry(0)
            && self.first >= self.whole_from[stream]
        {
            self.covered[stream] = id;
        }
        let length = self.begin(1);
        self.places.pop_front();
        self.bytes.drain(..length);
        self.base = self.base.wrapping_add(length as u32);
        self.first += 1;
    }
}

/// The hash of a topic, to tell most topics apart without comparing them (FNV-1a). It needs no key: publishers choose topics, and
/// are trusted.
pub fn hash_of(topic: &str) -> u32 {
    topic.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn entry_head(stream: usize, id: EntryId, topic: &str) -> [u8; ENTRY_HEAD_BYTES] {
    let mut head = [0; ENTRY_HEAD_BYTES];
    head[0] = ENTRY;
    head[1..3].copy_from_slice(&(topic.len() as u16).to_le_bytes());
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
    let split = |begin: usize| {
        let length = u16::from_le_bytes([record[1], record[2]]);
        let (topic, payload) = record[begin..].split_at(length.into());
        (std::str::from_utf8(topic).expect("it was a topic when it was recorded"), payload)
    };
    match record[0] {
        MESSAGE => {
            let (topic, payload) = split(HEAD_BYTES);
            Record::Message { topic, payload }
        }
        ENTRY => {
            let (stream, id) = read_entry_head(record);
            let (topic, payload) = split(ENTRY_HEAD_BYTES);
            Record::Entry { stream, id, topic, payload }
        }
        _ => Record::Gap { from: read_u64(&record[HEAD_BYTES..]) },
    }
}
