//! The hub against a naive model, from seeds.

use super::*;
use crate::engine::random::Random;
use std::collections::{BTreeMap, BTreeSet};

fn subscribers(hub: &Hub, name: &str) -> BTreeSet<u32> {
    hub.subscribers(hub.find(name).unwrap_or(NONE)).collect()
}

fn compare(seed: u64, topics: usize, clients: usize, steps: usize) {
    let mut random = Random::new(seed);
    let mut hub = Hub::default();
    let mut of: Vec<Subscriptions> = (0..clients).map(|_| Subscriptions::default()).collect();
    let mut model: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for step in 0..steps {
        let client = random.below(clients) as u32;
        let name = format!("topic.{}", random.below(topics));
        let mine = &mut of[client as usize];
        match random.below(if step > steps / 2 { 12 } else { 8 }) {
            0..=4 => {
                let joined = hub.subscribe(client, mine, &name, Reason::Asked);
                assert_eq!(joined, model.entry(name).or_default().insert(client), "seed {seed}");
            }
            5..=7 => {
                let left = hub.unsubscribe(mine, &name);
                let was = model.get_mut(&name).is_some_and(|members| members.remove(&client));
                assert_eq!(left, was, "seed {seed}");
            }
            _ => {
                hub.unsubscribe_all(mine);
                assert_eq!(hub.topics(mine).count(), 0, "seed {seed}");
                model.values_mut().for_each(|members| {
                    members.remove(&client);
                });
            }
        }
        if step % 64 == 0 {
            let name = format!("topic.{}", random.below(topics));
            let expected = model.get(&name).cloned().unwrap_or_default();
            let topic = hub.find(&name).unwrap_or(NONE);
            assert_eq!(hub.subscribers_len(topic), expected.len(), "seed {seed}");
            assert_eq!(hub.is_large(topic), expected.len() > LARGE_TOPIC, "seed {seed}");
            assert_eq!(subscribers(&hub, &name), expected, "seed {seed}");
        }
    }
    model.retain(|_, members| !members.is_empty());
    assert_eq!(hub.topics_len(), model.len(), "seed {seed}");
    assert_eq!(hub.subscriptions_len(), model.values().map(BTreeSet::len).sum::<usize>());
    for (name, expected) in &model {
        assert_eq!(&subscribers(&hub, name), expected, "seed {seed}");
    }
    for mine in &mut of {
        hub.unsubscribe_all(mine);
    }
    assert_eq!((hub.topics_len(), hub.subscriptions_len()), (0, 0), "seed {seed}: nothing is left");
    assert_eq!(hub.large_topics.capacity(), 0, "seed {seed}");
}

#[test]
fn agrees_with_a_map_from_seeds() {
    for seed in 1..=20 {
        compare(seed, 1 + seed as usize * 7, 1 + seed as usize * 3, 3_000);
    }
    compare(4711, 8_000, 2_000, 20_000);
    compare(4712, 3, 200, 20_000);
}

#[test]
fn a_reason_is_kept_and_changed() {
    let mut hub = Hub::default();
    let mut mine = Subscriptions::default();
    assert!(hub.subscribe(1, &mut mine, "news", Reason::Granted));
    assert!(!hub.subscribe(1, &mut mine, "news", Reason::Asked));
    assert_eq!(hub.reason(&mine, "news"), Some(Reason::Granted));
    hub.set_reason(&mine, "news", Reason::Asked);
    assert_eq!(hub.reason(&mine, "news"), Some(Reason::Asked));
    assert_eq!(hub.reason(&mine, "olds"), None);
}

#[test]
fn the_tables_are_as_small_as_the_readme_counts_them() {
    assert_eq!(size_of::<Link>(), 24);
    assert_eq!(size_of::<Topic>(), 32);
}

/// A walk visits each remaining subscriber once, even if others come and go meanwhile.
#[test]
fn a_walk_meets_everyone_who_stays() {
    for seed in 1..=200 {
        let mut random = Random::new(seed);
        let mut hub = Hub::default();
        let mut of: Vec<Subscriptions> = (0..100).map(|_| Subscriptions::default()).collect();
        for client in 0..80 {
            hub.subscribe(client, &mut of[client as usize], "news", Reason::Asked);
        }
        let mut stay: BTreeSet<u32> = (0..80).collect();
        let mut visited = Vec::new();
        hub.begin_walk(hub.find("news").unwrap());
        while let Some(client) = hub.walk_on() {
            visited.push(client);
            for _ in 0..random.below(4) {
                let other = random.below(100) as u32;
                if hub.unsubscribe(&mut of[other as usize], "news") {
                    stay.remove(&other);
                } else {
                    hub.subscribe(other, &mut of[other as usize], "news", Reason::Asked);
                }
            }
        }
        let once: BTreeSet<u32> = visited.iter().copied().collect();
        assert_eq!(once.len(), visited.len(), "seed {seed}: visited twice");
        assert!(stay.is_subset(&once), "seed {seed}: not visited");
        assert!(once.iter().all(|client| *client < 80), "seed {seed}: subscribed later");
    }
}

#[test]
fn bytes_are_freed_with_subscriptions_and_counted_for_each_client() {
    let mut hub = Hub::default();
    let (mut one, mut other) = (Subscriptions::default(), Subscriptions::default());
    let long = "room.".repeat(20);
    hub.subscribe(1, &mut one, "news", Reason::Granted);
    let short = hub.held_bytes();
    hub.subscribe(1, &mut one, &long, Reason::Asked);
    assert!(hub.held_bytes() - short >= short + long.len());
    assert_eq!(hub.held_bytes_of(&one), hub.held_bytes(), "the topic has no other subscriber");
    hub.subscribe(2, &mut other, &long, Reason::Asked);
    assert_eq!(hub.held_bytes_of(&other), LINK_BYTES, "the topic remains without it");
    hub.unsubscribe_all(&mut one);
    assert_eq!(hub.held_bytes_of(&other), hub.held_bytes());
    hub.unsubscribe_all(&mut other);
    assert_eq!(hub.held_bytes(), 0);
}
