//! Commands of publishers: pieces change nothing, every command has its answer, and subscribers hear each message once.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use oneloop::features::publisher::connection::{Moment, Peer, Terms};
use oneloop::source::{Exchange, Publisher};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach it.
const PAYLOAD_BYTES_MAX: usize = 64;

fuzz_target!(|input: &[u8]| {
    // The first byte says whether a password is wanted, the rest is what the publisher sends.
    let Some((setup, input)) = input.split_first() else { return };
    let password = (setup & 1 != 0).then(|| Rc::from(&b"secret"[..]));
    let whole = read(password.clone(), &[input]);
    assert_eq!(whole, read(password, &pieces(input)));
});

/// Messages and answers, the number of payloads that were too large, and whether the connection ended.
type Outcome = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, u32, bool);

fn read(password: Option<Rc<[u8]>>, pieces: &[&[u8]]) -> Outcome {
    let terms = Terms {
        password,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        transaction_commands_max: 8,
        transaction_bytes_max: 512,
        connections_max: 1,
        backlog_bytes_max: 1 << 20,
    };
    let mut publisher = Publisher::new(Rc::new(terms), Peer::default());
    let mut exchange = Exchange::new(4, 1 << 20);
    let moment = Moment::default();
    let (mut published, mut answers) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            while let Some(publish) = publisher.next(&mut input, &mut exchange, &moment) {
                assert!(publish.payload.len() <= PAYLOAD_BYTES_MAX);
                published.push((publish.channel.to_vec(), publish.payload.to_vec()));
                let heard = exchange.publish(publish.channel, publish.payload);
                match published.len() % 5 {
                    0 => publisher.refused("ERR nobody hears this"),
                    _ => publisher.published(heard),
                }
                publisher.collect(&mut exchange);
            }
            assert!(input.is_empty() && !publisher.is_executing());
            let bytes: Vec<u8> = publisher.output().flatten().copied().collect();
            answers.extend_from_slice(&bytes);
            publisher.wrote(bytes.len());
            if publisher.wants_input() || publisher.is_ending() {
                break;
            }
        }
    }
    assert!(answers.is_empty() || answers.ends_with(b"\r\n"));
    (published, answers, publisher.take_oversized(), publisher.is_ending())
}
