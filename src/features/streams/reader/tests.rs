//! The reader against a Redis of a few lines, cut off anywhere.

use super::*;
use crate::engine::random::Random;
use crate::features::streams::simulated_streams::Streams;

const NAMES: [&str; 2] = ["pub", "more"];

fn config() -> RedisConfig {
    let mut config = RedisConfig::from_url("redis://h").expect("the URL is right");
    config.streams = NAMES.map(str::to_owned).to_vec();
    config.payload_bytes_max = 100;
    config
}

/// A reader beside a Redis in memory.
struct World {
    reader: StreamReader,
    redis: Streams,
    /// On its way to the reader.
    incoming: Vec<u8>,
    now: Millis,
    /// Earlier entries that are wanted, of each stream.
    wanted: usize,
    said: Vec<String>,
}

impl World {
    fn new() -> World {
        let redis = Streams::new(&NAMES);
        let reader = StreamReader::new(config(), 0);
        World { reader, redis, incoming: Vec::new(), now: 0, wanted: 0, said: Vec::new() }
    }

    fn connect(&mut self) {
        self.now = self.reader.session.deadline().expect("it waits").max(self.now);
        assert!(self.reader.session.wants_connect(self.now));
        self.redis.disconnect();
        self.incoming.clear();
        self.reader.session.connecting(self.now);
        self.reader.session.connected(self.now);
    }

    /// Part of the commands reaches Redis and is answered, and part of the answers comes back.
    fn step(&mut self, random: &mut Random, size_max: usize) {
        let length = self.reader.session.output().len();
        let part = length.min(1 + random.below(size_max));
        let mut answers = Vec::new();
        self.redis.answer(&self.reader.session.output()[..part], &mut answers);
        self.reader.session.wrote(part);
        self.incoming.extend(answers);
        let part = self.incoming.len().min(1 + random.below(size_max));
        let bytes: Vec<u8> = self.incoming.drain(..part).collect();
        self.take(&bytes);
    }

    fn take(&mut self, mut input: &[u8]) {
        while let Some(event) = self.reader.next(&mut input, self.now).transpose() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            self.said.push(match event {
                Ok(StreamEvent::Entry { stream, id, message }) => {
                    format!("{stream} {id} {}={}", text(message.topic()), text(message.data()))
                }
                Ok(StreamEvent::Earlier { stream, id, .. }) => {
                    let said = format!("earlier {stream} {id}");
                    let earlier = format!("earlier {stream} ");
                    let before = self.said.iter().filter(|one| one.starts_with(&earlier)).count();
                    if before + 1 >= self.wanted {
                        self.reader.end_earlier(stream);
                    }
                    said
                }
                Ok(StreamEvent::Passed { stream, id, is_oversized, .. }) => {
                    format!(
                        "{stream} {id} {}",
                        if is_oversized { "oversized" } else { "malformed" }
                    )
                }
                Ok(StreamEvent::Begins { stream, covered_from }) => {
                    format!("begins {stream} {covered_from}")
                }
                Ok(StreamEvent::Lost { stream, covered_from }) => {
                    format!("lost {stream} {covered_from}")
                }
                Ok(event) => format!("{event:?}"),
                Err(text) => format!("Failed({text:?})"),
            });
        }
        assert!(input.is_empty());
    }

    /// Until nothing moves.
    fn settle(&mut self) {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            // Something may have been added for which an XREAD waits.
            self.step(&mut random, 100_000);
            if self.reader.session.output().is_empty() && self.incoming.is_empty() {
                return;
            }
        }
        panic!("it asks for ever");
    }

    fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    fn cut(&mut self) {
        self.reader.down(self.now, 7);
    }
}

#[test]
fn it_begins_at_the_end_and_loses_nothing_from_then_on() {
    let mut world = World::new();
    (0..3).for_each(|_| _ = world.redis.all[0].say("a", "old"));
    world.connect();
    world.settle();
    let said = world.take_said();
    assert_eq!(said[..2], ["begins 0 3-0", "begins 1 0-0"]);
    assert_eq!(said.last().map(String::as_str), Some("Reading"));
    assert!(world.reader.is_reading());
    world.redis.all[0].say("a", "1");
    world.redis.all[1].say("b", "2");
    world.redis.all[0].say("a", "3");
    world.settle();
    assert_eq!(world.take_said(), ["0 4-0 a=1", "0 5-0 a=3", "1 1-0 b=2"]);
}

#[test]
fn what_was_said_before_is_read_backwards_page_by_page_until_enough() {
    for (entries, wanted, expected) in [(0, 9, 0), (5, 9, 5), (5, 3, 3), (300, 200, 200)] {
        let mut world = World::new();
        world.wanted = wanted;
        (0..entries).for_each(|_| _ = world.redis.all[0].say("a", "x"));
        world.connect();
        world.settle();
        let said = world.take_said();
        let earlier: Vec<&String> =
            said.iter().filter(|one| one.starts_with("earlier 0")).collect();
        let numbers = (entries - expected + 1..=entries).rev();
        let ids: Vec<String> = numbers.map(|id| format!("earlier 0 {id}-0")).collect();
        assert_eq!(earlier, ids.iter().collect::<Vec<_>>(), "{entries} {wanted}");
        let pages = world.redis.heard.iter().filter(|one| *one == "XREVRANGE").count();
        assert_eq!(pages, 2 + 3 * usize::from(wanted == 200), "one more stream has one page");
    }
}

#[test]
fn what_is_no_message_is_told_and_passed_over() {
    let mut world = World::new();
    world.connect();
    world.settle();
    world.take_said();
    let large = "x".repeat(101);
    world.redis.all[0].add(&[b"topic", b"a"]);
    world.redis.all[0].say("a", &large);
    world.redis.all[0].say("a", "1");
    let huge = "x".repeat(100_000);
    world.redis.all[0].add(&[b"topic", b"a", b"data", b"", b"other", huge.as_bytes()]);
    world.settle();
    assert_eq!(
        world.take_said(),
        ["0 1-0 malformed", "0 2-0 oversized", "0 3-0 a=1", "0 4-0 oversized"]
    );
    world.cut();
    world.connect();
    world.settle();
    assert_eq!(world.take_said(), ["Reading"], "nothing of it comes again");
}

#[test]
fn while_many_wait_more_are_asked_for_at_a_time() {
    let mut world = World::new();
    world.connect();
    world.settle();
    world.cut();
    (0..400).for_each(|_| _ = world.redis.all[0].say("a", "x"));
    world.take_said();
    world.redis.heard.clear();
    world.connect();
    world.settle();
    assert_eq!(world.take_said().len(), 1 + 400);
    // Of two streams 8 each, then 16, 32, 64, 128, 128, the rest, and one that waits.
    let reads = world.redis.heard.iter().filter(|one| *one == "XREAD").count();
    assert_eq!(reads, 8);
}

#[test]
fn a_connection_that_is_cut_anywhere_loses_nothing_and_repeats_nothing() {
    for seed in 1..200 {
        let mut random = Random::new(seed);
        let mut world = World::new();
        world.wanted = random.choose(&[0, 2, 200]);
        let size_max = random.choose(&[1, 7, 100, 10_000]);
        for stream in 0..NAMES.len() {
            (0..random.below(3)).for_each(|_| _ = world.redis.all[stream].say("a", "old"));
        }
        let mut expected: [Vec<(EntryId, String)>; NAMES.len()] = Default::default();
        world.connect();
        for _ in 0..random.choose(&[300, 2000]) {
            match random.below(100) {
                0 => {
                    world.cut();
                    world.connect();
                }
                1..30 => {
                    let stream = random.below(NAMES.len());
                    let data = "y".repeat(random.below(30));
                    let id = world.redis.all[stream].say("t", &data);
                    expected[stream].push((id, format!("{stream} {id} t={data}")));
                }
                30 => {
                    let mut answers = Vec::new();
                    world.redis.time_out(&mut answers);
                    world.incoming.extend(answers);
                }
                31 => world.now += 900,
                _ => world.step(&mut random, size_max),
            }
        }
        world.cut();
        world.connect();
        world.settle();
        let said = world.take_said();
        for (stream, expected) in expected.iter().enumerate() {
            let begins: Vec<&str> = said
                .iter()
                .filter_map(|one| one.strip_prefix(&format!("begins {stream} ")))
                .collect();
            let [begins] = begins[..] else { panic!("seed {seed}: {said:?}") };
            let begins = EntryId::parse(begins.as_bytes()).expect("an id");
            let after = expected.iter().filter(|(id, _)| *id > begins).map(|(_, text)| text);
            let prefix = format!("{stream} ");
            let came = said.iter().filter(|one| one.starts_with(&prefix));
            assert_eq!(came.collect::<Vec<_>>(), after.collect::<Vec<_>>(), "seed {seed}");
        }
        let is_fine = |one: &String| !one.starts_with("lost") && !one.starts_with("Failed");
        assert!(said.iter().all(is_fine), "seed {seed}: {said:?}");
    }
}

#[test]
fn what_was_trimmed_before_it_was_read_is_told() {
    let mut world = World::new();
    world.redis.all[0].say("a", "0");
    world.connect();
    world.settle();
    world.cut();
    (0..5).for_each(|_| _ = world.redis.all[0].say("a", "1"));
    world.redis.all[0].entries.drain(..4);
    world.take_said();
    world.connect();
    world.settle();
    let lost = format!("lost 0 4-{}", u64::MAX);
    assert_eq!(world.take_said(), [&lost, "Reading", "0 5-0 a=1", "0 6-0 a=1"]);
    // A key that is deleted, and comes back.
    let last = world.redis.all[0].last;
    world.redis.all[0] = crate::features::streams::simulated_streams::Stream::new("pub");
    world.now += 10_000;
    let mut answers = Vec::new();
    world.redis.time_out(&mut answers);
    world.incoming.extend(answers);
    world.settle();
    assert_eq!(world.take_said(), ["lost 0 0-0"]);
    world.redis.all[0].say("a", "2");
    assert!(world.redis.all[0].last < last);
    world.settle();
    assert_eq!(world.take_said(), ["0 1-0 a=2"]);
}

#[test]
fn a_null_answer_is_a_sign_of_life_and_its_absence_is_death() {
    let mut world = World::new();
    world.connect();
    world.settle();
    assert_eq!(world.reader.session.deadline(), Some(15_000));
    world.now = 10_000;
    let mut answers = Vec::new();
    world.redis.time_out(&mut answers);
    world.incoming.extend(answers);
    world.settle();
    assert_eq!(world.reader.session.deadline(), Some(25_000));
    assert_eq!(world.reader.on_time(24_999), Ok(()));
    // Half a reply: the rest must come soon.
    world.now = 20_000;
    world.take(b"*1\r\n*2\r\n$3\r\npu");
    assert_eq!(world.reader.session.deadline(), Some(25_000));
    let Err(text) = world.reader.on_time(25_000) else { panic!("it is dead") };
    assert!(text.contains("did not answer XREAD"), "{text}");
    assert!(world.reader.down(25_000, 0), "it was up");
}

#[test]
fn a_refusal_says_what_to_do() {
    for (bytes, expected) in [
        ("+OK\r\n-LOADING wait\r\n", "its data set into memory: wait"),
        ("+OK\r\n+PONG\r\n-WRONGTYPE Operation\r\n", "no stream under the key pub, but something"),
        (
            "+OK\r\n+PONG\r\n-NOPERM User bob has no\r\n",
            "~pub ~more +xinfo +xread +xrange +xrevrange +select +ping +client|setname",
        ),
        ("+OK\r\n+PONG\r\n-ERR unknown command 'XINFO'\r\n", "unknown command"),
        ("+OK\r\n+PONG\r\n+OK\r\n", "something that is not Redis"),
        ("HTTP/1.1 400 Bad Request\r\n", "something that is not Redis"),
    ] {
        let mut world = World::new();
        world.connect();
        world.take(bytes.as_bytes());
        let said = world.take_said();
        assert!(said.len() == 1 && said[0].contains(expected), "{bytes:?}: {said:?}");
        assert!(!said[0].contains("bob"), "{said:?}");
        assert!(!world.reader.down(0, 0), "it never came up");
    }
}
