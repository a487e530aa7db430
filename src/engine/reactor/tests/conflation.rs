//! Messages with a key: a client that reads too slowly, or comes back, gets the newest of each key and nothing older behind it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::config::{RouteConfig, SlowPolicy};
use crate::engine::random::Random;
use crate::engine::reactor::tests::harness::TestLoop;

const KEYS: [&str; 5] = ["a", "b", "c", "ü", "a#b"];

fn latest() -> TestLoop {
    let may = vec!["room.*".to_owned()];
    let route = RouteConfig { slow: SlowPolicy::Latest, may, ..RouteConfig::default() };
    TestLoop::new(route, |bounds| {
        bounds.backlog_frames_max = 8;
        bounds.commands_per_second_max = 0;
    })
}

/// The numbers received of each key, which rise.
fn by_key(frames: &[Value], seed: u64) -> BTreeMap<String, Vec<u64>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for frame in frames.iter().filter(|frame| frame.get("op").is_none()) {
        assert_eq!(frame["topic"], "room.7", "seed {seed}");
        let key = frame["key"].as_str().expect("a key").to_owned();
        found.entry(key).or_default().push(frame["data"].as_u64().expect("a number"));
    }
    assert!(found.values().all(|all| all.is_sorted_by(|a, b| a < b)), "seed {seed}: {found:?}");
    found
}

#[test]
fn a_client_that_reads_one_of_a_hundred_gets_the_newest_of_each_key() {
    let (mut received, mut published) = (0, 0);
    for seed in 1..=60 {
        let mut random = Random::new(seed);
        let mut test = latest();
        let client = test.connect("42", &["room.7"]);
        let bystander = test.connect("43", &["room.8"]);
        let start = test.received(client)[0]["id"].as_str().expect("a cursor").to_owned();
        test.received(bystander);
        test.narrow(client, Some(0));
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        for number in 0..300 {
            let key = random.choose(&KEYS);
            assert_eq!(test.publish(&format!("pub.room.7#{key}"), &number.to_string()), 1);
            newest.insert(key.to_owned(), number);
            if random.below(100) == 0 {
                test.narrow(client, Some(random.below(200)));
                test.turn();
            }
        }
        test.narrow(client, None);
        test.turn();
        let found = by_key(&test.received(client), seed);
        let last = found.iter().map(|(key, all)| (key.clone(), *all.last().expect("one")));
        assert_eq!(last.collect::<BTreeMap<_, _>>(), newest, "seed {seed}");
        received += found.values().map(Vec::len).sum::<usize>();
        published += 300;
        // It comes back, by the history: of each key the newest alone.
        let returned = test.connect_at("/ws", "44", &[]);
        test.received(returned);
        let since = json!({"op": "subscribe", "topic": "room.7", "since": start});
        test.say(returned, &since.to_string());
        (0..20).for_each(|_| test.turn());
        let found = by_key(&test.received(returned), seed);
        let found: BTreeMap<String, u64> = found
            .into_iter()
            .map(|(key, all)| {
                assert_eq!(all.len(), 1, "seed {seed}: {key}");
                (key, all[0])
            })
            .collect();
        assert_eq!(found, newest, "seed {seed}");
        let left_out = 300 - newest.len() as u64;
        assert_eq!(test.reactor.metrics().superseded, left_out, "seed {seed}");
        assert_eq!(test.received(bystander), [json!(null); 0], "seed {seed}");
    }
    assert!(received < published / 10, "{received} of {published}");
}

#[test]
fn messages_without_a_key_are_none_of_them() {
    let mut test = latest();
    let client = test.connect("42", &["room.7"]);
    test.received(client);
    test.narrow(client, Some(0));
    for number in 0..4 {
        test.publish("pub.room.7", &number.to_string());
        test.publish("pub.room.7#k", &number.to_string());
    }
    test.narrow(client, None);
    test.turn();
    let received = test.received(client);
    let data = |has_key: bool| -> Vec<u64> {
        let of = received.iter().filter(|frame| frame.get("key").is_some() == has_key);
        of.filter_map(|frame| frame["data"].as_u64()).collect()
    };
    assert_eq!(data(false), [0, 1, 2, 3]);
    assert_eq!(data(true).last(), Some(&3));
    assert!(data(true).len() < 4);
    test.narrow(client, Some(0));
    for number in 0..20 {
        test.publish("pub.room.7", &number.to_string());
    }
    test.narrow(client, None);
    test.turn();
    let end = test.received(client).pop().expect("a close");
    assert_eq!(end["close"], 4000, "what has no key is not dropped");
}

#[test]
fn a_key_counts_as_a_part_of_the_message() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| bounds.payload_bytes_max = 10);
    let client = test.connect("42", &["room.7"]);
    test.received(client);
    assert_eq!(test.publish("pub.room.7#1234567", "\"a\""), 1);
    assert_eq!(test.publish("pub.room.7#12345678", "\"b\""), 0);
    assert_eq!(test.publish("pub.room.7", "\"12345678\""), 1);
    let data = test.received(client);
    assert_eq!(data.iter().map(|frame| &frame["data"]).collect::<Vec<_>>(), ["a", "12345678"]);
    assert_eq!(test.reactor.router.server.metrics.messages_oversized, 1);
}
