//! Clients that speak TLS: rustls' client in memory against the loop.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::ClientConnection;
use serde_json::Value;

use crate::config::{RouteConfig, SlowPolicy};
use crate::engine::client::sealed::sealed_bytes;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::slots::ConnId;
use crate::engine::tls::Acceptor;
use crate::engine::tls::tests::peers;
use crate::observe::metrics::Labelled;

/// A PROXY header for a client at 192.0.2.7.
const PROXY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\0\x50\0\x50";

/// A client's end of TLS.
struct TlsPeer {
    id: ConnId,
    tls: ClientConnection,
    /// Plaintext received, without the response to the handshake.
    received: Vec<u8>,
}

impl TlsPeer {
    fn new(test: &mut TestLoop) -> TlsPeer {
        TlsPeer::with(test, &peers::client_config(None))
    }

    fn with(test: &mut TestLoop, config: &Arc<ClientConfig>) -> TlsPeer {
        let tls = peers::client(config);
        TlsPeer { id: test.reactor.attach_tls(), tls, received: Vec::new() }
    }

    /// A client with a token for `news`.
    fn connected(test: &mut TestLoop, sub: &str) -> TlsPeer {
        let mut peer = TlsPeer::new(test);
        peer.open(test, sub);
        peer.frames();
        peer
    }

    fn open(&mut self, test: &mut TestLoop, sub: &str) {
        let token = test.token(sub, &["news"]);
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        self.tls.writer().write_all(head.as_bytes()).expect("there is room");
        self.exchange(test);
        let end = self.received.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.expect("a response");
        assert!(self.received.starts_with(b"HTTP/1.1 101 "));
        self.received.drain(..end + 4);
    }

    /// Exchanges bytes until neither side has any.
    fn exchange(&mut self, test: &mut TestLoop) {
        loop {
            let sent = peers::sent_by(&mut self.tls);
            test.send_raw(self.id, &sent);
            let is_done = !self.take(test) && !self.tls.wants_write();
            if is_done {
                return;
            }
        }
    }

    /// Receives bytes of the server. Returns whether there were any.
    fn take(&mut self, test: &mut TestLoop) -> bool {
        let bytes = test.received_bytes(self.id);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).expect("a slice is read");
            self.tls.process_new_packets().expect("the server keeps to TLS");
            let _ = self.tls.reader().read_to_end(&mut self.received);
        }
        !bytes.is_empty()
    }

    fn say(&mut self, test: &mut TestLoop, text: &str) {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(text.as_bytes());
        self.tls.writer().write_all(&frame).expect("there is room");
        self.exchange(test);
    }

    /// Takes the whole frames received: JSON, or a close code.
    fn frames(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        let mut rest = &self.received[..];
        while let [first, length, ..] = *rest {
            let (at, length) = match length {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().expect("8 bytes")) as usize),
                length => (2, usize::from(length)),
            };
            let Some(payload) = rest.get(at..at + length) else { break };
            frames.push(match first {
                0x88 => Value::from(u16::from_be_bytes([payload[0], payload[1]])),
                _ => serde_json::from_slice(payload).expect("clients receive JSON"),
            });
            rest = &rest[at + length..];
        }
        let left = rest.len();
        self.received.drain(..self.received.len() - left);
        frames
    }
}

fn test_loop() -> TestLoop {
    TestLoop::new(RouteConfig::default(), |_| {})
}

fn data(frames: &[Value]) -> Vec<&Value> {
    frames.iter().map(|frame| &frame["data"]).collect()
}

/// Counts the clients for which there are bytes, and gives these to them.
fn answered(test: &mut TestLoop, peers: &mut [TlsPeer]) -> usize {
    peers.iter_mut().filter_map(|peer| peer.take(test).then_some(())).count()
}

/// Nothing of the clients' TLS may be left when they have gone.
fn assert_nothing_is_left(test: &mut TestLoop) {
    test.turn();
    assert_eq!(sealed_bytes(), 0);
    assert_eq!(test.reactor.router.server.clients.unfinished_bytes, 0);
}

#[test]
fn messages_reach_a_client_over_tls_and_nobody_else() {
    let mut test = test_loop();
    let mut secure = TlsPeer::connected(&mut test, "42");
    let plain = test.connect("43", &["news"]);
    let mut bystander = TlsPeer::connected(&mut test, "44");
    test.received(plain);
    test.publish("pub.user.42", "1");
    secure.take(&mut test);
    assert_eq!(data(&secure.frames()), [1]);
    assert!(test.received(plain).is_empty() && !bystander.take(&mut test));
    test.publish("pub.news", "2");
    secure.take(&mut test);
    bystander.take(&mut test);
    assert_eq!(data(&secure.frames()), [2]);
    assert_eq!(data(&bystander.frames()), [2]);
    assert_eq!(data(&test.received(plain)), [2]);
    secure.say(&mut test, r#"{"op":"ping","ref":1}"#);
    assert_eq!(secure.frames()[0]["op"], "pong");
}

/// The socket takes the records in pieces. Frames that were sealed are sent whole, in order, and count as pending until then.
#[test]
fn a_slow_client_gets_every_byte_in_order() {
    for room in [1, 7, 22, 100, 16_000, 20_000] {
        let mut test = test_loop();
        let mut slow = TlsPeer::connected(&mut test, "42");
        test.narrow(slow.id, Some(0));
        let long = format!("{:?}", "x".repeat(40_000));
        let payloads = ["1", &long, "2", "3"];
        for payload in payloads {
            test.publish("pub.user.42", payload);
        }
        let client = test.reactor.router.server.client(slow.id).expect("it is there");
        assert_eq!(client.backlog_frames(), 4);
        assert!(client.backlog_bytes() > 40_000);
        let mut received = Vec::new();
        while received.len() < 4 {
            test.narrow(slow.id, Some(room));
            test.turn();
            slow.take(&mut test);
            received.extend(slow.frames());
            let client = test.reactor.router.server.client(slow.id).expect("it is there");
            assert!(client.backlog_frames() + received.len() >= 4, "sealed is not sent");
        }
        let expected = payloads.map(|payload| serde_json::from_str::<Value>(payload).unwrap());
        assert_eq!(data(&received), expected.iter().collect::<Vec<_>>());
        assert!(test.reactor.router.server.client(slow.id).expect("it is there").is_hibernating());
        test.cut(slow.id);
        assert_nothing_is_left(&mut test);
    }
}

/// A record that has left in part carries the frames in it: they are not dropped for newer ones, or the client would miss bytes that
/// its framing needs.
#[test]
fn frames_in_a_record_on_its_way_are_not_dropped_for_newer_ones() {
    let slow = SlowPolicy::KeepNewest;
    let route = RouteConfig { slow, ..RouteConfig::default() };
    let mut test = TestLoop::new(route, |_| {});
    let mut peer = TlsPeer::connected(&mut test, "42");
    test.narrow(peer.id, Some(10));
    for number in 0..20 {
        test.publish("pub.user.42", &number.to_string());
    }
    test.narrow(peer.id, None);
    test.turn();
    peer.take(&mut test);
    let frames = peer.frames();
    assert_eq!(data(&frames), [0, 19], "the one that was begun, and the newest");
}

#[test]
fn a_handshake_in_single_bytes_is_one() {
    let mut test = test_loop();
    let mut peer = TlsPeer::new(&mut test);
    for _ in 0..10 {
        for byte in peers::sent_by(&mut peer.tls) {
            test.send_raw(peer.id, &[byte]);
        }
        if !peer.take(&mut test) {
            break;
        }
    }
    peer.open(&mut test, "42");
    peer.frames();
    peer.tls.writer().write_all(b"\x81\x84\0\0\0\0ping").unwrap();
    for byte in peers::sent_by(&mut peer.tls) {
        test.send_raw(peer.id, &[byte]);
    }
    peer.take(&mut test);
    assert_eq!(peer.received, b"\x81\x04pong");
}

#[test]
fn a_proxy_header_stands_before_the_handshake() {
    let header_in_pieces: [&[&[u8]]; 3] = [&[PROXY], &[&PROXY[..5], &PROXY[5..]], &[]];
    for (number, pieces) in header_in_pieces.into_iter().enumerate() {
        let mut test = test_loop();
        test.reactor.router.addresses.requires_header = true;
        let mut peer = TlsPeer::new(&mut test);
        pieces.iter().for_each(|piece| test.send_raw(peer.id, piece));
        if number == 2 {
            // Together with the ClientHello.
            let hello = peers::sent_by(&mut peer.tls);
            test.send_raw(peer.id, &[PROXY, &hello].concat());
            peer.take(&mut test);
        }
        peer.open(&mut test, "42");
        assert_eq!(peer.frames()[0]["op"], "welcome");
    }
    let mut test = test_loop();
    test.reactor.router.addresses.requires_header = true;
    let mut peer = TlsPeer::new(&mut test);
    let hello = peers::sent_by(&mut peer.tls);
    test.send_raw(peer.id, &hello);
    assert!(test.received_bytes(peer.id).is_empty() && test.is_closed(peer.id));
    assert_nothing_is_left(&mut test);
}

/// A client without keys cannot be told anything: a response in plain text would be the worst that could come.
#[test]
fn an_address_far_above_its_limit_gets_no_handshake() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| {
        bounds.clients_per_address_max = 1;
    });
    test.reactor.router.addresses.requires_header = true;
    let mut crowd: Vec<TlsPeer> = (0..100).map(|_| TlsPeer::new(&mut test)).collect();
    for peer in &mut crowd {
        let hello = peers::sent_by(&mut peer.tls);
        test.send_raw(peer.id, &[PROXY, &hello].concat());
    }
    let last = crowd[99].id;
    assert!(test.is_closed(last) && test.received_bytes(last).is_empty());
    assert!(answered(&mut test, &mut crowd) > 0);
    let mut other = TlsPeer::new(&mut test);
    let hello = peers::sent_by(&mut other.tls);
    let elsewhere = [&PROXY[..19], &[8], &PROXY[20..]].concat();
    test.send_raw(other.id, &[&elsewhere[..], &hello].concat());
    assert!(other.take(&mut test), "others are let in");
}

#[test]
fn a_handshake_that_does_not_end_is_ended_without_a_word() {
    let mut test = test_loop();
    let mut silent = TlsPeer::new(&mut test);
    let mut begun = TlsPeer::new(&mut test);
    let hello = peers::sent_by(&mut begun.tls);
    test.send_raw(begun.id, &hello[..hello.len() / 2]);
    let mut answered = TlsPeer::new(&mut test);
    test.send_raw(answered.id, &peers::sent_by(&mut answered.tls));
    assert!(answered.take(&mut test));
    assert!(test.reactor.router.server.clients.unfinished_bytes > 2000, "boxes are counted");
    test.pass(3_600_000);
    for peer in [&mut silent, &mut begun, &mut answered] {
        assert!(!peer.take(&mut test));
        assert!(test.is_closed(peer.id));
    }
    assert_nothing_is_left(&mut test);
}

#[test]
fn the_end_of_tls_is_told_and_understood() {
    let mut test = test_loop();
    // The client leaves.
    let mut peer = TlsPeer::connected(&mut test, "42");
    peer.tls.send_close_notify();
    test.send_raw(peer.id, &peers::sent_by(&mut peer.tls));
    peer.take(&mut test);
    let mut rest = [0; 1];
    assert_eq!(peer.tls.reader().read(&mut rest).expect("an end that TLS tells"), 0);
    assert!(test.is_closed(peer.id));
    // The server closes.
    let mut peer = TlsPeer::connected(&mut test, "42");
    test.reactor.router.server.close(peer.id, crate::Close::GOING_AWAY);
    test.turn();
    peer.take(&mut test);
    peer.tls.writer().write_all(b"\x88\x82\0\0\0\0\x03\xe9").unwrap();
    test.send_raw(peer.id, &peers::sent_by(&mut peer.tls));
    peer.take(&mut test);
    assert_eq!(peer.frames(), [1001]);
    assert_eq!(peer.tls.reader().read(&mut rest).expect("an end that TLS tells"), 0);
    // A cut is no end.
    let peer = TlsPeer::connected(&mut test, "42");
    assert_eq!(test.reactor.metrics().tls_truncated, 0);
    test.end(peer.id);
    assert_eq!(test.reactor.metrics().tls_truncated, 1);
    assert!(test.is_closed(peer.id));
    assert_nothing_is_left(&mut test);
}

#[test]
fn a_forged_record_ends_its_connection_alone() {
    let mut test = test_loop();
    let mut peer = TlsPeer::connected(&mut test, "42");
    let mut bystander = TlsPeer::connected(&mut test, "43");
    test.narrow(peer.id, Some(0));
    test.publish("pub.user.42", "1");
    test.send_raw(peer.id, &[&[23, 3, 3, 0, 40][..], &[7; 40]].concat());
    test.narrow(peer.id, None);
    test.turn();
    let bytes = test.received_bytes(peer.id);
    let mut rest = &bytes[..];
    let mut result = Ok(());
    while !rest.is_empty() && result.is_ok() {
        peer.tls.read_tls(&mut rest).expect("a slice is read");
        result = peer.tls.process_new_packets().map(|_| ());
        let _ = peer.tls.reader().read_to_end(&mut peer.received);
    }
    let alert = rustls::AlertDescription::BadRecordMac;
    assert_eq!(result, Err(rustls::Error::AlertReceived(alert)));
    assert_eq!(test.reactor.metrics().tls_failures.of("bad_record_mac"), 1);
    test.publish("pub.user.43", "2");
    bystander.take(&mut test);
    assert_eq!(data(&bystander.frames()), [2]);
    test.end(peer.id);
    test.cut(bystander.id);
    assert_nothing_is_left(&mut test);
}

#[test]
fn a_plain_request_is_told_about_tls() {
    let mut test = test_loop();
    let peer = TlsPeer::new(&mut test);
    test.send_raw(peer.id, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let answer = String::from_utf8(test.received_bytes(peer.id)).expect("plain text");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    assert_eq!(test.reactor.metrics().tls_failures.of("plain_http"), 1);
}

/// A turn has room for two signatures here: those who come together wait for each other, and for nothing else.
#[test]
fn each_answered_handshake_is_charged_once() {
    let tls12 = peers::client_config(Some(peers::tls12_suite()));
    let retrying = peers::retrying_client_config();
    for config in [peers::client_config(None), tls12, Arc::clone(&retrying)] {
        let mut test = test_loop();
        test.reactor.set_acceptor(Acceptor { cost: 128 * 1024, ..peers::acceptor(false) });
        let strangers: Vec<ConnId> = (0..8).map(|_| test.reactor.attach_tls()).collect();
        let mut peers: Vec<TlsPeer> = (0..4).map(|_| TlsPeer::with(&mut test, &config)).collect();
        let plain = b"GET / HTTP/1.1\r\n\r\n";
        let no_hello = [22, 3, 1, 0, 5, 2, 0, 0, 1, 0];
        for (number, &id) in strangers.iter().enumerate() {
            test.put_raw(id, if number % 2 == 0 { plain } else { &no_hello });
        }
        let is_retrying = Arc::ptr_eq(&config, &retrying);
        for round in 0..1 + usize::from(is_retrying) {
            for peer in &mut peers {
                test.put_raw(peer.id, &peers::sent_by(&mut peer.tls));
            }
            test.turn();
            if is_retrying && round == 0 {
                assert_eq!(answered(&mut test, &mut peers), 4, "a retry costs nothing");
            }
        }
        for &id in &strangers {
            assert!(!test.received_bytes(id).is_empty(), "a refusal costs nothing");
        }
        assert_eq!(answered(&mut test, &mut peers), 2);
        test.turn();
        assert_eq!(answered(&mut test, &mut peers), 2);
        for peer in &mut peers {
            test.put_raw(peer.id, &peers::sent_by(&mut peer.tls));
        }
        test.turn();
        let done: u64 = test.reactor.metrics().tls_handshakes.iter().map(Labelled::sum).sum();
        assert_eq!(done, 4, "the rest of a handshake costs nothing");
    }
}

#[test]
fn a_flood_of_key_updates_ends_its_connection() {
    let mut test = test_loop();
    let mut peer = TlsPeer::connected(&mut test, "42");
    for _ in 0..33 {
        peer.tls.refresh_traffic_keys().expect("TLS 1.3");
        test.send_raw(peer.id, &peers::sent_by(&mut peer.tls));
    }
    assert_eq!(test.reactor.metrics().tls_failures.iter().len(), 1);
    test.end(peer.id);
    assert_nothing_is_left(&mut test);
}

/// An attacker's records that are cheap to send must not be dear to handle, nor be kept.
#[test]
fn a_handshake_in_countless_records_ends() {
    let mut test = test_loop();
    let mut peer = TlsPeer::new(&mut test);
    let hello = peers::sent_by(&mut peer.tls);
    let pieces = hello[5..].chunks(2);
    assert!(pieces.len() > 64);
    let records: Vec<u8> =
        pieces.flat_map(|piece| [&[22, 3, 1, 0, piece.len() as u8][..], piece].concat()).collect();
    test.send_raw(peer.id, &records);
    assert_eq!(test.reactor.metrics().tls_failures.of("too_many_useless_records"), 1);
    let mut peer = TlsPeer::new(&mut test);
    let hello = peers::sent_by(&mut peer.tls);
    test.send_raw(peer.id, &[&hello[..], &[23, 3, 3, 0, 0].repeat(10_000)].concat());
    assert_eq!(test.reactor.metrics().tls_failures.of("decode"), 1);
}

#[test]
fn new_keys_between_single_bytes_are_bounded_and_charged() {
    let mut test = test_loop();
    let mut peer = TlsPeer::connected(&mut test, "42");
    let mut records = Vec::new();
    for _ in 0..40 {
        peer.tls.refresh_traffic_keys().expect("TLS 1.3");
        peer.tls.writer().write_all(b"\x8a").expect("there is room");
        records.extend(peers::sent_by(&mut peer.tls));
    }
    test.send_raw(peer.id, &records);
    assert_eq!(test.reactor.metrics().tls_failures.of("too_many_useless_records"), 1);
}

/// The start of a record is memory as well, and is freed when it is the reason for the end of a client.
#[test]
fn clients_that_leave_records_unfinished_make_room_and_others_stay() {
    let mut test = TestLoop::new(RouteConfig::default(), |bounds| {
        bounds.unfinished_total_bytes_max = 200_000;
    });
    let mut plain = test.connect("1", &["news"]);
    let mut innocent = TlsPeer::connected(&mut test, "2");
    test.send_raw(plain, &[0x81, 0xfe, 0x10, 0, 0, 0, 0, 0, b'x']);
    let attackers: Vec<TlsPeer> = (0..20).map(|_| TlsPeer::connected(&mut test, "3")).collect();
    for attacker in &attackers {
        test.send_raw(attacker.id, &[&[23, 3, 3, 0x40, 0][..], &[7; 15_000]].concat());
        test.pass(200);
    }
    let server = &test.reactor.router.server;
    assert!(server.clients.unfinished_bytes <= 200_000);
    assert!(test.is_closed(attackers[0].id) && !test.is_closed(attackers[19].id));
    for id in [&mut plain, &mut innocent.id] {
        assert!(!test.is_closed(*id));
    }
    test.publish("pub.news", "1");
    innocent.take(&mut test);
    assert_eq!(data(&innocent.frames()), [1]);
}

#[test]
fn commands_before_the_end_of_tls_are_handled() {
    let mut test = test_loop();
    let mut peer = TlsPeer::connected(&mut test, "42");
    let token = test.token("42", &["news"]);
    let auth = format!(r#"{{"op":"auth","token":"{token}"}}"#);
    let mut frames = vec![0x81, 0xfe];
    frames.extend((auth.len() as u16).to_be_bytes());
    frames.extend([0; 4]);
    frames.extend(auth.as_bytes());
    for _ in 0..5 {
        frames.extend(b"\x81\x84\0\0\0\0ping");
    }
    let before = test.reactor.metrics().commands;
    peer.tls.writer().write_all(&frames).unwrap();
    peer.tls.send_close_notify();
    test.send_raw(peer.id, &peers::sent_by(&mut peer.tls));
    for _ in 0..5 {
        test.turn();
    }
    assert_eq!(test.reactor.metrics().commands - before, 6);
    assert!(test.is_closed(peer.id));
}

#[test]
fn a_client_that_has_ended_its_side_gets_the_rest() {
    let mut test = test_loop();
    let mut peer = TlsPeer::new(&mut test);
    peer.exchange(&mut test);
    peer.tls.writer().write_all(b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    peer.tls.send_close_notify();
    test.narrow(peer.id, Some(10));
    test.send_raw(peer.id, &peers::sent_by(&mut peer.tls));
    test.end(peer.id);
    assert!(!test.is_closed(peer.id));
    test.narrow(peer.id, None);
    test.turn();
    peer.take(&mut test);
    assert!(peer.received.starts_with(b"HTTP/1.1 404 "));
    assert!(test.is_closed(peer.id));
}
