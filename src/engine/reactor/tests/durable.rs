//! Clients that resume while Redis, the history and their subscriptions change: case by case.

use crate::engine::feature::{FeatureEvent, StreamReply};
use crate::engine::pubsub::hub::{LARGE_TOPIC, Reason};
use crate::engine::reactor::tests::one_stream::{OneStream, elsewhere, entry};
use crate::engine::reactor::*;
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::Resumed;

#[test]
fn who_is_gone_does_not_wait() {
    let mut world = OneStream::new(|_| ());
    for _ in 0..1000 {
        let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(5))));
        world.turn();
        world.reactor.router.server.terminate(id);
        world.turn();
    }
    let waiting = world.reactor.pages_len();
    world.begin(0);
    world.settle();
    for _ in 0..1000 {
        let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(u64::MAX))));
        world.turn();
        world.reactor.router.server.terminate(id);
        world.turn();
    }
    let ahead = world.reactor.pages_len();
    assert!(world.reactor.router.server.clients.is_empty());
    assert!(waiting.1 < 100 && ahead.2 < 100, "{waiting:?} {ahead:?}");
}

#[test]
fn what_is_subscribed_to_during_a_replay_is_not_lost_in_pages() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    world.begin(0);
    let since = world.reactor.router.server.cursor();
    world.publish(1, "a", "1");
    let (id, resumed) = world.connect(&["a"], Some(&since));
    assert!(matches!(resumed, Some(Resumed::From(_))));
    // Its socket has not been written to yet.
    assert!(world.reactor.router.server.scope(0).subscribe(id, "b", Reason::Asked));
    (2..=20).for_each(|n| world.publish(n, "b", &n.to_string()));
    world.settle();
    let expected: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(world.data(id), expected);
}

#[test]
fn messages_between_subscriptions_are_not_in_pages() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    world.begin(0);
    let since = world.reactor.router.server.cursor();
    world.publish(1, "a", "1");
    let (id, _) = world.connect(&["a", "room"], Some(&since));
    assert!(world.reactor.router.server.scope(0).unsubscribe(id, "room"));
    world.publish(2, "room", "secret");
    assert!(world.reactor.router.server.scope(0).subscribe(id, "room", Reason::Joined));
    (3..=20).for_each(|n| world.publish(n, "a", &n.to_string()));
    world.settle();
    assert!(!world.data(id).contains(&"secret".to_owned()), "{:?}", world.data(id));
}

#[test]
fn a_client_from_elsewhere_learns_of_a_gap_in_a_stream() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    world.begin(0);
    for n in [80, 90, 100] {
        world.publish(n, "a", &n.to_string());
    }
    world.redis.clear();
    world.added += 39;
    let from = EntryId { millis: 139, number: u64::MAX };
    world.reactor.router.on_stream_lost(0, from);
    (140..=142).for_each(|n| world.publish(n, "a", &n.to_string()));
    let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(90))));
    world.settle();
    assert!(world.data(id).contains(&"gap".to_owned()), "{:?}", world.data(id));
}

#[test]
fn a_redis_that_lost_all_is_a_gap_for_who_comes_back_to_a_new_process() {
    let mut world = OneStream::new(|_| ());
    world.begin(0);
    let (id, resumed) = world.connect(&["a"], Some(&elsewhere(entry(100))));
    world.settle();
    world.publish(200, "a", "200");
    world.settle();
    assert!(world.data(id).contains(&"gap".to_owned()), "{resumed:?} {:?}", world.data(id));
}

#[test]
fn so_is_one_that_lost_all_and_was_given_more() {
    let mut world = OneStream::new(|_| ());
    world.add(200, "a", "200");
    world.begin(200);
    let (id, resumed) = world.connect(&["a"], Some(&elsewhere(entry(100))));
    world.settle();
    assert!(world.data(id).contains(&"gap".to_owned()), "{resumed:?} {:?}", world.data(id));
}

#[test]
fn a_message_of_a_channel_during_pages_is_not_lost_in_silence() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    (1..=20).for_each(|n| world.add(n, "a", &n.to_string()));
    world.begin(20);
    let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(1))));
    world.turn();
    // The stream's state has been read.
    let extent = world.extent();
    while world.reactor.router.server.requests.pop().is_some() {}
    let reply = StreamReply::Info { stream: 0, info: Some(extent) };
    world.reactor.router.on_stream_reply(reply);
    world.turn();
    assert_eq!(world.reactor.pages_len().0, 1, "a page is on its way");
    world.reactor.router.publish(b"a", b"channel");
    (21..=30).for_each(|n| world.publish(n, "other", &n.to_string()));
    world.settle();
    let got = world.data(id);
    assert!(got.contains(&"channel".to_owned()) || got.contains(&"gap".to_owned()), "{got:?}");
}

#[test]
fn pages_of_large_entries_are_read_about_once() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    let data = "x".repeat(16_000);
    (1..=512).for_each(|n| world.add(n, "a", &data));
    world.begin(512);
    world.connect(&["a"], Some(&elsewhere(entry(0))));
    world.settle();
    assert!(world.sent < 3 * 512, "512 entries of 16 KB: {} were sent", world.sent);
}

#[test]
fn one_deletion_is_one_gap() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    (1..=1000).for_each(|n| world.add(n, "a", &n.to_string()));
    world.deleted = entry(990);
    world.redis.retain(|one| one.0 != entry(990));
    world.begin(1000);
    let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(1))));
    world.settle();
    let gaps = world.data(id).iter().filter(|one| *one == "gap").count();
    assert_eq!(gaps, 1);
}

#[test]
fn what_is_added_before_the_streams_are_known_is_a_gap_for_who_is_there() {
    let mut world = OneStream::new(|_| ());
    let (id, _) = world.connect(&["a"], None);
    world.settle();
    world.add(1, "a", "1");
    world.begin(1);
    world.settle();
    world.publish(2, "a", "2");
    world.settle();
    assert!(world.data(id)[0] == "gap" || world.data(id)[0] == "1", "{:?}", world.data(id));
}

#[test]
fn what_is_trimmed_between_two_pages_is_a_gap() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    (1..=1000).for_each(|n| world.add(n, "a", &n.to_string()));
    world.begin(1000);
    let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(1))));
    while world.sent < 100 {
        world.turn();
        world.answer();
        world.reactor.router.server.now.millis += 200;
        world.reactor.router.notify_features(FeatureEvent::Tick);
    }
    world.redis.drain(..500);
    world.settle();
    let data = world.data(id);
    assert_eq!(data.iter().filter(|one| *one == "gap").count(), 1, "{data:?}");
    assert!(data.contains(&"501".to_owned()) && !data.contains(&"500".to_owned()));
    assert_eq!(data.last().map(String::as_str), Some("1000"));
}

#[test]
fn a_gap_is_reported_before_the_messages_after_it() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    (1..=100).for_each(|n| world.add(n, "a", &n.to_string()));
    world.redis.drain(..50);
    world.begin(100);
    let since = elsewhere(entry(1));
    let (id, _) = world.connect(&["a"], Some(&since));
    world.settle();
    let data = world.data(id);
    assert_eq!((data[0].as_str(), data[1].as_str(), data.len()), ("gap", "51", 51), "{data:?}");
    // Disconnected before, it would have resumed with a cursor from before.
    let server = &world.reactor.router.server;
    let from = world.got(id)[0].rsplit(' ').next().expect("a cursor").to_owned();
    assert_eq!(server.resume.signer.read(&from).expect("it is one").entries, [entry(1)]);
}

#[test]
fn many_who_come_back_at_once_look_at_the_stream_together() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    (1..=50).for_each(|n| world.add(n, "a", &n.to_string()));
    world.begin(50);
    let all: Vec<ConnId> =
        (0..300).map(|_| world.connect(&["a"], Some(&elsewhere(entry(1)))).0).collect();
    let (bystander, _) = world.connect(&["other"], Some(&elsewhere(entry(1))));
    world.settle();
    assert!(all.iter().all(|id| world.data(*id).len() == 49));
    assert_eq!(world.data(bystander), [""; 0]);
    assert!(world.looks < 10, "{} looks for 300 clients", world.looks);
}

#[test]
fn pages_of_entries_that_are_large_are_small_from_the_first_one_on() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 5);
    let data = "x".repeat(500_000);
    (1..=40).for_each(|n| world.add(n, "other", &data));
    world.begin(40);
    world.connect(&["a"], Some(&elsewhere(entry(1))));
    world.settle();
    assert!(world.sent > 30, "all entries were sent");
    assert!(world.most_sent <= 3 * 500_100, "a page of {} bytes", world.most_sent);
}

#[test]
fn what_is_no_message_moves_the_place_of_a_stream_as_well() {
    for is_oversized in [false, true] {
        let mut world = OneStream::new(|_| ());
        world.begin(0);
        world.publish(1, "a", "1");
        // Another process has read further, and that entry is not a message.
        let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(2))));
        world.redis.push((entry(2), String::new(), String::new()));
        world.added += 1;
        world.settle();
        assert_eq!(world.reactor.pages_len().2, 1, "it is ahead");
        world.reactor.router.pass_entry(0, entry(2), is_oversized, 100);
        world.settle();
        let server = &mut world.reactor.router.server;
        assert!(!server.client(id).expect("it is there").is_replaying(), "it is live");
        assert_eq!(server.resume.ahead.len(), 0);
        let cursor = server.resume.signer.read(&server.cursor()).expect("it is one");
        assert_eq!(cursor.entries, [entry(2)], "a client from here is ahead nowhere");
        world.publish(3, "a", "3");
        world.settle();
        assert_eq!(world.data(id), ["3"]);
    }
}

#[test]
fn a_message_without_subscribers_wakes_no_client_that_is_ahead() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 10);
    world.begin(0);
    let (id, _) = world.connect(&["a"], Some(&elsewhere(entry(100))));
    let (bystander, _) = world.connect(&["b"], Some(&elsewhere(entry(100))));
    world.redis.push((entry(100), "b".to_owned(), "100".to_owned()));
    world.settle();
    assert_eq!(world.reactor.pages_len().2, 2, "they are ahead");
    for n in 1..=50 {
        world.reactor.router.publish_entry(0, entry(n), (b"other", None), b"0", None);
        assert!(world.reactor.router.server.pending.is_empty(), "{n}: somebody looks at it");
    }
    // Published here before the entry that both clients have from elsewhere: they have this message, too.
    world.reactor.router.publish(b"a", b"channel");
    assert!(!world.reactor.router.server.pending.is_empty(), "a subscriber has pending writes");
    world.settle();
    assert_eq!(world.data(id), ["channel"], "no gap, though the history has gone on");
    world.reactor.router.publish_entry(0, entry(100), (b"b", None), b"100", None);
    world.reactor.router.publish_entry(0, entry(101), (b"b", None), b"101", None);
    world.settle();
    assert_eq!(world.data(bystander), ["101"]);
    assert_eq!((world.data(id).len(), world.reactor.pages_len().2), (1, 0));
}

#[test]
fn messages_to_a_large_topic_look_once_at_clients_that_are_ahead() {
    let mut world = OneStream::new(|bounds| bounds.history_messages_max = 10);
    world.begin(0);
    let mut connect = |key| world.connect(&[key], Some(&elsewhere(entry(100)))).0;
    let large: Vec<ConnId> = (0..=LARGE_TOPIC).map(|_| connect("news")).collect();
    let bystander = connect("b");
    world.redis.push((entry(100), "b".to_owned(), "100".to_owned()));
    world.settle();
    let ahead = large.len() + 1;
    assert_eq!(world.reactor.pages_len().2, ahead, "they are ahead");
    for payload in ["1", "2"] {
        world.reactor.router.publish(b"news", payload.as_bytes());
        assert_eq!(world.reactor.pages_len().2, 0, "the next message looks at none");
    }
    world.settle();
    assert!(large.iter().all(|id| world.data(*id) == ["1", "2"]));
    assert_eq!(world.data(bystander), [""; 0]);
    assert_eq!(world.reactor.pages_len().2, ahead, "they wait on");
    world.reactor.router.publish_entry(0, entry(100), (b"b", None), b"100", None);
    world.reactor.router.publish_entry(0, entry(101), (b"news", None), b"101", None);
    world.settle();
    assert!(large.iter().all(|id| world.data(*id) == ["1", "2", "101"]));
    assert_eq!((world.data(bystander).len(), world.reactor.pages_len().2), (0, 0));
}
