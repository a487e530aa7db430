//! A slab in pages: numbered places that never move, so that growing copies nothing.
//!
//! A single `slab::Slab` doubles when it is full: at a million connections that is a copy of 40 MB inside one turn of the loop,
//! and half of the new memory is unused. Pages of [`PAGE`] places cost at most one page of slack, and an empty page is freed.

use std::collections::BTreeSet;

use slab::Slab;

pub const PAGE: usize = 1024;

/// The id of a connection: its place, and the generation that tells the place's successive connections apart.
///
/// A stale id finds nothing. Generations come from one counter of 30 bits, so an old id matches another connection only if its
/// place is reused exactly 2^30 connections later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// The number of generations.
pub(crate) const GENERATIONS: u32 = 1 << 30;

impl ConnId {
    /// The id as a number.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The inverse of [`ConnId::number`].
    pub fn of_number(number: u64) -> ConnId {
        ConnId { index: number as u32, generation: (number >> 32) as u32 }
    }

    /// Its place: unique among present connections, and small if there are few.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl std::fmt::Display for ConnId {
    /// The form in which `welcome` gives it to clients.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}", self.index, self.generation)
    }
}

pub struct Slots<T> {
    pages: Vec<Slab<T>>,
    /// Pages with a vacant place. The lowest is filled first, so that high pages empty and are freed.
    open: BTreeSet<u32>,
    len: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { pages: Vec::new(), open: BTreeSet::new(), len: 0 }
    }
}

impl<T> Slots<T> {
    /// The number of taken places.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory allocated, vacant places included. A slab keeps a value, or the number of the next vacant place.
    pub fn bytes(&self) -> usize {
        let places: usize = self.pages.iter().map(Slab::capacity).sum();
        places * size_of::<Result<T, usize>>()
    }

    /// Takes a place for the value that `make` builds from its number.
    ///
    /// # Panics
    /// At 2^32 places: descriptors and memory run out long before.
    pub fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> u32 {
        let page = match self.open.first() {
            Some(&page) => page,
            None => {
                let page = u32::try_from(self.pages.len()).expect("fewer than 2^22 pages");
                self.pages.push(Slab::new());
                self.open.insert(page);
                page
            }
        };
        let slab = &mut self.pages[page as usize];
        if slab.capacity() == 0 {
            *slab = Slab::with_capacity(PAGE);
        }
        let entry = slab.vacant_entry();
        let index = page * PAGE as u32 + entry.key() as u32;
        entry.insert(make(index));
        if slab.len() == PAGE {
            self.open.remove(&page);
        }
        self.len += 1;
        index
    }

    /// Slots with these values at these places, which rise.
    pub fn of(values: impl IntoIterator<Item = (u32, T)>) -> Slots<T> {
        let mut slots = Slots::default();
        let mut values = values.into_iter().peekable();
        while let Some((first, _)) = values.peek() {
            let page = *first as usize / PAGE;
            slots.open.extend(slots.pages.len() as u32..page as u32);
            slots.pages.resize_with(page, Slab::new);
            let here = |(index, _): &(u32, T)| *index as usize / PAGE == page;
            let of_page = std::iter::from_fn(|| values.next_if(here));
            let mut slab: Slab<T> =
                of_page.map(|(index, value)| (index as usize % PAGE, value)).collect();
            slots.len += slab.len();
            if slab.len() < PAGE {
                slab.reserve_exact(PAGE - slab.len());
                slots.open.insert(page as u32);
            }
            slots.pages.push(slab);
        }
        slots
    }

    /// The value at `index`.
    pub fn get(&self, index: u32) -> Option<&T> {
        self.pages.get(index as usize / PAGE)?.get(index as usize % PAGE)
    }

    /// The value at `index`.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.pages.get_mut(index as usize / PAGE)?.get_mut(index as usize % PAGE)
    }

    /// Vacates a place. An empty page is freed.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let page = index as usize / PAGE;
        let slab = self.pages.get_mut(page)?;
        let value = slab.try_remove(index as usize % PAGE)?;
        let is_empty = slab.is_empty();
        if is_empty {
            *slab = Slab::new();
        }
        self.open.insert(page as u32);
        self.len -= 1;
        if is_empty {
            self.drop_last_pages();
        }
        Some(value)
    }

    /// Frees the empty pages at the end. A small block that grew late lies high in the heap, and nothing below it could be
    /// returned to the system.
    fn drop_last_pages(&mut self) {
        while self.pages.last().is_some_and(Slab::is_empty) {
            self.pages.pop();
            self.open.remove(&(self.pages.len() as u32));
        }
        if self.pages.len() < self.pages.capacity() / 4 {
            self.pages.shrink_to_fit();
        }
    }

    /// All values, in the order of their places.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pages.iter_mut().flat_map(|slab| slab.iter_mut().map(|(_, value)| value))
    }

    /// The end of the range of valid places.
    pub fn end(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    /// All values with their places, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages.iter().enumerate().flat_map(|(page, slab)| {
            slab.iter().map(move |(place, value)| ((page * PAGE + place) as u32, value))
        })
    }
}

impl<T> std::ops::Index<u32> for Slots<T> {
    type Output = T;

    /// Returns the value at a place that the caller knows to be taken.
    fn index(&self, index: u32) -> &T {
        self.get(index).expect("the place is taken")
    }
}

impl<T> std::ops::IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("the place is taken")
    }
}

/// A page of values beside the slots, and how many there are.
struct SidePage<T> {
    values: [Option<T>; PAGE],
    len: usize,
}

/// Values that only some slots have, found by the number of the slot: an array beside the slots, in pages of the same size. Without
/// any value it costs nothing; an empty page is freed.
pub struct Beside<T> {
    pages: Vec<Option<Box<SidePage<T>>>>,
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Beside { pages: Vec::new() }
    }
}

impl<T> Beside<T> {
    pub fn set(&mut self, index: u32, value: T) {
        let (number, place) = (index as usize / PAGE, index as usize % PAGE);
        if number >= self.pages.len() {
            self.pages.resize_with(number + 1, || None);
        }
        let page = self.pages[number]
            .get_or_insert_with(|| Box::new(SidePage { values: [const { None }; PAGE], len: 0 }));
        page.len += usize::from(page.values[place].replace(value).is_none());
    }

    pub fn get(&self, index: u32) -> Option<&T> {
        let page = self.pages.get(index as usize / PAGE)?.as_ref()?;
        page.values[index as usize % PAGE].as_ref()
    }

    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let page = self.pages.get_mut(index as usize / PAGE)?.as_mut()?;
        page.values[index as usize % PAGE].as_mut()
    }

    pub fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.pages.get_mut(index as usize / PAGE)?;
        let page = slot.as_mut()?;
        let value = page.values[index as usize % PAGE].take()?;
        page.len -= 1;
        if page.len == 0 {
            *slot = None;
            while self.pages.last().is_some_and(Option::is_none) {
                self.pages.pop();
            }
        }
        Some(value)
    }

    /// Memory allocated, vacant places included.
    pub fn bytes(&self) -> usize {
        self.pages.iter().flatten().count() * size_of::<SidePage<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use std::collections::HashMap;

    #[test]
    fn values_beside_the_slots_agree_with_a_map_from_a_seed() {
        let mut random = Random::new(0xbe51de);
        let mut beside = Beside::default();
        let mut model = HashMap::new();
        for step in 0..40_000_u64 {
            let index = random.below(4 * PAGE) as u32;
            if random.below(40_000) > step as usize {
                beside.set(index, step);
                model.insert(index, step);
            } else {
                assert_eq!(beside.remove(index), model.remove(&index));
            }
            let index = random.below(5 * PAGE) as u32;
            assert_eq!(beside.get(index), model.get(&index));
            assert_eq!(beside.get_mut(index), model.get_mut(&index));
        }
        for index in 0..4 * PAGE as u32 {
            beside.remove(index);
        }
        assert_eq!((beside.bytes(), beside.pages.len()), (0, 0), "empty pages are freed");
    }

    #[test]
    fn agrees_with_a_map_from_a_seed() {
        let mut random = Random::new(0x5eed);
        let mut slots = Slots::default();
        let mut model = HashMap::new();
        for step in 0..60_000_u64 {
            let grow = step < 20_000 || (step < 40_000 && random.below(2) == 0);
            if grow {
                let index = slots.insert_with(|_| step);
                assert_eq!(model.insert(index, step), None, "a taken place was reused");
            } else if let Some(&index) = model.keys().next() {
                assert_eq!(slots.remove(index), model.remove(&index));
                assert_eq!(slots.remove(index), None);
            }
            assert_eq!(slots.len(), model.len());
        }
        for (index, value) in slots.iter() {
            assert_eq!(model.get(&index), Some(value));
        }
    }

    #[test]
    fn slots_made_of_values_go_on_like_those_that_they_were_in() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut slots = Slots::default();
            for step in 0..random.choose(&[10, 1500, 4 * PAGE]) {
                slots.insert_with(|_| step);
            }
            for _ in 0..random.choose(&[0, 700, 4 * PAGE]) {
                slots.remove(random.below(4 * PAGE) as u32);
            }
            let values: Vec<(u32, usize)> = slots.iter().map(|(at, value)| (at, *value)).collect();
            let mut again = Slots::of(values.clone());
            assert_eq!(again.len(), values.len(), "seed {seed}");
            assert!(again.iter().eq(values.iter().map(|(at, value)| (*at, value))), "seed {seed}");
            let mut taken: std::collections::BTreeSet<u32> =
                values.iter().map(|(at, _)| *at).collect();
            for _ in 0..2 * PAGE {
                assert!(taken.insert(again.insert_with(|_| 0)), "seed {seed}: a taken place");
                let gone = random.below(4 * PAGE) as u32;
                assert_eq!(again.remove(gone).is_some(), taken.remove(&gone), "seed {seed}");
            }
            assert_eq!(again.len(), taken.len(), "seed {seed}");
        }
    }

    #[test]
    fn an_emptied_page_gives_its_memory_back() {
        let mut slots = Slots::default();
        let indices: Vec<u32> = (0..3 * PAGE).map(|number| slots.insert_with(|_| number)).collect();
        for index in &indices[PAGE..2 * PAGE] {
            slots.remove(*index);
        }
        assert_eq!(slots.pages[1].capacity(), 0);
        assert_eq!(slots.insert_with(|index| index as usize) as usize / PAGE, 1);
        slots.remove(PAGE as u32);
        for index in &indices[2 * PAGE..] {
            slots.remove(*index);
        }
        assert_eq!(slots.pages.len(), 1, "empty pages at the end are freed");
    }
}
