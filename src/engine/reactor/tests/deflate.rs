//! Compressed messages through the loop: compressed once, for those who agreed on it.

use serde_json::Value;

use crate::config::{Format, RouteConfig};
use crate::engine::client::deflate::Deflate;
use crate::engine::client::deflate::inflater::Inflater;
use crate::engine::pubsub::hub::LARGE_TOPIC;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::reactor::*;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

fn route(deflate: Deflate, format: Format) -> RouteConfig {
    RouteConfig { deflate, format, may: vec!["room.*".to_owned()], ..RouteConfig::default() }
}

/// A payload of about so many bytes.
fn payload(bytes: usize) -> String {
    format!("[{}0]", "12345,".repeat(bytes / 6))
}

/// The frames that a client received since the last call: whether each is compressed, and its message.
fn frames(world: &mut TestLoop, id: ConnId) -> Vec<(bool, Vec<u8>)> {
    let bytes = world.received_bytes(id);
    let (mut rest, mut frames, mut inflater) = (&bytes[..], Vec::new(), Inflater::default());
    while let [first, length, ..] = *rest {
        let (at, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            length => (2, usize::from(length)),
        };
        let payload = &rest[at..at + length];
        frames.push(match first & 0x40 {
            0 => (false, payload.to_vec()),
            _ => (true, inflater.inflate(payload, 1 << 20).expect("it is DEFLATE")),
        });
        rest = &rest[at + length..];
    }
    frames
}

fn data(message: &[u8]) -> String {
    let value: Value = serde_json::from_slice(message).expect("JSON");
    value["data"].to_string()
}

#[test]
fn a_message_is_compressed_once_for_those_who_agreed_on_it() {
    let mut world = TestLoop::new(route(Deflate::All, Format::Json), |_| {});
    let agreed = [0, 1, 2].map(|_| world.connect_offering(OFFER, &["room.7"]));
    let plain = world.connect("8", &["room.7"]);
    let bystander = world.connect_offering(OFFER, &["room.8"]);
    for id in agreed.iter().chain([&plain, &bystander]) {
        let first = frames(&mut world, *id);
        assert!(matches!(&first[..], [(false, _)]), "a welcome is short: {first:?}");
    }
    let long = payload(1000);
    assert_eq!(world.publish("pub.room.7", &long), 4);
    for id in agreed {
        let [(true, message)] = &frames(&mut world, id)[..] else { panic!("one compressed") };
        assert_eq!(data(message), long);
    }
    let [(false, message)] = &frames(&mut world, plain)[..] else { panic!("one plain") };
    assert_eq!(data(message), long);
    assert!(world.received_bytes(bystander).is_empty());
    let metrics = world.reactor.metrics();
    assert_eq!((metrics.deflated, metrics.deflate_opened), (1, 4));
    assert!(metrics.deflate_saved_bytes > 900);
    // A short one is not worth it.
    world.publish("pub.room.7", "[1]");
    assert!(matches!(frames(&mut world, agreed[0])[..], [(false, _)]));
    assert_eq!(world.reactor.metrics().deflated, 1);
}

#[test]
fn a_route_compresses_nothing_unless_it_is_told_to() {
    let mut world = TestLoop::new(route(Deflate::Off, Format::Json), |_| {});
    let id = world.connect_offering(OFFER, &["room.7"]);
    world.received_bytes(id);
    world.publish("pub.room.7", &payload(1000));
    assert!(matches!(frames(&mut world, id)[..], [(false, _)]));
    world.send_raw(id, &[0xc1, 0x81, 0, 0, 0, 0, 0]);
    assert_eq!(world.received(id)[0]["close"], 1002);
    assert_eq!(world.reactor.metrics().deflate_opened, 0);
}

#[test]
fn with_broadcasts_only_messages_to_many_are_compressed() {
    let mut world = TestLoop::new(route(Deflate::Broadcasts, Format::Raw), |_| {});
    let all: Vec<ConnId> =
        (0..=LARGE_TOPIC).map(|_| world.connect_offering(OFFER, &["room.all"])).collect();
    let few = world.connect_offering(OFFER, &["room.few"]);
    let plain = world.connect("8", &["room.all"]);
    let long = payload(1000);
    world.publish("pub.room.few", &long);
    assert_eq!(frames(&mut world, few), [(false, long.clone().into_bytes())]);
    // Two that wait together are gathered, once for each encoding.
    world.reactor.router.publish(b"pub.room.all", long.as_bytes());
    world.publish("pub.room.all", &long[..500]);
    let expected = [true, true].into_iter().zip([long.as_bytes(), &long.as_bytes()[..500]]);
    let expected: Vec<_> = expected.map(|(one, text)| (one, text.to_vec())).collect();
    for id in all {
        assert_eq!(frames(&mut world, id), expected);
    }
    let received = frames(&mut world, plain);
    assert!(received.iter().all(|one| !one.0) && received.len() == 2);
    assert!(world.received_bytes(few).is_empty());
    assert_eq!(world.reactor.metrics().deflated, 2);
}

#[test]
fn bytes_that_are_not_text_are_compressed_as_binary() {
    let mut world = TestLoop::new(route(Deflate::All, Format::Raw), |_| {});
    let id = world.connect_offering(OFFER, &["room.7"]);
    let bytes = [0xff; 1000];
    world.reactor.router.publish(b"pub.room.7", &bytes);
    world.turn();
    let received = world.received_bytes(id);
    assert_eq!(received[0], 0xc2);
    assert!(received.len() < 40);
}

#[test]
fn a_backlog_counts_the_bytes_that_are_queued() {
    let mut world = TestLoop::new(route(Deflate::All, Format::Raw), |bounds| {
        bounds.backlog_bytes_max = 5_000;
    });
    let agreed = world.connect_offering(OFFER, &["room.7"]);
    let plain = world.connect("8", &["room.7"]);
    [agreed, plain].into_iter().for_each(|id| world.narrow(id, Some(0)));
    let long = payload(2_000);
    for _ in 0..20 {
        world.publish("pub.room.7", &long);
    }
    let held = |world: &mut TestLoop, id| {
        world.reactor.router.server.client(id).expect("it is there").backlog_bytes()
    };
    assert!((200..2_000).contains(&held(&mut world, agreed)));
    assert_eq!(world.reactor.metrics().closes.of(4000), 1, "the one without");
    world.narrow(agreed, None);
    world.turn();
    let received = frames(&mut world, agreed);
    assert!(received.len() == 20 && received.iter().all(|one| one.0 && one.1 == long.as_bytes()));
}

#[test]
fn commands_come_compressed_and_a_bomb_closes() {
    let mut world = TestLoop::new(route(Deflate::All, Format::Json), |_| {});
    let id = world.connect_offering(OFFER, &["room.7"]);
    world.received_bytes(id);
    // The same frame with a mask of zeros.
    let masked = |mut frame: Vec<u8>| {
        let start = if frame[1] == 126 { 4 } else { 2 };
        frame[1] |= 0x80;
        frame.splice(start..start, [0; 4]);
        frame
    };
    let deflater = &world.reactor.router.server.deflater;
    let command = format!(r#"{{"op":"ping"{}}}"#, " ".repeat(200));
    let deflated = deflater.deflate(crate::Frame::text(&command).as_bytes());
    let bomb = deflater.deflate(crate::Frame::text(&" ".repeat(70_000)).as_bytes());
    world.send_raw(id, &masked(deflated));
    assert_eq!(world.received(id)[0]["op"], "pong");
    let bystander = world.connect_offering(OFFER, &["room.7"]);
    world.received_bytes(bystander);
    world.send_raw(id, &masked(bomb));
    assert_eq!(world.received(id)[0]["close"], 1009);
    assert!(world.received_bytes(bystander).is_empty());
}

/// Compressing takes its time from the turn: sources wait for the flush, and the flush has fewer writes.
#[test]
fn a_turn_is_not_longer_for_what_it_compresses() {
    let mut world = TestLoop::new(route(Deflate::All, Format::Raw), |_| {});
    let id = world.connect_offering(OFFER, &["room.7"]);
    let long = payload(600_000);
    assert!(!world.reactor.router.server.is_pressed());
    world.reactor.router.publish(b"pub.room.7", long.as_bytes());
    assert!(world.reactor.router.server.is_pressed(), "it took more than a millisecond");
    world.turn();
    assert!(!world.reactor.router.server.is_pressed());
    assert_eq!(world.received_bytes(id)[0], 0xc1);
    // Above a bound it would hold up the loop.
    world.publish("pub.room.7", &payload(1_100_000));
    assert_eq!(world.received_bytes(id)[0], 0x81);
}
