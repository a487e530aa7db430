//! The table of topics against a naive Redis, from seeds, and byte by byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::engine::random::Random;

fn settings(connections: usize) -> DemandSettings {
    DemandSettings {
        prefix: "pub.".to_owned(),
        connections,
        linger: 60_000,
        timeout: 5000,
        own: vec!["pub.control".to_owned()],
    }
}

fn change(key: &str, is_wanted: bool) -> KeyChange {
    KeyChange { key: KeyName::new(key), is_wanted }
}

fn commands(demand: &mut Demand, number: usize, now: Millis) -> String {
    let mut output = Vec::new();
    demand.write_commands(number, &mut output, now);
    String::from_utf8(output).unwrap()
}

#[test]
fn a_topic_is_subscribed_to_marked_and_given_up() {
    let mut demand = Demand::new(settings(1));
    demand.on_change(change("a", true), 0);
    demand.on_change(change("room.7\u{1}", true), 0);
    assert_eq!(commands(&mut demand, 0, 0), "", "there is no connection");
    assert!(demand.is_settled("a"), "nobody waits for Redis while it is away");
    demand.on_up(0);
    assert!(!demand.is_settled("a"));
    assert_eq!(commands(&mut demand, 0, 0), "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\npub.a\r\n");
    assert_eq!(commands(&mut demand, 0, 0), "");
    assert_eq!((demand.acknowledged_by(0), demand.pending_len()), (Some(5000), 1));
    assert!(!demand.are_shares_whole() && !demand.hears(0, b"pub.a", false));
    demand.on_subscribed(0, b"pub.a");
    assert!(!demand.hears(0, b"pub.a", false), "what was missed is not reported yet");
    assert_eq!((demand.take_whole(), demand.take_whole()), (Some(0), None));
    assert!(demand.are_shares_whole() && demand.hears(0, b"pub.a", false));
    assert_eq!((demand.held_from("a"), demand.acknowledged_by(0)), (None, None));
    assert!(!demand.is_settled("a") && demand.is_mark_due(MARK_PAUSE));
    demand.mark(7, 100);
    assert!(demand.is_settled("a"));
    assert_eq!(demand.held_from("a"), Some(7));
    for unheard in ["pub.b", "a", "pub.", "pub.control", "other"] {
        assert!(!demand.hears(0, unheard.as_bytes(), false), "{unheard}");
    }
    demand.on_change(change("a", false), 1000);
    demand.expire(1000);
    assert_eq!(commands(&mut demand, 0, 1000), "");
    assert_eq!(demand.deadline(1000), Some(61_000));
    demand.expire(61_000);
    assert_eq!(commands(&mut demand, 0, 61_000), "*2\r\n$11\r\nUNSUBSCRIBE\r\n$5\r\npub.a\r\n");
    demand.on_change(change("a", true), 61_000);
    assert!(!demand.hears(0, b"pub.a", false), "nobody is promised what still comes");
    assert_eq!(demand.held_from("a"), None, "they may not be all");
    assert!(demand.on_unsubscribed(0, b"pub.a"));
    assert_eq!(commands(&mut demand, 0, 61_000), "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\npub.a\r\n");
    demand.on_subscribed(0, b"pub.a");
    assert!(!demand.on_unsubscribed(0, b"pub.a"), "nobody asked for that");
}

#[test]
fn a_pattern_ends_behind_the_start_of_the_names_that_replace_it() {
    let everything = "room.\0";
    let mut demand = Demand::new(DemandSettings { linger: 0, ..settings(1) });
    demand.on_up(0);
    demand.on_change(change(everything, true), 0);
    assert_eq!(commands(&mut demand, 0, 0), "*2\r\n$10\r\nPSUBSCRIBE\r\n$5\r\npub.*\r\n");
    assert!(demand.on_everything(0, true));
    demand.on_change(change("a", true), 0);
    demand.on_change(change(everything, false), 0);
    let both =
        "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\npub.a\r\n*2\r\n$12\r\nPUNSUBSCRIBE\r\n$5\r\npub.*\r\n";
    assert_eq!(commands(&mut demand, 0, 0), both);
    demand.on_subscribed(0, b"pub.a");
    // The pattern is wanted again, in place of the name, before its end is acknowledged.
    demand.on_change(change(everything, true), 0);
    demand.on_change(change("a", false), 0);
    demand.expire(0);
    assert!(!demand.has_commands(0));
    assert_eq!(commands(&mut demand, 0, 0), "", "the name brings its messages until then");
    assert!(demand.on_everything(0, false) && demand.has_commands(0));
    let both =
        "*2\r\n$10\r\nPSUBSCRIBE\r\n$5\r\npub.*\r\n*2\r\n$11\r\nUNSUBSCRIBE\r\n$5\r\npub.a\r\n";
    assert_eq!(commands(&mut demand, 0, 0), both);
    // The name is wanted again, in place of the pattern, before its own end is acknowledged.
    assert!(demand.on_everything(0, true));
    demand.on_change(change("a", true), 0);
    demand.on_change(change(everything, false), 0);
    assert_eq!(commands(&mut demand, 0, 0), "", "the pattern brings its messages until then");
    assert!(demand.on_unsubscribed(0, b"pub.a"));
    let both =
        "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\npub.a\r\n*2\r\n$12\r\nPUNSUBSCRIBE\r\n$5\r\npub.*\r\n";
    assert_eq!(commands(&mut demand, 0, 0), both);
}

#[test]
fn batches_are_bounded_and_those_who_wait_come_first() {
    let mut demand = Demand::new(settings(1));
    let count = 3 * share::UNACKNOWLEDGED_MAX;
    for number in 0..count {
        demand.on_change(change(&format!("t.{number}"), true), 0);
    }
    demand.on_up(0);
    let first = commands(&mut demand, 0, 0);
    assert_eq!(first.matches("SUBSCRIBE").count(), 8);
    assert!(first.starts_with("*513\r\n$9\r\nSUBSCRIBE\r\n"));
    assert_eq!(demand.pending_len(), share::UNACKNOWLEDGED_MAX);
    demand.on_change(change("late", true), 0);
    assert_eq!(commands(&mut demand, 0, 0), "", "Redis has enough to do");
    let names = first.lines().filter(|line| line.starts_with("pub."));
    names.for_each(|name| demand.on_subscribed(0, name.as_bytes()));
    let second = commands(&mut demand, 0, 0);
    assert_eq!(second.lines().find(|line| line.starts_with("pub.")), Some("pub.late"));
    assert!(!demand.are_shares_whole());
    let mut left = second;
    while !left.is_empty() {
        let names = left.lines().filter(|line| line.starts_with("pub."));
        names.for_each(|name| demand.on_subscribed(0, name.as_bytes()));
        left = commands(&mut demand, 0, 0);
    }
    assert_eq!(demand.take_whole(), Some(0));
    assert!(demand.are_shares_whole());
    assert_eq!(demand.counts.subscribed, count as u64 + 1);
    demand.on_down(0);
    assert_eq!((demand.held_from("late"), demand.pending_len()), (None, 0));
    assert!(!demand.hears(0, b"pub.late", false) && demand.is_settled("late"));
}

#[test]
fn a_topic_is_forty_eight_bytes() {
    assert_eq!(size_of::<Option<table::DemandTopic>>(), 48);
}

/// The replies and messages of a Redis on one connection.
enum Sent {
    Acknowledged { is_pattern: bool, is_added: bool, channel: String },
    Message { channel: String, by_pattern: bool, number: u64 },
}

#[derive(Default)]
struct Connection {
    is_up: bool,
    channels: BTreeSet<String>,
    has_pattern: bool,
    sent: VecDeque<Sent>,
}

impl Connection {
    fn obey(&mut self, commands: &str) {
        let words = commands.split("\r\n").filter(|word| !word.starts_with(['*', '$']));
        let mut verb = String::new();
        for word in words.filter(|word| !word.is_empty()) {
            if !word.starts_with("pub.") {
                verb = word.to_owned();
                continue;
            }
            let (is_pattern, is_added) = (verb.starts_with('P'), !verb.contains("UN"));
            let channel = word.to_owned();
            match (is_pattern, is_added) {
                (true, _) => self.has_pattern = is_added,
                (false, true) => _ = self.channels.insert(channel.clone()),
                (false, false) => _ = self.channels.remove(&channel),
            }
            self.sent.push_back(Sent::Acknowledged { is_pattern, is_added, channel });
        }
    }
}

/// A world of topics that come and go, and of connections that break.
struct World {
    random: Random,
    demand: Demand,
    connections: Vec<Connection>,
    now: Millis,
    /// Steps so far.
    step: usize,
    /// The number of the latest record in the history.
    latest: u64,
    published: u64,
    /// Messages that were published and not yet heard, with their topics, and when.
    under_way: BTreeMap<u64, (String, usize)>,
    /// When the latest of a topic's messages was published that were lost.
    lost: BTreeMap<String, usize>,
    /// The marks in the history, and when they were made.
    marks: BTreeMap<u64, usize>,
    /// Hubs in which a key has a subscriber.
    wanted: BTreeMap<String, [bool; 2]>,
    /// The key by which a client has `room.2`, and the step since which it may miss nothing of that: it changes from the name to the
    /// pattern and back, as with newer tokens.
    kept_by: &'static str,
    kept_since: Option<usize>,
    kept: usize,
    heard: usize,
    resumed: usize,
}

const KEYS: [&str; 8] = ["a", "b", "room.1", "room.2", "room.3", "user.42", "room.\0", "\0"];

/// The topic that one client has all the time.
const KEPT: &str = "room.2";

impl World {
    fn settle(&mut self) {
        while self.demand.take_whole().is_some() {}
        self.demand.expire(self.now);
        if self.demand.is_mark_due(self.now) {
            self.latest += 1;
            self.marks.insert(self.latest, self.step);
            self.demand.mark(self.latest, self.now);
        }
        for (number, connection) in self.connections.iter_mut().enumerate() {
            let commands = commands(&mut self.demand, number, self.now);
            if connection.is_up {
                connection.obey(&commands);
            }
        }
    }

    fn publish(&mut self) {
        let topic = self.random.choose(&KEYS[..6]);
        self.published += 1;
        let (number, channel) = (self.published, format!("pub.{topic}"));
        self.under_way.insert(number, (topic.to_owned(), self.step));
        for connection in &mut self.connections {
            for by_pattern in [false, true] {
                let is_for_it = match by_pattern {
                    false => connection.channels.contains(&channel),
                    true => connection.has_pattern,
                };
                if is_for_it {
                    let channel = channel.clone();
                    connection.sent.push_back(Sent::Message { channel, by_pattern, number });
                }
            }
        }
        self.check_lost(number);
    }

    fn lose(&mut self, number: u64) {
        if let Some((topic, published)) = self.under_way.remove(&number) {
            let lost = self.lost.entry(topic).or_default();
            *lost = published.max(*lost);
        }
    }

    /// Nobody can bring this message any more, and nobody did.
    fn check_lost(&mut self, number: u64) {
        let Some((topic, _)) = self.under_way.get(&number) else { return };
        // Copies on other connections do not count.
        let mut sent = self.connections[self.demand.share_of(topic)].sent.iter();
        let is_left =
            sent.any(|sent| matches!(sent, Sent::Message { number: of, .. } if *of == number));
        if !is_left {
            self.lose(number);
        }
    }

    fn receive(&mut self, at: usize, most: usize, case: &str) {
        for _ in 0..most {
            let Some(sent) = self.connections[at].sent.pop_front() else { return };
            match sent {
                Sent::Acknowledged { is_pattern: true, is_added, .. } => {
                    assert!(self.demand.on_everything(at, is_added), "{case}");
                }
                Sent::Acknowledged { is_added: true, channel, .. } => {
                    self.demand.on_subscribed(at, channel.as_bytes());
                }
                Sent::Acknowledged { channel, .. } => {
                    assert!(self.demand.on_unsubscribed(at, channel.as_bytes()), "{case}");
                }
                Sent::Message { channel, by_pattern, number } => {
                    if self.demand.hears(at, channel.as_bytes(), by_pattern) {
                        let topic = self.under_way.remove(&number);
                        assert!(topic.is_some(), "{case}: {channel} was heard twice");
                        self.latest += 1;
                        self.heard += 1;
                    } else if self.demand.share_of(&channel["pub.".len()..]) == at {
                        self.check_lost(number);
                    }
                }
            }
        }
    }

    fn cut(&mut self, at: usize) {
        let gone = std::mem::take(&mut self.connections[at]);
        if gone.is_up {
            self.demand.on_down(at);
        }
        for sent in gone.sent {
            if let Sent::Message { number, .. } = sent {
                self.check_lost(number);
            }
        }
    }

    /// Lost messages of a topic were published before the mark from which on it is said to be held: a client with that mark knows.
    fn check(&mut self, case: &str) {
        for topic in &KEYS[..6] {
            let Some(from) = self.demand.held_from(topic) else { continue };
            let lost = self.lost.get(*topic).copied().unwrap_or(0);
            assert!(lost <= self.marks[&from], "{case}: {topic} from {from} on is not held");
            self.resumed += 1;
        }
    }

    /// A client that has a topic all the time, by whichever key, misses nothing but what a lost connection takes along.
    fn check_kept(&mut self, case: &str) {
        let is_held = self.demand.is_settled(self.kept_by) && self.demand.are_shares_whole();
        match self.kept_since {
            None if is_held => self.kept_since = Some(self.step),
            None => {}
            Some(since) => {
                let lost = self.lost.get(KEPT).copied().unwrap_or(0);
                assert!(lost <= since, "{case}: a message is missing without a gap");
            }
        }
    }

    fn change_kept(&mut self) {
        let before = self.kept_by;
        self.kept_by = if before == KEPT { "room.\0" } else { KEPT };
        self.demand.on_change(change(self.kept_by, true), self.now);
        self.demand.on_change(change(before, false), self.now);
        self.kept += usize::from(self.kept_since.is_some());
    }

    fn act(&mut self, case: &str) {
        self.step += 1;
        self.now += self.random.below(20) as Millis;
        let at = self.random.below(self.connections.len());
        match self.random.below(40) {
            0..=11 => {
                let (key, hub) = (self.random.choose(&KEYS), self.random.below(2));
                // Few patterns, so that names count.
                if key.ends_with('\0') && self.random.below(3) > 0 {
                    return;
                }
                let wanted = &mut self.wanted.entry(key.to_owned()).or_default()[hub];
                *wanted = !*wanted;
                let is_wanted = *wanted;
                self.demand.on_change(change(key, is_wanted), self.now);
            }
            12..=21 => self.publish(),
            22..=31 => {
                let most = self.random.below(6);
                self.receive(at, most, case);
            }
            32 if !self.connections[at].is_up => {
                self.connections[at].is_up = true;
                self.demand.on_up(at);
            }
            33 if self.random.below(8) == 0 => {
                self.kept_since = None;
                self.cut(at);
            }
            33 | 34 if self.random.below(2) == 0 => self.change_kept(),
            34 => self.now += self.random.below(2) as Millis * 2000,
            _ => self.settle(),
        }
    }
}

#[test]
fn nothing_is_heard_twice_and_what_is_held_is_whole() {
    let (mut heard, mut resumed, mut kept) = (0, 0, 0);
    for seed in 1..=300 {
        let mut random = Random::new(seed);
        let connections = 1 + random.below(3);
        let linger = 1000 * random.below(3) as Millis;
        let mut world = World {
            demand: Demand::new(DemandSettings { linger, ..settings(connections) }),
            connections: (0..connections).map(|_| Connection::default()).collect(),
            random,
            now: 0,
            step: 0,
            latest: 100,
            published: 0,
            under_way: BTreeMap::new(),
            lost: BTreeMap::new(),
            marks: BTreeMap::new(),
            wanted: BTreeMap::new(),
            kept_by: KEPT,
            kept_since: None,
            kept: 0,
            heard: 0,
            resumed: 0,
        };
        world.demand.on_change(change(KEPT, true), 0);
        for step in 0..600 {
            let case = format!("seed {seed}, step {step}");
            world.act(&case);
            world.check(&case);
            world.check_kept(&case);
        }
        world.demand.on_change(change(world.kept_by, false), world.now);
        // Redis is left alone: in the end it knows what is wanted, and nothing else.
        for at in 0..connections {
            if !world.connections[at].is_up {
                world.connections[at].is_up = true;
                world.demand.on_up(at);
            }
        }
        for _ in 0..40 {
            world.now += 1000;
            world.settle();
            (0..connections).for_each(|at| world.receive(at, usize::MAX, "the end"));
        }
        let wanted = |key: &str| world.wanted.get(key).is_some_and(|hubs| hubs.contains(&true));
        let channels: BTreeSet<String> =
            world.connections.iter().flat_map(|one| one.channels.clone()).collect();
        let expected: BTreeSet<String> =
            KEYS[..6].iter().filter(|key| wanted(key)).map(|key| format!("pub.{key}")).collect();
        assert_eq!(channels, expected, "seed {seed}");
        let has_pattern = KEYS[6..].iter().any(|key| wanted(key));
        assert!(world.connections.iter().all(|one| one.has_pattern == has_pattern), "seed {seed}");
        assert_eq!(world.demand.topics_len(), expected.len(), "seed {seed}: nothing else is kept");
        assert_eq!(world.demand.pending_len(), 0, "seed {seed}");
        assert!(world.demand.are_shares_whole(), "seed {seed}");
        assert!(world.under_way.is_empty(), "seed {seed}");
        heard += world.heard;
        resumed += world.resumed;
        kept += world.kept;
    }
    assert!(heard > 5000 && resumed > 5000 && kept > 1000, "{heard} {resumed} {kept}");
}
