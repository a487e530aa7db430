//! The fate of messages from clients.

use serde_json::{Value, json};

use crate::ConnId;
use crate::config::RouteConfig;
use crate::engine::random::Random;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::redis::request::Answer;
use crate::engine::redis::sink::Sink;

fn route(to: Sink) -> RouteConfig {
    let may = vec!["room.*".into()];
    RouteConfig { may, upstream: Some(to), ..RouteConfig::default() }
}

fn test(to: Sink) -> TestLoop {
    TestLoop::new(route(to), |bounds| {
        (bounds.commands_per_second_max, bounds.upstream_bytes_per_second_max) = (0, 0);
    })
}

fn stream() -> Sink {
    Sink::Stream("up".to_owned())
}

/// Connects a client and reads its welcome. Returns its id and name.
fn connect(test: &mut TestLoop, sub: &str) -> (ConnId, String) {
    let id = test.connect(sub, &["hall"]);
    let received = test.received(id);
    (id, received[0]["conn"].as_str().unwrap().to_owned())
}

#[test]
fn a_send_is_an_entry_of_the_stream_and_is_answered_once_redis_has_it() {
    let mut test = test(stream());
    let ((client, name), (bystander, _)) = (connect(&mut test, "4\"2"), connect(&mut test, "43"));
    test.say(client, r#"{"op":"send","data":{"a" : 1.0},"topic":"hall","ref":"\u0061"}"#);
    assert_eq!(test.received(client).len(), 0, "not before Redis has it");
    let at = test.reactor.router.server.now.unix_millis.to_string();
    let (words, request) = test.asked().remove(0);
    let expected = [
        "XADD",
        "up",
        "MAXLEN",
        "~",
        "100000",
        "*",
        "sub",
        "4\"2",
        "conn",
        &name,
        "topic",
        "hall",
        "data",
        r#"{"a" : 1.0}"#,
        "at",
        &at,
    ];
    assert_eq!(words[..words.len() - 1], expected[..words.len() - 1]);
    test.answer(request, Answer::Text(b"1-0".to_vec()));
    assert_eq!(test.received(client), [json!({"op": "sent", "id": "1-0", "ref": "a"})]);
    assert_eq!(test.received(bystander).len(), 0);
    assert_eq!(test.reactor.metrics().upstream_sent, 1);
}

#[test]
fn a_send_is_a_message_on_the_channel() {
    let mut test = test(Sink::Channel("up".to_owned()));
    let (client, name) = connect(&mut test, "42");
    test.say(client, r#"{"op":"send","data":null}"#);
    let (words, request) = test.asked().remove(0);
    assert_eq!(words[..2], ["PUBLISH", "up"]);
    let said: Value = serde_json::from_str(&words[2]).unwrap();
    let at = said["at"].as_u64().unwrap();
    assert_eq!(said, json!({"sub": "42", "conn": name, "data": null, "at": at}));
    test.answer(request, Answer::Integer(0));
    assert_eq!(test.received(client), [json!({"op": "sent"})]);
}

#[test]
fn a_send_that_redis_does_not_have_is_never_called_sent() {
    for answer in [
        Answer::Unavailable,
        Answer::Refused("OOM command not allowed".to_owned()),
        Answer::Nothing,
        Answer::Integer(5),
        Answer::List(vec![]),
    ] {
        let mut test = test(stream());
        let (client, _) = connect(&mut test, "42");
        test.say(client, r#"{"op":"send","data":1,"ref":7}"#);
        let (_, request) = test.asked().remove(0);
        test.answer(request, answer);
        let received = test.received(client);
        assert_eq!(received, [json!({"op": "error", "code": "unavailable", "ref": 7})]);
        assert_eq!(test.reactor.metrics().upstream_unavailable, 1);
    }
}

#[test]
fn who_may_send_where_is_the_tokens_part() {
    let anonymous = vec!["news".to_owned()];
    let mut test = TestLoop::new(RouteConfig { anonymous, ..route(stream()) }, |_| {});
    let (client, _) = connect(&mut test, "42");
    for (topic, code) in [
        ("hall", None),
        ("room.7", None),
        ("user.42", None),
        ("user.43", Some("forbidden")),
        ("deck", Some("forbidden")),
        ("room.*", Some("bad_topic")),
        ("", Some("bad_topic")),
    ] {
        test.say(client, &format!(r#"{{"op":"send","data":1,"topic":"{topic}","ref":1}}"#));
        let (received, asked) = (test.received(client), test.asked());
        assert_eq!(asked.len(), usize::from(code.is_none()), "{topic}");
        let codes: Vec<&Value> = received.iter().map(|frame| &frame["code"]).collect();
        assert_eq!(codes, code.as_slice(), "{topic}");
        for (_, request) in asked {
            test.answer(request, Answer::Text(b"1-0".to_vec()));
            test.received(client);
        }
    }
    let stranger = test.connect_anonymous();
    test.received(stranger);
    test.say(stranger, r#"{"op":"send","data":1}"#);
    assert_eq!(test.received(stranger), [json!({"op": "error", "code": "forbidden"})]);
    assert!(test.asked().is_empty());
}

#[test]
fn a_route_without_upstream_takes_nothing() {
    let mut test = TestLoop::new(RouteConfig::default(), |_| {});
    let (client, _) = connect(&mut test, "42");
    test.say(client, r#"{"op":"send","data":1,"ref":"x"}"#);
    let received = test.received(client);
    assert_eq!(received, [json!({"op": "error", "code": "forbidden", "ref": "x"})]);
    assert!(test.asked().is_empty());
}

#[test]
fn what_waits_for_redis_is_bounded_for_each_user_and_in_all() {
    let mut test = test(stream());
    let busy = [json!({"op": "error", "code": "busy"})];
    let clients: Vec<ConnId> = (0..33).map(|sub| connect(&mut test, &sub.to_string()).0).collect();
    for client in &clients[..32] {
        for _ in 0..32 {
            test.say(*client, r#"{"op":"send","data":1}"#);
        }
        assert_eq!(test.received(*client).len(), 0);
    }
    test.say(clients[32], r#"{"op":"send","data":1}"#);
    assert_eq!(test.received(clients[32]), busy, "1024 in all");
    let mut asked = test.asked();
    assert_eq!(asked.len(), 1024);
    let last = asked.pop().unwrap().1;
    test.answer(last, Answer::Text(b"1-0".to_vec()));
    test.say(clients[0], r#"{"op":"send","data":1}"#);
    assert_eq!(test.received(clients[0]), busy, "32 of one user");
    test.say(clients[32], r#"{"op":"send","data":1}"#);
    assert_eq!(test.received(clients[32]).len(), 0);
    assert_eq!(test.asked().len(), 1);
    assert_eq!(test.reactor.metrics().upstream_busy, 2);
}

#[test]
fn what_waits_for_redis_is_bounded_in_bytes() {
    let mut test = test(stream());
    let clients = ["1", "2", "3"].map(|sub| connect(&mut test, sub).0);
    let large = format!(r#"{{"op":"send","data":"{}"}}"#, "x".repeat(60_000));
    for round in 0..90 {
        test.say(clients[round / 30], &large);
    }
    let asked = test.asked();
    assert_eq!(asked.len(), (4 << 20) / 60_002);
    assert_eq!(test.reactor.metrics().upstream_busy as usize, 90 - asked.len());
    for (_, request) in asked {
        test.answer(request, Answer::Unavailable);
    }
    test.say(clients[0], &large);
    assert_eq!(test.asked().len(), 1, "there is room again");
}

#[test]
fn an_answer_to_one_who_is_gone_reaches_nobody_else() {
    let mut test = test(stream());
    let (client, _) = connect(&mut test, "42");
    for _ in 0..32 {
        test.say(client, r#"{"op":"send","data":1}"#);
    }
    let asked = test.asked();
    test.cut(client);
    let (next, _) = connect(&mut test, "43");
    assert_eq!(next.index, client.index, "it reuses the place of the one before");
    for (_, request) in asked {
        test.answer(request, Answer::Text(b"1-0".to_vec()));
    }
    assert_eq!(test.received(next).len(), 0);
    test.say(next, r#"{"op":"send","data":1}"#);
    assert_eq!(test.asked().len(), 1);
}

/// Every send gets one answer, with its own mark, in whatever order the answers come.
#[test]
fn each_send_is_answered_once_from_seeds() {
    for seed in 1..200 {
        let mut random = Random::new(seed);
        let mut test = test(stream());
        let clients = ["1", "2", "3"].map(|sub| connect(&mut test, sub).0);
        let mut waiting = Vec::new();
        let (mut said, mut answered) = ([0_u64; 3], [0_u64; 3]);
        for _ in 0..60 {
            let who = random.below(3);
            if random.below(3) > 0 {
                said[who] += 1;
                let mark = said[who];
                test.say(clients[who], &format!(r#"{{"op":"send","data":1,"ref":{mark}}}"#));
                waiting.extend(test.asked().into_iter().map(|(_, request)| request));
            } else if !waiting.is_empty() {
                let answers = [Answer::Text(b"1-0".to_vec()), Answer::Unavailable];
                let answer = answers[random.below(2)].clone();
                test.answer(waiting.remove(0), answer);
            }
        }
        for request in waiting {
            test.answer(request, Answer::Unavailable);
        }
        for who in 0..3 {
            let mut marks: Vec<u64> = test
                .received(clients[who])
                .iter()
                .map(|frame| frame["ref"].as_u64().unwrap())
                .collect();
            answered[who] = marks.len() as u64;
            marks.sort_unstable();
            assert!(marks.iter().copied().eq(1..=said[who]), "seed {seed}: {marks:?}");
        }
        assert_eq!(said, answered, "seed {seed}");
    }
}

#[test]
fn connections_of_one_user_share_its_rate_and_others_have_theirs() {
    let mut test = TestLoop::new(route(stream()), |bounds| bounds.commands_per_second_max = 0);
    let loud: Vec<ConnId> = (0..10).map(|_| connect(&mut test, "42").0).collect();
    let (quiet, _) = connect(&mut test, "43");
    let large = format!(r#"{{"op":"send","data":"{}"}}"#, "x".repeat(60_000));
    for client in &loud {
        test.say(*client, &large);
    }
    // 128 KiB in a second, and the send during which they are used up.
    assert_eq!(test.asked().len(), 3);
    assert_eq!(test.reactor.metrics().upstream_busy, 7);
    test.say(quiet, &large);
    assert_eq!(test.asked().len(), 1);
}
