//! The shared context against one plain tungstenite context per connection, on the same streams of frames.

use super::*;
use crate::random::Random;

const BOUNDS: InboundBounds = InboundBounds { message_bytes_max: 2000, fragments_max: 8 };

fn frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = match payload.len() {
        length @ 0..126 => vec![first, bit | length as u8],
        length => vec![first, bit | 126, (length >> 8) as u8, length as u8],
    };
    let mask = [7, 77, 177, 27];
    if masked {
        bytes.extend_from_slice(&mask);
    }
    let key = if masked { mask } else { [0; 4] };
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Mostly legal frames, so that streams live for a while.
fn stream(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(12) {
        let length = [0, 1, 5, 125, 126, 300, 1999, 2001][random.below(8)];
        let mut payload = vec![b'a'; length];
        if random.below(6) == 0 && length > 2 {
            payload[random.below(length)] = 0xff;
        }
        if random.below(6) == 0 && length > 4 {
            payload[..2].copy_from_slice("é".as_bytes());
        }
        let opcode = [1, 1, 1, 2, 0, 0, 8, 9, 9, 10, 3][random.below(11)];
        let control = opcode >= 8 && length > 125;
        if control && random.below(8) > 0 {
            payload.truncate(100);
        }
        if opcode == 8 && random.below(3) > 0 {
            payload = [&1000_u16.to_be_bytes()[..], b"bye"].concat();
        }
        let last = if opcode >= 8 { random.below(20) > 0 } else { random.below(3) > 0 };
        let reserved = if random.below(40) == 0 { 0x40 } else { 0 };
        let first = opcode | reserved | if last { 0x80 } else { 0 };
        bytes.extend(frame(first, random.below(60) > 0, &payload));
    }
    if random.below(4) == 0 && !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
    bytes
}

/// What came of a stream: each message or the violation's code, and all replies.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    messages: Vec<String>,
    replies: Vec<u8>,
}

fn shared(codec: &mut Codec, stream: &[u8], random: &mut Random) -> Outcome {
    let mut outcome = Outcome::default();
    let mut fragments = None;
    let mut held: Vec<u8> = Vec::new();
    let mut at = 0;
    'stream: while at < stream.len() {
        let end = (at + 1 + random.below(700)).min(stream.len());
        held.extend_from_slice(&stream[at..end]);
        at = end;
        let mut input = &held[..];
        while let Some(inbound) = codec.next(&mut input, &mut fragments) {
            outcome.messages.push(match inbound {
                Inbound::Text(text) => format!("text {}", text.as_str()),
                Inbound::Binary(_) => "binary".into(),
                Inbound::Close => "close".into(),
                Inbound::Violation(close) => close.code.to_string(),
            });
            if !matches!(outcome.messages.last().unwrap().as_bytes()[0], b't' | b'b') {
                break 'stream;
            }
        }
        held = input.to_vec();
    }
    outcome.replies = codec.take_replies().unwrap_or_default();
    outcome
}

/// The reference: a context of its own that reads the whole stream at once.
fn plain(stream: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut own = context(&BOUNDS, 4096);
    let mut fragments = 0;
    let mut feed = Feed { frame: stream, replies: &mut outcome.replies };
    loop {
        match own.read(&mut feed) {
            Ok(Message::Text(text)) => outcome.messages.push(format!("text {}", text.as_str())),
            Ok(Message::Binary(_)) => outcome.messages.push("binary".into()),
            // A code that may not be sent: tungstenite answers with a text that is no JSON, we end the connection with 1002.
            Ok(Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                outcome.messages.push("1002".into());
                break;
            }
            Ok(Message::Close(_)) => {
                let _ = own.flush(&mut feed);
                outcome.messages.push("close".into());
                break;
            }
            Ok(_) => fragments += 1,
            Err(Error::Io(_)) => break,
            Err(error) => {
                outcome.messages.push(match error {
                    Error::Capacity(_) => "1009".into(),
                    Error::Utf8(_) => "1007".into(),
                    _ => "1002".into(),
                });
                break;
            }
        }
    }
    let _ = fragments;
    outcome
}

/// A stream that ends in a refusal may be refused earlier and for a graver reason here, because a header is judged
/// before its payload has come; what came before must agree to the byte.
fn agrees(ours: &Outcome, reference: &Outcome) -> bool {
    let refused =
        |outcome: &Outcome| outcome.messages.last().is_some_and(|last| last.starts_with("100"));
    if ours == reference {
        return true;
    }
    let last = ours.messages.len().saturating_sub(1);
    refused(ours)
        && ours.replies == reference.replies
        && reference.messages.len() >= last
        && ours.messages[..last] == reference.messages[..last]
        && (refused(reference) || reference.messages.len() == last || ours.messages[last] == "1008")
}

#[test]
fn agrees_with_a_plain_context_from_seeds() {
    let mut codec = Codec::new(BOUNDS);
    for seed in 1..=60_000_u64 {
        let mut random = Random::new(seed);
        let stream = stream(&mut random);
        let ours = shared(&mut codec, &stream, &mut random);
        let reference = plain(&stream);
        assert!(agrees(&ours, &reference), "seed {seed}:\n{ours:?}\n{reference:?}\n{stream:x?}");
    }
}

#[test]
fn each_bound_is_judged_by_the_header_alone() {
    let mut codec = Codec::new(BOUNDS);
    for (head, code) in [
        (&[0x81, 0xfe, 0x07, 0xd1, 0, 0, 0, 0][..], 1009),
        (&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009),
        (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
        (&[0x09, 0x80, 0, 0, 0, 0], 1002),
        (&[0x80, 0x81, 0, 0, 0, 0], 1002),
        (&[0x83, 0x81, 0, 0, 0, 0], 1002),
        (&[0x81, 0x01], 1002),
        (&[0xc1, 0x81, 0, 0, 0, 0], 1002),
    ] {
        let mut input = head;
        match codec.next(&mut input, &mut None) {
            Some(Inbound::Violation(close)) => assert_eq!(close.code, code, "{head:x?}"),
            other => panic!("{head:x?}: {other:?}"),
        }
    }
}

#[test]
fn fragments_are_counted() {
    let mut codec = Codec::new(BOUNDS);
    let mut fragments = None;
    let mut first = &frame(0x01, true, b"")[..];
    assert!(codec.next(&mut first, &mut fragments).is_none());
    for count in 1..=8 {
        let empty = frame(0x00, true, b"");
        let inbound = codec.next(&mut &empty[..], &mut fragments);
        match inbound {
            None => assert!(count < 8),
            Some(Inbound::Violation(close)) => assert_eq!((close.code, count), (1008, 8)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_ping_between_fragments_is_answered_at_once() {
    let mut codec = Codec::new(BOUNDS);
    let mut fragments = None;
    let bytes =
        [frame(0x01, true, b"a"), frame(0x89, true, b"p"), frame(0x80, true, b"b")].concat();
    match codec.next(&mut &bytes[..], &mut fragments) {
        Some(Inbound::Text(text)) => assert_eq!(text.as_str(), "ab"),
        other => panic!("{other:?}"),
    }
    assert!(fragments.is_none());
    assert_eq!(codec.take_replies(), Some(vec![0x8a, 1, b'p']));
}
