//! Receipts say whether a message was delivered.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{RECEIPTS_MAX, Receipts};
use crate::ConnId;
use crate::config::{Format, RouteConfig, SlowPolicy};
use crate::engine::pubsub::hub::LARGE_TOPIC;
use crate::engine::random::Random;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::resume::cursor::EntryId;

const LATE: u64 = 5_000;

fn test(route: RouteConfig, frames_max: usize) -> TestLoop {
    let mut test = TestLoop::new(route, |bounds| {
        bounds.backlog_frames_max = frames_max;
        (bounds.ping_seconds, bounds.silence_seconds) = (0, 0);
    });
    give_receipts(&mut test, Some("receipts"));
    test
}

fn give_receipts(test: &mut TestLoop, channel: Option<&str>) {
    test.reactor.router.features.retain(|feature| feature.name() != "receipts");
    test.reactor.router.add_feature(|_| Receipts::new(channel.map(str::to_owned)));
}

fn crowd(test: &mut TestLoop, count: usize) -> Vec<ConnId> {
    (0..count).map(|sub| test.connect(&sub.to_string(), &["hall"])).collect()
}

/// The receipts sent since the last call.
fn receipts(test: &mut TestLoop) -> Vec<Value> {
    let read = |words: &[String]| {
        assert_eq!(words[..2], ["PUBLISH", "receipts"]);
        serde_json::from_str(&words[2]).expect("a receipt is JSON")
    };
    test.asked().iter().map(|(words, _)| read(words)).collect()
}

fn counts(receipt: &Value) -> [u64; 4] {
    ["queued", "written", "dropped", "pending"].map(|name| receipt[name].as_u64().unwrap_or(0))
}

#[test]
fn what_is_written_at_once_has_its_receipt_at_once() {
    for clients in [0, 1, LARGE_TOPIC, LARGE_TOPIC + 1, 300] {
        let mut test = test(RouteConfig::default(), 1024);
        let bystander = test.connect("bystander", &[]);
        crowd(&mut test, clients);
        test.received(bystander);
        test.publish("pub.hall", "1");
        let id = test.reactor.router.server.cursor();
        let node = test.reactor.router.server.node().to_owned();
        let expected = json!({
            "topic": "hall", "id": id, "queued": clients, "written": clients, "dropped": 0,
            "node": node,
        });
        assert_eq!(receipts(&mut test), [expected]);
        assert_eq!(test.received(bystander).len(), 0);
    }
}

#[test]
fn copies_of_all_routes_are_counted_and_each_client_once() {
    let raw = RouteConfig { path: "/raw".into(), format: Format::Raw, ..RouteConfig::default() };
    let mut test = TestLoop::with_routes(&[RouteConfig::default(), raw], |_| {});
    give_receipts(&mut test, Some("receipts"));
    test.connect("1", &["hall.1", "hall.*", "*"]);
    test.connect_at("/raw", "2", &["hall.*"]);
    test.publish("pub.hall.1", "1");
    assert_eq!(counts(&receipts(&mut test)[0]), [2, 2, 0, 0]);
}

#[test]
fn a_receipt_waits_for_a_full_socket_and_no_longer_than_set() {
    for clients in [3, LARGE_TOPIC + 3] {
        let mut test = test(RouteConfig::default(), 1024);
        let all = crowd(&mut test, clients);
        let queued = clients as u64;
        test.narrow(all[0], Some(5));
        test.narrow(all[1], Some(0));
        test.publish("pub.hall", "1");
        test.publish("pub.hall", "2");
        test.pass(1_000);
        assert_eq!(receipts(&mut test).len(), 0);
        test.narrow(all[0], None);
        test.pass(LATE - 1_001);
        assert_eq!(receipts(&mut test).len(), 0, "one delivery is pending");
        test.pass(1_000);
        let received: Vec<[u64; 4]> = receipts(&mut test).iter().map(counts).collect();
        assert_eq!(received, [[queued, queued - 1, 0, 1]; 2]);
        test.narrow(all[1], None);
        test.pass(LATE);
        assert_eq!(receipts(&mut test).len(), 0, "each is sent once");
        let metrics = test.reactor.metrics();
        assert_eq!((metrics.receipts, metrics.receipts_pending), (2, 2));
    }
}

#[test]
fn who_is_gone_was_dropped_for() {
    for clients in [2, LARGE_TOPIC + 2] {
        let mut test = test(RouteConfig::default(), 1024);
        let all = crowd(&mut test, clients);
        test.narrow(all[0], Some(7));
        test.publish("pub.hall", "1");
        assert_eq!(receipts(&mut test).len(), 0);
        test.cut(all[0]);
        test.pass(200);
        let queued = clients as u64;
        assert_eq!(counts(&receipts(&mut test)[0]), [queued, queued - 1, 1, 0]);
    }
}

#[test]
fn what_a_slow_client_loses_was_dropped_for_it() {
    for (slow, expected) in [
        (SlowPolicy::Close, [[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]]),
        (SlowPolicy::DropOldest, [[1, 0, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]),
        (SlowPolicy::KeepNewest, [[1, 0, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]]),
    ] {
        // The notice of dropped messages is a frame of its own, which takes the room of one more.
        let frames_max = if slow == SlowPolicy::DropOldest { 3 } else { 2 };
        let mut test = test(RouteConfig { slow, ..RouteConfig::default() }, frames_max);
        let client = test.connect("42", &["hall"]);
        test.received(client);
        test.narrow(client, Some(0));
        // Its socket is known to be full from then on.
        test.reactor.router.server.send(client, &crate::Frame::text("{}"));
        test.turn();
        for payload in ["1", "2", "3"] {
            test.publish("pub.hall", payload);
        }
        test.narrow(client, None);
        test.pass(200);
        let mut received = receipts(&mut test);
        received.sort_by_key(|receipt| receipt["id"].as_str().unwrap().to_owned());
        let received: Vec<[u64; 4]> = received.iter().map(counts).collect();
        assert_eq!(received, expected, "{slow:?}");
    }
}

#[test]
fn above_their_bound_receipts_do_not_wait() {
    let mut test = test(RouteConfig::default(), 100_000);
    let client = test.connect("42", &["hall"]);
    test.narrow(client, Some(0));
    for _ in 0..RECEIPTS_MAX {
        test.reactor.router.publish(b"pub.hall", b"1");
    }
    test.turn();
    assert_eq!(receipts(&mut test).len(), 0);
    test.publish("pub.hall", "1");
    assert_eq!(counts(&receipts(&mut test)[0]), [1, 0, 0, 1]);
    test.narrow(client, None);
    test.pass(1_000);
    test.pass(1_000);
    assert_eq!(receipts(&mut test).len(), RECEIPTS_MAX);
    test.publish("pub.hall", "1");
    assert_eq!(counts(&receipts(&mut test)[0]), [1, 1, 0, 0], "there is room again");
}

#[test]
fn a_receipt_has_no_receipt() {
    let mut test = test(RouteConfig::default(), 1024);
    give_receipts(&mut test, Some("pub.receipts"));
    test.connect("42", &["receipts"]);
    assert_eq!(test.publish("pub.receipts", "{}"), 1);
    assert_eq!(test.publish("pub.a..b", "{}"), 0);
    assert!(test.asked().is_empty());
    give_receipts(&mut test, None);
    test.publish("pub.receipts", "{}");
    assert!(test.asked().is_empty());
}

#[test]
fn an_entry_names_the_channel_of_its_receipt() {
    let mut test = test(RouteConfig::default(), 1024);
    give_receipts(&mut test, None);
    test.reactor.router.server.resume.read_streams(vec!["entries".to_owned()]);
    let client = test.connect("42", &["hall"]);
    test.received(client);
    let entry = EntryId { millis: 5, number: 1 };
    let router = &mut test.reactor.router;
    router.publish_entry(0, entry, (b"hall", None), b"1", Some(b"receipts"));
    router.publish_entry(0, entry, (b"hall", None), b"2", None);
    router.publish_entry(0, entry, (b"hall", None), b"3", Some(b""));
    router.publish_entry(0, entry, (b"a..b", None), b"4", Some(b"receipts"));
    test.turn();
    let received = receipts(&mut test);
    assert_eq!(received.iter().map(counts).collect::<Vec<_>>(), [[1, 1, 0, 0]]);
    assert_eq!(received[0]["stream"], "5-1");
    assert_eq!(received[0]["id"], test.received(client)[0]["id"]);
}

/// Receipts add up and agree with the far ends, however sockets fill, drain and fail.
#[test]
fn receipts_say_what_far_ends_saw_from_seeds() {
    let mut unsettled = 0;
    for seed in 1..150 {
        let mut random = Random::new(seed);
        let slow =
            random.choose(&[SlowPolicy::Close, SlowPolicy::DropOldest, SlowPolicy::KeepNewest]);
        let frames_max = random.choose(&[3, 1024]);
        let mut test = test(RouteConfig { slow, ..RouteConfig::default() }, frames_max);
        test.reactor.router.server.bounds.flush_clients_per_turn = random.choose(&[1, 20, 512]);
        let clients = random.choose(&[1, 10, LARGE_TOPIC + 10]);
        let all = crowd(&mut test, clients);
        let mut received = Vec::new();
        let mut published = 0;
        for _ in 0..60 {
            let client = all[random.below(clients)];
            match random.below(8) {
                0 => test.cut(client),
                1 | 2 => test.narrow(client, Some(random.below(300))),
                3 => test.narrow(client, None),
                4 => test.pass(random.choose(&[0, 200, 3_000])),
                _ => {
                    published += 1;
                    test.publish("pub.hall", &format!("\"m{published}\""));
                }
            }
            received.extend(receipts(&mut test));
        }
        for client in &all {
            test.narrow(*client, None);
        }
        (0..200).for_each(|_| test.turn());
        test.pass(LATE);
        test.pass(LATE);
        received.extend(receipts(&mut test));
        let mut seen: HashMap<String, u64> = HashMap::new();
        for client in &all {
            let text = String::from_utf8_lossy(&test.received_bytes(*client)).into_owned();
            for message in text.split(r#""topic":"hall","id":""#).skip(1) {
                // A partial frame does not count.
                let whole = message.split_once('"').filter(|_| message.contains("\"}"));
                let Some((id, _)) = whole else { continue };
                *seen.entry(id.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(received.len(), published, "seed {seed}: one for each message");
        for receipt in &received {
            let [queued, written, dropped, pending] = counts(receipt);
            assert_eq!(queued, written + dropped + pending, "seed {seed}: {receipt}");
            let seen = seen.get(receipt["id"].as_str().unwrap()).copied().unwrap_or(0);
            let is_so = (written..=written + pending).contains(&seen);
            assert!(is_so, "seed {seed}: {receipt}, {seen} saw it");
            unsettled += pending;
        }
    }
    assert!(unsettled > 0, "some were sent too early to know");
}
