//! Frames of clients on a WebSocket: pieces change nothing, and no connection leaves anything to the next one.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use oneloop::engine::client::codec::{Codec, Inbound, InboundBounds};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach them.
const BOUNDS: InboundBounds = InboundBounds { message_bytes_max: 1000, fragments_max: 8 };

/// The longest header of a frame (RFC 6455 section 5.2).
const HEADER_BYTES_MAX: usize = 14;

thread_local! {
    /// Read with by the connections of all inputs, one after the other.
    static SHARED: RefCell<Codec> = RefCell::new(Codec::new(BOUNDS));
}

fuzz_target!(|input: &[u8]| {
    for takes_deflated in [false, true] {
        let whole = read(&mut Codec::new(BOUNDS), &[input], takes_deflated);
        let cut = SHARED.with_borrow_mut(|shared| read(shared, &pieces(input), takes_deflated));
        assert_eq!(whole, cut);
    }
});

/// Everything that comes of a connection, and all that it is answered.
fn read(codec: &mut Codec, pieces: &[&[u8]], takes_deflated: bool) -> (Vec<String>, Vec<u8>) {
    let (mut events, mut replies) = (Vec::new(), Vec::new());
    let (mut held, mut fragments) = (Vec::new(), None);
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut input = &held[..];
        let mut is_over = false;
        while let Some(inbound) = codec.next(&mut input, &mut fragments, takes_deflated) {
            check(&inbound);
            events.push(format!("{inbound:?}"));
            is_over = !matches!(inbound, Inbound::Text(_) | Inbound::Binary(_));
            if is_over {
                break;
            }
        }
        replies.extend(codec.take_replies().unwrap_or_default());
        if is_over {
            break;
        }
        held = input.to_vec();
        assert!(held.len() < HEADER_BYTES_MAX + BOUNDS.message_bytes_max);
    }
    assert_eq!(codec.take_replies(), None);
    (events, replies)
}

fn check(inbound: &Inbound) {
    match inbound {
        Inbound::Text(text) => assert!(text.len() <= BOUNDS.message_bytes_max),
        Inbound::Binary(bytes) => assert!(bytes.len() <= BOUNDS.message_bytes_max),
        Inbound::Close => {}
        Inbound::Violation(close) | Inbound::BrokenClose(close) => {
            assert!([1002, 1007, 1008, 1009].contains(&close.code));
        }
    }
}
