//! Messages compressed and inflated, against a decompressor that reads bit by bit, and through the codec of the loop.

pub(crate) mod naive;

use super::deflater::{DEFLATED_BYTES_MAX, Deflater, Tally};
use super::inflater::{InflateFault, Inflater};
use crate::engine::client::codec::{Codec, Fragments, Inbound, InboundBounds};
use crate::engine::client::frame::Frame;
use crate::engine::random::Random;

const BOUNDS: InboundBounds = InboundBounds { message_bytes_max: 65_536, fragments_max: 100 };

/// The examples of RFC 7692 section 7.2.3.
const EXAMPLES: [(&[u8], &[u8]); 5] = [
    // A compressed message; without compression; with a last block; two blocks; an empty message.
    (&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
    (&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], b"Hello"),
    (&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
    (&[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
    (&[0x00], b""),
];

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match payload.len() {
        length @ 0..126 => vec![first, 0x80 | length as u8],
        length @ 126..65_536 => vec![first, 0xfe, (length >> 8) as u8, length as u8],
        length => [&[first, 0xff][..], &(length as u64).to_be_bytes()].concat(),
    };
    let mask = [7, 77, 177, 27];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A message of a client in fragments with these payloads, a ping between them.
fn fragments(kind: u8, payloads: &[&[u8]]) -> Vec<u8> {
    let last = payloads.len() - 1;
    let of = |(place, payload): (usize, &&[u8])| {
        let opcode = if place == 0 { kind | 0x40 } else { 0 };
        let ping = if place == 1 { frame(0x89, b"") } else { Vec::new() };
        [ping, frame(opcode | if place == last { 0x80 } else { 0 }, payload)].concat()
    };
    payloads.iter().enumerate().flat_map(of).collect()
}

/// The message that a client's bytes are, or the code of the close.
fn read(codec: &mut Codec, mut bytes: &[u8], takes_deflated: bool) -> Result<Vec<u8>, u16> {
    let mut fragments: Option<Box<Fragments>> = None;
    let inbound = codec.next(&mut bytes, &mut fragments, takes_deflated).expect("a whole message");
    codec.take_replies();
    match inbound {
        Inbound::Text(text) => Ok(text.as_str().as_bytes().to_vec()),
        Inbound::Binary(bytes) => Ok(bytes.to_vec()),
        Inbound::Violation(close) | Inbound::BrokenClose(close) => Err(close.code),
        Inbound::Close => panic!("no close frame was sent"),
    }
}

/// The compressed payload of a frame of the server; `None`: it is not compressed.
fn compressed(frame: &[u8]) -> Option<&[u8]> {
    let start = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (frame[0] & 0x40 != 0).then(|| &frame[start..])
}

fn json(random: &mut Random, bytes: usize) -> String {
    let words =
        ["\"id\":", "\"paid\":true,", "{\"name\":", "\"Ada Lovelace\"", "},", "12345", "é😀"];
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(random.choose(&words));
    }
    text
}

#[test]
fn reads_what_rfc_7692_shows_whole_and_in_fragments() {
    let mut codec = Codec::new(BOUNDS);
    for (payload, message) in EXAMPLES {
        for kind in [1, 2] {
            let whole = frame(0xc0 | kind, payload);
            assert_eq!(read(&mut codec, &whole, true), Ok(message.to_vec()), "{payload:x?}");
            for cut in 0..=payload.len() {
                let (start, end) = payload.split_at(cut);
                let parts = fragments(kind, &[start, &[], end]);
                assert_eq!(read(&mut codec, &parts, true), Ok(message.to_vec()), "{payload:x?}");
            }
        }
    }
    // A last block may be all there is. What refers to the message before it was compressed with context takeover.
    let ended = frame(0xc1, &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    assert_eq!(read(&mut codec, &ended, true), Ok(b"Hello".to_vec()));
    let referring = frame(0xc1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
    assert_eq!(read(&mut codec, &referring, true), Err(1007));
}

#[test]
fn the_bit_stands_on_the_first_frame_of_a_message_of_a_client_that_negotiated_it() {
    let mut codec = Codec::new(BOUNDS);
    let (hello, _) = EXAMPLES[0];
    let good = frame(0xc1, hello);
    assert_eq!(read(&mut codec, &good, false), Err(1002), "not negotiated");
    assert_eq!(read(&mut codec, &frame(0x81, b"plain"), true), Ok(b"plain".to_vec()));
    for bad in [
        frame(0xc9, b""),
        frame(0xca, b""),
        frame(0xc8, b""),
        frame(0xc0, hello),
        frame(0xe1, hello),
        frame(0xd1, hello),
        [frame(0x41, &hello[..3]), frame(0xc0, &hello[3..])].concat(),
        [frame(0x01, b"a"), frame(0xc0, b"b")].concat(),
    ] {
        assert_eq!(read(&mut codec, &bad, true), Err(1002), "{bad:x?}");
    }
    // A plain message in fragments stays one, whatever it looks like.
    let plain = [frame(0x02, &hello[..3]), frame(0x80, &hello[3..])].concat();
    assert_eq!(read(&mut codec, &plain, true), Ok(hello.to_vec()));
}

#[test]
fn text_is_utf_8_once_it_is_inflated() {
    let mut codec = Codec::new(BOUNDS);
    let stored = |payload: &[u8]| {
        let length = (payload.len() as u16).to_le_bytes();
        let inverse = (!(payload.len() as u16)).to_le_bytes();
        [&[0][..], &length, &inverse, payload, &[0]].concat()
    };
    assert_eq!(read(&mut codec, &frame(0xc1, &stored(b"\xff")), true), Err(1007));
    assert_eq!(read(&mut codec, &frame(0xc2, &stored(b"\xff")), true), Ok(b"\xff".to_vec()));
    let cut = stored("é".as_bytes());
    let parts = fragments(1, &[&cut[..6], &cut[6..]]);
    assert_eq!(read(&mut codec, &parts, true), Ok("é".as_bytes().to_vec()));
}

#[test]
fn what_is_compressed_comes_out_again_by_another_decompressor_too() {
    let (deflater, mut inflater) = (Deflater::default(), Inflater::default());
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let length = random.choose(&[0, 1, 5, 100, 125, 126, 1000, 10_000, 70_000]);
        let text = json(&mut random, length);
        let frame = match random.below(3) {
            0 => Frame::binary(&(0..length).map(|_| random.next() as u8).collect::<Vec<_>>()),
            1 => Frame::binary(text.as_bytes()),
            _ => Frame::text(&text),
        };
        let plain = frame.as_bytes();
        let deflated = deflater.deflate(plain);
        let Some(payload) = compressed(&deflated) else {
            assert_eq!(deflated, plain, "seed {seed}");
            continue;
        };
        assert!(deflated.len() < plain.len(), "seed {seed}");
        assert_eq!(deflated[0], plain[0] | 0x40, "seed {seed}");
        let message = naive::inflate(payload, usize::MAX).expect("it is DEFLATE");
        assert!(plain.ends_with(&message), "seed {seed}");
        let length = plain.len()
            - if plain.len() < 128 {
                2
            } else if plain.len() < 65_540 {
                4
            } else {
                10
            };
        assert_eq!(message.len(), length, "seed {seed}");
        assert_eq!(inflater.inflate(payload, length), Ok(message), "seed {seed}");
    }
}

#[test]
fn the_same_message_is_compressed_the_same_whatever_came_before() {
    let deflater = Deflater::default();
    let text = json(&mut Random::new(7), 3000);
    let frame = Frame::text(&text);
    let first = deflater.deflate(frame.as_bytes());
    for other in [&b"x"[..], &[0; 100_000], text.as_bytes()] {
        deflater.deflate(Frame::binary(other).as_bytes());
        assert_eq!(deflater.deflate(frame.as_bytes()), first);
    }
    deflater.shrink();
    assert_eq!(deflater.deflate(frame.as_bytes()), first);
}

#[test]
fn what_is_no_message_is_left_alone() {
    let deflater = Deflater::default();
    let long = Frame::text(&"x".repeat(500));
    for bytes in [
        [long.as_bytes(), long.as_bytes()].concat(),
        long.as_bytes()[..400].to_vec(),
        [&[0x01, 126, 1, 244][..], &[0; 500]].concat(),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(),
        Frame::ping().as_bytes().to_vec(),
        vec![0x81],
        Vec::new(),
    ] {
        assert_eq!(deflater.deflate(&bytes), bytes);
    }
}

#[test]
fn the_work_is_counted_until_it_is_settled() {
    let deflater = Deflater::default();
    assert_eq!(deflater.take_tally(), Tally::default());
    let frame = Frame::text(&"1234".repeat(1000));
    let short = deflater.deflate(frame.as_bytes()).len();
    let saved_bytes = (frame.as_bytes().len() - short) as u64;
    assert!(!deflater.is_tired());
    let tally = deflater.take_tally();
    assert_eq!((tally.messages, tally.saved_bytes), (1, saved_bytes));
    assert!((10..100).contains(&tally.microseconds));
    deflater.deflate(&vec![0x81; DEFLATED_BYTES_MAX]);
    assert!(deflater.is_tired());
    deflater.take_tally();
    assert!(!deflater.is_tired());
}

/// The bytes of this payload, compressed.
fn bomb(bytes: usize) -> Vec<u8> {
    let frame = Deflater::default().deflate(Frame::binary(&vec![b'x'; bytes]).as_bytes());
    compressed(&frame).expect("it became shorter").to_vec()
}

#[test]
fn a_bomb_ends_at_the_bound() {
    let mut codec = Codec::new(BOUNDS);
    let max = BOUNDS.message_bytes_max;
    for (bytes, is_taken) in [(max - 1, true), (max, true), (max + 1, false), (8 << 20, false)] {
        let payload = bomb(bytes);
        assert!(payload.len() <= max, "the frame itself is within the bound");
        let result = read(&mut codec, &frame(0xc1, &payload), true);
        match is_taken {
            true => assert_eq!(result.map(|message| message.len()), Ok(bytes)),
            false => assert_eq!(result, Err(1009), "{bytes}"),
        }
        let costs = codec.take_costs();
        assert!((bytes.min(max)..max + 20_000).contains(&costs), "{costs} for {bytes}");
        assert_eq!(codec.take_costs(), 0);
    }
    let mut inflater = Inflater::default();
    assert_eq!(inflater.inflate(&bomb(300), 0), Err(InflateFault::TooLarge));
    assert_eq!(inflater.inflate(&[0], 0), Ok(Vec::new()));
}

/// Blocks without content: nothing comes of them, but each takes time.
#[test]
fn a_message_of_empty_blocks_is_refused() {
    let mut inflater = Inflater::default();
    // The bits 0, 10 and 0000000 four times: an empty block with fixed codes takes ten.
    let empty = [0b0000_0010, 0b0000_1000, 0b0010_0000, 0b1000_0000, 0b0000_0000];
    for (repeats, is_taken) in [(7, true), (20, false), (13_000, false)] {
        let mut payload = empty.repeat(repeats);
        payload.push(0);
        let naively = naive::inflate(&payload, usize::MAX);
        assert_eq!(naively, Some(Vec::new()));
        let expected = if is_taken { Ok(Vec::new()) } else { Err(InflateFault::Malformed) };
        assert_eq!(inflater.inflate(&payload, 100), expected, "{repeats}");
        assert!(inflater.take_costs() < 100_000);
    }
}

/// Nothing that a client sends makes it panic, or gives it a message that is not in its bytes.
#[test]
fn junk_is_refused_or_read_as_by_another_decompressor() {
    const MAX: usize = 2_000;
    let (deflater, mut inflater) = (Deflater::default(), Inflater::default());
    let mut read = 0;
    for seed in 0..50_000 {
        let mut random = Random::new(seed);
        let mut payload = match random.below(4) {
            0 => (0..random.below(60)).map(|_| random.next() as u8).collect(),
            1 => random.choose(&EXAMPLES).0.to_vec(),
            _ => {
                let length = random.below(400);
                let text = json(&mut random, length);
                let frame = deflater.deflate(Frame::text(&text).as_bytes());
                compressed(&frame).unwrap_or_default().to_vec()
            }
        };
        for _ in 0..random.below(3) {
            if !payload.is_empty() {
                let at = random.below(payload.len());
                payload[at] ^= 1 << random.below(8);
            }
        }
        if random.below(4) == 0 {
            payload.truncate(random.below(payload.len() + 1));
        }
        let result = inflater.inflate(&payload, MAX);
        if let Ok(message) = result {
            assert!(message.len() <= MAX, "seed {seed}");
            assert_eq!(naive::inflate(&payload, MAX), Some(message), "seed {seed}");
            read += 1;
        }
    }
    assert!((5_000..45_000).contains(&read), "{read} of 50,000 could be read");
}
