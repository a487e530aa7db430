//! The subscriptions of a client in a replay, and the messages that they are for: the client was subscribed when the message was
//! published, and is now. A look-up costs the same however many subscriptions there are.

use crate::engine::pubsub::hub::{Hub, Subscriptions};
use crate::engine::pubsub::topic::{covers, is_pattern, keys_of};
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::history::hash_of;
use crate::engine::resume::replay::{Replay, Span, SubscriptionChange};

/// Bits by which most topics without a subscription are passed by.
const BITS: usize = 1024;

/// The keys of a client's subscriptions, by the hashes of their names.
pub struct ReplayFilter<'a> {
    keys: Vec<FilterKey<'a>>,
    bits: [u64; BITS / 64],
    /// A pattern is among them: then the topic of every message must be looked at.
    has_patterns: bool,
}

/// The key of a topic or a pattern.
struct FilterKey<'a> {
    hash: u32,
    name: &'a str,
    /// The messages for which it counts.
    span: &'a Span,
}

/// The place of a message in the history.
#[derive(Clone, Copy)]
pub enum FilterPlace {
    /// The number of a message of a channel.
    Number(u64),
    /// The stream of an entry, and its id.
    Entry(usize, EntryId),
}

/// The cover of one message by the keys of a client.
#[derive(Default)]
struct Cover {
    /// A key covered the message when it was published.
    then: bool,
    /// A key covers it now.
    now: bool,
}

/// Returns whether an entry that has no number any more is for a client: `ReplayFilter::matches` for an entry of a page, for
/// which it is not worth making a filter.
pub fn is_entry_for(
    (hub, subscriptions, replay): (&Hub, &Subscriptions, &Replay),
    (stream, id): (usize, EntryId),
    topic: &str,
) -> bool {
    let Replay { changes, others, .. } = replay;
    let began = |key: &str| changes.iter().find(|change| *change.key == *key && change.is_open());
    let mut cover = Cover::default();
    for (key, _) in hub.topics(subscriptions).filter(|(key, _)| covers(key, topic)) {
        let span = began(key).map_or(others, |change| &change.span);
        cover.then |= span.holds_entry(stream, id);
        cover.now = true;
    }
    let mut ended = changes.iter().filter(|change| !change.is_open());
    cover.now
        && (cover.then
            || ended
                .any(|change| covers(&change.key, topic) && change.span.holds_entry(stream, id)))
}

impl<'a> ReplayFilter<'a> {
    /// A filter of the subscriptions that a client has, and of those that ended during its replay.
    pub fn new(
        hub: &'a Hub,
        subscriptions: &'a Subscriptions,
        (others, changes): (&'a Span, &'a [SubscriptionChange]),
    ) -> ReplayFilter<'a> {
        let mut filter =
            ReplayFilter { keys: Vec::new(), bits: [0; BITS / 64], has_patterns: false };
        let (open, ended): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.is_open());
        let mut began: Vec<_> = open.iter().map(|change| (&*change.key, &change.span)).collect();
        began.sort_unstable_by_key(|(name, _)| *name);
        for (key, _) in hub.topics(subscriptions) {
            let change = began.binary_search_by_key(&key, |(name, _)| name);
            filter.add(key, change.map_or(others, |at| began[at].1));
        }
        ended.iter().for_each(|change| filter.add(&change.key, &change.span));
        filter.keys.sort_unstable_by_key(|key| key.hash);
        filter
    }

    fn add(&mut self, name: &'a str, span: &'a Span) {
        let hash = hash_of(name);
        self.keys.push(FilterKey { hash, name, span });
        self.bits[bit(hash).0] |= bit(hash).1;
        self.has_patterns |= is_pattern(name);
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn has_patterns(&self) -> bool {
        self.has_patterns
    }

    /// Returns whether a topic with this hash may be for the client. If not, it need not be looked at.
    pub fn may_match(&self, hash: u32) -> bool {
        self.has_patterns || self.has(hash)
    }

    /// Returns whether the message in this place is for the client. `scratch` is overwritten.
    pub fn matches(
        &self,
        place: FilterPlace,
        hash: u32,
        topic: &str,
        scratch: &mut String,
    ) -> bool {
        let mut cover = Cover::default();
        if self.has(hash) {
            self.find(place, hash, topic, &mut cover);
        }
        if self.has_patterns {
            keys_of(topic, scratch, |key| {
                let hash = if is_pattern(key) { hash_of(key) } else { return };
                if self.has(hash) {
                    self.find(place, hash, key, &mut cover);
                }
            });
        }
        cover.then && cover.now
    }

    fn has(&self, hash: u32) -> bool {
        self.bits[bit(hash).0] & bit(hash).1 != 0
    }

    fn find(&self, place: FilterPlace, hash: u32, name: &str, cover: &mut Cover) {
        let first = self.keys.partition_point(|key| key.hash < hash);
        let same = self.keys[first..].iter().take_while(|key| key.hash == hash);
        for key in same.filter(|key| key.name == name) {
            cover.then |= match place {
                FilterPlace::Number(number) => key.span.holds_number(number),
                FilterPlace::Entry(stream, id) => key.span.holds_entry(stream, id),
            };
            cover.now |= key.span.until == u64::MAX;
        }
    }
}

/// The word, and the bit in it.
fn bit(hash: u32) -> (usize, u64) {
    // The upper bits of a hash by multiplication are the better ones.
    let place = (hash >> 22) as usize % BITS;
    (place / 64, 1 << (place % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::pubsub::hub::Reason;
    use crate::engine::pubsub::topic::is_user_topic;
    use crate::engine::random::Random;

    /// The rule in other words: a topic, or a pattern that begins it.
    fn covers(key: &str, topic: &str) -> bool {
        match key.strip_suffix('\0') {
            Some(text) => topic.starts_with(text) && is_user_topic(topic) == is_user_topic(text),
            None => key == topic,
        }
    }

    fn entry(number: u64) -> EntryId {
        EntryId { millis: number, number: 0 }
    }

    /// The messages are entries of one stream, with their numbers as ids.
    fn change(key: &str, from: u64, until: u64) -> SubscriptionChange {
        let after = from.checked_sub(1).map(entry).into_iter().collect();
        let up_to = (until < u64::MAX).then(|| entry(until - 1)).into_iter().collect();
        SubscriptionChange::new(key, (from, until), after, up_to)
    }

    #[test]
    fn it_finds_what_a_look_at_each_key_finds() {
        let topics = ["a", "a.b", "a.b.c", "b", "user.1", "user.2", "room.1", "room.10"];
        let patterns = ["\0", "a.\0", "a.b.\0", "user.\0", "room.\0"];
        let mut random = Random::new(0xf117e4);
        for _ in 0..2_000 {
            let (mut hub, mut of) = (Hub::default(), Subscriptions::default());
            let mut changes: Vec<SubscriptionChange> = Vec::new();
            for _ in 0..random.below(8) {
                let key = match random.below(2) {
                    0 => random.choose(&topics),
                    _ => random.choose(&patterns),
                };
                let is_new = hub.subscribe(0, &mut of, key, Reason::Asked);
                let (from, until) = match random.below(4) {
                    0 if is_new => (random.below(10) as u64, u64::MAX),
                    1 => (random.below(5) as u64, 5 + random.below(5) as u64),
                    _ => continue,
                };
                changes.push(change(key, from, until));
            }
            let mut replay = Replay::new(0, 0, vec![entry(0)]);
            // Keys without a change count from some message on.
            let from = random.below(5) as u64;
            (replay.others, replay.changes) = (change("", from, u64::MAX).span.clone(), changes);
            let changes = &replay.changes;
            let filter = ReplayFilter::new(&hub, &of, (&replay.others, changes));
            let mut scratch = String::new();
            for topic in topics {
                for number in 0..10 {
                    let (mut then, mut now) = (false, false);
                    for (key, _) in hub.topics(&of) {
                        let open = |one: &&SubscriptionChange| *one.key == *key && one.is_open();
                        let from = changes.iter().find(open).map_or(from, |one| one.span.from);
                        if covers(key, topic) {
                            (then, now) = (then || number >= from, true);
                        }
                    }
                    for one in changes.iter().filter(|one| !one.is_open()) {
                        let Span { from, until, .. } = one.span;
                        then |= covers(&one.key, topic) && (from..until).contains(&number);
                    }
                    let mut matches =
                        |place| filter.matches(place, hash_of(topic), topic, &mut scratch);
                    let found = matches(FilterPlace::Number(number));
                    assert_eq!(found, then && now, "{topic} {number}");
                    assert_eq!(matches(FilterPlace::Entry(0, entry(number))), found);
                    assert!(!found || filter.may_match(hash_of(topic)));
                    let parts = (&hub, &of, &replay);
                    assert_eq!(is_entry_for(parts, (0, entry(number)), topic), found);
                }
            }
        }
    }
}
