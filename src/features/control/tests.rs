//! The effects of control commands.

use serde_json::{Value, json};

use super::Control;

use crate::config::{Format, RouteConfig};
use crate::engine::client::frame::CLOSE_REASON_BYTES_MAX;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::redis::request::Answer;

fn test() -> TestLoop {
    TestLoop::new(RouteConfig { may: vec!["room.*".into()], ..RouteConfig::default() }, |_| {})
}

fn take_commands(test: &mut TestLoop, channel: &str, has_redis: bool) {
    test.reactor.router.features.clear();
    test.reactor.router.add_feature(|server| Control::new(server, channel.to_owned(), has_redis));
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
    assert_eq!(test.reactor.metrics().closes.of(4504), 2);
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

fn unix(test: &TestLoop) -> u64 {
    test.reactor.router.server.now.unix
}

fn revoke(test: &mut TestLoop, sub: &str, before: u64) -> usize {
    test.publish("ctl", &format!(r#"{{"op":"revoke","sub":"{sub}","before":{before}}}"#))
}

fn revoked() -> Value {
    let detail = "a back end has revoked the token: sign in again";
    json!({"close": 4500, "reason": {"reason": "revoked", "detail": detail}})
}

#[test]
fn earlier_tokens_of_a_user_are_revoked_and_nothing_else() {
    let raw = RouteConfig { path: "/raw".into(), ..RouteConfig::default() };
    let mut test = TestLoop::with_routes(&[RouteConfig::default(), raw], |_| {});
    let old = test.token("42", &[]);
    let (first, second) = (test.connect("42", &[]), test.connect_at("/raw", "42", &[]));
    let (renewed, bystander) = (test.connect("42", &[]), test.connect("43", &[]));
    test.reactor.router.server.now.unix += 10;
    let (late, newer) = (test.connect("42", &[]), test.token("42", &[]));
    test.say(renewed, &format!(r#"{{"op":"auth","token":"{newer}"}}"#));
    for id in [first, second, late, renewed, bystander] {
        test.received(id);
    }
    let before = unix(&test);
    assert_eq!(revoke(&mut test, "42", before), 2);
    for id in [first, second] {
        assert_eq!(test.received(id), [revoked()]);
    }
    assert_eq!(revoke(&mut test, "42", before), 0, "it says no more");
    test.say(late, &format!(r#"{{"op":"auth","token":"{old}"}}"#));
    assert_eq!(test.received(late), [revoked()], "an older token renews nothing");
    for id in [renewed, bystander] {
        assert_eq!(test.received(id).len(), 0);
    }
    assert_eq!(test.publish("pub.user.42", "1"), 1);
    let metrics = test.reactor.metrics();
    assert_eq!((metrics.revocations, metrics.tokens_revoked, metrics.controls), (1, 1, 2));
}

#[test]
fn a_revocation_of_what_is_to_come_is_malformed() {
    let mut test = test();
    let client = test.connect("42", &[]);
    test.received(client);
    let now = unix(&test);
    for before in [now + 241, now * 1000, u64::MAX] {
        assert_eq!(revoke(&mut test, "42", before), 0, "{before}");
    }
    assert_eq!(test.reactor.metrics().control_malformed, 3);
    assert_eq!(test.received(client).len(), 0);
    assert_eq!(revoke(&mut test, "42", now + 240), 1, "a clock may be ahead");
}

#[test]
fn without_room_the_earliest_revocation_holds_for_all_newcomers() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| bounds.revocations_max = 2);
    let old = test.token("7", &[]);
    let (client, there) = (test.connect_anonymous(), test.connect("7", &[]));
    test.reactor.router.server.now.unix += 10;
    let now = unix(&test);
    for sub in ["1", "2", "3"] {
        revoke(&mut test, sub, now);
    }
    assert_eq!(test.reactor.metrics().revocations_merged, 3, "they are of one second");
    test.say(client, &format!(r#"{{"op":"auth","token":"{old}"}}"#));
    assert_eq!(test.received(client), [revoked()]);
    assert_eq!(test.received(there).len(), 1, "its welcome: no connection is closed for it");
    assert_eq!(revoke(&mut test, "7", now), 1, "but for one that names its user");
    assert_eq!(test.received(there), [revoked()]);
}

/// Two nodes that share a set in Redis, and one that starts later; the test is that Redis.
#[test]
fn redis_tells_a_node_of_the_revocations_that_it_missed() {
    let mut test = test();
    let set = |pairs: &[(&str, u64)]| {
        let text = |text: String| Answer::Text(text.into_bytes());
        let pair = |(sub, before): &(&str, u64)| [text((*sub).into()), text(before.to_string())];
        Answer::List(pairs.iter().flat_map(pair).collect())
    };
    let (client, other, bystander) =
        (test.connect("42", &[]), test.connect("44", &[]), test.connect("43", &[]));
    for id in [client, other, bystander] {
        test.received(id);
    }
    let now = unix(&test);
    let (words, request) = test.exchanges().remove(0);
    assert_eq!(words[2..], ["1", "oneloop:{ctl}:revoked", "0", "0", "0", "0", "127"]);
    test.answer(request, set(&[("42", now + 1), ("", 5), ("\n", now + 1)]));
    assert_eq!(test.received(client), [revoked()]);
    assert_eq!(test.received(bystander).len(), 0);
    // Its own commands are saved, and saved again when the subscription comes up.
    assert_eq!(revoke(&mut test, "44", now + 1), 1);
    assert_eq!(test.received(other), [revoked()]);
    let (words, request) = test.exchanges().remove(0);
    let second = (now + 1).to_string();
    assert_eq!(words[9..], [&second, "44"]);
    test.answer(request, Answer::Refused("NOPERM".into()));
    assert_eq!(test.exchanges().len(), 0, "it waits");
    test.pass(1000);
    let (words, request) = test.exchanges().remove(0);
    assert_eq!(words[9..], [&second, "44"]);
    test.answer(request, set(&[]));
    test.reactor.router.on_source(true);
    test.turn();
    let (words, _) = test.exchanges().remove(0);
    assert_eq!(words[4..], ["6", "5", "0", "0", "127", &second, "42", &second, "44"]);
    assert_eq!(test.reactor.metrics().revocation_retries, 1);
}
