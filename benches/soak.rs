//! An hour of everything at once: clients that come and go, mixed traffic, a Redis that is killed every five minutes, slow and
//! hostile clients. Memory and descriptors must not grow, nothing may be misdelivered, and nothing lost outside a `gap`.
//!
//! `cargo bench --bench soak -- --minutes 60`; without it five minutes, with `--quick` some seconds.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::checking_clients::{self, CheckingClients, ROOMS, USERS, room};
use support::client::{connect, head};
use support::random::Random;
use support::redis::{Redis, publish_command};
use support::report::{self, grouped, rounded};
use support::server::{SHARED_TOPIC, Server, Tokens, own_topic};
use support::usage::descriptors;
use support::{DEADLINE, Options, connections};

/// Between two rounds of traffic.
const ROUND: Duration = Duration::from_millis(50);

/// Messages of one round to users and to rooms; one in twenty rounds has one to all.
const TO_USERS: usize = 50;
const TO_ROOMS: usize = 3;

/// The hostile ones that come in a second, and for how long each stays.
const HOSTILE_PER_SECOND: usize = 20;
const HOSTILE_SECONDS: u64 = 10;

/// Their numbers begin here, so that they come from addresses of their own.
const HOSTILE_FIRST: usize = 4_000_000;

fn main() {
    let options = Options::read();
    match options.role.as_deref() {
        None => run(&options),
        Some([role, rest @ ..]) if role == checking_clients::ROLE => checking_clients::run(rest),
        Some(role) => panic!("no such role: {role:?}"),
    }
}

/// The observations at one moment.
struct Sample {
    minutes: f64,
    memory: i64,
    descriptors: usize,
}

fn run(options: &Options) {
    let minutes = options.value("--minutes").map(|text| text.parse().expect("--minutes N"));
    let minutes: f64 = minutes.unwrap_or(if options.quick { 0.2 } else { 5.0 });
    let clients = connections(options.pick(15_000, 300));
    let churn = options.pick(500, 50);
    let restart_every = Duration::from_secs_f64((minutes * 60.0 / 3.0).min(300.0));
    let mut soak = Soak::start(clients, churn);
    let start = Instant::now();
    let mut samples = Vec::new();
    let (mut restarts, mut sampled) = (0, 0.0);
    println!(
        "{:>8}{:>16}{:>14}{:>14}{:>10}{:>8}",
        "minutes", "memory, bytes", "descriptors", "messages", "gaps", "lost"
    );
    while start.elapsed().as_secs_f64() < minutes * 60.0 {
        soak.round();
        if start.elapsed() > restart_every * (restarts + 1) {
            restarts += 1;
            soak.redis.restart();
            soak.publisher = Publisher::connect(&soak.redis);
        }
        let elapsed = start.elapsed().as_secs_f64() / 60.0;
        if elapsed >= sampled + (minutes / 30.0).min(1.0) {
            sampled = elapsed;
            samples.push(soak.sample(elapsed));
        }
        std::thread::sleep(ROUND);
    }
    soak.hostile.clear();
    let seen = soak.clients.seen();
    let [memory_slope, descriptors_slope] = [
        slope(&samples, |sample| sample.memory as f64),
        slope(&samples, |sample| sample.descriptors as f64),
    ];
    println!(
        "\nmemory grows by {} bytes an hour, descriptors by {descriptors_slope:.1}",
        grouped(memory_slope as i64)
    );
    println!("{seen:?}, {} published, {restarts} times without Redis\n", soak.published);
    let samples: Vec<Value> = samples
        .iter()
        .map(|one| json!([rounded(one.minutes), one.memory, one.descriptors]))
        .collect();
    report::print(
        "soak",
        options,
        json!({
            "minutes": minutes,
            "clients": clients,
            "churn_per_second": churn,
            "redis_restarts": restarts,
            "published": soak.published,
            "connections": seen.connections,
            "messages": seen.messages,
            "gaps": seen.gaps,
            "closed_by_server": seen.closed,
            "misdelivered": seen.misdelivered,
            "lost_outside_gaps": seen.lost,
            "memory_bytes_per_hour": memory_slope.round(),
            "descriptors_per_hour": rounded(descriptors_slope),
            "samples_minutes_memory_descriptors": samples,
        }),
    );
    assert_eq!(
        (seen.misdelivered, seen.lost),
        (0, 0),
        "a client received what was not for it, or lost a message"
    );
    assert!(seen.messages > clients && seen.gaps > 0, "little happened: {seen:?}");
    drop(soak.clients);
    soak.server.stop();
}

struct Soak {
    redis: Redis,
    server: Server,
    clients: CheckingClients,
    publisher: Publisher,
    tokens: Tokens,
    users: Vec<u64>,
    rooms: Vec<u64>,
    shared: u64,
    rounds: usize,
    published: usize,
    random: Random,
    /// Connections that misbehave, and when they are dropped.
    hostile: Vec<(Instant, TcpStream)>,
    hostile_next: usize,
    started: Instant,
}

impl Soak {
    fn start(clients: usize, churn: usize) -> Soak {
        let redis = Redis::start();
        let flags = ["--redis", &redis.url(), "--memory-max", "256MiB", "--admin", "127.0.0.1:0"];
        let server = Server::start_as_it_comes(&flags);
        let clients = CheckingClients::start(server.clients, clients, churn);
        let publisher = Publisher::connect(&redis);
        Soak {
            redis,
            server,
            clients,
            publisher,
            tokens: Tokens::new(),
            users: vec![0; USERS],
            rooms: vec![0; ROOMS],
            shared: 0,
            rounds: 0,
            published: 0,
            random: Random::new(0x5eed),
            hostile: Vec::new(),
            hostile_next: 0,
            started: Instant::now(),
        }
    }

    /// Some messages to users and rooms, now and then one to all; some hostile clients.
    fn round(&mut self) {
        self.rounds += 1;
        let mut batch = Vec::new();
        for _ in 0..TO_USERS {
            let user = self.random.below(USERS);
            batch.push((own_topic(user), Place::User(user)));
        }
        for _ in 0..TO_ROOMS {
            let user = self.random.below(ROOMS);
            batch.push((room(user), Place::Room(user)));
        }
        if self.rounds.is_multiple_of(20) {
            batch.push((SHARED_TOPIC.to_owned(), Place::Shared));
        }
        let numbered: Vec<(String, u64)> = batch
            .iter()
            .map(|(topic, place)| {
                let number = self.number(place);
                *number += 1;
                (topic.clone(), *number)
            })
            .collect();
        self.publisher.publish(&numbered);
        self.published += numbered.len();
        self.send_hostile_ones();
    }

    fn number(&mut self, place: &Place) -> &mut u64 {
        match place {
            Place::User(user) => &mut self.users[*user],
            Place::Room(room) => &mut self.rooms[*room],
            Place::Shared => &mut self.shared,
        }
    }

    /// Halves of heads, halves of messages, garbage, floods, and some who read nothing.
    fn send_hostile_ones(&mut self) {
        let now = Instant::now();
        self.hostile.retain(|(until, _)| *until > now);
        let due = (self.started.elapsed().as_secs_f64() * HOSTILE_PER_SECOND as f64) as usize;
        while self.hostile_next < due {
            let number = self.hostile_next;
            self.hostile_next += 1;
            let mut stream = connect(self.server.clients, HOSTILE_FIRST + number);
            let topics = [SHARED_TOPIC.to_owned()];
            let token = self.tokens.token_for(number % USERS, &topics);
            let head = head(self.server.clients, &token);
            let bytes = match number % 6 {
                0 => head.as_bytes()[..head.len() / 2].to_vec(),
                1 => {
                    [head.as_bytes(), &[0x81, 0xfe, 0xff, 0xff, 0, 0, 0, 0], &[b'x'; 4000]].concat()
                }
                2 => [head.as_bytes(), &[0xff; 64]].concat(),
                3 => b"\x16\x03\x01 this is TLS\r\n\r\n".to_vec(),
                4 => [head.as_bytes(), &[0x89, 0x80, 0, 0, 0, 0].repeat(5_000)].concat(),
                _ => head.into_bytes(),
            };
            // The server may have hung up already.
            let _ = stream.write_all(&bytes);
            self.hostile.push((now + Duration::from_secs(HOSTILE_SECONDS), stream));
        }
    }

    fn sample(&mut self, minutes: f64) -> Sample {
        let seen = self.clients.seen();
        let (memory, descriptors) =
            (self.server.memory().anonymous, descriptors(self.server.pid()));
        println!(
            "{minutes:>8.1}{:>16}{descriptors:>14}{:>14}{:>10}{:>8}",
            grouped(memory),
            grouped(seen.messages as i64),
            grouped(seen.gaps as i64),
            seen.lost
        );
        Sample { minutes, memory, descriptors }
    }
}

enum Place {
    User(usize),
    Room(usize),
    Shared,
}

/// The growth of a value in an hour: the line of least squares through what came after the first tenth.
fn slope(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let settled = &samples[samples.len() / 10..];
    let count = settled.len().max(1) as f64;
    let x = settled.iter().map(|one| one.minutes / 60.0).sum::<f64>() / count;
    let y = settled.iter().map(&value).sum::<f64>() / count;
    let over: f64 = settled.iter().map(|one| (one.minutes / 60.0 - x) * (value(one) - y)).sum();
    let under: f64 = settled.iter().map(|one| (one.minutes / 60.0 - x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// A connection to Redis that waits for its answers.
struct Publisher(BufReader<TcpStream>);

impl Publisher {
    fn connect(redis: &Redis) -> Publisher {
        let stream = TcpStream::connect(redis.address).expect("Redis listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes its options");
        Publisher(BufReader::new(stream))
    }

    fn publish(&mut self, messages: &[(String, u64)]) {
        let commands = messages.iter().flat_map(|(topic, number)| {
            publish_command(topic, &format!("{{\"number\":{number}}}"))
        });
        let commands: Vec<u8> = commands.collect();
        self.0.get_mut().write_all(&commands).expect("Redis takes commands");
        for _ in messages {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("Redis answers");
            assert!(line.starts_with(':'), "{line}");
        }
    }
}
