//! Records of a client on an open TLS connection, as bytes and as content that is sealed with its keys: pieces change nothing, and
//! what was sealed as data comes out as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneloop::engine::tls::{
    RECORD_BYTES_MAX, RECORD_PLAIN_MAX, RecordsEnd, TlsFailure, TlsSession, TlsSuite, TrafficKeys,
};
use oneloop_fuzz::forger::Forger;
use oneloop_fuzz::pieces;

const SUITES: [(TlsSuite, usize, usize); 6] = [
    (TlsSuite::Tls13Aes128, 16, 32),
    (TlsSuite::Tls13Aes256, 32, 48),
    (TlsSuite::Tls13ChaCha20, 32, 32),
    (TlsSuite::Tls12Aes128, 16, 0),
    (TlsSuite::Tls12Aes256, 32, 0),
    (TlsSuite::Tls12ChaCha20, 32, 0),
];

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let (suite, key_bytes, secret_bytes) = SUITES[usize::from(*first) % SUITES.len()];
    let is_chacha = matches!(suite, TlsSuite::Tls13ChaCha20 | TlsSuite::Tls12ChaCha20);
    let client = match secret_bytes {
        0 => Forger {
            key: vec![1; key_bytes],
            iv: vec![2; 12],
            secret: Vec::new(),
            sequence: 1,
            is_chacha,
        },
        _ => Forger::of_secret(&vec![3; secret_bytes], is_chacha),
    };
    let keys = TrafficKeys {
        key: &client.key,
        iv: &client.iv,
        secret: &client.secret,
        sequence: client.sequence,
    };
    let session = || TlsSession::new(suite, &keys, &keys).expect("keys of the right length");
    let (mut whole, mut cut) = (session(), session());
    let (bytes, data) = stream(client, rest);
    let all = read(&mut whole, &[&bytes]);
    let in_pieces = read(&mut cut, &pieces(&bytes));
    // KeyUpdates are bounded for each call, so what comes in pieces may get further.
    if all.2 != Some(RecordsEnd::Failed(TlsFailure::TooManyUselessRecords)) {
        assert_eq!(all, in_pieces);
    }
    let (plain, replies, end) = all;
    match data {
        Some(data) if matches!(end, None | Some(RecordsEnd::Closed)) => {
            assert!(data.starts_with(&plain))
        }
        _ => {}
    }
    // At most four warnings and an alert, with a KeyUpdate.
    assert!(replies.len() < 300, "{} bytes of replies", replies.len());
    let mut sealed = Vec::new();
    whole.seal(b"x", &mut sealed);
    assert_eq!(sealed.is_empty(), matches!(end, Some(RecordsEnd::Failed(_))));
    assert_ne!(end, Some(RecordsEnd::Failed(TlsFailure::Internal)));
});

/// The bytes of a client that does what `orders` say, and its data, if all of it was sealed rightly.
fn stream(mut client: Forger, mut orders: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (mut bytes, mut data, mut message) = (Vec::new(), Some(Vec::new()), Vec::new());
    while let [kind, length, rest @ ..] = orders {
        let length = match usize::from(*length) {
            long @ 250.. => RECORD_PLAIN_MAX - 252 + long,
            short => short,
        };
        let (plain, behind) = rest.split_at(length.min(rest.len()));
        orders = behind;
        let mut plain = plain.to_vec();
        if length > 250 {
            plain.resize(length, b'l');
        }
        let is_tls13 = !client.secret.is_empty();
        match kind % 32 {
            // As they are.
            0 => {
                bytes.extend(&plain);
                data = None;
            }
            // A type at will, and one that may be forged.
            kind @ 1..16 => {
                let content = if kind < 8 { kind + 17 } else { kind + 100 };
                bytes.extend(client.record_as(23, content, &plain, 0));
                data = None;
            }
            kind => {
                let content = [23, 23, 22, 21][usize::from(kind) % 4];
                bytes.extend(client.record(content, &plain, usize::from(kind) % 7));
                if content == 23
                    && let Some(data) = &mut data
                {
                    data.extend(&plain);
                }
                if content == 22 && is_tls13 {
                    message.extend(&plain);
                    if matches!(message[..], [24, 0, 0, 1, 0 | 1]) {
                        client.update();
                        message.clear();
                    }
                }
            }
        }
    }
    (bytes, data)
}

fn read(session: &mut TlsSession, pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Option<RecordsEnd>) {
    let (mut kept, mut plain, mut replies, mut end) = (Vec::new(), Vec::new(), Vec::new(), None);
    for piece in pieces {
        kept.extend_from_slice(piece);
        let opened = session.open(&mut kept, &mut replies);
        assert!(opened.plain <= opened.consumed && opened.consumed <= kept.len());
        plain.extend_from_slice(&kept[..opened.plain]);
        kept.drain(..opened.consumed);
        assert!(kept.len() < RECORD_BYTES_MAX, "{} bytes are kept", kept.len());
        end = opened.end;
    }
    (plain, replies, end)
}
