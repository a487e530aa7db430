//! Event streams in the loop: the same subscriptions, history and bounds as for WebSockets, by plain HTTP.

use serde_json::{Value, json};

use crate::config::{Format, RouteConfig, SlowPolicy};
use crate::engine::bounds::Bounds;
use crate::engine::client::State;
use crate::engine::client::frame::frames_len;
use crate::engine::origin::Origins;
use crate::engine::pubsub::hub::LARGE_TOPIC;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::slots::ConnId;

/// An event: its name, its cursor, and its data.
type Event = (String, String, String);

/// A response in part: its head, the events of its body, the comments among them, and whether its last chunk has come.
#[derive(Debug, Default)]
struct Received {
    head: String,
    events: Vec<Event>,
    comments: usize,
    /// The latest cursor, of an event or a comment.
    last_id: Option<String>,
    is_over: bool,
}

impl Received {
    /// The data of events without a name, as JSON.
    fn messages(&self) -> Vec<Value> {
        let unnamed = self.events.iter().filter(|(name, _, _)| name.is_empty());
        unnamed.map(|(_, _, data)| serde_json::from_str(data).expect("JSON")).collect()
    }

    fn status(&self) -> u16 {
        self.head[9..12].parse().expect("a status")
    }

    /// The code and the reason of the event `close`.
    fn close(&self) -> Option<(u64, Value)> {
        let (_, _, data) = self.events.iter().find(|(name, _, _)| name == "close")?;
        let data: Value = serde_json::from_str(data).expect("JSON");
        let reason = serde_json::from_str(data["reason"].as_str().expect("a text"));
        Some((data["code"].as_u64().expect("a number"), reason.unwrap_or(Value::Null)))
    }
}

fn route() -> RouteConfig {
    RouteConfig { may: vec!["room.*".into()], ..RouteConfig::default() }
}

fn looped(change: impl FnOnce(&mut Bounds)) -> TestLoop {
    TestLoop::new(route(), change)
}

/// Sends a request for a stream.
fn ask(test: &mut TestLoop, path: &str, lines: &str) -> ConnId {
    let id = test.reactor.attach();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n{lines}\r\n");
    test.send_raw(id, head.as_bytes());
    // A replay takes several.
    (0..3).for_each(|_| test.turn());
    id
}

/// Connects a client with a token for these topics.
fn connect(test: &mut TestLoop, sub: &str, topics: &[&str]) -> ConnId {
    let bearer = format!("Authorization: Bearer {}\r\n", test.token(sub, topics));
    let id = ask(test, "/ws", &bearer);
    let received = received(test, id);
    assert_eq!((received.status(), received.events.len()), (200, 1), "{received:?}");
    id
}

/// Reads what a client received since the last call.
fn received(test: &mut TestLoop, id: ConnId) -> Received {
    let bytes = test.received_bytes(id);
    let mut rest = &bytes[..];
    let mut received = Received::default();
    if rest.starts_with(b"HTTP/") {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        received.head = String::from_utf8(rest[..end].to_vec()).expect("text");
        rest = &rest[end..];
        if !received.head.contains("chunked") {
            return received;
        }
    }
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        received.is_over |= size == 0;
        rest = &rest[end + 2 + size + 2..];
    }
    assert!(rest.is_empty(), "whole chunks");
    for block in String::from_utf8(body).expect("UTF-8").split_terminator("\n\n") {
        let (mut event, mut data) = (Event::default(), Vec::new());
        for line in block.lines() {
            match line.split_once(": ").unwrap_or((line, "")) {
                (":", _) => received.comments += 1,
                ("event", value) => event.0 = value.to_owned(),
                ("id", value) => {
                    event.1 = value.to_owned();
                    received.last_id = Some(value.to_owned());
                }
                ("data", value) => data.push(value),
                (field, _) => assert_eq!(field, "retry"),
            }
        }
        event.2 = data.join("\n");
        if !data.is_empty() {
            received.events.push(event);
        }
    }
    received
}

#[test]
fn a_stream_receives_what_a_websocket_does_and_nothing_else() {
    let mut test = looped(|_| ());
    let bearer = format!("Authorization: Bearer {}\r\n", test.token("42", &["news"]));
    let id = ask(&mut test, "/ws?topic=room.7&topic=secret", &bearer);
    let socket = test.connect("43", &["news"]);
    let bystander = connect(&mut test, "44", &[]);
    let welcome = received(&mut test, id);
    let [first, error] = &welcome.messages()[..] else { panic!("{welcome:?}") };
    assert_eq!((&first["op"], &first["sub"]), (&json!("welcome"), &json!("42")));
    assert_eq!(first["topics"], json!(["news", "room.7", "user.42"]));
    assert_eq!(welcome.events[0].1, first["id"], "a quiet client resumes from its welcome");
    assert_eq!(error["code"], "forbidden");
    test.received(socket);
    for channel in ["pub.news", "pub.user.42", "pub.room.7"] {
        test.publish(channel, r#"{"paid":true}"#);
    }
    let found = received(&mut test, id);
    let topics: Vec<_> = found.messages().iter().map(|one| one["topic"].clone()).collect();
    assert_eq!(topics, ["news", "user.42", "room.7"]);
    for ((name, cursor, _), message) in found.events.iter().zip(found.messages()) {
        assert_eq!((name.as_str(), &json!(cursor)), ("", &message["id"]));
    }
    let of_socket = test.received(socket);
    assert_eq!(of_socket, found.messages()[..1]);
    assert!(received(&mut test, bystander).events.is_empty());
    let server = &test.reactor.router.server;
    assert!(server.clients[id.index].is_hibernating(), "nothing of it stays but its slot");
    assert_eq!((server.metrics.opened, server.metrics.event_streams), (3, 2));
}

#[test]
fn each_message_is_encoded_once_and_not_at_all_without_a_stream() {
    for count in [3, LARGE_TOPIC + 1] {
        let mut test = looped(|_| ());
        let sockets: Vec<_> = (0..count).map(|_| test.connect("1", &["news"])).collect();
        let before = frames_len();
        // The frames that a publish makes at once, before the turn writes them.
        let made = |test: &mut TestLoop| {
            test.reactor.router.publish(b"pub.news", b"1");
            let direct = frames_len() - before;
            test.turn();
            direct
        };
        assert_eq!(made(&mut test), 1, "a frame for all");
        let streams: Vec<_> = (0..count).map(|_| connect(&mut test, "2", &["news"])).collect();
        let most = if count > LARGE_TOPIC { 1 } else { 2 };
        assert_eq!(
            made(&mut test),
            most,
            "a twin at the first need: for a large topic when it is written"
        );
        for id in streams {
            assert_eq!(received(&mut test, id).events.len(), 1);
        }
        for id in sockets {
            assert!(test.received(id).len() >= 2);
        }
        assert_eq!(frames_len(), before);
    }
}

#[test]
fn heartbeats_are_comments_and_a_silent_stream_stays() {
    let mut test = looped(|bounds| (bounds.ping_seconds, bounds.silence_seconds) = (2, 5));
    let (id, socket) = (connect(&mut test, "1", &["news"]), test.connect("2", &["news"]));
    test.received(socket);
    let (mut comments, mut events, mut cursor) = (0, 0, String::new());
    test.publish("pub.user.3", "for somebody else");
    for _ in 0..100 {
        test.pass(100);
        let received = received(&mut test, id);
        (comments, events) = (comments + received.comments, events + received.events.len());
        cursor = received.last_id.unwrap_or(cursor);
    }
    assert_eq!(cursor, test.reactor.router.server.cursor(), "a quiet client has a cursor of today");
    assert!((4..=6).contains(&comments), "one each two seconds: {comments}");
    assert_eq!(events, 0);
    let pings_and_close = test.received_bytes(socket);
    assert!(pings_and_close.ends_with(br#"or send the text ping"}"#), "the WebSocket is closed");
    assert_eq!(test.publish("pub.news", "1"), 1);
    assert_eq!(received(&mut test, id).events.len(), 1);
}

#[test]
fn a_silent_stream_makes_no_room_for_others_of_its_user() {
    let mut test = looped(|bounds| {
        (bounds.ping_seconds, bounds.silence_seconds) = (1, 0);
        bounds.clients_per_user_max = 1;
    });
    let id = connect(&mut test, "42", &[]);
    (0..50).for_each(|_| test.pass(100));
    assert!(received(&mut test, id).comments > 2);
    let bearer = format!("Authorization: Bearer {}\r\n", test.token("42", &[]));
    let other = ask(&mut test, "/ws", &bearer);
    let refused = received(&mut test, other);
    assert_eq!(refused.status(), 503);
    assert!(refused.head.contains("\r\nRetry-After: 1\r\n"), "{refused:?}");
    assert_eq!(test.publish("pub.user.42", "1"), 1);
}

#[test]
fn a_close_is_the_last_event_with_its_code_and_reason() {
    let mut test = looped(|_| ());
    let (id, bystander) =
        (connect(&mut test, "42", &["news"]), connect(&mut test, "43", &["news"]));
    test.publish("pub.news", "1");
    test.publish("ctl", r#"{"op":"kick","sub":"42","reason":"paid"}"#);
    let found = received(&mut test, id);
    assert_eq!(found.messages().len(), 1);
    assert_eq!(found.close(), Some((4504, json!({"reason": "paid"}))));
    assert!(found.is_over, "the last chunk has come");
    let state = test.reactor.router.server.client(id).map(|client| client.state());
    assert_eq!(state, Some(State::Lingering), "no answer to the close is waited for");
    assert_eq!(test.publish("pub.news", "2"), 1);
    assert!(received(&mut test, id).events.is_empty());
    let of_other = received(&mut test, bystander);
    assert_eq!((of_other.messages().len(), of_other.close()), (2, None));
    test.end(id);
    assert!(test.is_closed(id));
}

#[test]
fn a_drain_gives_each_stream_its_time_to_come_back() {
    let mut test = looped(|bounds| bounds.drain_per_second = 2);
    let ids: Vec<_> = (0..3).map(|_| connect(&mut test, "42", &[])).collect();
    crate::engine::reactor::drain::begin(&mut test.reactor);
    test.turn();
    for (number, id) in ids.into_iter().enumerate() {
        let retry = (number + 1) * 500;
        let bytes = test.received_bytes(id);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(&format!("event: close\nretry: {retry}\n")), "{text}");
        assert!(text.ends_with("\r\n0\r\n\r\n"), "{text}");
    }
}

#[test]
fn a_stream_resumes_from_the_last_event_that_it_has() {
    let mut test = looped(|_| ());
    let id = connect(&mut test, "42", &["news"]);
    let bystander = connect(&mut test, "43", &[]);
    test.publish("pub.news", "1");
    let cursor = received(&mut test, id).events[0].1.clone();
    test.end(id);
    for payload in ["2", "3"] {
        test.publish("pub.news", payload);
        test.publish("pub.user.43", payload);
    }
    let bearer = format!("Authorization: Bearer {}\r\n", test.token("42", &["news"]));
    for (path, line) in [
        ("/ws?since=old", format!("Last-Event-ID: {cursor}\r\n")),
        (&*format!("/ws?since={cursor}"), String::new()),
    ] {
        let id = ask(&mut test, path, &[bearer.as_str(), line.as_str()].concat());
        let resumed = received(&mut test, id).messages();
        assert_eq!(resumed[0]["resumed"], true, "{path}");
        let data: Vec<_> = resumed[1..].iter().map(|one| one["data"].clone()).collect();
        assert_eq!(data, [2, 3], "{path}");
        test.end(id);
    }
    let id = ask(&mut test, "/ws", &[bearer.as_str(), "Last-Event-ID: junk\r\n"].concat());
    let told = received(&mut test, id).messages();
    assert_eq!((told.len(), &told[0]["resumed"]), (1, &json!(false)));
    assert_eq!(received(&mut test, bystander).messages().len(), 2);
}

#[test]
fn a_slow_stream_is_closed_or_told_of_what_it_lost() {
    for (slow, code) in [(SlowPolicy::Close, Some(4000)), (SlowPolicy::DropOldest, None)] {
        let mut test = TestLoop::new(RouteConfig { slow, ..route() }, |bounds| {
            bounds.backlog_frames_max = 4;
        });
        let (id, other) =
            (connect(&mut test, "42", &["news"]), connect(&mut test, "43", &["news"]));
        test.narrow(id, Some(0));
        for number in 0..10 {
            test.publish("pub.news", &number.to_string());
        }
        test.narrow(id, None);
        (0..10).for_each(|_| test.turn());
        let found = received(&mut test, id);
        assert_eq!(found.close().map(|close| close.0), code);
        if code.is_none() {
            let told = found.messages();
            assert!(told.iter().any(|one| one["op"] == "gap"), "{told:?}");
            assert_eq!(told.last().map(|one| &one["data"]), Some(&json!(9)));
        }
        assert_eq!(received(&mut test, other).messages().len(), 10, "nobody else is slower");
    }
}

#[test]
fn input_behind_the_request_is_discarded_and_paid_for() {
    let mut test = looped(|bounds| bounds.commands_per_second_max = 10);
    let (id, bystander) =
        (connect(&mut test, "42", &["news"]), connect(&mut test, "43", &["news"]));
    for _ in 0..5 {
        test.send_raw(id, b"\x81\x80\0\0\0\0GET / HTTP/1.1\r\n\r\n");
    }
    assert_eq!(test.publish("pub.news", "1"), 2);
    assert_eq!(received(&mut test, id).messages().len(), 1);
    assert!(test.reactor.router.server.clients[id.index].is_hibernating(), "nothing is kept");
    assert_eq!(test.reactor.metrics().commands, 0);
    for _ in 0..50 {
        test.send_raw(id, &[b'x'; 1000]);
    }
    assert_eq!(received(&mut test, id).close().map(|close| close.0), Some(4003));
    assert_eq!(received(&mut test, bystander).close(), None);
}

#[test]
fn a_refusal_is_a_status_before_the_stream_begins() {
    let own = RouteConfig { path: "/own".into(), origins: Origins::SameHost, ..route() };
    let mut test = TestLoop::with_routes(&[route(), own], |_| ());
    let good = format!("Authorization: Bearer {}\r\n", test.token("42", &[]));
    for (lines, status, has) in [
        (String::new(), 401, "WWW-Authenticate: Bearer"),
        ("Authorization: Bearer junk\r\n".to_owned(), 401, "WWW-Authenticate: Bearer"),
        (format!("{good}Origin: http://evil.example\r\n"), 403, "Vary: Origin"),
        (format!("{good}Sec-Fetch-Mode: no-cors\r\n"), 403, "Vary: Origin"),
        (format!("{good}Content-Length: 1\r\n"), 400, "Vary: Origin"),
        (
            format!("{good}Origin: http://h\r\nContent-Length: 1\r\n"),
            400,
            "Access-Control-Allow-Origin: http://h\r\n",
        ),
        ("Origin: http://h\r\n".to_owned(), 401, "Access-Control-Allow-Origin: http://h\r\n"),
    ] {
        let id = ask(&mut test, "/own", &lines);
        let refused = received(&mut test, id);
        assert_eq!(refused.status(), status, "{lines} {refused:?}");
        assert!(refused.head.contains(has), "{lines} {refused:?}");
        assert!(!refused.head.contains("event-stream"));
    }
    test.reactor.router.health.draining = true;
    let id = ask(&mut test, "/ws", &good);
    let refused = received(&mut test, id);
    assert_eq!(refused.status(), 503);
    assert!(refused.head.contains("Retry-After: 5"));
    assert_eq!(test.reactor.metrics().opened, 0);
}

#[test]
fn a_raw_route_sends_its_payloads_as_lines_of_data() {
    let raw = RouteConfig { format: Format::Raw, ..route() };
    let mut test = TestLoop::new(raw, |_| ());
    let bearer = format!("Authorization: Bearer {}\r\n", test.token("42", &["news"]));
    let id = ask(&mut test, "/ws", &bearer);
    let opening = received(&mut test, id);
    assert_eq!((opening.status(), opening.events.len()), (200, 0), "no welcome");
    test.publish("pub.news", "a\nb\r\n c");
    test.reactor.router.publish(b"pub.news", b"\xff\x00");
    // Six times as long as an event: it does not fit one write of the fan-out.
    let lines = "\n".repeat(60_000);
    let more: Vec<_> = (0..LARGE_TOPIC)
        .map(|_| {
            let id = ask(&mut test, "/ws", &bearer);
            received(&mut test, id);
            id
        })
        .collect();
    test.publish("pub.news", &lines);
    (0..10).for_each(|_| test.turn());
    let event = |name: &str, data: &str| (name.to_owned(), String::new(), data.to_owned());
    let expected = [event("", "a\nb\n c"), event("data64", "/wA="), event("", &lines)];
    assert!(received(&mut test, id).events == expected);
    for id in more {
        assert!(received(&mut test, id).events == expected[2..]);
    }
}

#[test]
fn http_1_0_gets_a_stream_without_chunks() {
    let mut test = looped(|_| ());
    let id = test.reactor.attach();
    let token = test.token("42", &["news"]);
    let head = format!(
        "GET /ws HTTP/1.0\r\nAccept: text/event-stream\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    test.send_raw(id, head.as_bytes());
    test.publish("pub.news", "1");
    let text = String::from_utf8(test.received_bytes(id)).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("chunked"), "{head}");
    assert!(body.starts_with("retry: ") && body.ends_with("\"data\":1}\n\n"), "{body}");
    test.publish("ctl", r#"{"op":"kick","sub":"42"}"#);
    let text = String::from_utf8(test.received_bytes(id)).unwrap();
    assert!(text.starts_with("event: close\n") && text.ends_with("}\n\n"), "{text}");
}

#[test]
fn a_route_without_streams_asks_for_an_upgrade() {
    use crate::engine::client::in_memory::install;
    use crate::engine::reactor::tests::harness::Far;
    use crate::engine::reactor::tests::{Silent, plan};
    use crate::engine::reactor::{Reactor, Readiness};
    let far = Far::default();
    install(Some(Box::new(far.clone())));
    let mut reactor = Reactor::new(plan(Silent, |_| ())).expect("a port is free");
    let id = reactor.attach();
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n";
    far.0.borrow_mut().entry(id).or_default().sends = head.to_vec();
    reactor.on_ready(id, Readiness { readable: true, ..Readiness::default() });
    reactor.read_clients();
    reactor.flush();
    assert!(far.0.borrow()[&id].received.starts_with(b"HTTP/1.1 426 "));
}
