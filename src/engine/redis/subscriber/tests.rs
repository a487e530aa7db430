//! The subscriber, driven by bytes and times.

use super::*;
use crate::engine::pubsub::hub::{KeyChange, KeyName};
use crate::engine::random::Random;

const HELLO_3: &str = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
const SET_NAME: &str = "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$7\r\noneloop\r\n";
const ROLE: &str = "*1\r\n$4\r\nROLE\r\n";
const SUBSCRIBE: &str = "*2\r\n$10\r\nPSUBSCRIBE\r\n$5\r\npub.*\r\n";
const PING: &str = "*1\r\n$4\r\nPING\r\n";
const GREETED: &str = "%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n";
const SUBSCRIBED_2: &str = "*3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n";
const SUBSCRIBED_3: &str = ">3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n";
const MESSAGE_2: &str = "*4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n$5\r\npub.a\r\n$2\r\nhi\r\n";
const MESSAGE_3: &str = ">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n$5\r\npub.a\r\n$2\r\nhi\r\n";

fn config(url: &str, patterns: &[&str]) -> RedisConfig {
    let mut config = RedisConfig::from_url(url).expect("the URL is right");
    config.patterns = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    config.payload_bytes_max = 1000;
    config
}

fn connected_subscriber(url: &str, patterns: &[&str]) -> RedisSubscriber {
    let mut subscriber = RedisSubscriber::new(config(url, patterns), 0);
    assert!(subscriber.session.wants_connect(0));
    subscriber.session.connecting(0);
    subscriber.session.connected(0);
    subscriber
}

fn up_subscriber(patterns: &[&str]) -> RedisSubscriber {
    let mut subscriber = connected_subscriber("redis://h", patterns);
    feed(&mut subscriber, GREETED, 0);
    feed(&mut subscriber, "+OK\r\n", 0);
    for pattern in patterns {
        let length = pattern.len();
        feed(
            &mut subscriber,
            format!(">3\r\n$10\r\npsubscribe\r\n${length}\r\n{pattern}\r\n:1\r\n"),
            0,
        );
    }
    assert!(subscriber.session.is_ready());
    take_output(&mut subscriber);
    subscriber
}

/// The events, as text.
fn feed(subscriber: &mut RedisSubscriber, input: impl AsRef<[u8]>, now: Millis) -> Vec<String> {
    let mut input = input.as_ref();
    let mut events = Vec::new();
    while let Some(event) = subscriber.next(&mut input, now).transpose() {
        events.push(match event {
            Ok(SubscriptionEvent::Message(message)) => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                format!("{} {}", text(message.channel()), text(message.payload()))
            }
            Ok(event) => format!("{event:?}"),
            Err(text) => text,
        });
    }
    assert!(input.is_empty());
    events
}

fn take_output(subscriber: &mut RedisSubscriber) -> String {
    let output =
        String::from_utf8(subscriber.session.output().to_vec()).expect("commands are text");
    // The socket may take any part.
    subscriber.session.wrote(output.len() / 2);
    subscriber.session.wrote(output.len() - output.len() / 2);
    assert!(subscriber.session.output().is_empty());
    output
}

fn failure(subscriber: &mut RedisSubscriber, input: &str) -> String {
    let mut events = feed(subscriber, input, 0);
    assert_eq!(events.len(), 1, "{input}: {events:?}");
    assert!(!subscriber.session.is_ready());
    assert_eq!(feed(subscriber, MESSAGE_3, 0), [""; 0], "nothing comes after a failure");
    events.remove(0)
}

#[test]
fn resp3_is_greeted_step_by_step() {
    let mut subscriber = connected_subscriber("redis://bob:secret@h", &["pub.*"]);
    let hello = "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$6\r\nsecret\r\n";
    assert_eq!(take_output(&mut subscriber), hello);
    assert_eq!(feed(&mut subscriber, GREETED, 0), [""; 0]);
    assert_eq!(take_output(&mut subscriber), [SET_NAME, SUBSCRIBE].concat());
    assert_eq!(
        feed(&mut subscriber, "-NOPERM no\r\n", 0),
        [""; 0],
        "a name is not worth a failure"
    );
    assert!(!subscriber.session.is_ready());
    assert_eq!(feed(&mut subscriber, [SUBSCRIBED_3, MESSAGE_3].concat(), 0), ["Up", "pub.a hi"]);
    assert!(subscriber.session.is_ready());
}

#[test]
fn a_server_that_does_not_know_hello_is_greeted_in_resp2() {
    let refusals = ["-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"];
    for refusal in refusals.into_iter().chain(["-NOPROTO no\r\n", "-ERR syntax error\r\n"]) {
        let mut subscriber = connected_subscriber("redis://h", &["pub.*"]);
        assert_eq!(take_output(&mut subscriber), HELLO_3);
        assert_eq!(feed(&mut subscriber, refusal, 0), [""; 0]);
        assert_eq!(take_output(&mut subscriber), [SET_NAME, ROLE, SUBSCRIBE].concat());
        let rest = ["+OK\r\n*1\r\n+master\r\n", SUBSCRIBED_2, MESSAGE_2].concat();
        assert_eq!(feed(&mut subscriber, rest, 0), ["Up", "pub.a hi"]);
    }
    let mut subscriber = connected_subscriber("redis://:secret@h/?protocol=resp2", &["pub.*"]);
    let auth = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n";
    assert_eq!(take_output(&mut subscriber), [auth, SET_NAME, ROLE, SUBSCRIBE].concat());
    assert_eq!(
        feed(&mut subscriber, ["+OK\r\n+OK\r\n-NOPERM no\r\n", SUBSCRIBED_2].concat(), 0),
        ["Up"]
    );
}

#[test]
fn a_failed_greeting_says_what_to_do_and_no_secret() {
    let echo = "-ERR unknown command `AUTH`, with args beginning with: `bob`, `hunter2`, \r\n";
    let no_patterns = [GREETED, "+OK\r\n-NOPERM User bob has no\r\n"].concat();
    let full = [GREETED, "-ERR max number of clients reached\r\n"].concat();
    for (answers, expected) in [
        ("-WRONGPASS invalid\r\n", "-WRONGPASS to HELLO: the user or"),
        ("-NOAUTH HELLO must\r\n-NOAUTH again\r\n", "-NOAUTH to AUTH"),
        (&["-ERR unknown\r\n", echo].concat(), "-ERR to AUTH: expected"),
        ("HTTP/1.1 400 Bad Request\r\n", "not Redis answers at h:6379"),
        ("$99999999999\r\n", "something that is not Redis"),
        (":not a number\r\n", "something that is not Redis"),
        (&no_patterns, "&pub.* &o[a].* +psubscribe +ping"),
        (&full, "raise maxclients"),
    ] {
        let mut subscriber = connected_subscriber("redis://bob:hunter2@h", &["pub.*", "o[a].*"]);
        let text = failure(&mut subscriber, answers);
        assert!(text.contains(expected), "{answers:?}: {text}");
        let is_discreet = !text.contains("bob") && !text.contains("hunter2");
        assert!(is_discreet, "{answers:?}: {text}");
        assert!(!subscriber.down(0, 0), "{answers:?}: it was not up");
    }
}

#[test]
fn a_reply_too_deep_for_the_parser_is_garbage() {
    let mut subscriber = up_subscriber(&["pub.*"]);
    let text = failure(&mut subscriber, &["*1\r\n".repeat(10_000).as_str(), ":1\r\n"].concat());
    assert!(text.contains("something that is not Redis"), "{text}");
}

#[test]
fn up_means_that_every_configured_pattern_is_acknowledged() {
    let mut subscriber = connected_subscriber("redis://h", &["pub.*", "b.*", "pub.*"]);
    feed(&mut subscriber, [GREETED, "+OK\r\n", SUBSCRIBED_3, SUBSCRIBED_3].concat(), 0);
    feed(&mut subscriber, SUBSCRIBED_3.replace("$5\r\npub.*", "$3\r\nx.*"), 0);
    assert!(!subscriber.session.is_ready());
    // A message of the first pattern meanwhile lies in the gap that is reported afterwards.
    assert_eq!(feed(&mut subscriber, MESSAGE_3, 0), [""; 0]);
    assert_eq!(subscriber.session.deadline(), Some(5000));
    assert_eq!(subscriber.on_time(4999), Ok(()));
    let Err(text) = subscriber.on_time(5000) else { panic!("it is overdue") };
    assert!(text.contains("no answer to PSUBSCRIBE within 5000 ms"), "{text}");
    assert_eq!(subscriber.session.deadline(), None);
    subscriber.down(5000, 0);
    // Acknowledgements of the old connection do not count for the new one.
    subscriber.session.connecting(6000);
    subscriber.session.connected(6000);
    feed(&mut subscriber, [GREETED, "+OK\r\n"].concat(), 6000);
    assert_eq!(
        feed(&mut subscriber, SUBSCRIBED_3.replace("$5\r\npub.*", "$3\r\nb.*"), 6000),
        [""; 0]
    );
    assert_eq!(feed(&mut subscriber, SUBSCRIBED_3, 6000), ["Up"]);
}

#[test]
fn one_deadline_covers_the_attempt() {
    let mut subscriber = RedisSubscriber::new(config("redis://h", &["pub.*"]), 100);
    subscriber.session.connecting(100);
    assert_eq!(subscriber.session.deadline(), Some(5100));
    subscriber.session.connected(4000);
    assert_eq!(subscriber.session.deadline(), Some(5100));
    assert!(subscriber.on_time(5100).is_err_and(|text| text.contains("HELLO")));
    subscriber.down(5100, 7);
    subscriber.session.connecting(6000);
    let Err(text) = subscriber.on_time(11_000) else { panic!("it is overdue") };
    assert!(text.contains("no connection to Redis at h:6379 within 5000 ms"), "{text}");
}

#[test]
fn silence_is_answered_by_a_ping_and_only_silence_is_death() {
    for life in
        ["+PONG\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n", "-MISCONF x\r\n", "-LOADING x\r\n", "+"]
    {
        let mut subscriber = up_subscriber(&["pub.*"]);
        assert_eq!(subscriber.session.deadline(), Some(10_000));
        assert_eq!(subscriber.on_time(10_000), Ok(()));
        assert_eq!(take_output(&mut subscriber), PING);
        assert_eq!(subscriber.session.deadline(), Some(15_000));
        assert_eq!(feed(&mut subscriber, life, 14_000), [""; 0]);
        assert_eq!(subscriber.on_time(15_000), Ok(()));
        assert_eq!(subscriber.session.deadline(), Some(24_000), "{life}");
    }
    let mut subscriber = up_subscriber(&["pub.*"]);
    // A process that was frozen asks before it gives up.
    assert_eq!(subscriber.on_time(1_000_000), Ok(()));
    assert_eq!(subscriber.on_time(1_004_999), Ok(()));
    let Err(text) = subscriber.on_time(1_005_000) else { panic!("it is dead") };
    assert!(text.contains("did not answer PING"), "{text}");
    assert!(subscriber.down(1_005_000, 0), "it was up");
}

#[test]
fn a_lost_subscription_is_a_failure() {
    for loss in [
        SUBSCRIBED_3.replace("$10\r\npsub", "$12\r\npunsub"),
        SUBSCRIBED_2.replace("$10\r\npsub", "$12\r\npunsub"),
        "-NOPERM this user has no permissions\r\n".to_owned(),
    ] {
        let mut subscriber = up_subscriber(&["pub.*"]);
        assert!(failure(&mut subscriber, &loss).contains("ended our subscription"), "{loss}");
        assert!(subscriber.down(0, 0));
    }
    let mut subscriber = up_subscriber(&["pub.*"]);
    subscriber.on_time(10_000).expect("nothing is overdue");
    // A user who may not PING still proves that Redis lives.
    assert_eq!(feed(&mut subscriber, "-NOPERM no permissions to run 'ping'\r\n", 10_001), [""; 0]);
    let others = [
        ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
        ">1\r\n+new\r\n",
        "|1\r\n+k\r\n+v\r\n+x\r\n",
    ];
    assert_eq!(
        feed(&mut subscriber, others.concat(), 10_001),
        [""; 0],
        "unknown pushes are ignored"
    );
    assert!(subscriber.session.is_ready());
}

#[test]
fn overlapping_patterns_deliver_once() {
    let mut subscriber = up_subscriber(&["pub.*", "*.a"]);
    let by_second = MESSAGE_3.replace("$5\r\npub.*", "$3\r\n*.a");
    assert_eq!(feed(&mut subscriber, [MESSAGE_3, &by_second].concat(), 0), ["pub.a hi"]);
    let only_second = by_second.replace("pub.a", "x.y.a");
    assert_eq!(feed(&mut subscriber, only_second, 0), ["x.y.a hi"]);
    assert_eq!(feed(&mut subscriber, MESSAGE_3.replace("$5\r\npub.*", "$1\r\n?"), 0), [""; 0]);
}

#[test]
fn a_message_above_the_bound_is_counted_and_the_next_one_comes() {
    let message = |size: usize| {
        let head = MESSAGE_3.strip_suffix("$2\r\nhi\r\n").expect("it ends so");
        format!("{head}${size}\r\n{}\r\n", "x".repeat(size))
    };
    for size in [1001, 100_000] {
        let mut subscriber = up_subscriber(&["pub.*"]);
        let stream = [message(size), MESSAGE_3.to_owned()].concat();
        assert_eq!(feed(&mut subscriber, &stream, 0), ["Oversized", "pub.a hi"]);
    }
    let mut subscriber = up_subscriber(&["pub.*"]);
    assert_eq!(feed(&mut subscriber, message(1000), 0)[0].len(), 1006);
}

#[test]
fn pieces_do_not_change_the_events() {
    let other = ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    let by_second = MESSAGE_3.replace("$5\r\npub.*", "$1\r\n*");
    let second = SUBSCRIBED_3.replace("$5\r\npub.*", "$1\r\n*");
    let stream = [
        GREETED,
        "-ERR no\r\n",
        SUBSCRIBED_3,
        MESSAGE_3,
        &second,
        MESSAGE_3,
        other,
        &by_second,
        MESSAGE_2,
        "+PONG\r\n",
        MESSAGE_3,
        "!garbage\r\n",
        MESSAGE_3,
    ]
    .concat();
    let expected = feed(&mut connected_subscriber("redis://h", &["pub.*", "*"]), &stream, 0);
    assert_eq!(expected.len(), 5, "{expected:?}");
    for seed in 1..500 {
        let mut random = Random::new(seed);
        let size_max = 1 + random.below(30) * usize::from(seed > 1);
        let mut subscriber = connected_subscriber("redis://h", &["pub.*", "*"]);
        let mut events = Vec::new();
        for piece in random.pieces(stream.as_bytes(), size_max) {
            events.extend(feed(&mut subscriber, piece, 0));
        }
        assert_eq!(events, expected, "seed {seed}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let words = [GREETED, SUBSCRIBED_3, MESSAGE_2, MESSAGE_3, "+OK\r\n", "-ERR no\r\n", "*1\r\n"];
    for seed in 1..3000 {
        let mut random = Random::new(seed);
        let mut subscriber = connected_subscriber("redis://h", &["pub.*"]);
        for _ in 0..8 {
            let mut bytes = random.choose(&words).as_bytes().to_vec();
            if random.below(3) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            feed(&mut subscriber, &bytes, 0);
        }
    }
}

#[test]
fn backoff_grows_within_its_bounds_and_begins_anew_once_it_stayed_up() {
    for seed in 1..2000 {
        let mut random = Random::new(seed);
        let mut config = config("redis://h", &["pub.*"]);
        let backoff_max = random.choose(&[0, 10, 50, 77, 2000, 60_000]);
        config.backoff_max = backoff_max;
        let longest_ever = backoff_max.max(10);
        let mut subscriber = RedisSubscriber::new(config, 0);
        for attempt in 0..100 {
            subscriber.session.connecting(0);
            assert!(!subscriber.down(0, random.next()));
            let wait = subscriber.session.deadline().expect("it waits");
            let longest = (50 << attempt.min(32)).min(longest_ever);
            assert!((10..=longest.max(10)).contains(&wait), "seed {seed}: {wait} ms");
            assert!(
                !subscriber.session.wants_connect(wait - 1)
                    && subscriber.session.wants_connect(wait)
            );
        }
        for stays in [backoff_max.saturating_sub(1), backoff_max] {
            subscriber.session.connecting(0);
            subscriber.session.connected(0);
            feed(&mut subscriber, [GREETED, "+OK\r\n", SUBSCRIBED_3].concat(), 0);
            assert!(subscriber.down(stays, random.next()));
            let wait = subscriber.session.deadline().expect("it waits") - stays;
            let longest = if stays < backoff_max { longest_ever } else { longest_ever.min(50) };
            assert!((longest / 4..=longest).contains(&wait), "seed {seed}: {wait} ms");
        }
    }
}

const INFO: &str = "*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n";
const PROBE: &str = "*2\r\n$9\r\nSUBSCRIBE\r\n$15\r\noneloop:probe:0\r\n";
const MODE: &str = "%1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n";
const PROBE_SUBSCRIBED: &str = ">3\r\n$9\r\nsubscribe\r\n$15\r\noneloop:probe:0\r\n:2\r\n";
const MASTER: &str = "*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n";
const REPLICATION: &str = "=15\r\ntxt:role:master\r\n";

fn publish(number: u32) -> String {
    format!("*3\r\n$7\r\nPUBLISH\r\n$15\r\noneloop:probe:0\r\n$1\r\n{number}\r\n")
}

fn back(number: u32) -> String {
    format!(">3\r\n$7\r\nmessage\r\n$15\r\noneloop:probe:0\r\n$1\r\n{number}\r\n")
}

/// Greeted by a Redis that says its mode; what comes after the acknowledged pattern is left to the test.
fn inspected_subscriber() -> RedisSubscriber {
    let mut subscriber = connected_subscriber("redis://h", &["pub.*"]);
    take_output(&mut subscriber);
    feed(&mut subscriber, MODE, 0);
    let asked = [SET_NAME, ROLE, INFO, SUBSCRIBE, PROBE, &publish(1)].concat();
    assert_eq!(take_output(&mut subscriber), asked);
    feed(&mut subscriber, ["+OK\r\n", MASTER, REPLICATION, SUBSCRIBED_3].concat(), 0);
    assert!(!subscriber.session.is_ready(), "the probe is still to come");
    subscriber
}

#[test]
fn a_subscriber_is_up_when_its_probe_is_back() {
    for rest in [
        [PROBE_SUBSCRIBED, ":1\r\n", &back(1)].concat(),
        [PROBE_SUBSCRIBED, &back(1), ":1\r\n"].concat(),
        // Who may not publish, or not subscribe by name, has no probe.
        [PROBE_SUBSCRIBED, "-NOPERM no\r\n"].concat(),
        "-NOPERM no\r\n:0\r\n".to_owned(),
        "-NOPERM no\r\n-NOPERM no\r\n".to_owned(),
    ] {
        let mut subscriber = inspected_subscriber();
        assert_eq!(feed(&mut subscriber, &rest, 0), ["Up"], "{rest}");
        assert_eq!(subscriber.session.deaf(), None);
    }
    let mut subscriber = inspected_subscriber();
    let rest = [PROBE_SUBSCRIBED, ":1\r\n", &back(2)].concat();
    assert_eq!(feed(&mut subscriber, rest, 0), [""; 0], "another one's message proves nothing");
    assert_eq!(subscriber.on_time(4999), Ok(()));
    let Err(text) = subscriber.on_time(5000) else { panic!("it is overdue") };
    assert!(text.contains("did not come back within 5000 ms"), "{text}");
    assert_eq!(subscriber.session.deaf(), Some(text.as_str()));
}

#[test]
fn nothing_is_delivered_before_the_subscriber_is_up() {
    let mut subscriber = inspected_subscriber();
    let rest = [PROBE_SUBSCRIBED, MESSAGE_3, ":1\r\n", MESSAGE_3, &back(1), MESSAGE_3].concat();
    assert_eq!(
        feed(&mut subscriber, rest, 0),
        ["Up", "pub.a hi"],
        "the gap is reported in between"
    );
}

#[test]
fn after_silence_messages_must_still_come() {
    let up = |rest: &str| {
        let mut subscriber = inspected_subscriber();
        assert_eq!(feed(&mut subscriber, rest, 0), ["Up"]);
        assert_eq!(subscriber.on_time(10_000), Ok(()));
        subscriber
    };
    let permitted = [PROBE_SUBSCRIBED, ":1\r\n", &back(1)].concat();
    let mut subscriber = up(&permitted);
    assert_eq!(take_output(&mut subscriber), [PING, ROLE, INFO, &publish(2)].concat());
    let answers = ["+PONG\r\n", MASTER, REPLICATION, ":1\r\n"].concat();
    assert_eq!(feed(&mut subscriber, &answers, 10_001), [""; 0]);
    assert_eq!(subscriber.session.deadline(), Some(15_000), "an answer is no message");
    feed(&mut subscriber, back(2), 10_002);
    assert_eq!(subscriber.session.deadline(), Some(20_002));

    let mut subscriber = up(&permitted);
    feed(&mut subscriber, &answers, 10_001);
    let Err(text) = subscriber.on_time(15_000) else { panic!("it is overdue") };
    assert!(text.contains("did not come back"), "{text}");
    assert!(subscriber.down(15_000, 0) && subscriber.session.deaf() == Some(text.as_str()));

    // Anybody's message proves as much.
    let mut subscriber = up(&permitted);
    feed(&mut subscriber, &answers, 10_001);
    assert_eq!(feed(&mut subscriber, MESSAGE_3, 10_002), ["pub.a hi"]);
    assert_eq!(subscriber.session.deadline(), Some(20_002));

    let mut subscriber = up("-NOPERM no\r\n-NOPERM no\r\n");
    assert_eq!(take_output(&mut subscriber), [PING, ROLE, INFO].concat());
    let refused = ["+PONG\r\n", "-NOPERM no\r\n", "-NOPERM no\r\n"].concat();
    assert_eq!(feed(&mut subscriber, refused, 10_001), [""; 0]);
    assert_eq!(subscriber.session.deadline(), Some(20_001));
}

#[test]
fn a_far_end_that_carries_no_messages_is_a_failure_with_its_cure() {
    let sentinel = "%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n";
    let cut_off = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:1\r\n$7\r\nconnect\r\n:-1\r\n";
    let down = "$40\r\nrole:slave\r\nmaster_link_status:down\r\nx:y\r\n";
    for (answers, expected) in [
        (sentinel.to_owned(), "SENTINEL GET-MASTER-ADDR-BY-NAME"),
        ([MODE, "+OK\r\n", cut_off].concat(), "cut off from its primary (connect)"),
        ([MODE, "+OK\r\n", MASTER, down].concat(), "(master_link_status:down)"),
        (["-ERR unknown\r\n", "+OK\r\n", cut_off].concat(), "name the primary"),
        (["-ERR unknown\r\n", "+OK\r\n", "*1\r\n+sentinel\r\n"].concat(), "is a Sentinel"),
    ] {
        let mut subscriber = connected_subscriber("redis://h", &["pub.*"]);
        let text = failure(&mut subscriber, &answers);
        assert!(text.contains(expected), "{answers}: {text}");
        assert_eq!(subscriber.session.deaf(), Some(text.as_str()));
    }
    let mut subscriber = inspected_subscriber();
    feed(&mut subscriber, "-NOPERM no\r\n-NOPERM no\r\n", 0);
    assert_eq!(subscriber.on_time(10_000), Ok(()));
    let text = failure(&mut subscriber, &["+PONG\r\n", cut_off].concat());
    assert!(text.contains("is a replica that is cut off"), "its role has changed: {text}");
}

/// A connection that subscribes on demand, with the table that it serves, and with a topic in that.
fn share_subscriber(own: &[&str]) -> (RedisSubscriber, Demand) {
    let settings = DemandSettings {
        prefix: "pub.".to_owned(),
        connections: 1,
        linger: 0,
        timeout: 5000,
        own: own.iter().map(|&channel| channel.to_owned()).collect(),
    };
    let mut demand = Demand::new(settings.clone());
    demand.on_change(KeyChange { key: KeyName::new("a"), is_wanted: true }, 0);
    let mut subscriber = RedisSubscriber::of_share(config("redis://h", &[]), &settings, 0, 0);
    assert!(subscriber.session.wants_connect(0));
    subscriber.session.connecting(0);
    subscriber.session.connected(0);
    (subscriber, demand)
}

const CHANNEL_A: &str = "*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\npub.a\r\n";

#[test]
fn a_share_subscribes_to_what_is_wanted_once_it_is_greeted() {
    let (mut subscriber, mut demand) = share_subscriber(&[]);
    assert_eq!(take_output(&mut subscriber), HELLO_3);
    subscriber.subscribe(&mut demand, 0);
    assert_eq!(take_output(&mut subscriber), "", "it is not greeted");
    assert_eq!(feed(&mut subscriber, GREETED, 0), [""; 0]);
    assert_eq!(take_output(&mut subscriber), SET_NAME, "no pattern");
    assert_eq!(feed(&mut subscriber, "+OK\r\n", 0), ["Up"]);
    demand.on_up(0);
    subscriber.subscribe(&mut demand, 10);
    assert_eq!(take_output(&mut subscriber), CHANNEL_A);
    assert_eq!(subscriber.session.deadline(), Some(5010), "it must be acknowledged");
    let message = ">3\r\n$7\r\nmessage\r\n$5\r\npub.a\r\n$2\r\nhi\r\n";
    let acknowledged = ">3\r\n$9\r\nsubscribe\r\n$5\r\npub.a\r\n:1\r\n";
    let events = feed(&mut subscriber, [acknowledged, message, MESSAGE_3].concat(), 20);
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[0].contains("is_added: true"), "{events:?}");
    assert_eq!(events[1..], ["pub.a hi", "pub.a hi"], "the table knows which of them counts");
    demand.on_subscribed(0, b"pub.a");
    subscriber.acknowledged(&demand);
    assert_ne!(subscriber.session.deadline(), Some(5010));
    assert_eq!(subscriber.on_time(5010), Ok(()));
}

#[test]
fn a_share_without_an_acknowledgement_is_given_up() {
    let (mut subscriber, mut demand) = share_subscriber(&[]);
    feed(&mut subscriber, [GREETED, "+OK\r\n"].concat(), 0);
    take_output(&mut subscriber);
    demand.on_up(0);
    subscriber.subscribe(&mut demand, 0);
    take_output(&mut subscriber);
    // Other traffic does not stand for it.
    feed(&mut subscriber, MESSAGE_3, 4000);
    assert_eq!(subscriber.on_time(4999), Ok(()));
    let text = subscriber.on_time(5000).expect_err("it is overdue");
    assert!(text.contains("SUBSCRIBE"), "{text}");
    assert!(subscriber.down(5000, 0), "it was up");
    assert!(!subscriber.has_commands());
}

#[test]
fn a_share_without_rights_says_which_it_needs() {
    let (mut subscriber, mut demand) = share_subscriber(&[]);
    feed(&mut subscriber, [GREETED, "+OK\r\n"].concat(), 0);
    take_output(&mut subscriber);
    demand.on_up(0);
    subscriber.subscribe(&mut demand, 0);
    take_output(&mut subscriber);
    let text = failure(&mut subscriber, "-NOPERM No permissions to access a channel\r\n");
    assert!(text.contains("grant '&pub.*' +subscribe +unsubscribe"), "{text}");
}

#[test]
fn the_first_share_subscribes_to_the_channels_of_features() {
    let (mut subscriber, _) = share_subscriber(&["pub.*"]);
    feed(&mut subscriber, GREETED, 0);
    let escaped = "*2\r\n$10\r\nPSUBSCRIBE\r\n$6\r\npub.\\*\r\n";
    assert_eq!(take_output(&mut subscriber), [HELLO_3, SET_NAME, escaped].concat());
    assert_eq!(feed(&mut subscriber, "+OK\r\n", 0), [""; 0]);
    let acknowledged = ">3\r\n$10\r\npsubscribe\r\n$6\r\npub.\\*\r\n:1\r\n";
    assert_eq!(feed(&mut subscriber, acknowledged, 0), ["Up"]);
    // All channels begin or end by demand alone.
    let everything = SUBSCRIBED_3.replace("psubscribe", "punsubscribe").replace("$10", "$12");
    let events = feed(&mut subscriber, everything, 0);
    assert_eq!(events, ["Changed(ShareChange { channel: None, is_added: false })"]);
}
