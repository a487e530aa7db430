//! The hub against a naive model, from seeds.

use super::*;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};

fn compare(seed: u64, topics: usize, clients: usize, steps: usize) {
    let mut random = Random::new(seed);
    let mut hub = Hub::default();
    let mut of: Vec<Memberships> = (0..clients).map(|_| Memberships::default()).collect();
    let mut model: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for step in 0..steps {
        let client = random.below(clients) as u32;
        let name = format!("topic.{}", random.below(topics));
        let mine = &mut of[client as usize];
        match random.below(if step > steps / 2 { 12 } else { 8 }) {
            0..=4 => {
                let joined = hub.join(client, mine, &name, Reason::Asked);
                assert_eq!(joined, model.entry(name).or_default().insert(client), "seed {seed}");
            }
            5..=7 => {
                let left = hub.leave(mine, &name);
                let was = model.get_mut(&name).is_some_and(|members| members.remove(&client));
                assert_eq!(left, was, "seed {seed}");
            }
            _ => {
                hub.leave_all(mine);
                assert_eq!(hub.topics(mine).count(), 0, "seed {seed}");
                model.values_mut().for_each(|members| {
                    members.remove(&client);
                });
            }
        }
        if step % 64 == 0 {
            let name = format!("topic.{}", random.below(topics));
            let members = hub.members(&name);
            let expected = model.get(&name).cloned().unwrap_or_default();
            assert!(!members.are_more_than(expected.len()), "seed {seed}");
            assert!(expected.is_empty() || members.are_more_than(expected.len() - 1));
            assert_eq!(members.collect::<BTreeSet<u32>>(), expected, "seed {seed}");
        }
    }
    model.retain(|_, members| !members.is_empty());
    assert_eq!(hub.topics_len(), model.len(), "seed {seed}");
    assert_eq!(hub.memberships_len(), model.values().map(BTreeSet::len).sum::<usize>());
    for (name, expected) in &model {
        assert_eq!(&hub.members(name).collect::<BTreeSet<u32>>(), expected, "seed {seed}");
    }
    for mine in &mut of {
        hub.leave_all(mine);
    }
    assert_eq!((hub.topics_len(), hub.memberships_len()), (0, 0), "seed {seed}: nothing is left");
}

#[test]
fn agrees_with_a_map_from_seeds() {
    for seed in 1..=20 {
        compare(seed, 1 + seed as usize * 7, 1 + seed as usize * 3, 3_000);
    }
    compare(4711, 8_000, 2_000, 20_000);
}

#[test]
fn a_reason_is_kept_and_changed() {
    let mut hub = Hub::default();
    let mut mine = Memberships::default();
    assert!(hub.join(1, &mut mine, "news", Reason::Granted));
    assert!(!hub.join(1, &mut mine, "news", Reason::Asked));
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
