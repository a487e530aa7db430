//! The order of pages: users take turns, within bounds of what is on its way and of what is read in a second.
//!
//! A page is as large as entries for others make it, so its size says nothing about what its client is sent. A user has one page on
//! its way at a time, however many connections come back; a user whose pages bring nothing rests in between.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::slots::ConnId;

/// The most pages that are on their way at one time.
const PAGES_MAX: usize = 16;

/// The bytes that are expected of them, from which on no further page is requested: other commands wait behind these, or behind a
/// single page.
const ASKED_BYTES_MAX: u64 = 1 << 20;

/// The rate of pages that bring their user nothing, and the time for which it may be exceeded.
const VAIN_BYTES_PER_SECOND: u64 = 4 << 20;
const VAIN_BURST: Millis = 4_000;

/// Idle owners are dropped when there are twice as many as after the last time, and this many more.
const IDLE_OWNERS_MAX: usize = 64;

/// The owner of pages that are counted together: a user, by its own topic, or all clients without one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageOwner(Option<Rc<str>>);

impl PageOwner {
    pub fn new(own_topic: Option<String>) -> PageOwner {
        PageOwner(own_topic.map(Rc::from))
    }

    /// The most pages that the owner may have on their way.
    fn pages_max(&self) -> usize {
        if self.0.is_some() { 1 } else { PAGES_MAX }
    }
}

/// The state of one owner.
#[derive(Default)]
struct OwnerState {
    waiting: VecDeque<ConnId>,
    /// Pages on their way.
    asked: usize,
    /// The owner has a turn, or rests before it.
    has_turn: bool,
    /// The time until which pages that brought nothing count.
    vain_until: Millis,
}

/// The clients that wait for a page, and the pages on their way.
#[derive(Default)]
pub struct PageQueue {
    owners: HashMap<PageOwner, OwnerState>,
    /// Owners with a waiting client, in the order in which they may ask.
    turns: VecDeque<PageOwner>,
    /// Owners with a waiting client that may ask from this time on.
    resting: BTreeSet<(Millis, PageOwner)>,
    /// The owner of each page on its way, and the bytes expected of it.
    asked: HashMap<ConnId, (PageOwner, u64)>,
    asked_bytes: u64,
    waiting: usize,
    budget: Budget,
    /// The number of owners when idle ones were last dropped.
    swept: usize,
}

/// Bytes that may still be read in this second.
#[derive(Default)]
struct Budget {
    bytes: i64,
    filled: Millis,
}

impl Budget {
    /// Adds what the time since the last call allows, up to a second's worth.
    fn fill(&mut self, now: Millis, per_second: u64) {
        let passed = now.saturating_sub(self.filled).min(1000);
        let whole = self.filled == 0 || passed == 1000;
        let added = if whole { per_second } else { per_second * passed / 1000 };
        if added > 0 {
            self.bytes = self.bytes.saturating_add(added as i64).min(per_second as i64);
            self.filled = now.max(1);
        }
    }

    /// The time from which on bytes may be read.
    fn fills_at(&self, per_second: u64) -> Millis {
        let missing = u64::try_from(1 - self.bytes).unwrap_or(0);
        self.filled + (missing * 1000).div_ceil(per_second.max(1))
    }
}

impl PageQueue {
    #[cfg(test)]
    pub fn asked_len(&self) -> usize {
        self.asked.len()
    }

    pub fn waiting_len(&self) -> usize {
        self.waiting
    }

    /// Adds a client that waits for its page.
    pub fn push(&mut self, owner: PageOwner, id: ConnId, now: Millis) {
        self.owners.entry(owner.clone()).or_default().waiting.push_back(id);
        self.waiting += 1;
        self.give_turn(owner, now);
    }

    /// Takes the client that may ask now: the caller calls [`PageQueue::ask`] or [`PageQueue::give_turn`]. `per_second` bounds the
    /// bytes of all pages.
    pub fn next(&mut self, now: Millis, per_second: u64) -> Option<(PageOwner, ConnId)> {
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
            let state = self.owners.get_mut(&owner).expect("an owner with a turn is known");
            state.has_turn = false;
            if let Some(id) = state.waiting.pop_front() {
                self.waiting -= 1;
                return Some((owner, id));
            }
        }
        None
    }

    /// Counts a page that is requested for a client. `bytes` are expected.
    pub fn ask(&mut self, owner: &PageOwner, id: ConnId, bytes: u64, now: Millis) {
        self.owners.entry(owner.clone()).or_default().asked += 1;
        self.asked_bytes += bytes;
        self.asked.insert(id, (owner.clone(), bytes));
        self.give_turn(owner.clone(), now);
    }

    /// Ends a client's page, which had `bytes`. Returns whether its user has to rest.
    pub fn end(&mut self, id: ConnId, bytes: u64, is_vain: bool, now: Millis) -> bool {
        let Some((owner, expected)) = self.asked.remove(&id) else { return false };
        self.asked_bytes -= expected;
        self.budget.bytes -= bytes as i64;
        let state = self.owners.get_mut(&owner).expect("an owner that asked is known");
        state.asked -= 1;
        if is_vain && owner.0.is_some() {
            state.vain_until = state.vain_until.max(now) + bytes * 1000 / VAIN_BYTES_PER_SECOND;
        }
        let rests = state.vain_until > now + VAIN_BURST;
        self.give_turn(owner, now);
        rests
    }

    /// Returns whether pages wait for the budget alone.
    pub fn is_over_budget(&self) -> bool {
        self.budget.bytes <= 0 && !self.turns.is_empty() && self.has_room()
    }

    /// The time at which a client that waits may ask, even if nothing else happens.
    pub fn deadline(&self, per_second: u64) -> Option<Millis> {
        let rested = self.resting.first().map(|(until, _)| *until);
        let may_ask = self.has_room() && !self.turns.is_empty();
        let filled = may_ask.then(|| self.budget.fills_at(per_second));
        rested.into_iter().chain(filled).min()
    }

    /// Drops clients that are gone.
    pub fn forget(&mut self, is_there: impl Fn(ConnId) -> bool) {
        for state in self.owners.values_mut() {
            state.waiting.retain(|id| is_there(*id));
        }
        self.waiting = self.owners.values().map(|state| state.waiting.len()).sum();
    }

    fn has_room(&self) -> bool {
        self.asked.len() < PAGES_MAX && self.asked_bytes < ASKED_BYTES_MAX
    }

    /// Gives an owner its turn if it may ask, or a rest before it.
    pub fn give_turn(&mut self, owner: PageOwner, now: Millis) {
        let state = self.owners.get_mut(&owner).expect("the owner is known");
        if state.has_turn || state.waiting.is_empty() || state.asked >= owner.pages_max() {
            return self.sweep(now);
        }
        state.has_turn = true;
        let until = state.vain_until.saturating_sub(VAIN_BURST);
        if until > now {
            self.resting.insert((until, owner));
        } else {
            self.turns.push_back(owner);
        }
    }

    /// Drops owners that neither wait nor rest, once there are many.
    fn sweep(&mut self, now: Millis) {
        if self.owners.len() >= 2 * self.swept + IDLE_OWNERS_MAX {
            let is_idle = |state: &OwnerState| {
                !state.has_turn && state.waiting.is_empty() && state.asked == 0
            };
            self.owners.retain(|_, state| !is_idle(state) || state.vain_until > now);
            self.swept = self.owners.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PER_SECOND: u64 = 64 << 20;

    fn id(index: u32) -> ConnId {
        ConnId { index, generation: 0 }
    }

    fn user(name: &str) -> PageOwner {
        PageOwner::new(Some(name.to_owned()))
    }

    /// Asks for pages of so many bytes while a client may. Returns the clients.
    fn ask_all(queue: &mut PageQueue, bytes: u64, now: Millis) -> Vec<u32> {
        let mut asked = Vec::new();
        while let Some((owner, id)) = queue.next(now, PER_SECOND) {
            queue.ask(&owner, id, bytes, now);
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
        (0..100).for_each(|number| queue.push(PageOwner::new(None), id(number), 1));
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
    fn owners_that_are_done_are_forgotten() {
        let mut queue = PageQueue::default();
        for number in 0..10_000 {
            queue.push(user(&number.to_string()), id(number), 1);
            ask_all(&mut queue, 1, 1);
            queue.end(id(number), 1, false, 1);
        }
        assert!(queue.owners.len() <= IDLE_OWNERS_MAX && queue.resting.is_empty());
    }
}
