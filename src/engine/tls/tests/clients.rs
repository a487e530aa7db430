//! Every suite with rustls' own client: data, KeyUpdates, tickets, and the end.

use std::io::Write;

use rustls::client::ClientConnection;
use rustls::{Error, SupportedCipherSuite};

use super::peers::{self, Shaken, give, sent_by};
use crate::engine::random::Random;
use crate::engine::tls::session::RECORDS_PER_KEY_IN_TEST;
use crate::engine::tls::{
    HandshakeProgress, Opened, RECORD_PLAIN_MAX, RecordsEnd, TlsFailure, TlsHandshake, TlsSession,
    TlsVersion, provider,
};

fn suites() -> Vec<SupportedCipherSuite> {
    provider().cipher_suites.into_iter().filter(|suite| peers::suits(*suite)).collect()
}

fn open_session(suite: SupportedCipherSuite) -> Shaken {
    let client = peers::client(&peers::client_config(Some(suite)));
    peers::shake(&peers::acceptor(true), client, &mut Random::new(1), 5000, b"")
}

/// Opens `bytes` in pieces of up to `size_max`, as the loop would: with what was left of the last piece in front.
fn open(
    session: &mut TlsSession,
    bytes: &[u8],
    random: &mut Random,
    size_max: usize,
) -> (Vec<u8>, Vec<u8>, Option<RecordsEnd>) {
    let (mut kept, mut plain, mut replies, mut end) = (Vec::new(), Vec::new(), Vec::new(), None);
    for piece in random.pieces(bytes, size_max) {
        kept.extend_from_slice(piece);
        let opened = session.open(&mut kept, &mut replies);
        plain.extend_from_slice(&kept[..opened.plain]);
        kept.drain(..opened.consumed);
        end = opened.end;
    }
    assert!(end.is_some() || kept.is_empty(), "whole records are consumed");
    (plain, replies, end)
}

fn write(client: &mut ClientConnection, mut plain: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    while !plain.is_empty() {
        let written = client.writer().write(plain).unwrap();
        plain = &plain[written..];
        sent.extend(sent_by(client));
    }
    sent
}

fn seal(session: &mut TlsSession, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    for record in plain.chunks(RECORD_PLAIN_MAX) {
        session.seal(record, &mut sealed);
    }
    sealed
}

#[test]
fn there_are_six_suites_with_the_cheapest_first() {
    let names: Vec<&str> = suites().iter().map(|suite| suite.suite().as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "TLS13_AES_128_GCM_SHA256",
            "TLS13_CHACHA20_POLY1305_SHA256",
            "TLS13_AES_256_GCM_SHA384",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        ]
    );
    let client = peers::client(&peers::client_config(None));
    let shaken = peers::shake(&peers::acceptor(false), client, &mut Random::new(1), 5000, b"");
    assert_eq!(format!("{:?}", shaken.session), "TlsSession(Tls13Aes128)");
    assert_eq!((shaken.session.held_bytes(), shaken.facts.version), (136, TlsVersion::V1_3));
}

#[test]
fn data_of_all_sizes_goes_both_ways_over_every_suite() {
    let mut random = Random::new(7);
    for suite in suites() {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        for bytes in [1, 2, 100, 16_383, 16_384, 16_385, 300_000] {
            let plain: Vec<u8> = (0..bytes).map(|at: usize| (at % 251) as u8).collect();
            let sent = write(&mut client, &plain);
            let size_max = if bytes < 1000 { 1 } else { 70_000 };
            assert_eq!(
                open(&mut session, &sent, &mut random, size_max),
                (plain.clone(), Vec::new(), None)
            );
            assert_eq!(give(&mut client, &seal(&mut session, &plain)).unwrap(), plain, "{suite:?}");
        }
    }
}

#[test]
fn a_handshake_may_come_in_pieces_of_any_size_with_data_behind_it() {
    for suite in suites() {
        for size_max in [1, 3, 50, 5000] {
            let client = peers::client(&peers::client_config(Some(suite)));
            let shaken = peers::shake(
                &peers::acceptor(true),
                client,
                &mut Random::new(3),
                size_max,
                b"early bird",
            );
            let Shaken { mut session, mut client, behind, .. } = shaken;
            // TLS 1.2 sends it only after the server's Finished.
            let mut behind = [behind, sent_by(&mut client)].concat();
            let opened = session.open(&mut behind, &mut Vec::new());
            assert_eq!(&behind[..opened.plain], b"early bird");
            // Tickets that were sent behind the handshake are counted.
            assert_eq!(give(&mut client, &seal(&mut session, b"worm")).unwrap(), b"worm");
        }
    }
}

#[test]
fn a_record_may_be_cut_at_every_byte() {
    for suite in suites() {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        for cut in 0..200 {
            let sent = [write(&mut client, b"first"), write(&mut client, &[b'x'; 100])].concat();
            let cut = cut.min(sent.len());
            let mut kept = sent[..cut].to_vec();
            let first = session.open(&mut kept, &mut Vec::new());
            let mut plain = kept[..first.plain].to_vec();
            kept.drain(..first.consumed);
            kept.extend_from_slice(&sent[cut..]);
            let second = session.open(&mut kept, &mut Vec::new());
            plain.extend_from_slice(&kept[..second.plain]);
            assert_eq!((plain.len(), second.consumed), (105, kept.len()), "cut at {cut}");
        }
    }
}

#[test]
fn a_client_may_change_its_keys() {
    for suite in suites().into_iter().filter(|suite| suite.tls13().is_some()) {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        let mut random = Random::new(5);
        for round in 0..40 {
            // rustls asks for ours in return, and reads what comes before them.
            let before = seal(&mut session, b"under the old key");
            client.refresh_traffic_keys().unwrap();
            let sent = [sent_by(&mut client), write(&mut client, b"new")].concat();
            assert_eq!(
                open(&mut session, &sent, &mut random, 30),
                (b"new".to_vec(), Vec::new(), None),
                "{round}"
            );
            let behind = seal(&mut session, b", under the new one");
            let plain = give(&mut client, &[before, behind].concat()).unwrap();
            assert_eq!(plain, b"under the old key, under the new one");
        }
    }
}

#[test]
fn our_own_keys_change_at_their_limit() {
    RECORDS_PER_KEY_IN_TEST.set(10);
    for suite in suites() {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        let (mut bytes, mut updates) = (None, 0);
        for round in 0..100 {
            let sealed = seal(&mut session, b"again");
            let usual = *bytes.get_or_insert(sealed.len());
            updates += u32::from(sealed.len() > usual);
            assert_eq!(give(&mut client, &sealed).unwrap(), b"again", "{round}");
            let sent = write(&mut client, b"and again");
            assert_eq!(session.open(&mut sent.clone(), &mut Vec::new()).end, None);
        }
        // Two tickets went before.
        assert_eq!(updates, if suite.tls13().is_some() { 10 } else { 0 });
        assert!(!session.is_worn());
    }
    RECORDS_PER_KEY_IN_TEST.set(1 << 23);
}

#[test]
fn clients_resume_by_their_tickets() {
    for suite in suites() {
        let (acceptor, config) = (peers::acceptor(true), peers::client_config(Some(suite)));
        for round in 0..3 {
            let shaken =
                peers::shake(&acceptor, peers::client(&config), &mut Random::new(1), 100, b"");
            let Shaken { mut session, mut client, facts, .. } = shaken;
            assert_eq!(facts.is_resumed, round > 0);
            assert_eq!(facts.version == TlsVersion::V1_3, suite.tls13().is_some());
            assert_eq!(give(&mut client, &seal(&mut session, b"again")).unwrap(), b"again");
            let sent = write(&mut client, b"yes");
            assert_eq!(open(&mut session, &sent, &mut Random::new(1), 100).0, b"yes");
        }
    }
}

#[test]
fn both_sides_say_that_they_end() {
    for suite in suites() {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        client.writer().write_all(b"bye").unwrap();
        client.send_close_notify();
        let sent = sent_by(&mut client);
        // Whatever stands behind the end is not looked at.
        let mut input = [&sent[..], b"garbage"].concat();
        let mut replies = Vec::new();
        let opened = session.open(&mut input, &mut replies);
        assert_eq!(
            opened,
            Opened {
                plain: 3,
                consumed: input.len(),
                key_updates: 0,
                end: Some(RecordsEnd::Closed)
            }
        );
        assert_eq!(session.open(&mut [1, 2, 3], &mut replies).end, Some(RecordsEnd::Closed));
        assert!(replies.is_empty(), "a close_notify is answered when all has been said");

        let mut sealed = seal(&mut session, b"bye, bye");
        session.close_notify(&mut sealed);
        let all = sealed.len();
        session.close_notify(&mut sealed);
        session.seal(b"after the end", &mut sealed);
        assert_eq!(sealed.len(), all, "nothing is sent after the end");
        let mut rest = &sealed[..];
        client.read_tls(&mut rest).unwrap();
        let state = client.process_new_packets().unwrap();
        assert!(state.peer_has_closed() && state.plaintext_bytes_to_read() == 8);
    }
}

#[test]
fn a_forged_record_ends_the_session_with_an_alert() {
    for suite in suites() {
        let Shaken { mut session, mut client, .. } = open_session(suite);
        let mut sent = [write(&mut client, b"true"), write(&mut client, b"false")].concat();
        *sent.last_mut().unwrap() ^= 1;
        let mut replies = Vec::new();
        let opened = session.open(&mut sent, &mut replies);
        let end = Some(RecordsEnd::Failed(TlsFailure::BadRecordMac));
        assert_eq!(
            opened,
            Opened { plain: 4, consumed: sent.len(), key_updates: opened.key_updates, end }
        );
        assert_eq!(&sent[..4], b"true");
        let error = give(&mut client, &replies).unwrap_err();
        assert_eq!(error, Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
        assert!(seal(&mut session, b"nothing more").is_empty());
        assert_eq!(session.open(&mut [0; 10], &mut replies).end, end);
    }
}

#[test]
fn plain_http_gets_a_hint() {
    for request in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"P",
        b"OPTIONS * HTTP/1.1\r\n",
        b"PRI * HTTP/2",
    ] {
        let mut output = Vec::new();
        let progress = TlsHandshake::new(&peers::acceptor(false)).advance(request, &mut output);
        assert!(matches!(progress, HandshakeProgress::Failed(TlsFailure::PlainHttp)));
        let answer = String::from_utf8(output).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400 ")
                && head.contains(&format!("Content-Length: {}\r", body.len()))
        );
        assert!(body.contains("https://"));
    }
}
