//! Whose page comes next: users in turns, within bounds of what is on its way and of what is read in a second.
//!
//! A page is as large as entries of others make it, so clients do not pay for it by what they are sent. A user has one page on its
//! way at a time, however many connections come back; one whose pages bring nothing rests in between.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::redis::request::PAGE_ENTRIES;
use crate::engine::slots::ConnId;

/// Pages that are on their way at one time.
const PAGES_MAX: usize = 16;

/// Bytes that they come to, as far as the sizes of late tell. While so many are expected no further page is asked for: a command
/// of somebody else waits behind no more, or behind a single page.
const ASKED_BYTES_MAX: u64 = 1 << 20;

/// Bytes that a page may come to if each of its entries is as large as the largest one of late.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Bytes of pages that bring their user nothing: so many in a second, and before that so many seconds' worth at once.
const VAIN_BYTES_PER_SECOND: u64 = 4 << 20;
const VAIN_BURST: Millis = 4_000;

/// Lines of nobody who waits are looked for when there are twice as many as after the last time, and so many more.
const IDLE_LINES_MAX: usize = 64;

/// Whose pages are counted together: those of a user, by its own topic, or those of all clients that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Owner(Option<Rc<str>>);

impl Owner {
    pub fn new(own_topic: Option<String>) -> Owner {
        Owner(own_topic.map(Rc::from))
    }

    /// Pages that it may have on their way.
    fn pages_max(&self) -> usize {
        if self.0.is_some() { 1 } else { PAGES_MAX }
    }
}

/// What is known of one owner.
#[derive(Default)]
struct Line {
    waiting: VecDeque<ConnId>,
    /// Its pages on their way.
    asked: usize,
    /// It has its turn, or rests before it.
    has_turn: bool,
    /// When what it read in vain is forgotten.
    vain_until: Millis,
}

/// The queue.
#[derive(Default)]
pub(super) struct PageQueue {
    lines: HashMap<Owner, Line>,
    /// Those who have a client that waits, and may ask.
    turns: VecDeque<Owner>,
    /// Those who have one, and may ask from this time on.
    resting: BTreeSet<(Millis, Owner)>,
    /// Whose a page on its way is, and what it is expected to come to.
    asked: HashMap<ConnId, (Owner, u64)>,
    asked_bytes: u64,
    waiting: usize,
    budget: Budget,
    /// Lines when idle ones were last looked for.
    swept: usize,
}

/// Bytes that may still be read in this second.
#[derive(Default)]
struct Budget {
    bytes: i64,
    filled: Millis,
}

impl Budget {
    /// A second's worth at most.
    fn fill(&mut self, now: Millis, per_second: u64) {
        let passed = now.saturating_sub(self.filled).min(1000);
        let whole = self.filled == 0 || passed == 1000;
        let added = if whole { per_second } else { per_second * passed / 1000 };
        if added > 0 {
            self.bytes = self.bytes.saturating_add(added as i64).min(per_second as i64);
            self.filled = now.max(1);
        }
    }

    /// When there will be some again.
    fn fills_at(&self, per_second: u64) -> Millis {
        let missing = u64::try_from(1 - self.bytes).unwrap_or(0);
        self.filled + (missing * 1000).div_ceil(per_second.max(1))
    }
}

impl PageQueue {
    /// How many pages are on their way.
    #[cfg(test)]
    pub fn asked_len(&self) -> usize {
        self.asked.len()
    }

    /// How many clients wait.
    pub fn waiting_len(&self) -> usize {
        self.waiting
    }

    /// A client waits for its page.
    pub fn push(&mut self, owner: Owner, id: ConnId, now: Millis) {
        self.lines.entry(owner.clone()).or_default().waiting.push_back(id);
        self.waiting += 1;
        self.give_turn(owner, now);
    }

    /// The client that may ask now, which then calls [`PageQueue::ask`] or [`PageQueue::skip`]. `per_second`: bytes of all pages.
    pub fn next(&mut self, now: Millis, per_second: u64) -> Option<(Owner, ConnId)> {
        self.budget.fill(now, per_second);
        while let Some((until, _)) = self.resting.first()
            && *until <= now
            && let Some((_, owner)) = self.resting.pop_first()
        {
            self.turns.push_back(owner);
        }
        if !self.has_room() || self.budget.bytes <= 0 {
            return None;
        }
        while let Some(owner) = self.turns.pop_front() {
            let line = self.lines.get_mut(&owner).expect("who has a turn has a line");
            line.has_turn = false;
            if let Some(id) = line.waiting.pop_front() {
                self.waiting -= 1;
                return Some((owner, id));
            }
        }
        None
    }

    /// It asked for a page that is expected to come to so many bytes.
    pub fn ask(&mut self, owner: Owner, id: ConnId, bytes: u64, now: Millis) {
        self.lines.entry(owner.clone()).or_default().asked += 1;
        self.asked_bytes += bytes;
        self.asked.insert(id, (owner.clone(), bytes));
        self.give_turn(owner, now);
    }

    /// It needs no page any more.
    pub fn skip(&mut self, owner: Owner, now: Millis) {
        self.give_turn(owner, now);
    }

    /// A page has ended, and came to so many bytes. Returns whether its user has to rest.
    pub fn end(&mut self, id: ConnId, bytes: u64, is_vain: bool, now: Millis) -> bool {
        let Some((owner, expected)) = self.asked.remove(&id) else { return false };
        self.asked_bytes -= expected;
        self.budget.bytes -= bytes as i64;
        let line = self.lines.get_mut(&owner).expect("who has asked has a line");
        line.asked -= 1;
        if is_vain && owner.0.is_some() {
            line.vain_until = line.vain_until.max(now) + bytes * 1000 / VAIN_BYTES_PER_SECOND;
        }
        let rests = line.vain_until > now + VAIN_BURST;
        self.give_turn(owner, now);
        rests
    }

    /// Whether pages wait for nothing but the budget.
    pub fn is_over_budget(&self) -> bool {
        self.budget.bytes <= 0 && !self.turns.is_empty() && self.has_room()
    }

    /// When somebody who waits may ask, whatever else happens.
    pub fn deadline(&self, per_second: u64) -> Option<Millis> {
        let rested = self.resting.first().map(|(until, _)| *until);
        let filled = self.is_over_budget().then(|| self.budget.fills_at(per_second));
        rested.into_iter().chain(filled).min()
    }

    /// Forgets those who wait and are gone.
    pub fn forget(&mut self, is_there: impl Fn(ConnId) -> bool) {
        for line in self.lines.values_mut() {
            line.waiting.retain(|id| is_there(*id));
        }
        self.waiting = self.lines.values().map(|line| line.waiting.len()).sum();
    }

    fn has_room(&self) -> bool {
        self.asked.len() < PAGES_MAX && self.asked_bytes < ASKED_BYTES_MAX
    }

    /// Gives an owner its turn if it may ask, or a rest before it.
    fn give_turn(&mut self, owner: Owner, now: Millis) {
        let line = self.lines.get_mut(&owner).expect("it has a line");
        if line.has_turn || line.waiting.is_empty() || line.asked >= owner.pages_max() {
            return self.sweep(now);
        }
        line.has_turn = true;
        let until = line.vain_until.saturating_sub(VAIN_BURST);
        if until > now {
            self.resting.insert((until, owner));
        } else {
            self.turns.push_back(owner);
        }
    }

    /// Drops the lines of those who neither wait nor rest, once there are many.
    fn sweep(&mut self, now: Millis) {
        if self.lines.len() >= 2 * self.swept + IDLE_LINES_MAX {
            let is_idle =
                |line: &Line| !line.has_turn && line.waiting.is_empty() && line.asked == 0;
            self.lines.retain(|_, line| !is_idle(line) || line.vain_until > now);
            self.swept = self.lines.len();
        }
    }
}

/// How large the entries of one stream are.
#[derive(Clone, Copy, Default)]
pub(super) struct Sizes {
    mean: u64,
    /// The largest one of late.
    largest: u64,
}

impl Sizes {
    /// An entry was told.
    pub fn saw(&mut self, bytes: u64) {
        self.mean = (31 * self.mean + bytes) / 32;
        self.largest = self.largest.max(bytes);
    }

    /// A page came: by and by a large one is forgotten.
    pub fn saw_page(&mut self, entries: usize, bytes: u64, largest: u64) {
        if let Some(mean) = bytes.checked_div(entries as u64) {
            self.mean = (7 * self.mean + mean) / 8;
            self.largest = largest.max(self.largest - self.largest / 16);
        }
    }

    /// Entries that a page may have.
    pub fn entries_max(&self) -> usize {
        (PAGE_BYTES_MAX / self.largest.max(1)).clamp(1, PAGE_ENTRIES as u64) as usize
    }

    /// Bytes that a page of so many entries is expected to come to.
    pub fn expected(&self, entries: usize) -> u64 {
        (2 * self.mean * entries as u64).max(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: u64 = 64 << 20;

    fn id(index: u32) -> ConnId {
        ConnId { index, generation: 0 }
    }

    fn user(name: &str) -> Owner {
        Owner::new(Some(name.to_owned()))
    }

    /// Asks for pages of so many bytes until nobody may. Returns whose they are.
    fn ask_all(queue: &mut PageQueue, bytes: u64, now: Millis) -> Vec<u32> {
        let mut asked = Vec::new();
        while let Some((owner, id)) = queue.next(now, PER_SECOND) {
            queue.ask(owner, id, bytes, now);
            asked.push(id.index);
        }
        asked
    }

    #[test]
    fn a_user_has_one_page_at_a_time_and_users_take_turns() {
        let mut queue = PageQueue::default();
        (0..100).for_each(|number| queue.push(user("many"), id(number), 1));
        queue.push(user("one"), id(100), 1);
        queue.push(user("another"), id(101), 1);
        assert_eq!(ask_all(&mut queue, 100, 1), [0, 100, 101]);
        queue.end(id(0), 100, false, 1);
        queue.push(user("one"), id(102), 1);
        assert_eq!(ask_all(&mut queue, 100, 1), [1], "the one has a page on its way");
        queue.end(id(1), 100, false, 1);
        queue.end(id(100), 100, false, 1);
        assert_eq!(ask_all(&mut queue, 100, 1), [2, 102]);
        assert_eq!((queue.waiting_len(), queue.asked_len()), (97, 3));
    }

    #[test]
    fn clients_without_a_user_share_one_turn_and_no_rest() {
        let mut queue = PageQueue::default();
        (0..100).for_each(|number| queue.push(Owner::new(None), id(number), 1));
        queue.push(user("one"), id(100), 1);
        let asked = ask_all(&mut queue, 100, 1);
        assert_eq!((asked.len(), &asked[..3]), (PAGES_MAX, &[0, 100, 1][..]));
        asked.iter().for_each(|number| assert!(!queue.end(id(*number), 1 << 20, true, 1)));
    }

    #[test]
    fn few_bytes_are_on_their_way() {
        let mut queue = PageQueue::default();
        (0..10).for_each(|number| queue.push(user(&number.to_string()), id(number), 1));
        assert_eq!(ask_all(&mut queue, ASKED_BYTES_MAX / 2, 1), [0, 1]);
        queue.end(id(1), 1, false, 1);
        assert_eq!(ask_all(&mut queue, 64 << 20, 1), [2], "a single one may be larger");
        queue.end(id(0), 1, false, 1);
        assert_eq!(ask_all(&mut queue, 1, 1), [0; 0]);
    }

    #[test]
    fn a_user_that_reads_in_vain_rests_and_nobody_else() {
        let (mut queue, mut read) = (PageQueue::default(), 0);
        let mut rests = false;
        while !rests {
            queue.push(user("vain"), id(1), 1);
            assert_eq!(ask_all(&mut queue, 1 << 20, 1), [1]);
            read += 1;
            rests = queue.end(id(1), 1 << 20, true, 1);
        }
        assert_eq!(read, 1 + (VAIN_BYTES_PER_SECOND >> 20) * VAIN_BURST / 1000);
        queue.push(user("vain"), id(1), 1);
        queue.push(user("one"), id(2), 1);
        assert_eq!(ask_all(&mut queue, 1 << 20, 1), [2]);
        let due = queue.deadline(PER_SECOND).expect("it rests");
        assert_eq!(due, 1 + 250, "a MiB of four in a second");
        assert_eq!(ask_all(&mut queue, 1, due - 1), [0; 0]);
        queue.end(id(2), 1, false, due);
        assert_eq!(ask_all(&mut queue, 1, due), [1]);
    }

    #[test]
    fn no_more_is_read_in_a_second_than_the_budget() {
        let (mut queue, mut read, mut now) = (PageQueue::default(), 0, 1);
        while now < 10_001 {
            (0..4).for_each(|number| queue.push(user(&number.to_string()), id(number), now));
            for number in ask_all(&mut queue, 1 << 20, now) {
                queue.end(id(number), 1 << 20, false, now);
                read += 1 << 20;
            }
            queue.forget(|_| false);
            now = queue.deadline(PER_SECOND).unwrap_or(now).max(now + 1);
        }
        assert!((10 * PER_SECOND..12 * PER_SECOND).contains(&read), "{read}");
    }

    #[test]
    fn whoever_is_done_is_forgotten() {
        let mut queue = PageQueue::default();
        for number in 0..10_000 {
            queue.push(user(&number.to_string()), id(number), 1);
            ask_all(&mut queue, 1, 1);
            queue.end(id(number), 1, false, 1);
        }
        assert!(queue.lines.len() <= IDLE_LINES_MAX && queue.resting.is_empty());
    }

    #[test]
    fn pages_follow_the_sizes_of_late() {
        let mut sizes = Sizes::default();
        assert_eq!((sizes.entries_max(), sizes.expected(8)), (PAGE_ENTRIES, 0));
        sizes.saw(500_000);
        assert_eq!(sizes.entries_max(), 2);
        (0..40).for_each(|_| sizes.saw_page(2, 1_000_000, 500_000));
        assert!(sizes.expected(2) > 1_800_000, "{}", sizes.expected(2));
        (0..200).for_each(|_| sizes.saw_page(100, 10_000, 100));
        assert_eq!(sizes.entries_max(), PAGE_ENTRIES);
        assert!(sizes.expected(128) < 128 * 300);
        sizes.saw_page(0, 0, 0);
    }
}
