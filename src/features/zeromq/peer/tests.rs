//! A PUSH socket's connection, driven by bytes.

use super::*;
use crate::engine::random::Random;
use crate::features::zeromq::frames::tests::part;

const PAYLOAD_BYTES_MAX: usize = 1000;

fn peer(password: Option<&str>) -> PushPeer {
    PushPeer::new(Rc::new(ZeromqTerms {
        connections_max: 4,
        topic_field: "topic".to_owned(),
        prefix: "pub.".to_owned(),
        password: password.map(|password| Rc::from(password.as_bytes())),
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        handshake_millis: 5000,
    }))
}

/// The greeting of libzmq 4.3.
fn greeting_of(mechanism: &str) -> Vec<u8> {
    let mut bytes = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01".to_vec();
    bytes.extend(mechanism.as_bytes());
    bytes.resize(GREETING_BYTES, 0);
    bytes
}

fn command_of(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_command(&mut bytes, name, data);
    bytes
}

fn ready_of(kind: &str) -> Vec<u8> {
    let length = [0, 0, 0, kind.len() as u8];
    let socket = [b"\x0bSocket-Type", &length[..], kind.as_bytes()].concat();
    command_of("READY", &[&socket[..], b"\x08Identity\0\0\0\0"].concat())
}

fn hello_of(user: &str, password: &str) -> Vec<u8> {
    let words = [user, password].map(|word| [&[word.len() as u8], word.as_bytes()].concat());
    command_of("HELLO", &words.concat())
}

fn initiate() -> Vec<u8> {
    command_of("INITIATE", b"\x0bsocket-type\0\0\0\x04PUSH")
}

fn opening() -> Vec<u8> {
    [greeting_of("NULL"), ready_of("PUSH")].concat()
}

/// Returns what came from these pieces, and checks that all of them are taken.
fn feed<'a>(peer: &mut PushPeer, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<PeerEvent<'a>> {
    let mut events = Vec::new();
    for mut input in pieces {
        while let Some(event) = peer.next(&mut input) {
            events.push(event);
        }
        assert!(input.is_empty());
    }
    events
}

fn message<'a>(channel: &'a [u8], payload: &'a [u8]) -> PeerEvent<'a> {
    PeerEvent::Message { channel: channel.into(), payload: payload.into() }
}

/// An open connection without output.
fn open_peer() -> PushPeer {
    let mut peer = peer(None);
    assert_eq!(feed(&mut peer, [&opening()[..]]), [PeerEvent::Ready]);
    peer.output.clear();
    peer
}

#[test]
fn a_stream_means_the_same_wherever_it_is_cut() {
    let long = [b'x'; PAYLOAD_BYTES_MAX + 1];
    let stream = [
        &opening()[..],
        &part(b"pub.news", true),
        &part(b"hi", false),
        &part(b"{}", false),
        &command_of("PING", b"\0\x0aabc"),
        &part(b"pub.a", true),
        &part(&long, true),
        &command_of("PING", b"\0\0"),
        &part(&long[1..], false),
        &part(b"pub.a", true),
        &part(&long, false),
        &part(&long, false),
        &part(&long, true),
        &part(b"lost", false),
        &command_of("SUBSCRIBE", b"x"),
        &part(b"", true),
        &part(b"", false),
    ]
    .concat();
    let expected = [
        PeerEvent::Ready,
        message(b"pub.news", b"hi"),
        PeerEvent::Object(b"{}".into()),
        message(b"pub.a", &long[1..]),
        PeerEvent::Oversized,
        PeerEvent::Oversized,
        message(&long, b"lost"),
        message(b"", b""),
    ];
    let mut whole = peer(None);
    assert_eq!(feed(&mut whole, [&stream[..]]), expected);
    assert_eq!(whole.silence, None, "the latest PING has no time to live");
    let output = [
        &greeting_of("NULL")[GREETING_BYTES..],
        b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PULL\x04\x08\x04PONGabc\x04\x05\x04PONG",
    ];
    assert_eq!(whole.output[GREETING_BYTES..], output.concat());
    for cut in 0..=stream.len() {
        let mut halves = peer(None);
        let events = feed(&mut halves, [&stream[..cut], &stream[cut..]]);
        assert_eq!(events, expected, "cut at {cut}");
        assert_eq!(halves.output, whole.output);
        assert!(halves.frames.is_idle() && halves.channel.is_none(), "nothing is held");
    }
}

/// Against a list of messages, each of which is written down twice: as bytes, and as the events that it means.
#[test]
fn random_streams_agree_with_the_messages_they_were_made_of() {
    for seed in 1..400 {
        let mut random = Random::new(seed);
        let bodies: Vec<Vec<u8>> = (0..8)
            .map(|_| {
                vec![
                    b'a' + random.below(9) as u8;
                    random.choose(&[0, 1, 9, 255, 256, 1000, 1001, 1024, 1025])
                ]
            })
            .collect();
        let (mut stream, mut expected) = (opening(), vec![PeerEvent::Ready]);
        for _ in 0..random.below(12) {
            let count = random.choose(&[1, 1, 2, 2, 2, 3, 5, PARTS_MAX, PARTS_MAX + 1, 200]);
            let parts: Vec<&Vec<u8>> =
                (0..count).map(|_| &bodies[random.below(bodies.len())]).collect();
            for (number, body) in parts.iter().enumerate() {
                stream.extend(part(body, number + 1 < count));
                if random.below(20) == 0 {
                    stream.extend(command_of("PING", &[0, 7, number as u8]));
                }
            }
            let (first, last) = (parts[0], parts[count - 1]);
            expected.push(match count {
                _ if count > PARTS_MAX => PeerEvent::Malformed("too many parts"),
                _ if last.len() > PAYLOAD_BYTES_MAX => PeerEvent::Oversized,
                1 => PeerEvent::Object(last.into()),
                _ if first.len() > 1024 => {
                    PeerEvent::Malformed("the first of its parts is no channel")
                }
                _ => message(first, last),
            });
        }
        let mut reader = peer(None);
        let size_max = random.choose(&[1, 7, 100, 5000]);
        assert_eq!(feed(&mut reader, random.pieces(&stream, size_max)), expected, "seed {seed}");
        assert!(reader.frames.is_idle() && reader.channel.is_none(), "seed {seed}");
    }
}

#[test]
fn the_password_opens_and_nothing_else() {
    let mut peer_with = peer(Some("secret"));
    assert_eq!(peer_with.output, b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01");
    let stream =
        [greeting_of("PLAIN"), hello_of("default", "secret"), initiate(), part(b"{}", false)];
    assert!(peer_with.is_stranger());
    let stream = stream.concat();
    let events = feed(&mut peer_with, [&stream[..]]);
    assert_eq!(events, [PeerEvent::Ready, PeerEvent::Object(b"{}".into())]);
    assert!(!peer_with.is_stranger() && !peer_with.is_over());
    let rest = [&b"PLAIN"[..], &[0; 15], b"\x01", &[0; 31]].concat();
    assert_eq!(peer_with.output[MECHANISM_AT..GREETING_BYTES], rest);
    assert!(
        peer_with.output[GREETING_BYTES..].starts_with(b"\x04\x08\x07WELCOME\x04\x1a\x05READY")
    );
    for (hello, fault) in [
        (hello_of("default", "Secret"), Fault::Password),
        (hello_of("default", ""), Fault::Password),
        (hello_of("admin", "secret"), Fault::Password),
        (command_of("HELLO", b""), Fault::Protocol),
        (command_of("HELLO", b"\x09default"), Fault::Protocol),
        (initiate(), Fault::Protocol),
        (ready_of("PUSH"), Fault::Protocol),
        (part(b"{}", false), Fault::Protocol),
        (command_of("ERROR", b"\0"), Fault::Refused),
    ] {
        let mut peer = peer(Some("secret"));
        let stream = [greeting_of("PLAIN"), hello, initiate(), part(b"{}", false)].concat();
        assert_eq!(feed(&mut peer, [&stream[..]]), [PeerEvent::Failed(fault)]);
        assert!(peer.is_over());
        let is_told = peer.output.windows(5).any(|bytes| bytes == b"ERROR");
        assert_eq!(is_told, fault != Fault::Refused);
    }
}

#[test]
fn a_peer_that_is_no_push_socket_learns_why() {
    let old = |version: &[u8]| [b"\xff\0\0\0\0\0\0\0\x01\x7f", version].concat();
    let null = |rest: Vec<u8>| [greeting_of("NULL"), rest].concat();
    for (stream, fault, answer) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Fault::NotZmtp, ""),
        (b"\xff\0\0\0\0\0\0\0\x01\x7e".to_vec(), Fault::NotZmtp, ""),
        (b"\x01\0".to_vec(), Fault::NotZmtp, ""),
        (b"\x16\x03\x01".to_vec(), Fault::NotZmtp, ""),
        (old(b"\x01\x08"), Fault::Outdated, ""),
        (old(b"\0"), Fault::Outdated, ""),
        (greeting_of("PLAIN"), Fault::Mechanism, "only NULL is spoken here"),
        (greeting_of("CURVE"), Fault::Mechanism, "only NULL is spoken here"),
        (null(ready_of("PUB")), Fault::SocketType, "only PUSH sockets connect here"),
        (null(ready_of("PULL")), Fault::SocketType, "only PUSH sockets connect here"),
        (null(command_of("READY", b"")), Fault::SocketType, "only PUSH sockets connect here"),
        (
            null(command_of("READY", b"\x0bSocket-Type\0\0\0\x09PUSH")),
            Fault::Protocol,
            "protocol error",
        ),
        (
            null(command_of("READY", b"\x0bSocket-Type\xff\xff\xff\xffPUSH")),
            Fault::Protocol,
            "protocol error",
        ),
        (null(hello_of("default", "")), Fault::Protocol, "protocol error"),
        (null(part(b"{}", false)), Fault::Protocol, "protocol error"),
        (null(part(&[0; 2000], false)), Fault::Protocol, "protocol error"),
        (null(command_of("READY", &[0; 5000])), Fault::Protocol, "protocol error"),
        (null(b"\x40\0".to_vec()), Fault::Protocol, "protocol error"),
        ([opening(), b"\x05\0".to_vec()].concat(), Fault::Protocol, "protocol error"),
        ([opening(), command_of("PING", b"\0")].concat(), Fault::Protocol, "protocol error"),
        ([opening(), command_of("PING", &[0; 19])].concat(), Fault::Protocol, "protocol error"),
        ([opening(), command_of("ERROR", b"\0")].concat(), Fault::Refused, ""),
    ] {
        let mut peer = peer(None);
        let mut events = feed(&mut peer, [&stream[..], b"more of it"]);
        events.retain(|event| *event != PeerEvent::Ready);
        assert_eq!(events, [PeerEvent::Failed(fault)]);
        assert!(peer.is_over());
        let expected = [&[answer.len() as u8], answer.as_bytes()].concat();
        assert!(answer.is_empty() || peer.output.ends_with(&command_of("ERROR", &expected)));
        assert_eq!(answer.is_empty(), !peer.output.windows(5).any(|bytes| bytes == b"ERROR"));
        assert!(!fault.advice(true).is_empty() && !fault.advice(false).is_empty());
    }
}

#[test]
fn a_peer_that_leaves_in_the_handshake_is_told_of_unless_it_said_nothing() {
    assert_eq!(peer(None).on_end(), None);
    let mut left = peer(None);
    assert_eq!(feed(&mut left, [&greeting_of("NULL")[..10]]), []);
    assert_eq!(left.on_end(), Some(PeerEvent::Failed(Fault::Left)));
    assert_eq!((left.on_end(), left.is_over()), (None, true));
    assert_eq!(open_peer().on_end(), None);
}

#[test]
fn a_peer_that_reads_no_answers_gets_no_more_of_them() {
    let mut peer = open_peer();
    let ping = command_of("PING", b"\0\x14context");
    for _ in 0..1000 {
        assert_eq!(feed(&mut peer, [&ping[..]]), []);
    }
    assert!(peer.output.len() < OUTPUT_BYTES_MAX + 30);
    assert_eq!(peer.silence, Some(2000));
}

#[test]
fn nothing_is_held_of_a_message_above_the_limit() {
    let mut peer = open_peer();
    let header = [&[2][..], &(1_u64 << 62).to_be_bytes()].concat();
    assert_eq!(feed(&mut peer, [&header[..]]), []);
    for _ in 0..100 {
        assert_eq!(feed(&mut peer, [&[0; 65_536][..]]), []);
    }
    // Parts in the middle are passed over as well, and too many of them are told at once.
    let mut peer = open_peer();
    let middle = part(&[0; PAYLOAD_BYTES_MAX], true);
    let told = (0..1000).map(|_| feed(&mut peer, [&middle[..], &middle[..]]).len()).sum::<usize>();
    assert_eq!(told, 1);
    assert!(peer.channel.as_ref().is_none_or(|channel| channel.len() <= CHANNEL_BYTES_MAX));
    assert_eq!(feed(&mut peer, [&part(b"end", false)[..]]), []);
    assert_eq!(feed(&mut peer, [&part(b"next", false)[..]]).len(), 1);
}

#[test]
fn random_bytes_never_panic() {
    let words = [
        opening(),
        greeting_of("PLAIN"),
        hello_of("default", "x"),
        initiate(),
        ready_of("PUSH"),
        part(b"pub.news", true),
        part(&[b'x'; 300], false),
        command_of("PING", b"\0\0context"),
        command_of("ERROR", b"\x03400"),
        vec![2, 0, 0],
        vec![0xFF; 9],
    ];
    for seed in 1..3000 {
        let mut random = Random::new(seed);
        let mut peer = peer((seed % 2 == 0).then_some("x"));
        let mut stream = if seed % 3 == 0 { Vec::new() } else { opening() };
        for _ in 0..12 {
            let mut bytes = words[random.below(words.len())].clone();
            if random.below(3) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            stream.extend(bytes);
        }
        feed(&mut peer, random.pieces(&stream, 1 + seed as usize % 90));
    }
}
