//! Bytes of ZeroMQ peers: pieces change nothing, and no part is above its limit.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use oneloop::features::zeromq::ZeromqTerms;
use oneloop::features::zeromq::peer::{PeerEvent, PushPeer};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach it.
const PAYLOAD_BYTES_MAX: usize = 64;

fuzz_target!(|input: &[u8]| {
    // The first byte says whether a password is wanted, the rest is what the peer sends.
    let Some((setup, input)) = input.split_first() else { return };
    let password = (setup & 1 != 0).then(|| Rc::from(&b"secret"[..]));
    assert_eq!(read(password.clone(), &[input]), read(password, &pieces(input)));
});

/// The messages that came, the answers, the silence that the peer asks for, and whether the connection ended.
type Outcome = (Vec<String>, Vec<u8>, Option<u64>, bool);

fn read(password: Option<Rc<[u8]>>, pieces: &[&[u8]]) -> Outcome {
    let mut peer = PushPeer::new(Rc::new(ZeromqTerms {
        connections_max: 1,
        topic_field: "topic".to_owned(),
        prefix: "pub.".to_owned(),
        password,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        handshake_millis: 5000,
    }));
    let (mut events, mut answers) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = peer.next(&mut input) {
            if let PeerEvent::Message { payload, .. } | PeerEvent::Object(payload) = &event {
                assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            }
            events.push(format!("{event:?}"));
            answers.append(&mut peer.output);
        }
        assert!(input.is_empty());
    }
    // How many PINGs are answered depends on how much of the output was written meanwhile.
    answers.append(&mut peer.output);
    let is_over = peer.is_over();
    answers.truncate(64);
    (events, answers, peer.silence, is_over)
}
