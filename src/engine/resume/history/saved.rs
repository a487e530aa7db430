//! The history as a state that is handed over: the records as they lie in the ring.

use super::{
    ENTRY, ENTRY_HEAD_BYTES, GAP, HEAD_BYTES, History, KEYED, KIND, MARK, MESSAGE, Record,
    SUPERSEDED, hash_of, read, subject_hash,
};
use crate::engine::resume::replay::saved::{restored_entries, save_entries};
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

const MALFORMED: StateError = StateError::Malformed("the history");

/// The bits of a record's first byte.
const BITS: u8 = KIND | KEYED | SUPERSEDED;

impl History {
    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u64(self.first);
        save_entries(&self.covered, writer);
        self.whole_from.iter().for_each(|number| writer.u64(*number));
        writer.len(self.places.len());
        let (front, back) = self.bytes.as_slices();
        for place in 0..self.places.len() {
            let [begin, end] = [self.begin(place), self.begin(place + 1)];
            let cut = |at: usize| (at.min(front.len()), at.saturating_sub(front.len()));
            let ((from, behind), (to, until)) = (cut(begin), cut(end));
            writer.parts([&front[from..to], &back[behind..until]]);
        }
    }

    /// Takes over the records that were written, the latest ones if there is no room for all.
    ///
    /// # Errors
    /// The state is malformed, or has other streams.
    pub fn restore(&mut self, reader: &mut StateReader<'_>) -> Result<(), StateError> {
        self.first = reader.u64()?;
        let covered = restored_entries(reader)?;
        if self.first == 0 || self.first >= 1 << 60 || covered.len() != self.covered.len() {
            return Err(MALFORMED);
        }
        self.covered = covered;
        for whole_from in &mut self.whole_from {
            *whole_from = reader.u64()?;
        }
        for _ in 0..reader.len(VALUES_MAX)? {
            let record = reader.bytes(BYTES_MAX)?;
            let streams = self.covered.len();
            let (subject, entry) = match checked(&record, streams).ok_or(MALFORMED)? {
                Record::Message { subject, .. } => (Some(subject), None),
                Record::Entry { subject, stream, id, .. } => (Some(subject), Some((stream, id))),
                Record::Gap { .. } | Record::Mark => (None, None),
            };
            let hashes = subject.map(|of| (hash_of(of.topic), subject_hash(of)));
            let (hash, key) = hashes.unwrap_or_default();
            let number = self.next();
            if !self.record(hash, &[&record]) {
                continue;
            }
            if record[0] & (KEYED | SUPERSEDED) == KEYED {
                self.newest.insert(key, number);
            }
            if let Some((stream, id)) = entry
                && number >= self.whole_from[stream]
            {
                self.indexes[stream].push(number, id);
            }
        }
        Ok(())
    }
}

/// Reads a record that may be malformed.
fn checked(record: &[u8], streams: usize) -> Option<Record<'_>> {
    let first = *record.first()?;
    if first & !BITS != 0 {
        return None;
    }
    let head = match first & KIND {
        GAP if first == GAP && record.len() == HEAD_BYTES + 8 => return Some(read(record)),
        MARK if first == MARK && record.len() == 1 => return Some(Record::Mark),
        MESSAGE => HEAD_BYTES,
        ENTRY if usize::from(*record.get(HEAD_BYTES)?) < streams => ENTRY_HEAD_BYTES,
        _ => return None,
    };
    let topic = usize::from(u16::from_le_bytes([*record.get(1)?, *record.get(2)?]));
    let rest = record.get(head..)?;
    let (topic, rest) = rest.split_at_checked(topic)?;
    std::str::from_utf8(topic).ok()?;
    if first & KEYED != 0 {
        let length = usize::from(*rest.first()?);
        std::str::from_utf8(rest.get(1..=length)?).ok()?;
    }
    Some(read(record))
}
