//! A parent and a worker in step, without processes.

use serde_json::Value;

use crate::config::RouteConfig;
use crate::engine::random::Random;
use crate::engine::reactor::tests::harness::TestLoop;
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::follow;
use crate::loops::forwarding::Forwarding;
use crate::loops::inputs::read_input;
use crate::loops::link::next_frame;
use crate::loops::state::{take_state, write_state};

const AHEAD_MAX: u64 = 50;

fn test_loop() -> TestLoop {
    let route = RouteConfig { may: vec!["*".into()], ..RouteConfig::default() };
    let mut test = TestLoop::new(route, |bounds| {
        (bounds.history_messages_max, bounds.history_bytes_max) = (40, 4000);
        bounds.revocations_max = 5;
    });
    test.reactor.router.server.resume.read_streams(vec!["one".into(), "two".into()]);
    test
}

fn entry(number: u64) -> EntryId {
    EntryId { millis: 1000 + number, number: 0 }
}

struct World {
    parent: TestLoop,
    /// Input that the parent has handled, and the worker has not.
    wire: Vec<u8>,
    worker: TestLoop,
    entries: u64,
}

impl World {
    fn new() -> World {
        let mut parent = test_loop();
        parent.reactor.router.observer = Some(Box::new(Forwarding::new(true)));
        let worker = test_loop();
        let mut world = World { parent, wire: Vec::new(), worker, entries: 0 };
        world.attach();
        world
    }

    /// Starts another worker in place of the one that is there.
    fn attach(&mut self) {
        self.take_batch();
        self.wire.clear();
        self.worker = test_loop();
        let node = self.parent.reactor.router.server.resume.node();
        follow(&mut self.worker.reactor.router.server, node, "0", AHEAD_MAX);
        let state = self.state_of_parent();
        let mut input = &state[..];
        let mut is_whole = false;
        while let Some(frame) = next_frame(&mut input).expect("it is well-formed") {
            assert!(!is_whole, "nothing follows the last frame");
            is_whole = take_state(&mut self.worker.reactor.router, frame).expect("it is a state");
        }
        assert!(is_whole);
    }

    fn state_of_parent(&self) -> Vec<u8> {
        let mut state = Vec::new();
        write_state(&mut state, &self.parent.reactor.router);
        state
    }

    fn take_batch(&mut self) {
        let forwarding = Forwarding::of(&mut self.parent.reactor.router).expect("it is there");
        self.wire.append(&mut forwarding.batch);
    }

    /// Lets the worker handle up to so many frames.
    fn forward(&mut self, most: usize) {
        self.take_batch();
        let wire = std::mem::take(&mut self.wire);
        let mut input = &wire[..];
        for _ in 0..most {
            let Some(frame) = next_frame(&mut input).expect("it is well-formed") else { break };
            let (input, _) = read_input(frame, 2).unwrap().expect("all of it is input");
            self.worker.reactor.router.handle(input);
        }
        self.wire = input.to_vec();
        self.worker.turn();
    }

    /// Lets the worker catch up, and compares it with its parent.
    fn compare(&mut self, seed: u64) {
        self.forward(usize::MAX);
        let mut state = Vec::new();
        write_state(&mut state, &self.worker.reactor.router);
        assert!(state == self.state_of_parent(), "seed {seed}: the worker is not in step");
    }

    fn publish(&mut self, channel: &str, payload: &str) {
        self.parent.publish(channel, payload);
    }

    fn act(&mut self, random: &mut Random) {
        let topic = random.choose(&["a", "b", "user.7"]);
        let payload = random.choose(&["1", "[2,3]", "\"a longer one of more than a few bytes\""]);
        let stream = random.below(2);
        self.entries += 1;
        let id = entry(self.entries);
        let key = random.choose(&[None, Some(&b"k"[..]), Some(&b"l"[..])]);
        let router = &mut self.parent.reactor.router;
        match random.below(14) {
            0..=3 => self.publish(&format!("pub.{topic}"), payload),
            4 | 5 => self.publish(&format!("pub.{topic}#k"), payload),
            6 => self.publish("pub..malformed", payload),
            7 => {
                let before = random.below(1000);
                let sub = random.below(8);
                let text = format!(r#"{{"op":"revoke","sub":"u{sub}","before":{before}}}"#);
                self.publish("ctl", &text);
            }
            8 | 9 => {
                let topic = (topic.as_bytes(), key);
                router.publish_entry(stream, id, topic, payload.as_bytes(), None);
            }
            10 => router.pass_entry(stream, id, random.below(2) == 0, 9),
            11 => router.on_source(random.below(2) == 0),
            12 if random.below(4) == 0 => router.on_stream_lost(stream, id),
            _ => router.on_reader(random.below(2) == 0),
        }
    }
}

#[test]
fn a_worker_records_what_its_parent_records_from_whatever_moment_on() {
    for seed in 1..60 {
        let mut random = Random::new(seed);
        let mut world = World::new();
        if random.below(2) == 0 {
            world.entries = 20;
            let router = &mut world.parent.reactor.router;
            for stream in 0..2 {
                router.stream_begins(stream, entry(20));
                for number in (10..random.below(20) as u64).rev() {
                    router.prefill_entry(stream, entry(number), (b"a", None), b"0");
                }
            }
            router.on_reader(true);
        }
        for _ in 0..150 {
            world.act(&mut random);
            match random.below(12) {
                0 => world.attach(),
                1 => world.compare(seed),
                2..=4 => world.forward(random.below(4)),
                _ => {}
            }
        }
        world.compare(seed);
    }
}

fn data(received: &[Value]) -> Vec<&Value> {
    received.iter().filter_map(|message| message.get("data")).collect()
}

#[test]
fn a_client_that_is_ahead_of_its_new_loop_waits_and_gets_nothing_twice() {
    let mut world = World::new();
    (1..=5).for_each(|number| world.publish("pub.a", &number.to_string()));
    world.forward(2);
    let cursor =
        |world: &World, number| world.parent.reactor.router.server.resume.cursor_at(number);
    let latest = world.parent.reactor.router.server.resume.history.next() - 1;
    // At another loop it was sent the first four.
    let since = cursor(&world, latest - 1);
    let client = world.worker.connect_at(&format!("/ws?since={since}"), "7", &["a"]);
    let bystander = world.worker.connect("8", &["b"]);
    let welcome = world.worker.received(client);
    assert_eq!(welcome[0]["resumed"], true, "{welcome:?}");
    assert_eq!(welcome[0]["id"], since);
    world.worker.received(bystander);
    world.forward(1);
    assert!(world.worker.received(client).is_empty(), "3 came there already");
    world.forward(1);
    assert!(world.worker.received(client).is_empty(), "so did 4");
    world.forward(1);
    let received = world.worker.received(client);
    assert_eq!(data(&received), [5]);
    assert_eq!(received[0]["id"], cursor(&world, latest).as_str());
    world.publish("pub.a", "6");
    world.forward(1);
    assert_eq!(data(&world.worker.received(client)), [6], "live again");
    assert!(world.worker.received(bystander).is_empty());
    assert!(world.worker.reactor.router.server.resume.ahead_by_number.is_empty());
}

#[test]
fn a_client_that_is_ahead_is_told_of_no_newest_message_that_has_a_successor() {
    let mut world = World::new();
    (1..=4).for_each(|number| {
        world.publish(if number == 4 { "pub.a" } else { "pub.b" }, &number.to_string())
    });
    world.forward(2);
    let resume = &world.parent.reactor.router.server.resume;
    let since = resume.cursor_at(resume.history.next() - 1);
    let ahead = world.worker.connect_at(&format!("/ws?since={since}"), "7", &["a"]);
    let other = world.worker.connect("8", &[]);
    let bystander = world.worker.connect("9", &["c"]);
    for client in [ahead, other, bystander] {
        world.worker.received(client);
    }
    for client in [ahead, other] {
        world.worker.say(client, r#"{"op":"subscribe","topic":"b","last":true}"#);
    }
    // 3 is published, and the client that is ahead counts as having passed it.
    assert_eq!(world.worker.received(ahead)[0]["last"], false);
    let received = world.worker.received(other);
    assert_eq!((&received[0]["last"], &received[1]["data"]), (&Value::Bool(true), &Value::from(2)));
    world.forward(usize::MAX);
    assert_eq!(data(&world.worker.received(other)), [3]);
    assert!(world.worker.received(ahead).is_empty());
    world.worker.say(ahead, r#"{"op":"subscribe","topic":"b","last":true}"#);
    assert_eq!(data(&world.worker.received(ahead)), [3], "there it is");
    assert!(world.worker.received(bystander).is_empty());
}

#[test]
fn a_client_that_is_too_far_ahead_is_told_so() {
    let mut world = World::new();
    (0..=AHEAD_MAX + 1).for_each(|number| world.publish("pub.a", &number.to_string()));
    let resume = &world.parent.reactor.router.server.resume;
    let since = resume.cursor_at(resume.history.next() - 1);
    let client = world.worker.connect_at(&format!("/ws?since={since}"), "7", &["a"]);
    assert_eq!(world.worker.received(client)[0]["resumed"], false);
}

#[test]
fn alone_a_process_takes_no_cursor_from_its_future() {
    let mut test = test_loop();
    let resume = &test.reactor.router.server.resume;
    let since = resume.cursor_at(resume.history.next());
    let client = test.connect_at(&format!("/ws?since={since}"), "7", &["a"]);
    assert_eq!(test.received(client)[0]["resumed"], false);
}
