//! Handshakes that come to nothing: each has its name and its alert, and none takes more memory than a record.

use std::sync::Arc;

use rustls::{AlertDescription, Error};

use super::peers::{self, give, sent_by};
use crate::engine::random::Random;
use crate::engine::tls::{
    Acceptor, HandshakeProgress, RECORD_BYTES_MAX, TlsFailure, TlsHandshake, prepared,
};

fn advance(handshake: &mut TlsHandshake, input: &[u8]) -> (Option<TlsFailure>, Vec<u8>) {
    let mut output = Vec::new();
    match handshake.advance(input, &mut output) {
        HandshakeProgress::Failed(failure) => (Some(failure), output),
        HandshakeProgress::More => (None, output),
        HandshakeProgress::Done(..) => panic!("it is done"),
    }
}

fn alert(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, u8::from(description)]
}

#[test]
fn a_client_that_speaks_http_2_alone_is_refused_and_one_without_alpn_is_not() {
    for (protocols, is_refused) in [(&["h2"][..], true), (&["h2", "http/1.1"], false), (&[], false)]
    {
        let mut config = Arc::unwrap_or_clone(peers::client_config(None));
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = peers::client(&Arc::new(config));
        let mut handshake = TlsHandshake::new(&peers::acceptor(false));
        let (failure, output) = advance(&mut handshake, &sent_by(&mut client));
        assert_eq!(failure, is_refused.then_some(TlsFailure::NoSharedProtocol));
        let received = give(&mut client, &output).err();
        let told = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert_eq!(received, is_refused.then_some(told));
    }
}

#[test]
fn versions_and_suites_that_are_not_shared_are_told_apart() {
    // A hello of TLS 1.0 with one suite; then of 1.2, with a suite that has no forward secrecy.
    let hello = |version: u8, suite: [u8; 2]| {
        let mut hello = vec![3, version];
        hello.extend([5; 32]);
        hello.extend([0, 0, 2]);
        hello.extend(suite);
        // No compression; signature_algorithms, supported_groups.
        hello.extend([1, 0, 0, 16, 0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 29]);
        let length = hello.len() as u8;
        [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
    };
    let cases = [
        (hello(1, [0xc0, 0x2b]), TlsFailure::NoSharedVersion, AlertDescription::ProtocolVersion),
        (hello(3, [0x00, 0x2f]), TlsFailure::NoSharedSuite, AlertDescription::HandshakeFailure),
        (hello(3, [0xc0, 0x09]), TlsFailure::NoSharedSuite, AlertDescription::HandshakeFailure),
        (vec![0x80, 0x2e, 1, 0, 2], TlsFailure::Decode, AlertDescription::DecodeError),
        (b"SSH-2.0-OpenSSH_9\r\n".to_vec(), TlsFailure::Decode, AlertDescription::DecodeError),
        (vec![22, 0xfe, 0xff, 0, 9], TlsFailure::Decode, AlertDescription::DecodeError),
        (vec![22, 3, 1, 0, 0], TlsFailure::Decode, AlertDescription::DecodeError),
        (vec![22, 3, 1, 0x41, 1], TlsFailure::RecordOverflow, AlertDescription::RecordOverflow),
        (
            vec![23, 3, 3, 0, 1, 1],
            TlsFailure::UnexpectedMessage,
            AlertDescription::UnexpectedMessage,
        ),
    ];
    for (input, failure, description) in cases {
        let mut handshake = TlsHandshake::new(&peers::acceptor(false));
        let expected = (Some(failure), alert(description));
        assert_eq!(advance(&mut handshake, &input), expected, "{input:02x?}");
        assert!(!handshake.has_answered());
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_told_from_others() {
    let mut handshake = TlsHandshake::new(&peers::acceptor(false));
    let mut client = peers::client(&peers::client_config(None));
    assert_eq!(advance(&mut handshake, &sent_by(&mut client)).0, None);
    assert!(handshake.has_answered(), "the signature is made, whether or not the client goes on");
    // A TLS 1.3 client may not have keys yet.
    let (failure, output) = advance(&mut handshake, &[21, 3, 3, 0, 2, 2, 48]);
    assert_eq!((failure, output), (Some(TlsFailure::CertificateRefused), Vec::new()));
}

#[test]
fn a_hello_in_pieces_is_kept_up_to_the_length_of_a_record() {
    let mut handshake = TlsHandshake::new(&peers::acceptor(false));
    let mut sent = vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    while sent.len() < RECORD_BYTES_MAX + 3000 {
        sent.extend([22, 3, 1, 3, 0xe8]);
        sent.extend([0; 1000]);
    }
    let mut kept_max = 0;
    for piece in sent.chunks(1000) {
        let (failure, output) = advance(&mut handshake, piece);
        kept_max = kept_max.max(handshake.held_bytes());
        if let Some(failure) = failure {
            assert_eq!(failure, TlsFailure::HandshakeTooLarge);
            assert_eq!(output, alert(AlertDescription::DecodeError));
            assert!((16_000..40_000).contains(&kept_max), "{kept_max}");
            return;
        }
    }
    panic!("it is kept for ever");
}

#[test]
fn an_idle_handshake_keeps_no_input() {
    let mut handshake = TlsHandshake::new(&peers::acceptor(false));
    let new = handshake.held_bytes();
    let sent = sent_by(&mut peers::client(&peers::client_config(None)));
    assert_eq!(advance(&mut handshake, &sent[..100]).0, None);
    assert!(handshake.held_bytes() >= new + 100);
    assert_eq!(advance(&mut handshake, &sent[100..]).0, None);
    assert_eq!(handshake.held_bytes(), new);
    assert!(new < 4500, "{new}");
}

#[test]
fn without_secrets_to_take_out_no_handshake_ends() {
    let config = peers::server_config(false);
    let acceptor = Acceptor { config: Arc::new(config), cost: 0 };
    let mut handshake = TlsHandshake::new(&acceptor);
    let mut client = peers::client(&peers::client_config(None));
    let (_, output) = advance(&mut handshake, &sent_by(&mut client));
    give(&mut client, &output).unwrap();
    assert_eq!(advance(&mut handshake, &sent_by(&mut client)).0, Some(TlsFailure::Internal));
}

#[test]
fn garbage_in_a_handshake_never_panics() {
    let acceptor = Acceptor { config: Arc::new(prepared(peers::server_config(true))), cost: 0 };
    let config = peers::client_config(None);
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let mut client = peers::client(&config);
        let mut handshake = TlsHandshake::new(&acceptor);
        'handshake: for _ in 0..3 {
            let mut sent = sent_by(&mut client);
            if !sent.is_empty() && random.below(2) == 0 {
                let at = random.below(sent.len());
                sent[at] ^= 1 << random.below(8);
            }
            let mut output = Vec::new();
            for piece in random.pieces(&sent, 200) {
                if !matches!(handshake.advance(piece, &mut output), HandshakeProgress::More) {
                    break 'handshake;
                }
            }
            if give(&mut client, &output).is_err() {
                break;
            }
        }
    }
}

#[test]
fn a_client_without_the_curve_of_the_certificate_is_no_fault_of_ours() {
    // A hello of TLS 1.2 that takes signatures by ECDSA on P-384 alone. rustls sends no alert.
    let mut hello = vec![3, 3];
    hello.extend([5; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16]);
    hello.extend([0, 13, 0, 4, 0, 2, 5, 3, 0, 10, 0, 4, 0, 2, 0, 29]);
    let length = hello.len() as u8;
    let input = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let mut handshake = TlsHandshake::new(&peers::acceptor(false));
    let expected = (Some(TlsFailure::NoSharedGroup), Vec::new());
    assert_eq!(advance(&mut handshake, &input), expected);
}
