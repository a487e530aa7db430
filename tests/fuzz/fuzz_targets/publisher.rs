//! What publishers send: pieces change nothing, and every command has its answer.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use oneloop::source::Publisher;
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

/// What was published, what was answered, how much was too large, and whether that was the end.
type Outcome = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, u32, bool);

fn read(password: Option<Rc<[u8]>>, pieces: &[&[u8]]) -> Outcome {
    let mut publisher = Publisher::new(PAYLOAD_BYTES_MAX, password);
    let (mut published, mut answers) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            while let Some(publish) = publisher.next(&mut input) {
                assert!(publish.payload.len() <= PAYLOAD_BYTES_MAX);
                published.push((publish.channel.to_vec(), publish.payload.to_vec()));
                publisher.published(published.len());
            }
            assert!(input.is_empty());
            let count = publisher.output().len();
            answers.extend_from_slice(publisher.output());
            publisher.wrote(count);
            if publisher.wants_input() || publisher.is_ending() {
                break;
            }
        }
    }
    assert!(answers.is_empty() || answers.ends_with(b"\r\n"));
    (published, answers, publisher.take_oversized(), publisher.is_ending())
}
