//! Messages of Redis: pieces change nothing, and every message is within its bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneloop::engine::redis::config::RedisConfig;
use oneloop::engine::redis::subscriber::{RedisSubscriber, SubscriptionEvent};
use oneloop_fuzz::pieces;

/// Small, so that inputs reach it.
const PAYLOAD_BYTES_MAX: usize = 64;

fuzz_target!(|input: &[u8]| {
    // The first byte says how the connection is set up, the rest is what Redis sends.
    let Some((setup, input)) = input.split_first() else { return };
    let (whole, sent) = read(*setup, &[input]);
    let (events, sent_between) = read(*setup, &pieces(input));
    assert_eq!(whole, events);
    // A connection that failed sends nothing any more.
    let has_failed = events.last().is_some_and(|event| event.starts_with("Failed"));
    assert!(sent == sent_between || (has_failed && sent_between.starts_with(&sent)));
});

fn config(setup: u8) -> RedisConfig {
    let is_set = |bit: u8| setup & 1 << bit != 0;
    let mut config = RedisConfig::from_url("redis://h").expect("it is a URL");
    config.server.resp2_only = is_set(0);
    config.server.password = is_set(1).then(|| "secret".to_owned());
    config.server.username = is_set(2).then(|| "bob".to_owned());
    if is_set(3) {
        config.patterns = ["pub.*", "pub.a*", "pub.*", "[p]ub.?"].map(str::to_owned).to_vec();
    }
    config.payload_bytes_max = PAYLOAD_BYTES_MAX;
    config
}

/// All events of the subscriber, and all bytes that it sends.
fn read(setup: u8, pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
    let mut subscriber = RedisSubscriber::new(config(setup), 0);
    let (mut events, mut sent) = (Vec::new(), Vec::new());
    subscriber.session.connecting(0);
    subscriber.session.connected(1);
    send(&mut subscriber, &mut sent);
    for piece in pieces {
        let mut input = *piece;
        loop {
            let event = match subscriber.next(&mut input, 2) {
                Ok(None) => break,
                Ok(Some(event)) => event,
                Err(text) => {
                    events.push(format!("Failed({text:?})"));
                    break;
                }
            };
            if let SubscriptionEvent::Message(message) = &event {
                assert!(message.payload().len() <= PAYLOAD_BYTES_MAX);
            }
            events.push(format!("{event:?}"));
        }
        send(&mut subscriber, &mut sent);
    }
    let is_up = subscriber.session.is_ready();
    let was_up = events.iter().any(|event| event == "Up");
    assert!(!is_up || was_up);
    assert_eq!(subscriber.down(3, 4), was_up);
    assert!(!subscriber.session.is_ready() && subscriber.session.output().is_empty());
    (events, sent)
}

fn send(subscriber: &mut RedisSubscriber, sent: &mut Vec<u8>) {
    let count = subscriber.session.output().len();
    sent.extend_from_slice(subscriber.session.output());
    subscriber.session.wrote(count);
}
