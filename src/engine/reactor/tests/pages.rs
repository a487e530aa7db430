//! Clients that resume from another process or after a restart: entries of streams from Redis first, then from the history, then
//! live, against a naive model from seeds. The model plays Redis: it answers late, in pieces, or not at all.

use std::collections::{BTreeMap, VecDeque};

use crate::engine::client::State;
use crate::engine::client::encoding::Encoding;
use crate::engine::feature::{FeatureEvent, StreamReply};
use crate::engine::pubsub::hub::Reason;
use crate::engine::random::Random;
use crate::engine::reactor::tests::page_bounds::bounds_of;
use crate::engine::reactor::tests::page_model::{Held, KEYS, Stream, Subscriber, TOPICS};
use crate::engine::reactor::tests::replay::{Plain, texts};
use crate::engine::reactor::tests::{Shared, plan};
use crate::engine::reactor::*;
use crate::engine::redis::request::{PageEnd, RedisRequest, ReplyForm};
use crate::engine::resume::cursor::{Cursor, EntryId, Node};
use crate::engine::server::{Resumed, Server};

/// A request: for a page, or without a client for a stream's state.
struct Asked {
    id: Option<ConnId>,
    stream: usize,
    left: VecDeque<usize>,
    end: PageEnd,
}

struct World {
    seed: u64,
    random: Random,
    reactor: Reactor,
    sockets: Shared,
    streams: [Stream; 2],
    asked: Vec<Asked>,
    open: BTreeMap<ConnId, Subscriber>,
    millis: u64,
    /// The stream and position of each entry. Its data is its number.
    places: Vec<(usize, usize)>,
    pages: usize,
    refused: usize,
    /// Clients subscribe from cursors on, to keys that they have not had before: their ids fall then.
    goes_back: bool,
    gone_back: usize,
}

/// Keys that clients subscribe to from cursors on. No other key covers their topics then.
const LATER: [&str; 2] = ["c", "user.7"];

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let plan = plan(Plain, |bounds| {
            bounds.flush_clients_per_turn = 1 + random.below(30);
            bounds.backlog_frames_max = random.choose(&[8, 100_000]);
            bounds.history_messages_max = random.choose(&[5, 60, 10_000]);
        });
        let sockets = Shared::install(Random::new(seed + 1), random.below(4));
        let mut reactor = Reactor::new(plan).expect("a port is free");
        reactor.read_streams(&["s", "t"]);
        World {
            seed,
            random,
            reactor,
            sockets,
            streams: Default::default(),
            asked: Vec::new(),
            open: BTreeMap::new(),
            millis: 1000,
            places: Vec::new(),
            pages: 0,
            refused: 0,
            goes_back: false,
            gone_back: 0,
        }
    }

    fn may_hold(&self, key: &str) -> bool {
        !self.goes_back || !(LATER.contains(&key) || key == "\0")
    }

    /// Adds entries from another process, or from this one before its start.
    fn add(&mut self, count: usize) {
        for _ in 0..count {
            self.millis += self.random.below(3) as u64;
            let number = self.random.below(2);
            let stream = &mut self.streams[number];
            self.places.push((number, stream.entries.len()));
            let last = stream.entries.last().map_or(EntryId::ZERO, |entry| entry.0);
            let number = if last.millis == self.millis { last.number + 1 } else { 0 };
            let id = EntryId { millis: self.millis, number };
            let topic = self.random.choose(&TOPICS);
            stream.entries.push((id, topic, self.places.len().to_string()));
        }
    }

    /// Lets the reader find the streams, prefill the history, and continue.
    fn begin(&mut self) {
        for (number, stream) in self.streams.iter_mut().enumerate() {
            let last = stream.entries.last().map_or(EntryId::ZERO, |entry| entry.0);
            self.reactor.router.stream_begins(number, last);
            stream.read = stream.entries.len();
            for (id, topic, data) in stream.entries.iter().rev() {
                let router = &mut self.reactor.router;
                if !router.prefill_entry(number, *id, (topic.as_bytes(), None), data.as_bytes()) {
                    break;
                }
            }
        }
        self.reactor.router.on_reader(true);
    }

    /// Lets the reader continue.
    fn read(&mut self) {
        let number = self.random.below(2);
        let stream = &mut self.streams[number];
        for (id, topic, data) in stream.entries[stream.read..].iter().take(self.random.below(5)) {
            let router = &mut self.reactor.router;
            router.publish_entry(number, *id, (topic.as_bytes(), None), data.as_bytes(), None);
            stream.read += 1;
        }
        self.let_go();
    }

    /// Connects a client from another node, where it had each stream up to some entry.
    fn connect(&mut self) {
        let mut had = [EntryId::ZERO; 2];
        for (stream, had) in self.streams.iter().zip(&mut had) {
            // No further than this process will have read, or the client could not have it yet.
            if !stream.entries.is_empty() && self.random.below(4) > 0 {
                *had = stream.entries[self.random.below(stream.entries.len())].0;
            }
        }
        self.connect_with(had);
    }

    fn connect_with(&mut self, had: [EntryId; 2]) {
        let id = self.reactor.attach();
        self.reactor.router.server.open(id, 0, Encoding::WebSocket);
        let mut held = Vec::new();
        for key in KEYS {
            if self.random.below(2) == 0 && self.may_hold(key) {
                self.reactor.router.server.scope(0).subscribe(id, key, Reason::Granted);
                held.push(Held { key, had: None, from: None, until: None });
            }
        }
        let node = Node::new(7, self.random.next());
        let since = Cursor { node, number: 5, has_channels: false, entries: had.to_vec() };
        let server = &mut self.reactor.router.server;
        let since = server.resume.signer.text(&since);
        let resumed = server.resume(id, &since);
        let Resumed::From(cursor) = resumed else { panic!("seed {}: refused", self.seed) };
        // It may be disconnected before its first message, and resume with this cursor here or elsewhere.
        let cursor =
            self.reactor.router.server.resume.signer.read(&cursor).expect("it is a cursor");
        assert_eq!((cursor.has_channels, cursor.entries), (false, had.to_vec()));
        self.open.insert(id, Subscriber { held, had });
        self.let_go();
    }

    /// Subscribes or unsubscribes a client, whatever else is pending for it.
    fn change_mind(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let place = self.random.below(self.open.len());
        let (id, subscriber) = self.open.iter_mut().nth(place).expect("it is there");
        let key = self.random.choose(&KEYS);
        if self.goes_back && (LATER.contains(&key) || key == "\0") {
            return;
        }
        let server = &mut self.reactor.router.server;
        let now = [0, 1].map(|stream| self.streams[stream].read);
        let held = subscriber.held.iter_mut().find(|held| held.key == key && held.until.is_none());
        let changed = match held {
            Some(held) => {
                held.until = Some(now);
                server.scope(0).unsubscribe(*id, key)
            }
            None => {
                subscriber.held.push(Held { key, had: None, from: Some(now), until: None });
                server.scope(0).subscribe(*id, key, Reason::Asked)
            }
        };
        // A client that was closed meanwhile is removed below, and neither received nor missed a message for this.
        assert!(changed || server.client(*id).is_none_or(|client| client.state() != State::Open));
        self.let_go();
    }

    /// Subscribes a client to a further key from a cursor on, whatever else is pending for it.
    fn go_back(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let place = self.random.below(self.open.len());
        let id = *self.open.keys().nth(place).expect("it is there");
        let key = self.random.choose(&LATER);
        let mut had = [EntryId::ZERO; 2];
        for (stream, had) in self.streams.iter().zip(&mut had) {
            if !stream.entries.is_empty() && self.random.below(4) > 0 {
                *had = stream.entries[self.random.below(stream.entries.len())].0;
            }
        }
        let node = Node::new(7, self.random.next());
        let since = Cursor { node, number: 5, has_channels: false, entries: had.to_vec() };
        let since = self.reactor.router.server.resume.signer.text(&since);
        let now = [0, 1].map(|stream| self.streams[stream].read);
        let mut scope = self.reactor.router.server.scope(0);
        if scope.subscribe(id, key, Reason::Asked) {
            let held = match scope.resume_topic(id, key, &since) {
                Resumed::From(_) => {
                    self.gone_back += 1;
                    Held { key, had: Some(had), from: None, until: None }
                }
                Resumed::No(_) => Held { key, had: None, from: Some(now), until: None },
            };
            self.open.get_mut(&id).expect("it is open").held.push(held);
        }
        self.let_go();
    }

    /// Lets Redis take the requests, and answer some of those taken before.
    fn answer(&mut self) {
        let server = &mut self.reactor.router.server;
        let requests: Vec<RedisRequest> = std::iter::from_fn(|| server.requests.pop()).collect();
        for request in requests {
            let (id, stream) = match request.form {
                ReplyForm::Page { stream } => {
                    (Some(ConnId::of_number(request.ticket.number)), stream)
                }
                ReplyForm::StreamInfo { stream } => (None, stream),
                ReplyForm::Value => panic!("only pages and stream states are asked for"),
            };
            let (mut left, mut end) = (VecDeque::new(), PageEnd::UNAVAILABLE);
            if id.is_some() {
                let entries = &self.streams[stream].entries;
                let page = bounds_of(&request.command);
                let is_in = |at: &usize| page.holds(entries[*at].0);
                left.extend((0..entries.len()).filter(is_in).take(page.count));
                let [first, last] =
                    [left.front(), left.back()].map(|at| at.map(|at| entries[*at].0));
                let (entries, bytes, largest) = (left.len(), 40 * left.len() as u64, 40);
                end = PageEnd { entries, first, last, bytes, largest, is_available: true };
                self.pages += 1;
            }
            self.asked.push(Asked { id, stream, left, end });
        }
        if self.asked.is_empty() {
            return;
        }
        let place = self.random.below(self.asked.len());
        let is_refused = self.random.below(200) == 0;
        let Asked { id, stream, .. } = self.asked[place];
        let Some(id) = id else {
            self.asked.swap_remove(place);
            self.refused += usize::from(is_refused);
            let extent = (!is_refused).then(|| self.streams[stream].extent());
            let reply = StreamReply::Info { stream, info: extent };
            self.reactor.router.on_stream_reply(reply);
            return self.let_go();
        };
        if is_refused {
            self.asked.swap_remove(place);
            self.refused += 1;
            let reply =
                StreamReply::PageEnd { number: id.number(), stream, end: PageEnd::UNAVAILABLE };
            self.reactor.router.on_stream_reply(reply);
            return self.let_go();
        }
        for _ in 0..1 + self.random.below(100) {
            let Some(at) = self.asked[place].left.pop_front() else { break };
            let (entry, topic, data) = &self.streams[stream].entries[at];
            let (topic, payload) = (topic.as_bytes(), data.as_bytes());
            let reply =
                StreamReply::Entry { number: id.number(), id: *entry, topic, key: None, payload };
            self.reactor.router.on_stream_reply(reply);
        }
        if self.asked[place].left.is_empty() {
            let asked = self.asked.swap_remove(place);
            let reply = StreamReply::PageEnd { number: id.number(), stream, end: asked.end };
            self.reactor.router.on_stream_reply(reply);
        }
        self.let_go();
    }

    fn unblock(&mut self) {
        self.sockets.unblock(&mut self.reactor, usize::MAX);
    }

    fn turn(&mut self) {
        self.reactor.flush();
        self.reactor.reap();
    }

    fn pass_time(&mut self) {
        self.reactor.router.server.now.millis += 50;
        self.reactor.router.notify_features(FeatureEvent::Tick);
    }

    fn step(&mut self) {
        match self.random.below(45) {
            43.. => self.pass_time(),
            40..42 => self.change_mind(),
            42 if self.goes_back => self.go_back(),
            42 => self.change_mind(),
            0..2 => self.connect(),
            2..6 => {
                let count = self.random.below(4);
                self.add(count);
            }
            6..12 => self.read(),
            12..20 => self.answer(),
            20..25 => self.unblock(),
            _ => self.turn(),
        }
    }

    /// Removes clients that were closed because a page did not come or their backlog reached its bound: what they received must
    /// still be right.
    fn let_go(&mut self) {
        let clients = &self.reactor.router.server.clients;
        let is_open = |id: &ConnId| {
            clients.get(*id).is_some_and(|client| {
                client.generation == id.generation && client.state() == State::Open
            })
        };
        let gone: Vec<ConnId> = self.open.keys().filter(|id| !is_open(id)).copied().collect();
        for id in gone {
            let subscriber = self.open.remove(&id).expect("it is there");
            self.check(id, &subscriber, false);
        }
    }

    fn settle(&mut self) {
        self.sockets.0.borrow_mut().cut = 0;
        while self.streams.iter().any(|stream| stream.read < stream.entries.len()) {
            self.read();
        }
        for _ in 0..200_000 {
            self.unblock();
            self.turn();
            self.answer();
            self.pass_time();
            let server = &self.reactor.router.server;
            let waits =
                self.reactor.router.features_deadline().is_some() || self.reactor.pages_len().1 > 0;
            let rests = server.pending.is_empty() && server.fanout.is_empty() && !waits;
            if rests && self.asked.is_empty() && server.requests.is_empty() {
                break;
            }
        }
        for (id, subscriber) in &self.open {
            self.check(*id, subscriber, true);
        }
        for client in self.reactor.router.server.clients.iter().map(|(_, client)| client) {
            assert!(client.state() != State::Open || client.is_hibernating(), "nothing stays");
        }
    }

    /// Checks that it received, of each stream, the entries for it after those it had, in order, without repetition or omission;
    /// `all`: up to the last, unless it was closed before.
    fn check(&self, id: ConnId, subscriber: &Subscriber, all: bool) {
        let seed = self.seed;
        let sockets = self.sockets.0.borrow();
        let got = texts(sockets.got.get(&id).map(Vec::as_slice).unwrap_or_default());
        let mut last = String::new();
        let mut received: [Vec<usize>; 2] = Default::default();
        let mut by_topic: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
        for text in got {
            let mut words = text.split(' ');
            let (cursor, _, data) = (words.next(), words.next(), words.next().expect("three"));
            let cursor = cursor.expect("three words");
            let rises = *cursor > *last || self.goes_back;
            assert!(rises, "seed {seed}: {cursor} does not rise over {last}");
            let signer = &self.reactor.router.server.resume.signer;
            assert!(!signer.read(cursor).expect("it is one").has_channels, "seed {seed}");
            cursor.clone_into(&mut last);
            let number: usize = data.parse().expect("a number");
            let (stream, at) = self.places[number - 1];
            received[stream].push(at);
            by_topic.entry((stream, self.streams[stream].entries[at].1)).or_default().push(at);
        }
        for ((stream, topic), of_topic) in &by_topic {
            let is_in_order = of_topic.is_sorted_by(|a, b| a < b);
            assert!(is_in_order, "seed {seed}: {id}, stream {stream}, {topic}");
        }
        for (number, stream) in self.streams.iter().enumerate() {
            let received = &mut received[number];
            let is_in_order = received.is_sorted_by(|a, b| a < b);
            assert!(is_in_order || self.goes_back, "seed {seed}: {id}, stream {number}");
            received.sort_unstable();
            let end = received.last().map_or(0, |at| at + 1);
            let all_due = all || !self.goes_back;
            for (at, entry) in stream.entries.iter().enumerate() {
                let (may, must) = subscriber.receives(number, at, entry);
                let has_received = received.binary_search(&at).is_ok();
                let text = || format!("seed {seed}: {id}, stream {number}, {}", entry.2);
                assert!(may || !has_received, "{} is not for it", text());
                let is_due = all || (all_due && at < end);
                assert!(has_received || !must || !is_due, "{} was lost", text());
            }
        }
    }
}

#[test]
fn whoever_comes_from_another_node_gets_what_it_missed_of_each_stream() {
    let (mut pages, mut refused) = (0, 0);
    for seed in 1..=1_500 {
        let mut world = World::new(seed);
        let before = world.random.choose(&[0, 10, 300]);
        world.add(before);
        let begins_at = world.random.below(30);
        for step in 0..150 {
            match step == begins_at {
                true => world.begin(),
                false if step < begins_at => match world.random.below(3) {
                    0 => world.connect(),
                    1 => world.answer(),
                    _ => world.turn(),
                },
                false => world.step(),
            }
        }
        world.settle();
        (pages, refused) = (pages + world.pages, refused + world.refused);
    }
    assert!(pages > 5_000 && refused > 20, "{pages} pages, {refused} did not come");
}

/// The same with subscriptions from cursors on, while pages are on their way, checks are awaited and the history is read.
#[test]
fn a_topic_that_is_subscribed_to_from_a_cursor_on_is_whole_and_no_other_repeated() {
    let (mut pages, mut gone_back) = (0, 0);
    for seed in 1..=1_500 {
        let mut world = World::new(seed);
        world.goes_back = true;
        let before = world.random.choose(&[0, 10, 300]);
        world.add(before);
        world.begin();
        (0..170).for_each(|_| world.step());
        world.settle();
        (pages, gone_back) = (pages + world.pages, gone_back + world.gone_back);
    }
    assert!(pages > 5_000 && gone_back > 1_000, "{pages} pages, {gone_back} cursors");
}

#[test]
fn all_go_on_who_waited_for_the_streams_to_be_known() {
    for seed in 1..=20 {
        let mut world = World::new(seed);
        world.add(30);
        // The history will hold their missed messages: no client asks for a page, whose end would start the next one.
        let had = [0, 1].map(|stream| world.streams[stream].entries.last().map(|entry| entry.0));
        (0..100).for_each(|_| world.connect_with(had.map(|id| id.unwrap_or(EntryId::ZERO))));
        (0..1000).for_each(|_| world.turn());
        world.begin();
        world.add(5);
        world.settle();
        assert_eq!((world.open.len(), world.pages), (100, 0), "seed {seed}");
    }
}

#[test]
fn a_cursor_that_knows_nothing_of_the_streams_is_good_while_they_are_empty() {
    for before in [0, 10] {
        let mut world = World::new(1);
        let first = world.reactor.router.server.cursor();
        world.add(before);
        world.begin();
        world.add(10);
        let id = world.reactor.attach();
        let server = &mut world.reactor.router.server;
        server.open(id, 0, Encoding::WebSocket);
        let has_channels = |server: &Server, cursor: &str| {
            server.resume.signer.read(cursor).expect("it is one").has_channels
        };
        assert!(has_channels(server, &first), "elsewhere it would have all of each stream");
        match server.resume(id, &first) {
            Resumed::From(cursor) => assert!(before == 0 && has_channels(server, &cursor)),
            Resumed::No(_) => assert!(before > 0, "messages added meanwhile had no subscriber"),
        }
    }
}
