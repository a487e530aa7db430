//! The effects of control commands.

use serde_json::{Value, json};

use super::Control;

use crate::config::{Format, RouteConfig};
use crate::engine::client::frame::CLOSE_REASON_BYTES_MAX;
use crate::engine::reactor::tests::harness::TestLoop;

fn test() -> TestLoop {
    TestLoop::new(RouteConfig { may: vec!["room.*".into()], ..RouteConfig::default() }, |_| {})
}

fn take_commands(test: &mut TestLoop, channel: &str, has_redis: bool) {
    test.reactor.router.features.clear();
    test.reactor.router.add_feature(|_| Control::new(channel.to_owned(), has_redis));
}

fn welcomed(test: &mut TestLoop, id: crate::ConnId) -> Value {
    let received = test.received(id);
    assert_eq!(received[0]["op"], "welcome", "{received:?}");
    received[0].clone()
}

fn messages(received: &[Value]) -> Vec<&Value> {
    received
        .iter()
        .filter(|frame| frame.get("data").is_some())
        .map(|frame| &frame["topic"])
        .collect()
}

#[test]
fn a_user_is_kicked_on_every_route_and_nobody_else() {
    let raw = RouteConfig { path: "/raw".into(), format: Format::Raw, ..RouteConfig::default() };
    let mut test = TestLoop::with_routes(&[RouteConfig::default(), raw], |_| {});
    let first = test.connect("42", &[]);
    let second = test.connect_at("/raw", "42", &[]);
    let bystander = test.connect("43", &[]);
    for id in [first, second, bystander] {
        test.received(id);
    }
    assert_eq!(test.publish("ctl", r#"{"op":"kick","sub":42,"reason":"paid \"off\""}"#), 2);
    let close = json!({"close": 4504, "reason": {"reason": "paid \"off\""}});
    for id in [first, second] {
        assert_eq!(test.received(id), std::slice::from_ref(&close));
    }
    assert_eq!(test.received(bystander).len(), 0);
    assert_eq!(test.publish("ctl", r#"{"op":"kick","sub":"42"}"#), 0, "they are gone");
    assert_eq!(test.reactor.metrics().controls, 2);
    assert_eq!(test.reactor.metrics().closes[&4504], 2);
}

#[test]
fn one_connection_is_kicked_by_the_name_in_its_welcome() {
    let raw = RouteConfig { path: "/other".into(), ..RouteConfig::default() };
    let mut test = TestLoop::with_routes(&[RouteConfig::default(), raw], |_| {});
    let (first, second) = (test.connect("42", &[]), test.connect_at("/other", "42", &[]));
    let name = welcomed(&mut test, second)["conn"].as_str().unwrap().to_owned();
    welcomed(&mut test, first);
    let (node, rest) = name.split_once('-').unwrap();
    assert_eq!(node, test.reactor.router.server.node());
    for other in [format!("x{name}"), format!("{name}0"), rest.to_owned(), format!("{node}-")] {
        let command = format!(r#"{{"op":"kick","conn":"{other}"}}"#);
        assert_eq!(test.publish("ctl", &command), 0, "{other}");
    }
    assert_eq!(test.publish("ctl", &format!(r#"{{"op":"kick","conn":"{name}"}}"#)), 1);
    assert_eq!(test.received(second), [json!({"close": 4504, "reason": null})]);
    assert_eq!(test.received(first).len(), 0);
}

#[test]
fn a_joined_topic_outlives_a_newer_token() {
    let mut test = test();
    let (client, bystander) = (test.connect("42", &["hall"]), test.connect("43", &[]));
    for topic in ["room.7", "hall", "deck.*"] {
        let command = format!(r#"{{"op":"join","sub":"42","topic":"{topic}"}}"#);
        assert_eq!(test.publish("ctl", &command), 1, "{topic}");
    }
    for token in [test.token_that("42", &[], &["hall"]), test.token("42", &[])] {
        test.say(client, r#"{"op":"subscribe","topic":"hall"}"#);
        test.say(client, &format!(r#"{{"op":"auth","token":"{token}"}}"#));
    }
    let received = test.received(client);
    let authed = received.last().unwrap();
    assert_eq!(authed["topics"], json!(["deck.*", "hall", "room.7", "user.42"]));
    test.received(bystander);
    for topic in ["room.7", "hall", "deck.1"] {
        assert_eq!(test.publish(&format!("pub.{topic}"), "1"), 1);
    }
    assert_eq!(messages(&test.received(client)), ["room.7", "hall", "deck.1"]);
    assert_eq!(test.received(bystander).len(), 0);
    assert_eq!(test.publish("ctl", r#"{"op":"leave","sub":"42","topic":"hall"}"#), 1);
    assert_eq!(test.publish("ctl", r#"{"op":"leave","sub":"42","topic":"hall"}"#), 0);
    assert_eq!(test.publish("pub.hall", "1"), 0);
}

#[test]
fn an_anonymous_connection_is_joined_by_its_name() {
    let route = RouteConfig { anonymous: vec!["news".into()], ..RouteConfig::default() };
    let mut test = TestLoop::new(route, |_| {});
    let client = test.connect_anonymous();
    let name = welcomed(&mut test, client)["conn"].as_str().unwrap().to_owned();
    let command = format!(r#"{{"op":"join","conn":"{name}","topic":"queue.9"}}"#);
    assert_eq!(test.publish("ctl", &command), 1);
    let token = test.token("42", &[]);
    test.say(client, &format!(r#"{{"op":"auth","token":"{token}"}}"#));
    assert_eq!(test.publish("pub.queue.9", "1"), 1, "until it disconnects");
    assert_eq!(test.publish("pub.news", "1"), 0, "its subscription without a token ended");
}

#[test]
fn no_command_shows_a_users_messages_to_another() {
    let mut test = test();
    let (client, other) = (test.connect("42", &[]), test.connect("43", &[]));
    for id in [client, other] {
        test.received(id);
    }
    for topic in ["user.43", "user.42", "user.*"] {
        for op in ["join", "leave"] {
            let command = format!(r#"{{"op":"{op}","sub":"42","topic":"{topic}"}}"#);
            assert_eq!(test.publish("ctl", &command), 0, "{op} {topic}");
        }
    }
    assert_eq!(test.publish("ctl", r#"{"op":"join","sub":"42","topic":"*"}"#), 1);
    assert_eq!(test.publish("pub.user.43", "1"), 1);
    assert_eq!(test.publish("pub.user.42", "2"), 1, "its own stays");
    assert_eq!(messages(&test.received(client)), ["user.42"]);
    assert_eq!(messages(&test.received(other)), ["user.43"]);
}

#[test]
fn a_command_joins_no_more_topics_than_a_client_may_have() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| bounds.topics_per_client_max = 2);
    test.connect("42", &[]);
    assert_eq!(test.publish("ctl", r#"{"op":"join","sub":"42","topic":"a"}"#), 1);
    assert_eq!(test.publish("ctl", r#"{"op":"join","sub":"42","topic":"b"}"#), 0);
    assert_eq!(test.publish("ctl", r#"{"op":"join","sub":"42","topic":"a"}"#), 1);
    assert_eq!(test.reactor.metrics().topics_refused, 1);
}

#[test]
fn subscribers_are_counted_once_each_over_all_routes() {
    let raw = RouteConfig { path: "/raw".into(), format: Format::Raw, ..RouteConfig::default() };
    let mut test = TestLoop::with_routes(&[RouteConfig::default(), raw], |_| {});
    test.connect("1", &["room.7", "room.*", "*"]);
    test.connect_at("/raw", "2", &["room.*"]);
    test.connect("3", &["room.8"]);
    let command = r#"{"op":"count","topic":"room.7","reply":"answers"}"#;
    assert_eq!(test.publish("ctl", command), 2);
    let node = test.reactor.router.server.node().to_owned();
    let answer = format!(r#"{{"topic":"room.7","listeners":2,"node":"{node}"}}"#);
    let asked: Vec<Vec<String>> = test.asked().into_iter().map(|(words, _)| words).collect();
    assert_eq!(asked, [["PUBLISH", "answers", &answer]]);
    take_commands(&mut test, "ctl", false);
    assert_eq!(test.publish("ctl", command), 0);
    assert!(test.asked().is_empty());
    assert_eq!(test.reactor.metrics().control_malformed, 1);
}

#[test]
fn a_payload_on_the_control_channel_is_no_message() {
    let mut test = test();
    take_commands(&mut test, "pub.room.7", true);
    let client = test.connect("42", &["room.7"]);
    test.received(client);
    for payload in ["", "hello", r#"{"op":"kick"}"#] {
        assert_eq!(test.publish("pub.room.7", payload), 0);
    }
    assert_eq!(test.received(client).len(), 0);
    let metrics = test.reactor.metrics();
    assert_eq!((metrics.controls, metrics.control_malformed, metrics.messages), (3, 3, 0));
}

#[test]
fn a_reason_always_fits_a_close_frame() {
    for words in ["x", "é", "\"", "\0", "日本", "x\u{10ffff}"] {
        for count in [0, 1, 15, 30, 60, 87, 88, 89, 90, 123, 124, 1000] {
            let words = words.repeat(count);
            let reason = super::close_reason(&words);
            assert!(reason.len() <= CLOSE_REASON_BYTES_MAX);
            let value: Value = serde_json::from_str(&reason).unwrap();
            let kept = value["reason"].as_str().unwrap();
            assert!(words.starts_with(kept));
            assert!(kept.len() == words.len() || reason.len() + 12 > CLOSE_REASON_BYTES_MAX);
        }
    }
}
