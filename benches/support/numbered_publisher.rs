//! A publisher for clients that count: to each topic go numbers that rise by one, at a steady rate.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::publisher::Publisher;
use super::random::Random;
use super::server::{SHARED_TOPIC, own_topic};
use super::stream_publisher::StreamPublisher;

/// Clients of one room.
pub const ROOM: usize = 50;

/// Messages to rooms, and to everybody, in a thousand on average. The others are for one user each.
const TO_ROOMS: usize = 150;
const TO_ALL: usize = 1;

/// Between two writes, and the most messages of one.
const PAUSE: Duration = Duration::from_millis(5);
const AT_ONCE: usize = 200;

/// The topics of so many clients: each one's own, then the rooms, then the one that all share. They are known by their places.
pub fn topics(clients: usize) -> Vec<String> {
    let rooms = (0..clients.div_ceil(ROOM)).map(|room| format!("room.{room}"));
    (0..clients).map(own_topic).chain(rooms).chain([SHARED_TOPIC.to_owned()]).collect()
}

/// The places of the topics of one client.
pub fn heard_by(client: usize, clients: usize) -> [usize; 3] {
    [client, clients + client / ROOM, clients + clients.div_ceil(ROOM)]
}

/// The way that messages take.
pub enum PublishPath {
    /// The server's own port.
    Port(Publisher),
    /// A stream of Redis.
    Stream(StreamPublisher),
    /// The port for rooms and for everybody, the stream for users.
    Both(Publisher, StreamPublisher),
}

/// Publishes, and knows the last number of each topic.
pub struct NumberedPublisher {
    pub way: PublishPath,
    clients: usize,
    topics: Vec<String>,
    /// By the topics' places.
    pub numbers: Vec<u64>,
    pub published: usize,
    random: Random,
}

impl NumberedPublisher {
    /// Publishes to the topics of `clients` clients.
    pub fn new(way: PublishPath, clients: usize) -> NumberedPublisher {
        let topics = topics(clients);
        let numbers = vec![0; topics.len()];
        NumberedPublisher {
            way,
            clients,
            topics,
            numbers,
            published: 0,
            random: Random::new(0xfeed),
        }
    }

    /// Publishes `times` messages to each topic.
    pub fn publish_to_each(&mut self, times: usize) {
        self.publish_to_places(0..self.topics.len(), times);
    }

    /// Publishes `times` messages to each room, and to everybody.
    pub fn publish_to_rooms(&mut self, times: usize) {
        self.publish_to_places(self.clients..self.topics.len(), times);
    }

    /// Publishes a message to everybody.
    pub fn publish_to_all(&mut self) {
        self.publish(&[self.topics.len() - 1]);
    }

    /// Publishes `per_second` messages until it is stopped. A pause is not made up for beyond a second.
    pub fn run(&mut self, per_second: usize, stopped: &AtomicBool) {
        self.run_to(NumberedPublisher::any_place, per_second, stopped);
    }

    /// The same to the topics of these places alone.
    pub fn run_among(&mut self, places: Range<usize>, per_second: usize, stopped: &AtomicBool) {
        let any = |it: &mut NumberedPublisher| places.start + it.random.below(places.len());
        self.run_to(any, per_second, stopped);
    }

    fn run_to(
        &mut self,
        place: impl Fn(&mut NumberedPublisher) -> usize,
        per_second: usize,
        stopped: &AtomicBool,
    ) {
        let start = Instant::now();
        let mut sent = 0;
        while !stopped.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * per_second as f64) as usize;
            sent = sent.max(due.saturating_sub(per_second));
            let more = (due - sent).min(AT_ONCE);
            let places: Vec<usize> = (0..more).map(|_| place(self)).collect();
            self.publish(&places);
            sent += more;
            std::thread::sleep(PAUSE);
        }
    }

    /// Publishes `times` messages to each topic of these places.
    pub fn publish_to_places(&mut self, places: Range<usize>, times: usize) {
        let places: Vec<usize> = (0..times).flat_map(|_| places.clone()).collect();
        places.chunks(AT_ONCE).for_each(|places| self.publish(places));
    }

    fn any_place(&mut self) -> usize {
        let rooms = self.topics.len() - 1 - self.clients;
        match self.random.below(1000) {
            place if place < TO_ALL => self.clients + rooms,
            place if place < TO_ROOMS => self.clients + self.random.below(rooms),
            _ => self.random.below(self.clients),
        }
    }

    fn publish(&mut self, places: &[usize]) {
        let messages: Vec<(&str, u64)> = places
            .iter()
            .map(|place| {
                self.numbers[*place] += 1;
                (self.topics[*place].as_str(), self.numbers[*place])
            })
            .collect();
        match &mut self.way {
            PublishPath::Port(publisher) => publisher.publish_all(&messages),
            PublishPath::Stream(publisher) => publisher.add(&messages),
            PublishPath::Both(port, stream) => {
                let is_own = |(topic, _): &(&str, u64)| topic.starts_with("user.");
                let (own, shared): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_own);
                stream.add(&own);
                port.publish_all(&shared);
            }
        }
        self.published += places.len();
    }
}
