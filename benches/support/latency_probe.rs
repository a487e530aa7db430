//! Measures how long a message to one client is under way, and beside it how long an echo takes.
//!
//! Messages leave at times that depend on nothing else, so that whoever stands still is late for each of them, and not for
//! one. They carry the time at which they were sent.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::client::Client;
use super::echo::{BYTES, Echo};
use super::publisher::Publisher;
use super::server::Server;

/// The mean time from one sample to the next; messages and echoes take turns.
const PERIOD: Duration = Duration::from_micros(600);

/// Answers to PUBLISH that may wait to be read: more than come in while the server is late.
const ANSWERS_LEFT: usize = 200;

/// The numbers of the clients of the probe: nobody else's.
const RECEIVER: usize = 900_000;
const BYSTANDER: usize = 900_001;

/// Digits of a time in nanoseconds.
const DIGITS: usize = 20;

/// The latencies of the samples, in milliseconds.
#[derive(Default)]
pub struct Samples {
    /// Messages, from PUBLISH to the client.
    pub messages: Vec<f64>,
    /// Echoes, there and back.
    pub echoes: Vec<f64>,
}

/// A publisher, the client that it speaks to, one that it does not speak to, and an echo.
pub struct LatencyProbe {
    publisher: Publisher,
    receiver: Client,
    bystander: Client,
    echo: Echo,
    epoch: Instant,
}

impl LatencyProbe {
    /// Connects them. The clients are subscribed to their own topics alone.
    pub fn open(server: &Server) -> LatencyProbe {
        let mut clients = Client::open(server.clients, RECEIVER..BYSTANDER + 1);
        for client in &mut clients {
            client.send(r#"{"op":"unsubscribe","topic":"news"}"#);
            assert_eq!(client.read(), r#"{"op":"unsubscribed","topic":"news"}"#);
        }
        let bystander = clients.pop().expect("there are two");
        let receiver = clients.pop().expect("there are two");
        let publisher = Publisher::connect(server);
        LatencyProbe { publisher, receiver, bystander, echo: Echo::start(), epoch: Instant::now() }
    }

    /// Takes so many samples of each kind.
    pub fn sample(&mut self, count: usize) -> Samples {
        let epoch = self.epoch;
        let mut back = self.echo.stream.try_clone().expect("a socket can be cloned");
        let (receiver, publisher, there) =
            (&mut self.receiver, &mut self.publisher, &mut self.echo.stream);
        std::thread::scope(|scope| {
            let messages = scope.spawn(|| {
                collect(epoch, count, || {
                    let text = receiver.read();
                    let (_, data) = text.split_once(r#""data":""#).expect("a message");
                    stamp(data)
                })
            });
            let echoes = scope.spawn(|| {
                let mut buffer = [0; BYTES];
                collect(epoch, count, || {
                    back.read_exact(&mut buffer).expect("what is sent comes back");
                    stamp(std::str::from_utf8(&buffer).expect("digits are ASCII"))
                })
            });
            send(epoch, count, publisher, |text| {
                there.write_all(text.as_bytes()).expect("the echo takes bytes");
            });
            let join = "a collector ends or panics";
            Samples { messages: messages.join().expect(join), echoes: echoes.join().expect(join) }
        })
    }

    /// Nothing came but what was counted: the next frame of each is the answer to its own question.
    pub fn finish(mut self) {
        for client in [&mut self.receiver, &mut self.bystander] {
            client.send(r#"{"op":"ping"}"#);
            assert_eq!(client.read(), r#"{"op":"pong"}"#, "a message too many");
        }
    }
}

/// Sends messages and echoes in turns, each at its time.
fn send(epoch: Instant, count: usize, publisher: &mut Publisher, mut echo: impl FnMut(&str)) {
    let topic = format!("user.u{RECEIVER:07}");
    let mut due = Instant::now();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for number in 0..2 * count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // From half of the period to three halves, so that no rhythm of the server's is met again and again.
        due += PERIOD / 2 + PERIOD * (random % 1024) as u32 / 1024;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = epoch.elapsed().as_nanos();
        match number % 2 {
            0 => publisher.send(&topic, &format!("\"{at:0DIGITS$}\"")),
            _ => echo(&format!("{at:0DIGITS$}{:1$}", "", BYTES - DIGITS)),
        }
        if number % 2 == 0 && number / 2 >= ANSWERS_LEFT {
            assert_eq!(publisher.answer(), 1, "a message reaches its client alone");
        }
    }
    for _ in 0..count.min(ANSWERS_LEFT) {
        assert_eq!(publisher.answer(), 1, "a message reaches its client alone");
    }
}

/// The latencies of `count` messages: none is missing, none comes twice, none overtakes.
fn collect(epoch: Instant, count: usize, mut next: impl FnMut() -> u64) -> Vec<f64> {
    let mut last = 0;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let sent = next();
        let nanoseconds = epoch.elapsed().as_nanos() as u64 - sent;
        assert!(sent > last, "messages come once each, and in order");
        last = sent;
        all.push(nanoseconds as f64 / 1e6);
    }
    all
}

fn stamp(text: &str) -> u64 {
    text[..DIGITS].parse().expect("a time in nanoseconds")
}
