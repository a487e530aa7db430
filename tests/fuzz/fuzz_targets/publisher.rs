//! Commands of publishers: pieces change nothing, every command has its answer, and subscribers hear each message once.
#![no_main]

use std::rc::Rc;

use libfuzzer_sys::fuzz_target;
use oneloop::features::publisher::connection::{Publisher, World};
use oneloop::features::publisher::exchange::Exchange;
use oneloop::features::publisher::{Moment, Peer, PublisherBounds, Terms};
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

/// The messages, of which every fifth is refused.
struct Messages<'a>(&'a mut Exchange, Vec<(Vec<u8>, Vec<u8>)>);

impl World for Messages<'_> {
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<usize, String> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        self.1.push((channel.to_vec(), payload.to_vec()));
        let receivers = self.0.publish(channel, payload);
        match self.1.len() % 5 {
            0 => Err("ERR nobody hears this".to_owned()),
            _ => Ok(receivers),
        }
    }

    fn is_pressed(&self) -> bool {
        false
    }

    fn exchange(&mut self) -> &mut Exchange {
        self.0
    }

    fn moment(&self) -> Moment {
        Moment::default()
    }
}

/// Messages and answers, the number of payloads that were too large, and whether the connection ended.
type Outcome = (Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>, u32, bool);

fn read(password: Option<Rc<[u8]>>, pieces: &[&[u8]]) -> Outcome {
    let terms = Terms {
        password,
        payload_bytes_max: PAYLOAD_BYTES_MAX,
        bounds: PublisherBounds {
            connections_max: 1,
            transaction_commands_max: 8,
            transaction_bytes_max: 512,
            subscriptions_max: 4,
            backlog_bytes_max: 1 << 20,
        },
        auth_millis: 5000,
    };
    let mut publisher = Publisher::new(Rc::new(terms), Peer::default());
    let mut exchange = Exchange::new(4, 1 << 20);
    let (mut world, mut answers) = (Messages(&mut exchange, Vec::new()), Vec::new());
    for piece in pieces {
        let mut input = *piece;
        loop {
            publisher.take(input, &mut world);
            input = &[];
            publisher.collect(world.0);
            assert!(!publisher.is_executing());
            let bytes: Vec<u8> = publisher.output.parts().flatten().copied().collect();
            answers.extend_from_slice(&bytes);
            publisher.output.wrote(bytes.len());
            if !publisher.has_left() {
                break;
            }
        }
    }
    assert!(answers.is_empty() || answers.ends_with(b"\n"));
    (world.1, answers, publisher.oversized, publisher.is_ending)
}
