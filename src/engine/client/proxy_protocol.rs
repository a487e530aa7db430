//! The header that a proxy puts before the bytes of a client: the PROXY protocol, version 2 (HAProxy's `proxy-protocol.txt`,
//! section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first bytes of a header. No request to a web server begins so, nor does version 1.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a proxy that speaks for itself.
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The signature, version and command, family, length.
const FIXED_BYTES: usize = SIGNATURE.len() + 4;

/// The longest header: additions to the addresses are skipped, and this many bytes are in one segment of the smallest that TCP
/// may have.
pub const HEADER_BYTES_MAX: usize = 536;

/// The start of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Header {
    /// An incomplete header.
    Partial,
    /// A header of `length` bytes, and the client's address; `None`: the proxy speaks for itself (a health check). A client
    /// without an IP address is at `0.0.0.0`: taken for the proxy, its own word in `X-Forwarded-For` would be believed.
    Whole { address: Option<IpAddr>, length: usize },
    /// Something else, or more than [`HEADER_BYTES_MAX`].
    Malformed,
}

/// Reads a header from the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Header {
    let signed = bytes.len().min(SIGNATURE.len());
    if bytes[..signed] != SIGNATURE[..signed] {
        return Header::Malformed;
    }
    let [command, family, high, low] = match bytes.get(SIGNATURE.len()..FIXED_BYTES) {
        Some(fixed) => [fixed[0], fixed[1], fixed[2], fixed[3]],
        None => return Header::Partial,
    };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    // Bytes of the two addresses.
    let needed = match (command, family) {
        // LOCAL: the proxy itself, whatever else the header holds.
        (0x20, _) => 0,
        // PROXY: unspecified, TCP over IPv4, over IPv6, a UNIX stream.
        (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        _ => return Header::Malformed,
    };
    if length > HEADER_BYTES_MAX || length < FIXED_BYTES + needed {
        return Header::Malformed;
    }
    let Some(rest) = bytes.get(FIXED_BYTES..length) else { return Header::Partial };
    let address = match needed {
        12 => rest.first_chunk().map(|source: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*source))),
        36 => rest.first_chunk().map(|source: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*source))),
        _ => (command == 0x21).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    };
    Header::Whole { address, length }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    #[test]
    fn a_header_says_its_source_and_its_length() {
        let v4 = [192, 0, 2, 7, 127, 0, 0, 1, 1, 2, 3, 4];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 7;
        // The addition: PP2_TYPE_NOOP, three bytes.
        let added = [4, 0, 3, 0, 0, 0];
        for (bytes, address) in [
            (header(0x21, 0x11, &v4), Some("192.0.2.7")),
            (header(0x21, 0x11, &[&v4[..], &added].concat()), Some("192.0.2.7")),
            (header(0x21, 0x21, &v6), Some("2001:db8::7")),
            (header(0x21, 0x21, &[&v6[..], &added].concat()), Some("2001:db8::7")),
            (header(0x21, 0x31, &[b'/'; 216]), Some("0.0.0.0")),
            (header(0x21, 0x00, &[]), Some("0.0.0.0")),
            (header(0x21, 0x00, &v4), Some("0.0.0.0")),
            (header(0x20, 0x00, &[]), None),
            (header(0x20, 0x11, &v4), None),
            (header(0x21, 0x11, &[&v4[..], &[0; 508]].concat()), Some("192.0.2.7")),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            let whole = Header::Whole { address, length: bytes.len() };
            assert_eq!(parse(&bytes), whole, "{bytes:?}");
            assert_eq!(
                parse(&[&bytes[..], b"GET"].concat()),
                whole,
                "what follows is no part of it"
            );
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Header::Partial, "{bytes:?} up to {end}");
            }
        }
    }

    #[test]
    fn a_proxy_can_speak_for_itself() {
        assert_eq!(parse(LOCAL), Header::Whole { address: None, length: LOCAL.len() });
    }

    #[test]
    fn a_wrong_byte_is_seen_at_once() {
        for end in 0..SIGNATURE.len() {
            let wrong = [&SIGNATURE[..end], b"?"].concat();
            assert_eq!(parse(&wrong), Header::Malformed, "{wrong:?}");
        }
        for wrong in [
            b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            // Another version, another command, datagrams, a family that does not exist.
            header(0x11, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x22, &[0; 36]),
            header(0x21, 0x41, &[0; 36]),
            // Shorter than its addresses.
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x31, &[0; 215]),
            // Longer than any.
            header(0x21, 0x11, &[0; HEADER_BYTES_MAX - FIXED_BYTES + 1]),
            header(0x20, 0x00, &[0; u16::MAX as usize]),
        ] {
            assert_eq!(parse(&wrong), Header::Malformed, "{wrong:?}");
            // It need not come whole to be seen.
            assert_eq!(
                parse(&wrong[..wrong.len().min(FIXED_BYTES)]),
                Header::Malformed,
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn no_bytes_panic_and_more_bytes_change_no_answer() {
        let mut whole = 0;
        for seed in 1..=20_000 {
            let mut random = Random::new(seed);
            let rest: Vec<u8> = (0..random.below(64)).map(|_| random.below(256) as u8).collect();
            let command = random.choose(&[0x20, 0x21, 0x21, 0x21, 0x22]);
            let family = random.choose(&[0x00, 0x11, 0x11, 0x21, 0x31, 0x12]);
            let mut bytes = header(command, family, &rest);
            if random.below(2) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            let answers: Vec<Header> = (0..=bytes.len()).map(|end| parse(&bytes[..end])).collect();
            let first = answers.iter().position(|answer| *answer != Header::Partial);
            let Some(first) = first else { continue };
            let same = answers[first..].iter().all(|answer| *answer == answers[first]);
            assert!(same, "seed {seed}: {answers:?}");
            if let Header::Whole { length, .. } = answers[first] {
                assert_eq!(length, first, "seed {seed}");
                whole += 1;
            }
        }
        assert!((2_000..18_000).contains(&whole), "{whole} were whole");
    }
}
