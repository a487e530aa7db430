//! Limits on what clients send to back ends: a rate for each user and for all of them together, and the size of a stream.

use std::collections::{HashMap, VecDeque};

use crate::clock::Millis;

/// Sends of one user that wait for an answer at most.
const UNANSWERED_MAX: u32 = 32;

/// Users that may send at the full rate of one at the same time. Beyond, only users who are within their own rate may send, up to
/// twice of that.
const USERS_AT_FULL_RATE: u64 = 32;

/// The time by which a user may be ahead of its rate, and all users together.
const AHEAD: Millis = 1000;

/// Users beyond those left by the last search, after which those within their rate are searched for and forgotten.
const SWEEP: usize = 256;

/// The rate of each user and of all together.
#[derive(Default)]
pub(super) struct Senders {
    /// Users with sends that wait, or ahead of their rate: most are neither, and cost nothing.
    users: HashMap<Box<str>, Sender>,
    /// The time at which all users together are within the rate of all.
    within_at: Micros,
    sweep_at: usize,
}

/// Microseconds on the loop's clock: a byte costs less than a millisecond.
type Micros = u64;

#[derive(Default)]
struct Sender {
    unanswered: u32,
    /// The time at which the user is within its rate, if it sends no more.
    within_at: Micros,
}

impl Senders {
    /// Returns whether the user may send `bytes` now, and counts them if so. `rate`: bytes a second of one user; 0: any. A
    /// message of any length passes if the user is within its rate before it.
    pub fn begin(&mut self, user: &str, bytes: usize, rate: u64, now: Millis) -> bool {
        let (now, ahead) = (now * 1000, AHEAD * 1000);
        let (unanswered, within_at) =
            self.users.get(user).map_or((0, 0), |sender| (sender.unanswered, sender.within_at));
        let all_ahead = if within_at <= now { 2 * ahead } else { ahead };
        let is_within = rate == 0 || (within_at < now + ahead && self.within_at < now + all_ahead);
        if unanswered >= UNANSWERED_MAX || !is_within {
            return false;
        }
        // Each look at a user is paid for by a new one.
        if self.users.len() > self.sweep_at + SWEEP {
            self.users.retain(|_, sender| sender.unanswered > 0 || sender.within_at > now);
            self.sweep_at = self.users.len();
        }
        let sender = self.users.entry(user.into()).or_default();
        sender.unanswered += 1;
        if let Some(price) = (bytes as u64 * 1_000_000).checked_div(rate) {
            sender.within_at = sender.within_at.max(now) + price;
            self.within_at = self.within_at.max(now) + price / USERS_AT_FULL_RATE;
        }
        true
    }

    /// Counts an answer to a send of the user.
    pub fn end(&mut self, user: &str, now: Millis) {
        let Some(sender) = self.users.get_mut(user) else { return };
        sender.unanswered = sender.unanswered.saturating_sub(1);
        if sender.unanswered == 0 && sender.within_at <= now * 1000 {
            self.users.remove(user);
        }
        if self.users.is_empty() {
            // Free the memory of a burst.
            (self.users, self.sweep_at) = (HashMap::new(), 0);
        }
    }
}

/// The entries that this process added to a stream lately. The stream is cut to a size in bytes by them: Redis bounds it by entries
/// alone.
#[derive(Default)]
pub(super) struct AddedEntries {
    /// Entries and bytes, in pieces of equal weight; the newest last.
    pieces: VecDeque<(usize, usize)>,
    entries: usize,
    bytes: usize,
}

/// Pieces that the bounds are divided into.
const PIECES: usize = 64;

impl AddedEntries {
    /// Adds an entry. Returns the number of entries that the stream may keep, so that the latest ones of this process take no more
    /// than `bytes_max`: `entries_max` as long as they are small.
    pub fn add(&mut self, bytes: usize, entries_max: usize, bytes_max: usize) -> usize {
        let is_full = |(entries, bytes): &(usize, usize)| {
            *entries > entries_max / PIECES || *bytes > bytes_max / PIECES
        };
        if self.pieces.back().is_none_or(is_full) {
            self.pieces.push_back((0, 0));
        }
        let last = self.pieces.back_mut().expect("it was just pushed");
        *last = (last.0 + 1, last.1 + bytes);
        (self.entries, self.bytes) = (self.entries + 1, self.bytes + bytes);
        let mut is_cut = self.bytes > bytes_max;
        while self.pieces.len() > 1 && (self.entries > entries_max || self.bytes > bytes_max) {
            let (entries, bytes) = self.pieces.pop_front().expect("there is more than one");
            (self.entries, self.bytes) = (self.entries - entries, self.bytes - bytes);
            is_cut |= self.bytes > bytes_max;
        }
        // A little below the bound, the stream was cut a moment ago.
        is_cut |= self.bytes + 2 * (bytes_max / PIECES) > bytes_max;
        if is_cut { self.entries.clamp(1, entries_max) } else { entries_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    #[test]
    fn a_user_sends_at_its_rate_and_others_do_not_wait_for_it() {
        let mut senders = Senders::default();
        let mut passed = 0;
        for now in 0..10_000 {
            if senders.begin("loud", 1_000, 10_000, now) {
                passed += 1_000;
                senders.end("loud", now);
            }
            if now % 1_000 == 0 {
                assert!(senders.begin("quiet", 500, 10_000, now), "at {now}");
                senders.end("quiet", now);
            }
        }
        assert!((100_000..=112_000).contains(&passed), "{passed}");
    }

    #[test]
    fn many_loud_users_have_a_sum_and_leave_room_for_a_quiet_one() {
        let mut senders = Senders::default();
        let names: Vec<String> = (0..100).map(|number| format!("loud{number}")).collect();
        let mut passed = 0;
        for now in (0..10_000).step_by(10) {
            for name in &names {
                // They are ahead of their rate all the time.
                if senders.begin(name, 20_000, 10_000, now) {
                    passed += 20_000;
                    senders.end(name, now);
                }
            }
        }
        // 32 users at their full rate, and what they may be ahead.
        assert!(passed <= 2 * 32 * 10_000 * 12, "{passed}");
        let total = senders.users.len();
        assert!(total <= names.len() + SWEEP, "{total}");
    }

    #[test]
    fn sends_without_an_answer_are_bounded_for_all_connections_of_a_user() {
        let mut senders = Senders::default();
        let count = (0..100).filter(|_| senders.begin("42", 1, 0, 0)).count();
        assert_eq!(count, 32);
        assert!(senders.begin("43", 1, 0, 0));
        senders.end("42", 0);
        assert!(senders.begin("42", 1, 0, 0));
        assert!(!senders.begin("42", 1, 0, 0));
    }

    #[test]
    fn users_within_their_rate_are_forgotten() {
        let mut senders = Senders::default();
        for number in 0..100_000 {
            let (user, now) = (format!("u{number}"), number);
            assert!(senders.begin(&user, 10, 10_000, now));
            senders.end(&user, now);
            assert!(senders.users.len() <= 2 * SWEEP + 2, "{}", senders.users.len());
        }
    }

    /// Against a model that remembers each entry, and a stream that is cut to the number returned.
    #[test]
    fn a_stream_holds_no_more_than_it_may() {
        let mut random = Random::new(0xadded);
        for _ in 0..200 {
            let (entries_max, bytes_max) = (1 + random.below(2_000), 10_000 + random.below(50_000));
            let large = 1 + random.below(3_000);
            let (mut added, mut stream) = (AddedEntries::default(), VecDeque::new());
            for _ in 0..5_000 {
                let most = if random.below(4) == 0 { large } else { 40 };
                let bytes = 1 + random.below(most);
                let keeps = added.add(bytes, entries_max, bytes_max);
                assert!((1..=entries_max).contains(&keeps));
                stream.push_back(bytes);
                while stream.len() > keeps {
                    stream.pop_front();
                }
                let held: usize = stream.iter().sum();
                assert!(held <= bytes_max + large, "{held} of {bytes_max}");
            }
            // Small ones are not cut without need.
            let mut added = AddedEntries::default();
            for _ in 0..5_000 {
                assert_eq!(added.add(1, entries_max, 1 << 30), entries_max);
            }
        }
    }
}
