//! The progress of the reader in a stream: forwards from the end at the start, once backwards through recent entries, and the
//! detection of entries that were lost on the way.
//!
//! Redis trims and deletes without telling a reader, but counts all entries that were ever added. As long as the reader counts every
//! entry that it passed, the two counts are equal whenever it has caught up.

use crate::engine::redis::stream_info::StreamInfo;
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::replay::saved::{restored_id, save_id};
use crate::features::streams::commands;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// The progress in one stream, over all connections.
#[derive(Clone, Copy)]
pub struct Progress {
    /// Unknown until Redis was asked for the first time.
    pub position: Option<Position>,
    earlier: Earlier,
}

/// The entries from before the start that are still to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    /// The entries up to the position.
    Begins,
    /// The entries before this one.
    Before(EntryId),
    /// None: there are no more, or no more are wanted.
    Done,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { position: None, earlier: Earlier::Begins }
    }

    pub fn save(&self, writer: &mut StateWriter<'_>) {
        if let Some(position) = writer.option(self.position) {
            save_id(position.last, writer);
            if let Some(added) = writer.option(position.added) {
                writer.u64(added);
            }
        }
        match self.earlier {
            Earlier::Begins => writer.u8(0),
            Earlier::Before(id) => {
                writer.u8(1);
                save_id(id, writer);
            }
            Earlier::Done => writer.u8(2),
        }
    }

    /// The progress that was written.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(reader: &mut StateReader<'_>) -> Result<Progress, StateError> {
        let position = reader.option(|reader| {
            let (last, added) = (restored_id(reader)?, reader.option(StateReader::u64)?);
            Ok(Position { last, added })
        })?;
        let earlier = match reader.u8()? {
            0 => Earlier::Begins,
            1 => Earlier::Before(restored_id(reader)?),
            _ => Earlier::Done,
        };
        Ok(Progress { position, earlier })
    }

    /// Every entry after this one is still to be read.
    pub fn last(&self) -> EntryId {
        self.position.map_or(EntryId::ZERO, |position| position.last)
    }

    pub fn is_looking_back(&self) -> bool {
        self.earlier != Earlier::Done
    }

    /// The command for the next page of at most `count` earlier entries, if any are wanted.
    pub fn next_page(&self, name: &str, count: usize) -> Option<Vec<u8>> {
        match self.earlier {
            Earlier::Begins => Some(commands::page_up_to(name, self.last(), count)),
            Earlier::Before(id) => Some(commands::page_before(name, id, count)),
            Earlier::Done => None,
        }
    }

    /// Takes an earlier entry into account. Returns whether it is wanted.
    pub fn look_back(&mut self, id: EntryId) -> bool {
        if self.is_looking_back() {
            self.earlier = Earlier::Before(id);
        }
        self.is_looking_back()
    }

    /// Ends a page of earlier entries: one with fewer entries than asked for was the last.
    pub fn end_page(&mut self, entries: usize, count: usize) {
        if entries < count {
            self.stop_looking_back();
        }
    }

    pub fn stop_looking_back(&mut self) {
        self.earlier = Earlier::Done;
    }
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The last entry that was passed.
    pub last: EntryId,
    /// The entries that were ever added up to there, if known.
    added: Option<u64>,
}

impl Position {
    pub fn at_end(extent: &StreamInfo) -> Position {
        Position { last: extent.last, added: extent.added }
    }

    /// Passes an entry. Returns `false` if it was passed before.
    pub fn pass(&mut self, id: EntryId) -> bool {
        if id <= self.last {
            return false;
        }
        self.last = id;
        self.added = self.added.map(|added| added.saturating_add(1));
        true
    }

    /// Compares the position with the stream. Returns the new position if entries were lost: everything after it will be read.
    ///
    /// A Redis before version 7 does not count. There a loss is seen only if `is_new`, at the first look on a connection, and with
    /// less certainty: a stream that no longer holds the last entry that was passed may have lost the next ones, or not.
    pub fn check(&mut self, extent: &StreamInfo, is_new: bool) -> Option<EntryId> {
        if extent.last < self.last {
            // The stream was deleted, and perhaps begun anew; or Redis came back without its latest entries.
            *self = Position::at_end(extent);
            return Some(self.last);
        }
        let is_caught_up = extent.last == self.last;
        let is_lost = match (self.added, extent.added) {
            (Some(ours), Some(added)) if is_caught_up => added != ours,
            (Some(ours), Some(added)) => added < ours || added.saturating_sub(extent.length) > ours,
            _ => !is_caught_up && is_new && extent.first.is_none_or(|first| first > self.last),
        };
        if is_caught_up {
            self.added = extent.added;
        } else if is_lost {
            let next = extent.first.map_or(Some(extent.last), EntryId::before);
            self.last = next.unwrap_or(EntryId::ZERO).max(self.last);
            // If all entries that are held come next, and no others ever did, the count is known anew. Otherwise it stays wrong,
            // and shows the loss once more when the reader has caught up.
            let is_first_next = extent.first.is_none_or(|first| first > self.last);
            if is_first_next && extent.deleted.is_none_or(|deleted| deleted <= self.last) {
                self.added = extent.added.map(|added| added.saturating_sub(extent.length));
            }
        }
        is_lost.then_some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    /// A stream as Redis keeps it.
    #[derive(Default)]
    struct Stream {
        entries: Vec<EntryId>,
        last: EntryId,
        deleted: EntryId,
        added: u64,
    }

    impl Stream {
        fn add(&mut self, random: &mut Random) {
            self.last.millis += 1 + random.below(3) as u64;
            self.entries.push(self.last);
            self.added += 1;
        }

        fn extent(&self, counts: bool) -> StreamInfo {
            StreamInfo {
                first: self.entries.first().copied(),
                last: self.last,
                deleted: counts.then_some(self.deleted),
                added: counts.then_some(self.added),
                length: self.entries.len() as u64,
            }
        }

        fn read(&self, after: EntryId, most: usize) -> Vec<EntryId> {
            self.entries.iter().copied().filter(|id| *id > after).take(most).collect()
        }
    }

    #[test]
    fn every_loss_is_reported_at_the_latest_when_the_end_is_reached() {
        for seed in 1..3000 {
            let mut random = Random::new(seed);
            let mut stream = Stream::default();
            (0..random.below(4)).for_each(|_| stream.add(&mut random));
            let mut position = Position::at_end(&stream.extent(true));
            // Added since, neither passed nor reported as lost.
            let mut pending: Vec<EntryId> = Vec::new();
            for _ in 0..60 {
                match random.below(8) {
                    0..3 => {
                        stream.add(&mut random);
                        pending.push(stream.last);
                    }
                    3 if !stream.entries.is_empty() => {
                        let count = 1 + random.below(stream.entries.len());
                        stream.entries.drain(..count);
                    }
                    4 if !stream.entries.is_empty() => {
                        let at = random.below(stream.entries.len());
                        stream.deleted = stream.deleted.max(stream.entries.remove(at));
                    }
                    5 => {
                        let lost = position.check(&stream.extent(true), random.below(2) == 0);
                        assert!(lost.is_none_or(|from| from == position.last), "seed {seed}");
                        if lost.is_some() {
                            pending.retain(|id| *id > position.last);
                        }
                        let is_caught_up = position.last == stream.last;
                        assert!(!is_caught_up || pending.is_empty(), "seed {seed}: {pending:?}");
                    }
                    _ => {
                        for id in stream.read(position.last, 1 + random.below(4)) {
                            assert!(position.pass(id) && !position.pass(id), "seed {seed}");
                            pending.retain(|one| *one != id);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_that_only_grows_and_is_trimmed_behind_us_loses_nothing() {
        for seed in 1..2000 {
            let mut random = Random::new(seed);
            let mut stream = Stream::default();
            let counts = random.below(2) == 0;
            (0..3).for_each(|_| stream.add(&mut random));
            let mut position = Position::at_end(&stream.extent(counts));
            for _ in 0..60 {
                match random.below(5) {
                    0 | 1 => stream.add(&mut random),
                    2 => {
                        // The last one that was passed stays.
                        let passed = stream.entries.iter().filter(|id| **id < position.last);
                        let count = random.below(passed.count() + 1);
                        stream.entries.drain(..count);
                    }
                    3 => {
                        let is_new = random.below(2) == 0;
                        assert_eq!(position.check(&stream.extent(counts), is_new), None, "{seed}");
                    }
                    _ => {
                        for id in stream.read(position.last, 1 + random.below(4)) {
                            assert!(position.pass(id), "seed {seed}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn each_way_to_lose_entries_is_seen() {
        let id = |millis| EntryId { millis, number: 0 };
        let extent = |first: Option<u64>, last, added: Option<u64>, length| StreamInfo {
            first: first.map(id),
            last: id(last),
            deleted: None,
            added,
            length,
        };
        let begin = extent(Some(1), 5, Some(5), 5);
        for (why, now, is_new, expected) in [
            ("nothing happened", begin, true, None),
            ("it grew", extent(Some(1), 7, Some(7), 7), true, None),
            ("trimmed up to us", extent(Some(6), 7, Some(7), 2), true, None),
            ("trimmed beyond us", extent(Some(7), 7, Some(7), 1), true, id(7).before()),
            ("all removed", extent(None, 7, Some(7), 0), false, Some(id(7))),
            ("deleted", extent(None, 0, Some(0), 0), false, Some(id(0))),
            ("begun anew", extent(Some(2), 3, Some(2), 2), false, Some(id(3))),
            ("begun anew since", extent(Some(8), 9, Some(2), 2), false, id(8).before()),
            ("one that we never saw", extent(Some(1), 5, Some(6), 5), false, Some(id(5))),
            ("of before version 7", extent(Some(7), 7, None, 1), true, id(7).before()),
            ("of before version 7, later", extent(Some(7), 7, None, 1), false, None),
            ("of before version 7, held", extent(Some(5), 7, None, 3), true, None),
        ] {
            let mut position = Position::at_end(&begin);
            assert_eq!(position.check(&now, is_new), expected, "{why}");
            let again = (now.added.is_some()).then(|| position.check(&now, false)).flatten();
            assert_eq!(again, None, "{why}: it is reported once");
        }
    }
}
