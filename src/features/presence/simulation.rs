//! Nodes, users and a Redis in a world that is told from a seed: answers are lost, calls come late, nodes die and freeze, Redis
//! goes away and comes back, with its data or without.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::simulated_redis::SimulatedRedis;
use super::{Attempt, Presence, Reply, ReportUse, Settings};
use crate::clock::Millis;
use crate::engine::random::Random;
use crate::engine::redis::sink::Sink;

/// Of whom nothing is heard but that it came: it stays connected to a node that nothing happens to.
const BYSTANDER: &str = "bystander";

const USERS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];

/// Faults and users' moves end here.
const CALM_AT: Millis = EPOCH + 240_000;

/// By then all that they left is cleared up.
const END_AT: Millis = CALM_AT + 120_000;

/// The clock of Redis begins here, the nodes' own at 0.
const EPOCH: Millis = 1_000_000_000_000;

/// The events that may happen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Users come and go.
    Fair,
    /// Everything, but Redis keeps its data.
    Foul,
    /// Redis loses data, too.
    Loss,
}

struct Node {
    presence: Presence,
    connections: BTreeMap<&'static str, u32>,
    frozen_until: Millis,
    /// Its last attempt failed.
    has_failed: bool,
}

/// The work under way.
enum Letter {
    Call { node: usize, attempt: u64, words: Vec<Vec<u8>>, is_answered: bool },
    Answer { node: usize, attempt: u64, reply: Reply },
}

struct World {
    random: Random,
    weather: Weather,
    now: Millis,
    wait: Millis,
    redis: SimulatedRedis,
    /// As it was some time ago.
    saved: SimulatedRedis,
    redis_up_at: Millis,
    next_outage: Millis,
    /// How far the clock of Redis was set.
    skew: Millis,
    nodes: BTreeMap<usize, Node>,
    born: usize,
    letters: Vec<(Millis, Letter)>,
    /// When each user came and left, over all nodes: kept up in fair weather.
    stays: HashMap<&'static str, Vec<(Millis, Millis)>>,
    renewals: usize,
}

impl World {
    fn new(seed: u64, weather: Weather) -> World {
        let mut random = Random::new(seed);
        let wait = match weather {
            Weather::Fair => 2500,
            _ => random.choose(&[0, 2500, 10_000]),
        };
        let mut world = World {
            random,
            weather,
            now: EPOCH,
            wait,
            redis: SimulatedRedis::default(),
            saved: SimulatedRedis::default(),
            redis_up_at: 0,
            next_outage: EPOCH + 30_000,
            skew: 0,
            nodes: BTreeMap::new(),
            born: 0,
            letters: Vec::new(),
            stays: HashMap::new(),
            renewals: 0,
        };
        (0..3).for_each(|_| world.start_node());
        world.connect(0, BYSTANDER);
        world
    }

    fn start_node(&mut self) {
        let presence = Presence::new(
            &format!("node{}", self.born),
            Settings {
                report: ReportUse::Events { sink: Sink::Stream("evt".into()), entries_max: 1000 },
                wait: self.wait,
                waiting_max: 100,
                batch_max: 2,
            },
        );
        let connections = BTreeMap::new();
        let node = Node { presence, connections, frozen_until: 0, has_failed: false };
        self.nodes.insert(self.born, node);
        self.born += 1;
    }

    fn connect(&mut self, node: usize, sub: &'static str) {
        if !self.is_here(sub) {
            self.stays.entry(sub).or_default().push((self.now, Millis::MAX));
        }
        let node = self.nodes.get_mut(&node).expect("it lives");
        node.presence.came(sub);
        *node.connections.entry(sub).or_default() += 1;
    }

    fn disconnect(&mut self, number: usize, sub: &'static str) {
        let now = self.now;
        let node = self.nodes.get_mut(&number).expect("it lives");
        assert!(!node.presence.left(sub, now), "nobody's wait is cut short");
        let connections = node.connections.get_mut(sub).expect("it is connected");
        *connections -= 1;
        if *connections == 0 {
            node.connections.remove(sub);
        }
        if !self.is_here(sub) {
            self.stays.get_mut(sub).expect("it came").last_mut().expect("it came").1 = now;
        }
    }

    fn is_here(&self, sub: &str) -> bool {
        self.nodes.values().any(|node| node.connections.contains_key(sub))
    }

    /// The users that are connected.
    fn here(&self) -> BTreeSet<&str> {
        self.nodes.values().flat_map(|node| node.connections.keys().copied()).collect()
    }

    fn run(&mut self) {
        while self.now < END_AT {
            let is_calm = self.now >= CALM_AT;
            if !is_calm {
                (0..self.random.below(3)).for_each(|_| self.move_user());
                if self.weather != Weather::Fair {
                    self.strike();
                }
            }
            self.advance_to(self.now + 1000);
        }
    }

    /// A user connects or leaves. Moves stand a whole number of seconds apart.
    fn move_user(&mut self) {
        let awake: Vec<usize> = self
            .nodes
            .iter()
            .filter(|(_, node)| self.now >= node.frozen_until)
            .map(|(number, _)| *number)
            .collect();
        let number = self.random.choose(&awake);
        let sub = self.random.choose(&USERS);
        let is_connected = self.nodes[&number].connections.contains_key(sub);
        if is_connected && self.random.below(3) > 0 {
            self.disconnect(number, sub);
        } else {
            self.connect(number, sub);
        }
    }

    /// Something goes wrong, or not. Node 0 is spared.
    fn strike(&mut self) {
        let number = 1 + self.random.below(self.born - 1);
        match self.random.below(120) {
            0 => {
                self.nodes.remove(&number);
            }
            1 | 2 if self.nodes.len() < 4 => self.start_node(),
            3 => {
                let until = self.now + self.random.below(60_000) as Millis;
                if let Some(node) = self.nodes.get_mut(&number) {
                    node.frozen_until = until;
                }
            }
            4 => self.skew = self.random.below(10_000_000) as Millis,
            5..10 if self.now >= self.next_outage => self.outage(),
            _ => {}
        }
    }

    /// Redis goes away. A time at whose end the nodes are just alive, or just not, is not tried.
    fn outage(&mut self) {
        let lasts = match self.random.below(2) {
            0 => self.random.below(3000),
            _ => 9000 + self.random.below(50_000),
        };
        self.redis_up_at = self.now + lasts as Millis;
        self.next_outage = self.redis_up_at + 30_000;
        if self.weather == Weather::Loss {
            self.redis = match self.random.below(2) {
                0 => SimulatedRedis::default(),
                _ => self.saved.clone(),
            };
        }
    }

    fn advance_to(&mut self, until: Millis) {
        loop {
            self.tick_nodes();
            let letters = self.letters.iter().map(|(at, _)| *at);
            let nodes = self
                .nodes
                .values()
                .map(|node| (node.presence.deadline()).max(node.frozen_until).max(self.now));
            let next = letters.chain(nodes).min().unwrap_or(until);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            self.deliver();
        }
    }

    fn tick_nodes(&mut self) {
        let now = self.now;
        let mut sent = Vec::new();
        for (number, node) in &mut self.nodes {
            while now >= node.frozen_until
                && let Some(attempt) = node.presence.tick(now)
            {
                sent.push((*number, attempt));
            }
        }
        sent.into_iter().for_each(|(node, attempt)| self.send(node, attempt));
    }

    /// A call goes its way, or does not. What fails on node 0 does not fail twice.
    fn send(&mut self, node: usize, attempt: Attempt) {
        let Attempt { number: attempt, words } = attempt;
        let is_stormy = self.weather != Weather::Fair && self.now < CALM_AT;
        let has_failed = &mut self.nodes.get_mut(&node).expect("it lives").has_failed;
        let fate = if is_stormy && !*has_failed { self.random.below(12) } else { 11 };
        *has_failed = node == 0 && fate < 4;
        let soon = self.now + 1 + self.random.below(10) as Millis;
        let later = soon + self.random.below(2000) as Millis;
        let failed = Letter::Answer { node, attempt, reply: Reply::Failed };
        let call = |is_answered| Letter::Call { node, attempt, words, is_answered };
        match fate {
            0 => self.letters.push((later, failed)),
            1 => self.letters.extend([(soon, call(false)), (later, failed)]),
            2 => {
                let late = soon + self.random.below(8000) as Millis;
                self.letters.extend([(soon, failed), (late, call(false))]);
            }
            3 if node != 0 => self.letters.push((later, call(false))),
            _ => self.letters.push((soon, call(true))),
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let Some(at) = self.letters.iter().position(|(at, _)| *at <= now) else { return };
        match self.letters.swap_remove(at).1 {
            Letter::Call { node, attempt, words, is_answered } => {
                let reply = match now >= self.redis_up_at {
                    true => self.redis.execute(&words, now + self.skew),
                    false => Reply::Failed,
                };
                if self.random.below(20) == 0 {
                    self.saved = self.redis.clone();
                }
                if is_answered {
                    let at = now + 1 + self.random.below(10) as Millis;
                    self.letters.push((at, Letter::Answer { node, attempt, reply }));
                }
            }
            Letter::Answer { node: number, attempt, reply } => {
                let Some(node) = self.nodes.get_mut(&number) else { return };
                if now < node.frozen_until {
                    let letter = Letter::Answer { node: number, attempt, reply };
                    return self.letters.push((node.frozen_until, letter));
                }
                let is_current = node.presence.on_reply(attempt, reply, now);
                self.renewals += usize::from(is_current && reply == Reply::Unknown);
            }
        }
    }

    /// In the end Redis holds who is connected to whom, and nothing else.
    fn check_end(&self, seed: u64) {
        let here: BTreeSet<&str> = self.redis.here.keys().map(String::as_str).collect();
        assert_eq!(here, self.here(), "seed {seed}");
        for (sub, count) in &self.redis.here {
            let on = self.nodes.values().filter(|node| node.connections.contains_key(&**sub));
            assert_eq!(*count as usize, on.count(), "seed {seed}: {sub}");
        }
        assert_eq!(self.redis.nodes.len(), self.nodes.len(), "seed {seed}");
        assert_eq!(self.redis.calls.len(), self.nodes.len(), "seed {seed}");
        for node in self.nodes.values() {
            assert_eq!(node.presence.users_len(), node.connections.len(), "seed {seed}");
        }
    }

    /// Online and offline by turns, each with the right count.
    fn check_turns(&self, seed: u64) {
        let mut online = BTreeSet::new();
        for event in &self.redis.events {
            let is_turn = match event.is_online {
                true => online.insert(&event.sub),
                false => online.remove(&event.sub),
            };
            assert!(is_turn, "seed {seed}: {event:?}");
            assert_eq!(event.users, online.len(), "seed {seed}: {event:?}");
        }
        let online: BTreeSet<&str> = online.iter().map(|sub| sub.as_str()).collect();
        assert_eq!(online, self.here(), "seed {seed}");
    }

    fn check_bystander(&self, seed: u64) {
        let of_bystander = self.redis.events.iter().filter(|event| event.sub == BYSTANDER);
        assert_eq!(of_bystander.count(), 1, "seed {seed}");
    }

    /// Each event in its time, and no other.
    fn check_times(&self, seed: u64) {
        for sub in USERS {
            let mut expected: Vec<(Millis, bool)> = Vec::new();
            for (came, left) in self.stays.get(sub).into_iter().flatten() {
                let gone = left.saturating_add(self.wait);
                if expected.last().is_some_and(|(until, _)| until >= came) {
                    expected.pop();
                } else {
                    expected.push((*came, true));
                }
                expected.push((gone, false));
            }
            expected.retain(|(at, _)| *at != Millis::MAX);
            let told = self.redis.events.iter().filter(|event| event.sub == sub);
            let told: Vec<(Millis, bool)> = told.map(|event| (event.at, event.is_online)).collect();
            let agree = told.len() == expected.len()
                && told.iter().zip(&expected).all(|(told, expected)| {
                    told.1 == expected.1 && (expected.0..expected.0 + 200).contains(&told.0)
                });
            assert!(agree, "seed {seed}: {sub}: {told:?} for {expected:?}");
        }
    }
}

#[test]
fn each_transition_is_told_once_and_in_time() {
    for seed in 1..300 {
        let mut world = World::new(seed, Weather::Fair);
        world.run();
        world.check_times(seed);
        world.check_turns(seed);
        world.check_bystander(seed);
        world.check_end(seed);
    }
}

#[test]
fn events_alternate_whatever_fails() {
    let mut renewals = 0;
    for seed in 0..2000 {
        let mut world = World::new(seed, Weather::Foul);
        world.run();
        world.check_turns(seed);
        world.check_bystander(seed);
        world.check_end(seed);
        renewals += world.renewals;
    }
    assert!(renewals > 1000, "nodes were taken for dead and came back: {renewals}");
}

#[test]
fn what_redis_lost_is_told_again() {
    let mut renewals = 0;
    for seed in 1..500 {
        let mut world = World::new(seed, Weather::Loss);
        world.run();
        // Its stream lost as much, so the two agree.
        world.check_turns(seed);
        world.check_end(seed);
        renewals += world.renewals;
    }
    assert!(renewals > 1000, "it lost something: {renewals}");
}
