//! The link, driven by bytes and times.

use super::*;
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

fn connected_link(url: &str, patterns: &[&str]) -> RedisSubscriber {
    let mut link = RedisSubscriber::new(config(url, patterns), 0);
    assert!(link.session.wants_connect(0));
    link.session.connecting(0);
    link.session.connected(0);
    link
}

fn up_link(patterns: &[&str]) -> RedisSubscriber {
    let mut link = connected_link("redis://h", patterns);
    feed(&mut link, GREETED, 0);
    feed(&mut link, "+OK\r\n", 0);
    for pattern in patterns {
        let length = pattern.len();
        feed(&mut link, format!(">3\r\n$10\r\npsubscribe\r\n${length}\r\n{pattern}\r\n:1\r\n"), 0);
    }
    assert!(link.session.is_ready());
    take_output(&mut link);
    link
}

/// The events, as text.
fn feed(link: &mut RedisSubscriber, input: impl AsRef<[u8]>, now: Millis) -> Vec<String> {
    let mut input = input.as_ref();
    let mut events = Vec::new();
    while let Some(event) = link.next(&mut input, now).transpose() {
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

fn take_output(link: &mut RedisSubscriber) -> String {
    let output = String::from_utf8(link.session.output().to_vec()).expect("commands are text");
    // The socket may take any part.
    link.session.wrote(output.len() / 2);
    link.session.wrote(output.len() - output.len() / 2);
    assert!(link.session.output().is_empty());
    output
}

fn failure(link: &mut RedisSubscriber, input: &str) -> String {
    let mut events = feed(link, input, 0);
    assert_eq!(events.len(), 1, "{input}: {events:?}");
    assert!(!link.session.is_ready());
    assert_eq!(feed(link, MESSAGE_3, 0), [""; 0], "nothing comes after a failure");
    events.remove(0)
}

#[test]
fn resp3_is_greeted_step_by_step() {
    let mut link = connected_link("redis://bob:secret@h", &["pub.*"]);
    let hello = "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$3\r\nbob\r\n$6\r\nsecret\r\n";
    assert_eq!(take_output(&mut link), hello);
    assert_eq!(feed(&mut link, GREETED, 0), [""; 0]);
    assert_eq!(take_output(&mut link), [SET_NAME, SUBSCRIBE].concat());
    assert_eq!(feed(&mut link, "-NOPERM no\r\n", 0), [""; 0], "a name is not worth a failure");
    assert!(!link.session.is_ready());
    assert_eq!(feed(&mut link, [SUBSCRIBED_3, MESSAGE_3].concat(), 0), ["Up", "pub.a hi"]);
    assert!(link.session.is_ready());
}

#[test]
fn a_server_that_does_not_know_hello_is_greeted_in_resp2() {
    let refusals = ["-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"];
    for refusal in refusals.into_iter().chain(["-NOPROTO no\r\n", "-ERR syntax error\r\n"]) {
        let mut link = connected_link("redis://h", &["pub.*"]);
        assert_eq!(take_output(&mut link), HELLO_3);
        assert_eq!(feed(&mut link, refusal, 0), [""; 0]);
        assert_eq!(take_output(&mut link), [SET_NAME, ROLE, SUBSCRIBE].concat());
        let rest = ["+OK\r\n*1\r\n+master\r\n", SUBSCRIBED_2, MESSAGE_2].concat();
        assert_eq!(feed(&mut link, rest, 0), ["Up", "pub.a hi"]);
    }
    let mut link = connected_link("redis://:secret@h/?protocol=resp2", &["pub.*"]);
    let auth = "*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n";
    assert_eq!(take_output(&mut link), [auth, SET_NAME, ROLE, SUBSCRIBE].concat());
    assert_eq!(feed(&mut link, ["+OK\r\n+OK\r\n-NOPERM no\r\n", SUBSCRIBED_2].concat(), 0), ["Up"]);
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
        let mut link = connected_link("redis://bob:hunter2@h", &["pub.*", "o[a].*"]);
        let text = failure(&mut link, answers);
        assert!(text.contains(expected), "{answers:?}: {text}");
        let is_discreet = !text.contains("bob") && !text.contains("hunter2");
        assert!(is_discreet, "{answers:?}: {text}");
        assert!(!link.down(0, 0), "{answers:?}: it was not up");
    }
}

#[test]
fn a_reply_too_deep_for_the_parser_is_garbage() {
    let mut link = up_link(&["pub.*"]);
    let text = failure(&mut link, &["*1\r\n".repeat(10_000).as_str(), ":1\r\n"].concat());
    assert!(text.contains("something that is not Redis"), "{text}");
}

#[test]
fn up_means_that_every_configured_pattern_is_acknowledged() {
    let mut link = connected_link("redis://h", &["pub.*", "b.*", "pub.*"]);
    feed(&mut link, [GREETED, "+OK\r\n", SUBSCRIBED_3, SUBSCRIBED_3].concat(), 0);
    feed(&mut link, SUBSCRIBED_3.replace("$5\r\npub.*", "$3\r\nx.*"), 0);
    assert!(!link.session.is_ready());
    // A message of the first pattern meanwhile lies in the gap that is told afterwards.
    assert_eq!(feed(&mut link, MESSAGE_3, 0), [""; 0]);
    assert_eq!(link.session.deadline(), Some(5000));
    assert_eq!(link.on_time(4999), Ok(()));
    let Err(text) = link.on_time(5000) else { panic!("it is overdue") };
    assert!(text.contains("no answer to PSUBSCRIBE within 5000 ms"), "{text}");
    assert_eq!(link.session.deadline(), None);
    link.down(5000, 0);
    // Acknowledgements of the old connection do not count for the new one.
    link.session.connecting(6000);
    link.session.connected(6000);
    feed(&mut link, [GREETED, "+OK\r\n"].concat(), 6000);
    assert_eq!(feed(&mut link, SUBSCRIBED_3.replace("$5\r\npub.*", "$3\r\nb.*"), 6000), [""; 0]);
    assert_eq!(feed(&mut link, SUBSCRIBED_3, 6000), ["Up"]);
}

#[test]
fn one_deadline_covers_the_attempt() {
    let mut link = RedisSubscriber::new(config("redis://h", &["pub.*"]), 100);
    link.session.connecting(100);
    assert_eq!(link.session.deadline(), Some(5100));
    link.session.connected(4000);
    assert_eq!(link.session.deadline(), Some(5100));
    assert!(link.on_time(5100).is_err_and(|text| text.contains("HELLO")));
    link.down(5100, 7);
    link.session.connecting(6000);
    let Err(text) = link.on_time(11_000) else { panic!("it is overdue") };
    assert!(text.contains("no connection to Redis at h:6379 within 5000 ms"), "{text}");
}

#[test]
fn silence_is_answered_by_a_ping_and_only_silence_is_death() {
    for life in
        ["+PONG\r\n", "*2\r\n$4\r\npong\r\n$0\r\n\r\n", "-MISCONF x\r\n", "-LOADING x\r\n", "+"]
    {
        let mut link = up_link(&["pub.*"]);
        assert_eq!(link.session.deadline(), Some(10_000));
        assert_eq!(link.on_time(10_000), Ok(()));
        assert_eq!(take_output(&mut link), PING);
        assert_eq!(link.session.deadline(), Some(15_000));
        assert_eq!(feed(&mut link, life, 14_000), [""; 0]);
        assert_eq!(link.on_time(15_000), Ok(()));
        assert_eq!(link.session.deadline(), Some(24_000), "{life}");
    }
    let mut link = up_link(&["pub.*"]);
    // A process that was frozen asks before it gives up.
    assert_eq!(link.on_time(1_000_000), Ok(()));
    assert_eq!(link.on_time(1_004_999), Ok(()));
    let Err(text) = link.on_time(1_005_000) else { panic!("it is dead") };
    assert!(text.contains("did not answer PING"), "{text}");
    assert!(link.down(1_005_000, 0), "it was up");
}

#[test]
fn a_lost_subscription_is_a_failure() {
    for loss in [
        SUBSCRIBED_3.replace("$10\r\npsub", "$12\r\npunsub"),
        SUBSCRIBED_2.replace("$10\r\npsub", "$12\r\npunsub"),
        "-NOPERM this user has no permissions\r\n".to_owned(),
    ] {
        let mut link = up_link(&["pub.*"]);
        assert!(failure(&mut link, &loss).contains("ended our subscription"), "{loss}");
        assert!(link.down(0, 0));
    }
    let mut link = up_link(&["pub.*"]);
    link.on_time(10_000).expect("nothing is overdue");
    // A user who may not PING still proves that Redis lives.
    assert_eq!(feed(&mut link, "-NOPERM no permissions to run 'ping'\r\n", 10_001), [""; 0]);
    let others = [
        ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n",
        ">1\r\n+new\r\n",
        "|1\r\n+k\r\n+v\r\n+x\r\n",
    ];
    assert_eq!(feed(&mut link, others.concat(), 10_001), [""; 0], "unknown pushes are ignored");
    assert!(link.session.is_ready());
}

#[test]
fn overlapping_patterns_deliver_once() {
    let mut link = up_link(&["pub.*", "*.a"]);
    let by_second = MESSAGE_3.replace("$5\r\npub.*", "$3\r\n*.a");
    assert_eq!(feed(&mut link, [MESSAGE_3, &by_second].concat(), 0), ["pub.a hi"]);
    let only_second = by_second.replace("pub.a", "x.y.a");
    assert_eq!(feed(&mut link, only_second, 0), ["x.y.a hi"]);
    assert_eq!(feed(&mut link, MESSAGE_3.replace("$5\r\npub.*", "$1\r\n?"), 0), [""; 0]);
}

#[test]
fn a_message_above_the_bound_is_counted_and_the_next_one_comes() {
    let message = |size: usize| {
        let head = MESSAGE_3.strip_suffix("$2\r\nhi\r\n").expect("it ends so");
        format!("{head}${size}\r\n{}\r\n", "x".repeat(size))
    };
    for size in [1001, 100_000] {
        let mut link = up_link(&["pub.*"]);
        let stream = [message(size), MESSAGE_3.to_owned()].concat();
        assert_eq!(feed(&mut link, &stream, 0), ["Oversized", "pub.a hi"]);
    }
    let mut link = up_link(&["pub.*"]);
    assert_eq!(feed(&mut link, message(1000), 0)[0].len(), 1006);
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
    let expected = feed(&mut connected_link("redis://h", &["pub.*", "*"]), &stream, 0);
    assert_eq!(expected.len(), 5, "{expected:?}");
    for seed in 1..500 {
        let mut random = Random::new(seed);
        let size_max = 1 + random.below(30) * usize::from(seed > 1);
        let mut link = connected_link("redis://h", &["pub.*", "*"]);
        let mut events = Vec::new();
        for piece in random.pieces(stream.as_bytes(), size_max) {
            events.extend(feed(&mut link, piece, 0));
        }
        assert_eq!(events, expected, "seed {seed}");
    }
}

#[test]
fn random_bytes_never_panic() {
    let words = [GREETED, SUBSCRIBED_3, MESSAGE_2, MESSAGE_3, "+OK\r\n", "-ERR no\r\n", "*1\r\n"];
    for seed in 1..3000 {
        let mut random = Random::new(seed);
        let mut link = connected_link("redis://h", &["pub.*"]);
        for _ in 0..8 {
            let mut bytes = random.choose(&words).as_bytes().to_vec();
            if random.below(3) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            feed(&mut link, &bytes, 0);
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
        let mut link = RedisSubscriber::new(config, 0);
        for attempt in 0..100 {
            link.session.connecting(0);
            assert!(!link.down(0, random.next()));
            let wait = link.session.deadline().expect("it waits");
            let longest = (50 << attempt.min(32)).min(longest_ever);
            assert!((10..=longest.max(10)).contains(&wait), "seed {seed}: {wait} ms");
            assert!(!link.session.wants_connect(wait - 1) && link.session.wants_connect(wait));
        }
        for stays in [backoff_max.saturating_sub(1), backoff_max] {
            link.session.connecting(0);
            link.session.connected(0);
            feed(&mut link, [GREETED, "+OK\r\n", SUBSCRIBED_3].concat(), 0);
            assert!(link.down(stays, random.next()));
            let wait = link.session.deadline().expect("it waits") - stays;
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
fn looked_at_link() -> RedisSubscriber {
    let mut link = connected_link("redis://h", &["pub.*"]);
    take_output(&mut link);
    feed(&mut link, MODE, 0);
    let asked = [SET_NAME, ROLE, INFO, SUBSCRIBE, PROBE, &publish(1)].concat();
    assert_eq!(take_output(&mut link), asked);
    feed(&mut link, ["+OK\r\n", MASTER, REPLICATION, SUBSCRIBED_3].concat(), 0);
    assert!(!link.session.is_ready(), "the probe is still to come");
    link
}

#[test]
fn a_link_is_up_when_its_probe_is_back() {
    for rest in [
        [PROBE_SUBSCRIBED, ":1\r\n", &back(1)].concat(),
        [PROBE_SUBSCRIBED, &back(1), ":1\r\n"].concat(),
        // Who may not publish, or not subscribe by name, has no probe.
        [PROBE_SUBSCRIBED, "-NOPERM no\r\n"].concat(),
        "-NOPERM no\r\n:0\r\n".to_owned(),
        "-NOPERM no\r\n-NOPERM no\r\n".to_owned(),
    ] {
        let mut link = looked_at_link();
        assert_eq!(feed(&mut link, &rest, 0), ["Up"], "{rest}");
        assert_eq!(link.session.deaf(), None);
    }
    let mut link = looked_at_link();
    let rest = [PROBE_SUBSCRIBED, ":1\r\n", &back(2)].concat();
    assert_eq!(feed(&mut link, rest, 0), [""; 0], "another one's message proves nothing");
    assert_eq!(link.on_time(4999), Ok(()));
    let Err(text) = link.on_time(5000) else { panic!("it is overdue") };
    assert!(text.contains("did not come back within 5000 ms"), "{text}");
    assert_eq!(link.session.deaf(), Some(text.as_str()));
}

#[test]
fn nothing_is_heard_before_the_link_is_up() {
    let mut link = looked_at_link();
    let rest = [PROBE_SUBSCRIBED, MESSAGE_3, ":1\r\n", MESSAGE_3, &back(1), MESSAGE_3].concat();
    assert_eq!(feed(&mut link, rest, 0), ["Up", "pub.a hi"], "what was missed is told in between");
}

#[test]
fn after_silence_messages_must_still_come() {
    let up = |rest: &str| {
        let mut link = looked_at_link();
        assert_eq!(feed(&mut link, rest, 0), ["Up"]);
        assert_eq!(link.on_time(10_000), Ok(()));
        link
    };
    let permitted = [PROBE_SUBSCRIBED, ":1\r\n", &back(1)].concat();
    let mut link = up(&permitted);
    assert_eq!(take_output(&mut link), [PING, ROLE, INFO, &publish(2)].concat());
    let answers = ["+PONG\r\n", MASTER, REPLICATION, ":1\r\n"].concat();
    assert_eq!(feed(&mut link, &answers, 10_001), [""; 0]);
    assert_eq!(link.session.deadline(), Some(15_000), "an answer is no message");
    feed(&mut link, back(2), 10_002);
    assert_eq!(link.session.deadline(), Some(20_002));

    let mut link = up(&permitted);
    feed(&mut link, &answers, 10_001);
    let Err(text) = link.on_time(15_000) else { panic!("it is overdue") };
    assert!(text.contains("did not come back"), "{text}");
    assert!(link.down(15_000, 0) && link.session.deaf() == Some(text.as_str()));

    // Anybody's message proves as much.
    let mut link = up(&permitted);
    feed(&mut link, &answers, 10_001);
    assert_eq!(feed(&mut link, MESSAGE_3, 10_002), ["pub.a hi"]);
    assert_eq!(link.session.deadline(), Some(20_002));

    let mut link = up("-NOPERM no\r\n-NOPERM no\r\n");
    assert_eq!(take_output(&mut link), [PING, ROLE, INFO].concat());
    let refused = ["+PONG\r\n", "-NOPERM no\r\n", "-NOPERM no\r\n"].concat();
    assert_eq!(feed(&mut link, refused, 10_001), [""; 0]);
    assert_eq!(link.session.deadline(), Some(20_001));
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
        let mut link = connected_link("redis://h", &["pub.*"]);
        let text = failure(&mut link, &answers);
        assert!(text.contains(expected), "{answers}: {text}");
        assert_eq!(link.session.deaf(), Some(text.as_str()));
    }
    let mut link = looked_at_link();
    feed(&mut link, "-NOPERM no\r\n-NOPERM no\r\n", 0);
    assert_eq!(link.on_time(10_000), Ok(()));
    let text = failure(&mut link, &["+PONG\r\n", cut_off].concat());
    assert!(text.contains("is a replica that is cut off"), "its role has changed: {text}");
}
