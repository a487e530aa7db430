//! Single frames: the effect of each bound, and frames between fragments.

use super::*;

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
        (&[0x88, 0xfe, 0, 126, 0, 0, 0, 0], 1002),
        (&[0x88, 0x00], 1002),
    ] {
        let mut input = head;
        match codec.next(&mut input, &mut None, false) {
            Some(Inbound::Violation(close)) if head[0] != 0x88 => {
                assert_eq!(close.code, code, "{head:x?}")
            }
            Some(Inbound::BrokenClose(close)) if head[0] == 0x88 => assert_eq!(close.code, code),
            other => panic!("{head:x?}: {other:?}"),
        }
    }
}

#[test]
fn fragments_are_counted() {
    let mut codec = Codec::new(BOUNDS);
    let mut fragments = None;
    let mut first = &frame(0x01, true, b"")[..];
    assert!(codec.next(&mut first, &mut fragments, false).is_none());
    for count in 1..=8 {
        let empty = frame(0x00, true, b"");
        let inbound = codec.next(&mut &empty[..], &mut fragments, false);
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
    match codec.next(&mut &bytes[..], &mut fragments, false) {
        Some(Inbound::Text(text)) => assert_eq!(text.as_str(), "ab"),
        other => panic!("{other:?}"),
    }
    assert!(fragments.is_none());
    assert_eq!(codec.take_replies(), Some(vec![0x8a, 1, b'p']));
}

#[test]
fn a_close_frame_is_found_at_the_end_of_whatever_came_before() {
    let close = frame(0x88, true, &[3, 232]);
    assert!(ends_with_close(&close));
    assert!(ends_with_close(&frame(0x88, true, &[])));
    assert!(ends_with_close(&frame(0x88, true, &[3; 125])));
    assert!(ends_with_close(&[&frame(0x81, true, &[7; 300])[9..], &close].concat()));
    for other in [
        frame(0x81, true, b"text"),
        frame(0x88, false, &[3, 232]),
        frame(0x88, true, &[3]),
        [&close[..], b"x"].concat(),
        close[..close.len() - 1].to_vec(),
        Vec::new(),
    ] {
        assert!(!ends_with_close(&other), "{other:?}");
    }
}
