//! The places of a stream's entries in the history: some of them, so that a search looks at few records, however rare the entries
//! are among those of other streams.

use std::collections::VecDeque;
use std::ops::Range;

use crate::engine::resume::cursor::EntryId;

/// An entry has its place here unless another one has that is fewer numbers before it, or behind an entry from before the start.
const SPACING: u64 = 64;

/// Numbers and ids of entries, both rising. The first one may have left the history: entries shortly behind it have no place.
#[derive(Clone, Default)]
pub struct EntryIndex(VecDeque<(u64, EntryId)>);

impl EntryIndex {
    /// Notes the newest entry.
    pub fn push(&mut self, number: u64, id: EntryId) {
        if self.0.back().is_none_or(|(last, _)| last + SPACING <= number) {
            self.0.push_back((number, id));
        }
    }

    /// Notes the oldest entry.
    pub fn push_before(&mut self, number: u64, id: EntryId) {
        if self.0.front().is_none_or(|(first, _)| number + SPACING <= *first) {
            self.0.push_front((number, id));
        }
    }

    /// Forgets entries that have left the history, which begins with the number `first` now.
    pub fn forget_before(&mut self, first: u64) {
        while self.0.get(1).is_some_and(|(number, _)| *number < first) {
            self.0.pop_front();
        }
    }

    /// The number of the first entry behind `id` among these records; the end, if there is none. `read` returns the id of an entry,
    /// if the record is one of this stream.
    pub fn first_after(
        &self,
        id: EntryId,
        records: Range<u64>,
        read: impl Fn(u64) -> Option<EntryId>,
    ) -> u64 {
        let at = self.0.partition_point(|(_, one)| *one <= id);
        let before = at.checked_sub(1).map(|before| self.0[before].0 + 1);
        let begin = before.unwrap_or(0).max(records.start);
        let next = self.0.get(at).map(|(number, _)| *number);
        let end = next.unwrap_or(records.end).max(begin);
        // Entries without a place are near those that have one.
        let near = end.min(begin + SPACING);
        let numbers = (begin..near).chain(near.max(end.saturating_sub(SPACING))..end);
        let is_later = |number: &u64| read(*number).is_some_and(|found| found > id);
        numbers.into_iter().find(is_later).unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use std::cell::Cell;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, number: 0 }
    }

    /// Against a look at each record, of which some are entries of the stream, and others are not.
    #[test]
    fn the_first_later_entry_is_found_by_a_look_at_few_records() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let mut index = EntryIndex::default();
            let mut records: VecDeque<Option<u64>> = VecDeque::new();
            let (mut first, mut oldest, mut newest) = (1 << 20, 1 << 20, 1 << 20);
            let (mut dropped, mut is_exact) = (None, true);
            for _ in 0..40 {
                let rarity = random.choose(&[1, 2, 60, 400, usize::MAX]);
                let (what, count) = (random.below(4), random.below(300));
                for _ in 0..count {
                    let is_entry = random.below(rarity) == 0;
                    match what {
                        0 => {
                            let Some(record) = records.pop_front() else { continue };
                            dropped = dropped.max(Some(record));
                            first += 1;
                            index.forget_before(first);
                        }
                        1 => {
                            // Then the first place may name a number that is given again.
                            is_exact &= dropped.is_none();
                            first -= 1;
                            oldest -= u64::from(is_entry);
                            records.push_front(is_entry.then_some(oldest));
                            records[0].iter().for_each(|one| index.push_before(first, id(*one)));
                        }
                        _ => {
                            newest += u64::from(is_entry);
                            records.push_back(is_entry.then_some(newest));
                            let number = first + records.len() as u64 - 1;
                            is_entry.then(|| index.push(number, id(newest)));
                        }
                    }
                }
                let looks = Cell::new(0);
                let read = |number: u64| {
                    looks.set(looks.get() + 1);
                    records[(number - first) as usize].map(id)
                };
                let after = oldest - 2 + random.below((newest - oldest) as usize + 4) as u64;
                let all = first..first + records.len() as u64;
                let found = index.first_after(id(after), all.clone(), read);
                assert!(looks.get() <= 2 * SPACING, "seed {seed}: {}", looks.get());
                let is_later = |number: u64| records[(number - first) as usize] > Some(after);
                assert!(!(all.start..found).any(is_later), "seed {seed}: none is left out");
                let is_first = found == all.end || is_later(found);
                let was_dropped = dropped > Some(Some(after));
                assert!(is_first || was_dropped || !is_exact, "seed {seed}: none before it");
            }
        }
    }
}
