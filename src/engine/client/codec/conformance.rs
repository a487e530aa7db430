//! The shared context against a plain tungstenite context per connection: the same streams must give the same messages, replies
//! and errors, byte for byte.
//!
//! 300,000 streams from seeds; `ONELOOP_SEEDS` sets another number.

use std::collections::BTreeMap;
use std::ops::Range;
use std::thread;

use super::*;
use crate::engine::random::Random;

const STREAMS: u64 = 300_000;

/// Connections per seed, which share a codec and take turns.
const CONNECTIONS: u64 = 3;

/// The longest header of a frame (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 14;

const SMALL: InboundBounds = InboundBounds { message_bytes_max: 200, fragments_max: 3 };
const SMALL_LENGTHS: [usize; 16] = [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 13, 30, 126, 199, 201];

/// Bounds for messages after which the shared context is replaced.
const LARGE: InboundBounds = InboundBounds { message_bytes_max: 70_000, fragments_max: 3 };
const LARGE_LENGTHS: [usize; 8] = [0, 5, 125, 300, 4097, 65_535, 65_536, 70_001];

/// Parts of texts: characters of each length, which fragments may split, and illegal bytes (RFC 3629 section 3).
const LEGAL: [&[u8]; 5] = [b"a", b"{}", "é".as_bytes(), "€".as_bytes(), "😀".as_bytes()];
const ILLEGAL: [&[u8]; 6] =
    [b"\xff", b"\xc3", b"\x80", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"];

/// The result of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    /// All messages, and finally the end, if there was one.
    events: Vec<Happened>,
    replies: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
enum Happened {
    Text(String),
    Binary(Vec<u8>),
    Close,
    /// A violation, by its close code.
    Refused(u16),
}

impl Happened {
    fn is_end(&self) -> bool {
        matches!(self, Happened::Close | Happened::Refused(_))
    }
}

impl Outcome {
    fn is_over(&self) -> bool {
        self.events.last().is_some_and(Happened::is_end)
    }

    /// The kind by which the test counts its streams.
    fn kind(&self) -> &'static str {
        match self.events.last() {
            Some(Happened::Refused(1002)) => "1002",
            Some(Happened::Refused(1007)) => "1007",
            Some(Happened::Refused(1008)) => "1008",
            Some(Happened::Refused(1009)) => "1009",
            Some(Happened::Refused(code)) => panic!("no violation has the code {code}"),
            Some(Happened::Close) => "closed",
            Some(Happened::Text(_) | Happened::Binary(_)) => "open",
            None => "nothing",
        }
    }
}

// ---- streams

/// Mostly legal frames, so that streams last.
fn stream(random: &mut Random, lengths: &[usize]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut in_fragments = false;
    // The rest of a fragment's last character: the next fragment begins with it.
    let mut cut_off = Vec::new();
    for _ in 0..=random.below(8) {
        let is_wrong = random.below(60) == 0;
        let opcode = match random.below(16) {
            0 => 8,
            1 | 2 => 9,
            3 => 10,
            4 if is_wrong => random.choose(&[3, 7, 11, 15]),
            _ if in_fragments != is_wrong => 0,
            _ => random.choose(&[1, 1, 2]),
        };
        let is_control = opcode >= 8;
        let is_final = if is_control { random.below(60) > 0 } else { random.below(5) > 2 };
        let mut payload = payload(random, opcode, lengths);
        if is_control && random.below(30) > 0 {
            payload.truncate(125);
        }
        if !is_control {
            in_fragments = !is_final;
            payload.splice(..0, cut_off.drain(..));
            if in_fragments && random.below(2) == 0 {
                cut_off = payload.split_off(payload.len().saturating_sub(1 + random.below(3)));
            }
        }
        let reserved = if random.below(120) == 0 { random.choose(&[0x40, 0x20, 0x10]) } else { 0 };
        let first = opcode | reserved | if is_final { 0x80 } else { 0 };
        push_frame(random, first, &payload, &mut bytes);
    }
    damage(random, &mut bytes);
    bytes
}

fn payload(random: &mut Random, opcode: u8, lengths: &[usize]) -> Vec<u8> {
    // Mostly short ones, so that there are many.
    let short = random.below(3) > 0;
    let length = random.choose(if short { &lengths[..lengths.len() / 2] } else { lengths });
    let mut payload = Vec::with_capacity(length + 4);
    if opcode == 8 && random.below(4) > 0 {
        let code: u16 = random.choose(&[1000, 1000, 1001, 1003, 3000, 4999, 1005, 1006, 999, 5000]);
        payload.extend_from_slice(&code.to_be_bytes());
    }
    let bad_at = if random.below(16) == 0 { random.below(length.max(1)) } else { usize::MAX };
    while payload.len() < length {
        let is_bad = bad_at <= payload.len() && bad_at + 4 > payload.len();
        payload.extend_from_slice(random.choose(if is_bad { &ILLEGAL[..] } else { &LEGAL }));
    }
    payload
}

fn push_frame(random: &mut Random, first: u8, payload: &[u8], bytes: &mut Vec<u8>) {
    let bit = if random.below(200) == 0 { 0 } else { 0x80 };
    let length = payload.len() as u64;
    // Now and then in more bytes than needed.
    let form = if random.below(20) == 0 { random.below(3) } else { 0 };
    bytes.push(first);
    match (length, form) {
        (0..126, 0) => bytes.push(bit | length as u8),
        (0..0x1_0000, 0 | 1) => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    let mask = if bit == 0 { [0; 4] } else { (random.next() as u32).to_be_bytes() };
    if bit != 0 {
        bytes.extend_from_slice(&mask);
    }
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    match random.below(16) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => drop(bytes.remove(at)),
        3 => bytes.insert(at, random.next() as u8),
        _ => {}
    }
}

// ---- the hibernating path

/// A connection's state between two reads, as the loop keeps it.
struct Connection<'a> {
    left: &'a [u8],
    piece_bytes_max: usize,
    held: Vec<u8>,
    fragments: Option<Box<Fragments>>,
    outcome: Outcome,
}

/// Decodes several streams with one codec, a piece at a time, in random turns.
fn share(codec: &mut Codec, streams: &[Vec<u8>], random: &mut Random) -> Vec<Outcome> {
    let begin = |stream| Connection {
        left: stream,
        piece_bytes_max: random
            .choose(&[1, 5, 20, 20, 60, 60, 300, 100_000])
            .max(stream.len() / 300),
        held: Vec::new(),
        fragments: None,
        outcome: Outcome::default(),
    };
    let mut connections: Vec<Connection> = streams.iter().map(|one| &one[..]).map(begin).collect();
    let mut alive: Vec<usize> = (0..connections.len()).collect();
    while !alive.is_empty() {
        let place = random.below(alive.len());
        let connection = &mut connections[alive[place]];
        if connection.left.is_empty() || connection.outcome.is_over() {
            alive.swap_remove(place);
            continue;
        }
        let length = 1 + random.below(connection.piece_bytes_max);
        let (piece, left) = connection.left.split_at(length.min(connection.left.len()));
        connection.left = left;
        connection.read(codec, piece);
    }
    connections.into_iter().map(|connection| connection.outcome).collect()
}

impl Connection<'_> {
    fn read(&mut self, codec: &mut Codec, piece: &[u8]) {
        self.held.extend_from_slice(piece);
        let mut input = &self.held[..];
        while !self.outcome.is_over()
            && let Some(inbound) = codec.next(&mut input, &mut self.fragments, false)
        {
            self.outcome.events.push(match inbound {
                Inbound::Text(text) => Happened::Text(text.as_str().to_owned()),
                Inbound::Binary(bytes) => Happened::Binary(bytes.to_vec()),
                Inbound::Close => Happened::Close,
                Inbound::Violation(close) | Inbound::BrokenClose(close) => {
                    Happened::Refused(close.code)
                }
            });
        }
        let taken = self.held.len() - input.len();
        self.held.drain(..taken);
        let held_max = HEADER_BYTES_MAX + codec.bounds.message_bytes_max;
        assert!(self.outcome.is_over() || self.held.len() < held_max, "held input is bounded");
        self.outcome.replies.extend(codec.take_replies().unwrap_or_default());
    }
}

// ---- the reference

/// Decodes the whole stream at once with its own context.
fn plain(bounds: &InboundBounds, stream: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut own = context(bounds, 4096);
    let mut feed = Feed { first: None, frame: stream, replies: &mut outcome.replies };
    loop {
        let event = match own.read(&mut feed) {
            Ok(Message::Text(text)) => Happened::Text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Happened::Binary(bytes.to_vec()),
            // A code that must not be sent: tungstenite answers with a text that is not JSON, oneloop closes with 1002.
            Ok(Message::Close(Some(close))) if close.reason.as_str() == "Protocol violation" => {
                Happened::Refused(1002)
            }
            Ok(Message::Close(_)) => {
                let _ = own.flush(&mut feed);
                Happened::Close
            }
            Ok(_) => continue,
            Err(Error::Io(_)) => return outcome,
            Err(Error::Capacity(_)) => Happened::Refused(1009),
            Err(Error::Utf8(_)) => Happened::Refused(1007),
            Err(_) => Happened::Refused(1002),
        };
        let is_end = event.is_end();
        outcome.events.push(event);
        if is_end {
            return outcome;
        }
    }
}

/// The first frame with an invalid header, and the close code for it.
#[derive(Debug)]
struct Condemned {
    /// The whole frame; it may extend beyond the stream.
    frame: Range<u64>,
    code: u16,
    /// The frame alone exceeds the bound of a message, which tungstenite may check first.
    is_too_big: bool,
}

/// The plainest possible reading of RFC 6455 sections 5.2, 5.4 and 5.5.
fn condemned(bounds: &InboundBounds, stream: &[u8]) -> Option<Condemned> {
    let mut at = 0;
    // Frames and bytes of the incomplete message.
    let mut message: Option<(u32, u64)> = None;
    loop {
        let (first, second) = (*stream.get(at)?, *stream.get(at + 1)?);
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let numbers = stream.get(at + 2..at + 2 + extended + mask)?;
        let length = match extended {
            0 => u64::from(second & 0x7f),
            _ => numbers[..extended].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        let (opcode, is_final) = (first & 0x0f, first & 0x80 != 0);
        let (frames, before) = message.unwrap_or_default();
        let code = match opcode {
            _ if first & 0x70 != 0 || mask == 0 => Some(1002),
            8..=10 => (!is_final || length > 125).then_some(1002),
            0 if message.is_none() => Some(1002),
            1 | 2 if message.is_some() => Some(1002),
            0..=2 if before.saturating_add(length) > bounds.message_bytes_max as u64 => Some(1009),
            0..=2 => (frames >= bounds.fragments_max).then_some(1008),
            _ => Some(1002),
        };
        let start = at as u64;
        let end = (start + (2 + extended + mask) as u64).saturating_add(length);
        if let Some(code) = code {
            let is_too_big = length > bounds.message_bytes_max as u64;
            return Some(Condemned { frame: start..end, code, is_too_big });
        }
        if opcode < 8 {
            message = (!is_final).then_some((frames + 1, before + length));
        }
        at = usize::try_from(end).ok().filter(|end| *end <= stream.len())?;
    }
}

/// The expected result: a plain context's up to the invalid frame, then the violation.
fn expected(bounds: &InboundBounds, stream: &[u8]) -> Outcome {
    let Some(condemned) = condemned(bounds, stream) else {
        return plain(bounds, stream);
    };
    let mut expected = plain(bounds, &stream[..condemned.frame.start as usize]);
    if expected.is_over() {
        return expected;
    }
    let without = expected.clone();
    expected.events.push(Happened::Refused(condemned.code));
    // A plain context rejects the frame as well once it is complete, but does not count fragments.
    if condemned.code != 1008 {
        let full = plain(bounds, stream);
        let waits = condemned.frame.end > stream.len() as u64 && full == without;
        let mut refused = expected.clone();
        if condemned.is_too_big && full.events.last() == Some(&Happened::Refused(1009)) {
            refused.events.pop();
            refused.events.push(Happened::Refused(1009));
        }
        assert!(waits || full == refused, "{condemned:?}\n{full:?}\n{refused:?}");
    }
    expected
}

// ---- the comparison

fn compare(seed: u64, codecs: &mut [Codec; 2]) -> Vec<&'static str> {
    let mut random = Random::new(seed);
    let is_large = random.below(2000) == 0;
    let lengths = if is_large { &LARGE_LENGTHS[..] } else { &SMALL_LENGTHS };
    let codec = &mut codecs[usize::from(is_large)];
    let bounds = codec.bounds;
    let streams: Vec<Vec<u8>> = (0..CONNECTIONS).map(|_| stream(&mut random, lengths)).collect();
    let outcomes = share(codec, &streams, &mut random);
    for (outcome, stream) in outcomes.iter().zip(&streams) {
        let expected = expected(&bounds, stream);
        assert!(*outcome == expected, "seed {seed}:\n{outcome:?}\n{expected:?}\n{stream:x?}");
    }
    outcomes.iter().map(Outcome::kind).collect()
}

#[test]
fn agrees_with_a_plain_context_from_seeds() {
    let asked = std::env::var("ONELOOP_SEEDS").ok();
    let streams = asked.map_or(STREAMS, |asked| asked.parse().expect("a number of streams"));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(4);
    let part = |first: usize| {
        let mut codecs = [SMALL, LARGE].map(Codec::new);
        let mut kinds = BTreeMap::new();
        for seed in (first as u64..streams / CONNECTIONS).step_by(threads) {
            for kind in compare(seed, &mut codecs) {
                *kinds.entry(kind).or_insert(0_u64) += 1;
            }
        }
        kinds
    };
    let mut kinds = BTreeMap::new();
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|first| scope.spawn(move || part(first))).collect();
        for of_part in parts {
            for (kind, count) in of_part.join().expect("every seed of it agrees") {
                *kinds.entry(kind).or_insert(0) += count;
            }
        }
    });
    // Each way in which a stream can end must be frequent, or the comparison proves little.
    let is_varied = kinds.len() == 7 && kinds.values().all(|count| *count >= streams / 50);
    assert!(is_varied || streams < 10_000, "{kinds:?}");
}
