//! The exchange of revocations with Redis, where they outlive a node and reach one that missed a command.
//!
//! One script saves changes, drops revocations that nobody needs any more, and returns a page of the set. A node reads the
//! whole set page by page when its subscription comes up and every 30 seconds: a command may be missed during an outage, and a
//! node that has heard it may be about to save it. Changes are saved at once, and repeated until Redis has them; saving one twice
//! changes nothing, and an older second never replaces a newer one.

use std::collections::BTreeMap;

use crate::clock::Millis;
use crate::engine::redis::request::Answer;

/// The script that changes the set. Its comments stay here.
const SCRIPT: &str = include_str!("revocations.lua");

/// The pause between two readings of the set.
const READ_EVERY: Millis = 30_000;

/// The pause before a call that failed is repeated.
const RETRY_AFTER: Millis = 1000;

/// Changes in one call.
const CHANGES_MAX: usize = 128;

/// Revocations in a page, which fits an answer of 64 KiB: a user has at most 255 bytes.
const PAGE: usize = 128;

/// Seconds for which Redis keeps the set beyond its need, for clocks that differ.
const SPARE_SECONDS: u64 = 600;

/// A user and the second before which its tokens are refused; the empty user stands for all.
pub(super) type Revocation = (String, u64);

/// The exchange of a node with Redis: one call at a time.
pub(super) struct RevocationExchange {
    /// The script without its comments.
    script: Vec<u8>,
    /// The key of the set.
    key: String,
    /// Changes that Redis may not have.
    unsaved: BTreeMap<String, u64>,
    /// The call under way.
    call: Option<Call>,
    /// The place of the next page; `None`: the set was read.
    place: Option<usize>,
    /// When the set is to be read again.
    read_at: Millis,
    /// Nothing is sent before this.
    pause_until: Millis,
}

/// A call under way.
struct Call {
    saving: Vec<Revocation>,
    /// The place of its page; `None`: the page does not count, since a reading began after it.
    place: Option<usize>,
}

/// The part of the set that is needed.
#[derive(Clone, Copy)]
pub(super) struct Need {
    /// The second before which no revocation is needed.
    pub(super) from: u64,
    /// The second before which tokens of all users are refused; 0: none are.
    pub(super) floor: u64,
    /// The seconds for which one is needed; `None`: for good.
    pub(super) seconds: Option<u64>,
}

impl RevocationExchange {
    /// The exchange of nodes with this control channel. The set is read at once.
    pub(super) fn new(channel: &str) -> RevocationExchange {
        let lines = SCRIPT.lines().filter(|line| !line.starts_with("--"));
        RevocationExchange {
            script: lines.collect::<Vec<_>>().join("\n").into_bytes(),
            key: key(channel),
            unsaved: BTreeMap::new(),
            call: None,
            place: Some(0),
            read_at: READ_EVERY,
            pause_until: 0,
        }
    }

    /// Notes a change to be saved.
    pub(super) fn note(&mut self, sub: &str, before: u64) {
        let noted = self.unsaved.entry(sub.to_owned()).or_default();
        *noted = before.max(*noted);
    }

    /// Drops changes that say no more than the second `floor` for all users. So an outage leaves no more changes than there are
    /// revocations.
    pub(super) fn drop_until(&mut self, floor: u64) {
        self.unsaved.retain(|_, before| *before > floor);
    }

    /// Begins to read the set.
    pub(super) fn read(&mut self) {
        self.place = Some(0);
        self.call.iter_mut().for_each(|call| call.place = None);
    }

    /// Returns the words of the next call, if there is something to do and no call under way.
    pub(super) fn next_call(&mut self, need: Need, now: Millis) -> Option<Vec<Vec<u8>>> {
        if now >= self.read_at && self.place.is_none() {
            self.read();
        }
        if self.call.is_some() || now < self.pause_until || !self.has_work() {
            return None;
        }
        let mut saving = Vec::new();
        while saving.len() < CHANGES_MAX
            && let Some(change) = self.unsaved.pop_first()
        {
            saving.push(change);
        }
        let first = self.place.unwrap_or(0);
        let seconds = need.seconds.map_or(0, |seconds| seconds + SPARE_SECONDS);
        let numbers = [need.from, need.floor, seconds, first as u64, (first + PAGE - 1) as u64];
        let mut words = vec![b"EVAL".to_vec(), self.script.clone(), b"1".to_vec()];
        words.push(self.key.clone().into_bytes());
        words.extend(numbers.map(|number| number.to_string().into_bytes()));
        for (sub, before) in &saving {
            words.extend([before.to_string().into_bytes(), sub.clone().into_bytes()]);
        }
        self.call = Some(Call { saving, place: self.place });
        Some(words)
    }

    /// Takes the answer to the call. Returns the page.
    ///
    /// # Errors
    /// The call is repeated after a pause: Redis refused it, or there was no answer.
    pub(super) fn on_answer(
        &mut self,
        answer: &Answer,
        now: Millis,
    ) -> Result<Vec<Revocation>, ()> {
        let Call { saving, place } = self.call.take().expect("an answer to the call under way");
        let Answer::List(list) = answer else {
            saving.iter().for_each(|(sub, before)| self.note(sub, *before));
            self.pause_until = now + RETRY_AFTER;
            return Err(());
        };
        if let Some(first) = place {
            let is_last = list.len() < 2 * PAGE;
            self.place = (!is_last).then_some(first + PAGE);
            self.read_at = now + READ_EVERY;
        }
        Ok(list.chunks(2).filter_map(revocation).collect())
    }

    /// Returns when [`RevocationExchange::next_call`] is to be called at the latest.
    pub(super) fn deadline(&self) -> Option<Millis> {
        match (&self.call, self.has_work()) {
            (Some(_), _) => None,
            (None, true) => Some(self.pause_until),
            (None, false) => Some(self.read_at.max(self.pause_until)),
        }
    }

    fn has_work(&self) -> bool {
        self.place.is_some() || !self.unsaved.is_empty()
    }
}

/// The key of the set of revocations beside a control channel.
pub fn key(channel: &str) -> String {
    format!("oneloop:{{{channel}}}:revoked")
}

/// Reads a user and its second. Other programs may have written anything there.
fn revocation(pair: &[Answer]) -> Option<Revocation> {
    let [Answer::Text(sub), Answer::Text(before)] = pair else { return None };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).ok();
    Some((text(sub)?, text(before)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: Need = Need { from: 7, floor: 6, seconds: Some(60) };

    /// The arguments of a call, behind the script.
    fn said(words: Option<Vec<Vec<u8>>>) -> String {
        let words = words.expect("there is something to do");
        assert_eq!(words[0], b"EVAL");
        assert!(!String::from_utf8_lossy(&words[1]).contains("--"), "comments stay here");
        let rest: Vec<_> = words[2..].iter().map(|word| String::from_utf8_lossy(word)).collect();
        rest.join(" ")
    }

    fn answer(revocations: &[(&str, u64)]) -> Answer {
        let text = |text: &str| Answer::Text(text.as_bytes().to_vec());
        let pair = |(sub, before): &(&str, u64)| [text(sub), text(&before.to_string())];
        Answer::List(revocations.iter().flat_map(pair).collect())
    }

    /// An exchange that has read an empty set at 0.
    fn exchange() -> RevocationExchange {
        let mut exchange = RevocationExchange::new("ctl");
        let words = said(exchange.next_call(NEED, 0));
        assert_eq!(words, "1 oneloop:{ctl}:revoked 7 6 660 0 127");
        assert_eq!(exchange.on_answer(&answer(&[]), 0), Ok(vec![]));
        exchange
    }

    #[test]
    fn changes_are_saved_at_once_and_one_call_is_under_way_at_a_time() {
        let mut exchange = exchange();
        assert_eq!(exchange.deadline(), Some(READ_EVERY));
        assert!(exchange.next_call(NEED, 1).is_none());
        exchange.note("42", 100);
        assert_eq!(exchange.deadline(), Some(0), "at once");
        let forever = Need { from: 0, floor: 0, seconds: None };
        assert!(said(exchange.next_call(forever, 2)).ends_with(":revoked 0 0 0 0 127 100 42"));
        exchange.note("42", 99);
        exchange.note("43", 101);
        assert!(exchange.next_call(NEED, 3).is_none() && exchange.deadline().is_none());
        let page = [("42", 100), ("", 5)];
        let expected = page.map(|(sub, before)| (sub.to_owned(), before));
        assert_eq!(exchange.on_answer(&answer(&page), 4), Ok(expected.to_vec()));
        assert!(
            said(exchange.next_call(NEED, 4)).ends_with(" 99 42 101 43"),
            "Redis keeps the 100"
        );
    }

    #[test]
    fn a_call_that_failed_is_repeated_with_what_came_since() {
        let mut exchange = exchange();
        exchange.note("42", 100);
        exchange.next_call(NEED, 0);
        exchange.note("42", 90);
        exchange.note("41", 5);
        for failure in [Answer::Unavailable, Answer::Refused("NOPERM".into()), Answer::Nothing] {
            let now = exchange.pause_until;
            assert_eq!(exchange.on_answer(&failure, now), Err(()));
            assert_eq!(exchange.deadline(), Some(now + RETRY_AFTER));
            assert!(exchange.next_call(NEED, now + RETRY_AFTER - 1).is_none());
            let words = said(exchange.next_call(NEED, now + RETRY_AFTER));
            assert!(words.ends_with(" 5 41 100 42"), "{words}");
        }
    }

    #[test]
    fn the_set_is_read_page_by_page_and_again_after_a_while() {
        let mut exchange = RevocationExchange::new("ctl");
        let names: Vec<String> = (0..PAGE).map(|number| number.to_string()).collect();
        let full: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 9)).collect();
        for place in ["0 127", "128 255"] {
            assert!(said(exchange.next_call(NEED, 0)).ends_with(place), "{place}");
            assert_eq!(exchange.on_answer(&answer(&full), 0).map(|page| page.len()), Ok(PAGE));
        }
        assert!(said(exchange.next_call(NEED, 0)).ends_with("256 383"));
        exchange.on_answer(&answer(&[]), 5).unwrap();
        assert_eq!(exchange.deadline(), Some(5 + READ_EVERY));
        assert!(exchange.next_call(NEED, 4 + READ_EVERY).is_none());
        assert!(said(exchange.next_call(NEED, 5 + READ_EVERY)).ends_with("0 127"));
        // A reading that begins during a call does not take its page for the first.
        exchange.read();
        exchange.on_answer(&answer(&full), 5 + READ_EVERY).unwrap();
        assert!(said(exchange.next_call(NEED, 5 + READ_EVERY)).ends_with("0 127"));
    }

    #[test]
    fn a_change_for_everybody_stands_for_earlier_ones() {
        let mut exchange = exchange();
        for (sub, before) in [("a", 5), ("b", 7), ("c", 6)] {
            exchange.note(sub, before);
        }
        exchange.drop_until(6);
        assert!(said(exchange.next_call(NEED, 0)).ends_with(" 127 7 b"));
    }

    #[test]
    fn a_call_has_a_bound() {
        let mut exchange = exchange();
        for number in 0..CHANGES_MAX + 1 {
            exchange.note(&format!("{number:03}"), 1);
        }
        let words = exchange.next_call(NEED, 0).unwrap();
        assert_eq!(words.len(), 9 + 2 * CHANGES_MAX);
        exchange.on_answer(&answer(&[]), 0).unwrap();
        assert!(said(exchange.next_call(NEED, 0)).ends_with(" 1 128"));
    }

    #[test]
    fn an_entry_that_is_no_revocation_is_passed_over() {
        let mut exchange = RevocationExchange::new("ctl");
        exchange.next_call(NEED, 0);
        let text = |text: &[u8]| Answer::Text(text.to_vec());
        let list = [b"a", &b"1.5"[..], b"b", b"inf", b"\xff", b"1", b"c", b"-1", b"d", b"7", b"e"];
        let list = Answer::List(list.iter().map(|bytes| text(bytes)).collect());
        assert_eq!(exchange.on_answer(&list, 0), Ok(vec![("d".to_owned(), 7)]));
    }
}
