//! Subscriptions at the publishers' port, and the messages on their way to subscribers.
//!
//! A message is encoded once for a channel, and once for each pattern that matches; all of its subscribers share the bytes.
//! It waits here until the port hands it to the connections, at the end of the turn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::redis::glob;
use crate::engine::redis::resp;
use crate::features::publisher::reply::ErrorText;

/// The longest name of a channel, and the longest pattern, that can be subscribed to.
const NAME_BYTES_MAX: usize = 1024;
const TOO_LONG: &str = "ERR a channel or pattern has at most 1024 bytes";
const TOO_MANY: &str = "ERR this connection has publisher_subscriptions_max subscriptions";

/// Milliseconds for which more than a quarter of its limit may wait for a subscriber, as in Redis.
const SOFT_MILLIS: Millis = 60_000;

/// For all subscribers together at most this many times the limit of one may wait. Above that, those above an equal share are cut.
const SHARES: usize = 4;

/// A message as one of its subscribers receives it, without its first byte, in which RESP2 and RESP3 differ.
pub type Body = Rc<[u8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionKind {
    Channel,
    Pattern,
}

/// All subscriptions and the messages that wait. Connections are named by seats, numbers that the caller gives.
pub struct Exchange {
    subscriptions_max: usize,
    backlog_bytes_max: usize,
    /// The seats that subscribe to a name, for each kind.
    seats: [BTreeMap<Rc<[u8]>, Vec<usize>>; 2],
    subscribers: HashMap<usize, Subscriber>,
    /// Bytes that wait for all of them.
    unwritten: usize,
    /// Seats for which messages were queued; the port takes them. Some messages may have been taken already.
    pub awaiting: Vec<usize>,
    /// Seats above their limits, to be closed by the port: they get nothing any more.
    pub cut: Vec<usize>,
}

#[derive(Default)]
struct Subscriber {
    /// The names, for each kind.
    names: [BTreeSet<Rc<[u8]>>; 2],
    queue: Vec<Body>,
    /// Bytes of messages that are queued here, or that its socket has not taken yet.
    unwritten: usize,
    /// The time since which more than a quarter of the limit waits.
    soft_since: Option<Millis>,
    is_cut: bool,
}

impl Exchange {
    pub fn new(subscriptions_max: usize, backlog_bytes_max: usize) -> Exchange {
        Exchange {
            subscriptions_max,
            backlog_bytes_max,
            seats: Default::default(),
            subscribers: HashMap::new(),
            unwritten: 0,
            awaiting: Vec::new(),
            cut: Vec::new(),
        }
    }

    /// Subscribes. Returns the number of subscriptions that the connection has now.
    ///
    /// # Errors
    /// There are too many already, or the name is too long.
    pub fn subscribe(
        &mut self,
        seat: usize,
        kind: SubscriptionKind,
        name: &[u8],
    ) -> Result<usize, ErrorText> {
        let count = self.count(seat);
        let subscriber = self.subscribers.get(&seat);
        if subscriber.is_some_and(|one| one.names[kind as usize].contains(name)) {
            return Ok(count);
        }
        if count >= self.subscriptions_max {
            return Err(TOO_MANY.into());
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(TOO_LONG.into());
        }
        let name: Rc<[u8]> = Rc::from(name);
        let subscriber = self.subscribers.entry(seat).or_default();
        subscriber.names[kind as usize].insert(Rc::clone(&name));
        self.seats[kind as usize].entry(name).or_default().push(seat);
        Ok(count + 1)
    }

    /// Ends a subscription, if there is one. Returns the number that the connection has now.
    pub fn unsubscribe(&mut self, seat: usize, kind: SubscriptionKind, name: &[u8]) -> usize {
        if let Some(subscriber) = self.subscribers.get_mut(&seat)
            && subscriber.names[kind as usize].remove(name)
        {
            self.forget(seat, kind, name);
        }
        self.count(seat)
    }

    /// Forgets a connection that is gone, or as good as new.
    pub fn leave(&mut self, seat: usize) {
        let Some(subscriber) = self.subscribers.remove(&seat) else { return };
        self.unwritten -= subscriber.unwritten;
        for kind in [SubscriptionKind::Channel, SubscriptionKind::Pattern] {
            subscriber.names[kind as usize].iter().for_each(|name| self.forget(seat, kind, name));
        }
    }

    fn forget(&mut self, seat: usize, kind: SubscriptionKind, name: &[u8]) {
        let by_name = &mut self.seats[kind as usize];
        let Some(seats) = by_name.get_mut(name) else { return };
        seats.retain(|other| *other != seat);
        if seats.is_empty() {
            by_name.remove(name);
        }
    }

    pub fn count(&self, seat: usize) -> usize {
        self.subscribers.get(&seat).map_or(0, Subscriber::len)
    }

    pub fn names(&self, seat: usize, kind: SubscriptionKind) -> Vec<Rc<[u8]>> {
        let subscriber = self.subscribers.get(&seat);
        subscriber.map_or_else(Vec::new, |one| one.names[kind as usize].iter().cloned().collect())
    }

    /// Queues a message for its subscribers. Returns how many times: a subscriber by channel and by pattern gets it twice.
    pub fn publish(&mut self, channel: &[u8], payload: &[u8]) -> usize {
        if self.subscribers.is_empty() {
            return 0;
        }
        let [channels, patterns] = &self.seats;
        let mut deliveries: Vec<(Body, Vec<usize>)> = Vec::new();
        if let Some(seats) = channels.get(channel) {
            deliveries.push((body(&[b"message", channel, payload]), seats.clone()));
        }
        for (pattern, seats) in patterns.iter().filter(|one| glob::matches(one.0, channel)) {
            deliveries.push((body(&[b"pmessage", pattern, channel, payload]), seats.clone()));
        }
        let mut count = 0;
        for (body, seats) in &deliveries {
            count += seats.iter().filter(|seat| self.queue(**seat, body)).count();
        }
        count
    }

    /// Queues a message for one subscriber; `false`: the subscriber is cut, because it is above its limit.
    fn queue(&mut self, seat: usize, body: &Body) -> bool {
        let share = self.unwritten / self.subscribers.len().max(1);
        let Some(subscriber) = self.subscribers.get_mut(&seat).filter(|one| !one.is_cut) else {
            return false;
        };
        let unwritten = subscriber.unwritten + body.len();
        let is_crowded =
            self.unwritten + body.len() > SHARES.saturating_mul(self.backlog_bytes_max);
        if unwritten > self.backlog_bytes_max || (is_crowded && unwritten > share) {
            self.cut(seat);
            return false;
        }
        if subscriber.queue.is_empty() {
            self.awaiting.push(seat);
        }
        subscriber.queue.push(Rc::clone(body));
        subscriber.unwritten = unwritten;
        self.unwritten += body.len();
        true
    }

    fn cut(&mut self, seat: usize) {
        let Some(subscriber) = self.subscribers.get_mut(&seat) else { return };
        if !subscriber.is_cut {
            subscriber.is_cut = true;
            subscriber.queue = Vec::new();
            self.cut.push(seat);
        }
    }

    /// Takes the messages that wait for a connection, in their order.
    pub fn take(&mut self, seat: usize) -> Vec<Body> {
        let subscriber = self.subscribers.get_mut(&seat);
        subscriber.map_or_else(Vec::new, |one| std::mem::take(&mut one.queue))
    }

    /// Notes that all that waited for a subscriber was taken, and that its socket has yet to take `unwritten` bytes of that.
    pub fn settle(&mut self, seat: usize, unwritten: usize, now: Millis) {
        let Some(subscriber) = self.subscribers.get_mut(&seat) else { return };
        self.unwritten = self.unwritten - subscriber.unwritten + unwritten;
        subscriber.unwritten = unwritten;
        if unwritten <= self.backlog_bytes_max / 4 {
            subscriber.soft_since = None;
            return;
        }
        let since = *subscriber.soft_since.get_or_insert(now);
        if now >= since + SOFT_MILLIS {
            self.cut(seat);
        }
    }

    /// Returns the channels with a subscriber that match a pattern.
    pub fn channels<'a>(&'a self, pattern: Option<&'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
        let is_meant =
            move |name: &&[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        let [channels, _] = &self.seats;
        channels.keys().map(|name| &**name).filter(is_meant)
    }

    /// Returns the number of subscribers of a channel, those by pattern not counted.
    pub fn subscribers_of(&self, channel: &[u8]) -> usize {
        self.seats[SubscriptionKind::Channel as usize].get(channel).map_or(0, Vec::len)
    }

    pub fn patterns_len(&self) -> usize {
        self.seats[SubscriptionKind::Pattern as usize].len()
    }

    /// Returns the number of connections that subscribe to something.
    pub fn subscribers_len(&self) -> usize {
        self.subscribers.values().filter(|one| one.len() > 0).count()
    }
}

impl Subscriber {
    fn len(&self) -> usize {
        self.names.iter().map(BTreeSet::len).sum()
    }
}

fn body(words: &[&[u8]]) -> Body {
    let mut frame = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
    resp::write_array(&mut frame, words.len());
    words.iter().for_each(|word| resp::write_bulk(&mut frame, word));
    Rc::from(&frame[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    const BODY: &[u8] = b"3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n";

    #[test]
    fn a_message_is_shared_by_its_subscribers_and_nobody_elses() {
        let mut exchange = Exchange::new(10, 1000);
        assert_eq!(exchange.publish(b"a", b"1"), 0);
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Channel, b"a"), Ok(1));
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Channel, b"a"), Ok(1));
        assert_eq!(exchange.subscribe(2, SubscriptionKind::Channel, b"a"), Ok(1));
        assert_eq!(exchange.subscribe(2, SubscriptionKind::Pattern, b"?"), Ok(2));
        assert_eq!(exchange.subscribe(3, SubscriptionKind::Pattern, b"b*"), Ok(1));
        assert_eq!(exchange.publish(b"a", b"1"), 3);
        assert_eq!(std::mem::take(&mut exchange.awaiting), [1, 2]);
        let [first, second, third] = [1, 2, 3].map(|seat| exchange.take(seat));
        assert_eq!((first.len(), second.len(), third.len()), (1, 2, 0));
        assert_eq!(&*first[0], BODY);
        assert!(Rc::ptr_eq(&first[0], &second[0]));
        assert!(second[1].starts_with(b"4\r\n$8\r\npmessage\r\n$1\r\n?\r\n$1\r\na\r\n"));
        exchange.leave(2);
        assert_eq!(exchange.unsubscribe(1, SubscriptionKind::Channel, b"a"), 0);
        assert_eq!(exchange.unsubscribe(1, SubscriptionKind::Channel, b"never"), 0);
        assert_eq!(exchange.publish(b"a", b"1"), 0);
        assert_eq!((exchange.channels(None).count(), exchange.patterns_len()), (0, 1));
    }

    #[test]
    fn bounds_hold_for_names_and_their_number() {
        let mut exchange = Exchange::new(2, 1000);
        let long = [b'x'; NAME_BYTES_MAX + 1];
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Channel, &long), Err(TOO_LONG.into()));
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Channel, &long[1..]), Ok(1));
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Pattern, b"a"), Ok(2));
        assert_eq!(exchange.subscribe(1, SubscriptionKind::Channel, b"b"), Err(TOO_MANY.into()));
        assert_eq!(
            exchange.subscribe(1, SubscriptionKind::Pattern, b"a"),
            Ok(2),
            "it has that one"
        );
        assert_eq!(
            exchange.subscribe(2, SubscriptionKind::Channel, b"b"),
            Ok(1),
            "each has its own"
        );
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_cut_and_no_other() {
        let mut exchange = Exchange::new(10, 5 * BODY.len());
        for seat in [1, 2] {
            exchange.subscribe(seat, SubscriptionKind::Channel, b"a").expect("there is room");
        }
        for round in 0..20 {
            let receivers = exchange.publish(b"a", b"1");
            assert_eq!(receivers, if round < 5 { 2 } else { 1 }, "round {round}");
            exchange.take(2);
            exchange.settle(2, 0, 0);
        }
        assert_eq!(std::mem::take(&mut exchange.cut), [1]);
        assert!(exchange.take(1).is_empty());
        exchange.leave(1);
        assert_eq!(exchange.unwritten, 0);
    }

    #[test]
    fn a_subscriber_that_stays_behind_for_long_is_cut() {
        let mut exchange = Exchange::new(10, 400);
        exchange.subscribe(1, SubscriptionKind::Channel, b"a").expect("there is room");
        exchange.settle(1, 101, 0);
        exchange.settle(1, 100, 59_000);
        exchange.settle(1, 101, 59_500);
        exchange.settle(1, 200, 119_000);
        assert!(std::mem::take(&mut exchange.cut).is_empty());
        exchange.settle(1, 200, 119_500);
        assert_eq!(std::mem::take(&mut exchange.cut), [1]);
    }

    #[test]
    fn all_together_are_limited_and_subscribers_above_their_share_are_cut() {
        let mut exchange = Exchange::new(10, 100 * BODY.len());
        for seat in 0..8 {
            exchange.subscribe(seat, SubscriptionKind::Channel, b"a").expect("there is room");
        }
        exchange.subscribe(9, SubscriptionKind::Channel, b"b").expect("there is room");
        for _ in 0..90 {
            exchange.publish(b"a", b"1");
            assert!(exchange.unwritten <= SHARES * exchange.backlog_bytes_max);
        }
        assert_eq!(exchange.publish(b"b", b"1"), 1);
        assert!(!std::mem::take(&mut exchange.cut).is_empty());
        (0..10).for_each(|seat| exchange.leave(seat));
        assert_eq!(exchange.unwritten, 0);
    }

    /// Against subscriptions as a list.
    #[test]
    fn random_subscriptions_agree_with_a_list() {
        for seed in 1..300 {
            let mut random = Random::new(seed);
            let mut exchange = Exchange::new(100, usize::MAX / 8);
            let mut list: Vec<(usize, bool, Vec<u8>)> = Vec::new();
            for _ in 0..200 {
                let (seat, is_pattern) = (random.below(4), random.below(2) == 0);
                let length = random.below(3);
                let name: Vec<u8> = (0..length).map(|_| random.choose(b"ab*?")).collect();
                let kind =
                    if is_pattern { SubscriptionKind::Pattern } else { SubscriptionKind::Channel };
                let entry = (seat, is_pattern, name.clone());
                match random.below(5) {
                    0 => {
                        exchange.unsubscribe(seat, kind, &name);
                        list.retain(|other| *other != entry);
                    }
                    1 if random.below(5) == 0 => {
                        exchange.leave(seat);
                        list.retain(|other| other.0 != seat);
                    }
                    1 | 2 => {
                        exchange.subscribe(seat, kind, &name).expect("there is room");
                        if !list.contains(&entry) {
                            list.push(entry);
                        }
                    }
                    _ => {
                        let receives = |(_, is_pattern, own): &&(usize, bool, Vec<u8>)| {
                            if *is_pattern { glob::matches(own, &name) } else { *own == name }
                        };
                        let receivers = exchange.publish(&name, b"1");
                        assert_eq!(receivers, list.iter().filter(receives).count(), "seed {seed}");
                    }
                }
                let own = list.iter().filter(|other| other.0 == seat).count();
                assert_eq!(exchange.count(seat), own, "seed {seed}");
            }
        }
    }
}
