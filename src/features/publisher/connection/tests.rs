//! A publisher's connection, driven by bytes.

use super::*;
use crate::clock::Now;
use crate::engine::random::Random;
use crate::features::publisher::PublisherBounds;
use crate::features::publisher::input::LINE_BYTES_MAX;
use crate::features::publisher::settings::Moment;

const NEWS: &str = "*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$2\r\nhi\r\n";

pub fn publisher(password: Option<&str>) -> Publisher {
    let password = password.map(|password| Rc::from(password.as_bytes()));
    publisher_at(password, Peer { id: 3, ..Peer::default() })
}

pub fn publisher_at(password: Option<Rc<[u8]>>, peer: Peer) -> Publisher {
    let terms = Terms {
        password,
        payload_bytes_max: 1000,
        bounds: PublisherBounds {
            connections_max: 64,
            transaction_commands_max: 5,
            transaction_bytes_max: 4000,
            subscriptions_max: 10,
            backlog_bytes_max: 100_000,
        },
        auth_millis: 5000,
    };
    Publisher::new(Rc::new(terms), peer)
}

/// Seven receivers of each message a minute after the peers' arrival, and others that are counted elsewhere under the numbers from
/// this one on.
struct Seven<'a>(&'a mut Exchange, Vec<String>, Option<u64>);

impl World for Seven<'_> {
    fn publish(&mut self, channel: &[u8], payload: &[u8]) -> Result<Receivers, String> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        self.1.push(format!("{} {}", text(channel), text(payload)));
        let elsewhere = self.2;
        self.2 = elsewhere.map(|number| number + 1);
        Ok(Receivers { here: 7, elsewhere })
    }

    fn is_pressed(&self) -> bool {
        false
    }

    fn exchange(&mut self) -> &mut Exchange {
        self.0
    }

    fn moment(&self) -> Moment {
        let now = Now { millis: 60_000, ..Now::default() };
        Moment { now, ..Moment::default() }
    }
}

/// Returns the messages that were published.
pub fn feed(publisher: &mut Publisher, input: impl AsRef<[u8]>) -> Vec<String> {
    feed_at(&mut Exchange::new(10, 100_000), publisher, input)
}

pub fn feed_at(
    exchange: &mut Exchange,
    publisher: &mut Publisher,
    input: impl AsRef<[u8]>,
) -> Vec<String> {
    let mut world = Seven(exchange, Vec::new(), None);
    publisher.take(input.as_ref(), &mut world);
    world.1
}

pub fn take_output(publisher: &mut Publisher) -> String {
    let output = publisher.output.parts().flatten().copied().collect();
    let output = String::from_utf8(output).expect("answers are text");
    publisher.output.wrote(output.len());
    output
}

fn publish(payload_bytes: usize) -> String {
    let payload = "x".repeat(payload_bytes);
    format!("*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n${payload_bytes}\r\n{payload}\r\n")
}

#[test]
fn a_pipeline_is_answered_in_order_wherever_it_is_cut() {
    let oversized = [publish(1001), publish(100_000)];
    let parts = [
        NEWS,
        "PING\r\n",
        "publish news 'inline hi'\n",
        "\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*2\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n",
        "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        &oversized[0],
        "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
        NEWS,
        "*1\r\n$4\r\nPING\r\n",
        &oversized[1][..],
        "*1\r\n$4\r\nQUIT\r\n",
        NEWS,
    ];
    let mut whole = publisher(None);
    let published = feed(&mut whole, parts.concat());
    assert_eq!(published, ["news hi", "news inline hi", "news hi"]);
    assert!(whole.is_ending);
    assert_eq!(std::mem::take(&mut whole.oversized), 2);
    let output = take_output(&mut whole);
    let answers: Vec<&str> = output.split("\r\n").collect();
    assert_eq!(
        answers[..4],
        [":7", "+PONG", ":7", "-ERR wrong number of arguments for 'publish' command"]
    );
    assert!(answers[4].starts_with("-ERR unknown command 'GET'"));
    assert_eq!(answers[5..7], ["-ERR payload is 1001 bytes, payload_bytes_max is 1000", "%7"]);
    let last = ":7\r\n+PONG\r\n-ERR command is 100038 bytes, payload_bytes_max is 1000\r\n+OK\r\n";
    assert!(output.ends_with(last), "{output}");

    let stream = [parts[..8].concat(), parts[9..12].concat(), parts[13..].concat()].concat();
    let mut whole = publisher(None);
    let expected = (feed(&mut whole, &stream), take_output(&mut whole));
    for cut in 0..stream.len() {
        let mut halves = publisher(None);
        let mut published = feed(&mut halves, &stream[..cut]);
        published.extend(feed(&mut halves, &stream[cut..]));
        assert_eq!((published, take_output(&mut halves)), expected, "cut at {cut}");
    }
    for seed in 1..300 {
        let mut random = Random::new(seed);
        let size_max = 1 + random.below(20) * usize::from(seed > 1);
        let (mut pieces, mut published) = (publisher(None), vec![]);
        for piece in random.pieces(stream.as_bytes(), size_max) {
            published.extend(feed(&mut pieces, piece));
        }
        assert_eq!((published, take_output(&mut pieces)), expected, "seed {seed}");
    }
}

#[test]
fn between_commands_nothing_is_held() {
    let mut publisher = publisher(None);
    for piece in [&NEWS[..9], &NEWS[9..], "PUBLISH ne", "ws hi\r\n"] {
        feed(&mut publisher, piece);
    }
    take_output(&mut publisher);
    assert!(publisher.output.is_empty() && publisher.output.tail.capacity() == 0);
    assert!(publisher.input.is_idle() && publisher.waiting.capacity() == 0);
}

#[test]
fn a_peer_that_does_not_read_is_not_executed_further() {
    let mut publisher = publisher(None);
    let flood = ["INFO\r\n".repeat(5000), NEWS.repeat(20_000), "PING\r\n".to_owned()].concat();
    let mut published = feed(&mut publisher, &flood).len();
    assert!(published < 20_000 && publisher.is_full());
    let (mut answers, mut rounds) = (String::new(), 0);
    while !publisher.output.is_empty() {
        assert!(publisher.output.len() < OUTPUT_BYTES_MAX + 1000);
        answers += &take_output(&mut publisher);
        published += feed(&mut publisher, "").len();
        rounds += 1;
    }
    assert!(rounds > 2 && published == 20_000 && !publisher.is_full());
    assert!(answers.ends_with(":7\r\n+PONG\r\n"));
    assert_eq!(answers.matches(":7\r\n").count(), 20_000);
    assert_eq!(publisher.waiting.capacity(), 0);
}

#[test]
fn a_line_of_http_that_begins_no_request_is_cut_off() {
    for start in ["GET /", "Host: x", "POST / HTTP/2.0", "PING\r\nPOST / HTTP/1.1\r\nHost: x\r\n"] {
        let mut publisher = publisher(None);
        let request = format!("{start}\r\nPUBLISH news hi\r\n{NEWS}");
        assert_eq!(feed(&mut publisher, request), [""; 0], "{start}");
        assert!(publisher.is_ending);
        assert_eq!(feed(&mut publisher, NEWS), [""; 0]);
    }
}

#[test]
fn input_that_is_not_resp_ends_the_connection_with_a_reason() {
    let long = "x".repeat(LINE_BYTES_MAX + 1);
    for (input, expected) in [
        ("*1\r\n:1\r\n", "-ERR Protocol error: unexpected byte 0x3a as a type\r\n"),
        ("*1\r\n$-1\r\n", "-ERR Protocol error: invalid length\r\n"),
        ("*1048577\r\n", "-ERR Protocol error: invalid length\r\n"),
        ("*1\r\n$4\r\nPINGxx", "-ERR Protocol error: missing CR LF\r\n"),
        ("PUBLISH \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (&long, "-ERR Protocol error: too big inline request\r\n"),
    ] {
        let mut publisher = publisher(None);
        assert_eq!(feed(&mut publisher, [input, NEWS].concat()), [""; 0], "{expected}");
        assert_eq!(take_output(&mut publisher), expected);
        assert!(publisher.is_ending);
    }
}

#[test]
fn a_stranger_publishes_nothing_and_holds_little() {
    let mut publisher = publisher(Some("secret"));
    assert_eq!(feed(&mut publisher, [NEWS, &publish(100_000), NEWS].concat()), [""; 0]);
    assert_eq!(take_output(&mut publisher), "-NOAUTH Authentication required.\r\n".repeat(3));
    feed(&mut publisher, &publish(100_000)[..50_000]);
    assert!(!publisher.input.is_idle(), "it is skipped");
    feed(&mut publisher, &publish(100_000)[50_000..]);
    assert_eq!(publisher.oversized, 0);
    assert_eq!(feed(&mut publisher, ["AUTH secret\r\n", NEWS].concat()), ["news hi"]);
    assert!(take_output(&mut publisher).ends_with("+OK\r\n:7\r\n"));
    feed(&mut publisher, "x".repeat(UNAUTHENTICATED_BYTES_MAX + 1));
    assert!(!publisher.is_ending, "an inline command may be longer after AUTH");
}

#[test]
fn random_bytes_never_panic() {
    let words = [
        NEWS,
        "POST /publish/a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi",
        "PING\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "HELLO 3 AUTH a b\r\n",
        "*0\r\n",
        "\"",
        "MULTI\r\n",
        "EXEC\r\n",
        "SUBSCRIBE news a\r\n",
        "PSUBSCRIBE n*\r\n",
        "UNSUBSCRIBE\r\n",
        "PUBSUB CHANNELS\r\n",
        "CLIENT REPLY SKIP\r\n",
        "EVAL \"for i = 2, #ARGV do redis.call('publish', ARGV[i], ARGV[1]) end\" 0 a b c\r\n",
    ];
    for seed in 1..5000 {
        let mut random = Random::new(seed);
        let mut publisher = publisher((seed % 2 == 0).then_some("x"));
        let mut exchange = Exchange::new(10, 100_000);
        for _ in 0..8 {
            let mut bytes = random.choose(&words).as_bytes().to_vec();
            if random.below(3) == 0 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            feed_at(&mut exchange, &mut publisher, &bytes);
            assert!(publisher.is_full() || publisher.waiting.is_empty(), "seed {seed}");
        }
    }
}

#[test]
fn replies_wait_in_their_order_for_receivers_that_are_counted_elsewhere() {
    let mut publisher = publisher(None);
    let mut exchange = Exchange::new(10, 100_000);
    let mut world = Seven(&mut exchange, Vec::new(), Some(1));
    let transaction = ["MULTI", "PING", "EXEC"].map(|word| format!("*1\r\n$4\r\n{word}\r\n"));
    let [multi, ping, exec] = transaction.map(|one| one.replace("$4\r\nMULTI", "$5\r\nMULTI"));
    let input = [&ping, NEWS, &ping, &multi, NEWS, &ping, NEWS, &exec, NEWS].concat();
    publisher.take(input.as_bytes(), &mut world);
    assert_eq!(world.1.len(), 4, "no message waits for the count of another");
    assert_eq!(take_output(&mut publisher), "+PONG\r\n");
    let mut counted = |number, receivers| {
        publisher.output.uncounted().on_counted(number, receivers);
        publisher.output.settle();
        take_output(&mut publisher)
    };
    assert_eq!(counted(9, 100), "", "another's");
    assert_eq!(counted(1, 3), ":10\r\n+PONG\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n");
    assert_eq!(counted(2, 0), ":7\r\n+PONG\r\n");
    assert_eq!(counted(3, 1), ":8\r\n");
    assert_eq!(counted(4, 2), ":9\r\n");
    assert!(!publisher.output.awaits_counts() && publisher.output.tail.capacity() == 0);
}
