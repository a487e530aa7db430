//! The records of RFC 8448, section 3: a simple handshake, then data and an alert each way, by TLS 1.3 with AES-128-GCM.

use super::forger::Forger;
use crate::engine::tls::{Opened, RecordsEnd, TlsSession, TlsSuite, TrafficKeys};

const CLIENT_SECRET: &str = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5";
const SERVER_SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
const CLIENT_KEY: &str = "17422dda596ed5d9acd890e3c63f5051";
const CLIENT_IV: &str = "5b78923dee08579033e523d9";
const SERVER_KEY: &str = "9f02283b6c9c07efc26bb9f2ac92e356";
const SERVER_IV: &str = "cf782b88dd83549aadf1e984";
const CLIENT_DATA: &str = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b\
    9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4";
const SERVER_DATA: &str = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e3\
    0efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d";
const CLIENT_ALERT: &str = "1703030013c98727606556 66b74d7ff1153efd6db6d0b0e3";
const SERVER_ALERT: &str = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9";
/// The secrets after one KeyUpdate. They are not in the RFC, but the result of Botan, another implementation.
const CLIENT_SECRET_NEXT: &str = "fcdfcc72725aaee48bf64e4fd8b749cdbdbab39d90da0b26e2245ca6ea167207";
const SERVER_SECRET_NEXT: &str = "51921b8aa3001976eb401d0a4319a8516416a6c56001a357e5d162031e84f916";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The server's end, after it has sent a ticket.
fn session() -> TlsSession {
    let hex = [CLIENT_KEY, CLIENT_IV, CLIENT_SECRET, SERVER_KEY, SERVER_IV, SERVER_SECRET];
    let [key, iv, secret, server_key, server_iv, server_secret] = hex.map(bytes);
    let receiving = TrafficKeys { key: &key, iv: &iv, secret: &secret, sequence: 0 };
    let sending =
        TrafficKeys { key: &server_key, iv: &server_iv, secret: &server_secret, sequence: 1 };
    assert!(receiving.are_of_secret() && sending.are_of_secret());
    assert!(!TrafficKeys { secret: &server_secret, ..receiving }.are_of_secret());
    let receiving = TrafficKeys { key: &key, iv: &iv, secret: &secret, sequence: 0 };
    TlsSession::new(TlsSuite::Tls13Aes128, &receiving, &sending).unwrap()
}

#[test]
fn records_of_the_rfc_are_opened_and_sealed() {
    let payload: Vec<u8> = (0..50).collect();
    let mut session = session();
    let mut input = [bytes(CLIENT_DATA), bytes(CLIENT_ALERT)].concat();
    let mut replies = Vec::new();
    let opened = session.open(&mut input, &mut replies);
    let end = Some(RecordsEnd::Closed);
    assert_eq!(opened, Opened { plain: 50, consumed: 72 + 24, key_updates: 0, end });
    assert_eq!(input[..50], payload);
    session.seal(&payload, &mut replies);
    session.close_notify(&mut replies);
    assert_eq!(replies, [bytes(SERVER_DATA), bytes(SERVER_ALERT)].concat());
}

#[test]
fn keys_are_updated_as_others_do_it() {
    let mut session = session();
    let (client, server) = (bytes(CLIENT_SECRET), bytes(SERVER_SECRET_NEXT));
    let mut client = Forger::of_secret(&client, false);
    let mut input = client.record(22, &[24, 0, 0, 1, 1], 0);
    let mut client = Forger::of_secret(&bytes(CLIENT_SECRET_NEXT), false);
    input.extend(client.record(23, b"next", 0));
    let opened = session.open(&mut input, &mut Vec::new());
    assert_eq!((&input[..opened.plain], opened.end), (&b"next"[..], None));
    let mut sealed = Vec::new();
    session.seal(b"next", &mut sealed);
    let update_bytes = 5 + 5 + 1 + 16;
    assert_eq!(sealed[update_bytes..], Forger::of_secret(&server, false).record(23, b"next", 0));
}

#[test]
fn keys_of_another_length_are_refused() {
    let (key, iv, secret) = ([0; 32], [0; 12], [0; 48]);
    let keys = |key_bytes: usize, iv_bytes: usize, secret_bytes: usize| {
        let (key, iv, secret) = (&key[..key_bytes], &iv[..iv_bytes], &secret[..secret_bytes]);
        TrafficKeys { key, iv, secret, sequence: 0 }
    };
    let right = [
        (TlsSuite::Tls13Aes128, 16, 32, 136),
        (TlsSuite::Tls13Aes256, 32, 48, 200),
        (TlsSuite::Tls13ChaCha20, 32, 32, 200),
        (TlsSuite::Tls12Aes128, 16, 0, 136),
        (TlsSuite::Tls12Aes256, 32, 0, 200),
        (TlsSuite::Tls12ChaCha20, 32, 0, 200),
    ];
    for (suite, key_bytes, secret_bytes, held_bytes) in right {
        for key in [0, 15, 16, 31, 32] {
            for secret in [0, 31, 32, 47, 48] {
                for iv in [11, 12] {
                    let right_keys = keys(key_bytes, 12, secret_bytes);
                    let session = TlsSession::new(suite, &right_keys, &keys(key, iv, secret));
                    let is_right = (key, iv, secret) == (key_bytes, 12, secret_bytes);
                    assert_eq!(session.is_some(), is_right, "{suite:?} {key} {iv} {secret}");
                    assert!(session.is_none_or(|session| session.held_bytes() == held_bytes));
                }
            }
        }
    }
    let worn = TrafficKeys { sequence: 1 << 32, ..keys(16, 12, 32) };
    assert!(TlsSession::new(TlsSuite::Tls13Aes128, &keys(16, 12, 32), &worn).is_none());
}

#[test]
fn a_key_of_tls_1_2_wears_out_and_is_never_used_again_behind_its_last_nonce() {
    let keys = |sequence| TrafficKeys { key: &[1; 16], iv: &[2; 12], secret: &[], sequence };
    let mut session = TlsSession::new(TlsSuite::Tls12Aes128, &keys(0), &keys(15 << 20)).unwrap();
    assert!(session.is_worn());
    let worn = TlsSession::new(TlsSuite::Tls12Aes128, &keys(0), &keys((15 << 20) - 1)).unwrap();
    assert!(!worn.is_worn());
    let mut sealed = Vec::new();
    session.seal(b"still", &mut sealed);
    assert_eq!(sealed.len(), 5 + 8 + 5 + 16);
    let last = u64::from(u32::MAX);
    let mut session = TlsSession::new(TlsSuite::Tls12Aes128, &keys(last), &keys(last)).unwrap();
    sealed.clear();
    session.seal(b"never", &mut sealed);
    assert!(sealed.is_empty());
    let mut input = Forger {
        key: vec![1; 16],
        iv: vec![2; 12],
        secret: Vec::new(),
        sequence: last,
        is_chacha: false,
    }
    .record(23, b"never", 0);
    let opened = session.open(&mut input, &mut sealed);
    assert_eq!(opened.end.map(|end| format!("{end:?}")).as_deref(), Some("Failed(KeyWornOut)"));
}
