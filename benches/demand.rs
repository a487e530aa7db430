//! Subscriptions on demand: the cost of a topic here and at Redis, the time to subscribe again, and the CPU of a node that has few of
//! the clients against one that hears all messages.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oneloop::engine::demand::{Demand, DemandSettings};
use oneloop::engine::pubsub::hub::KeyChange;
use oneloop::engine::redis::config::RedisConfig;
use oneloop::engine::redis::subscriber::{RedisSubscriber, SubscriptionEvent};
use serde_json::{Value, json};
use support::client::Client;
use support::process::wait_until;
use support::redis::{Redis, RedisAsker, RedisPublisher};
use support::report::{self, grouped, rounded, rounded_to};
use support::server::{Server, own_topic};
use support::{DEADLINE, Options};

/// Clients of the fleet; a hundredth of them are at the node.
const FLEET: usize = 1000;

const PAYLOAD: &str = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";

/// A node hears a hundredth of the messages: it may use at most this share of what hearing all costs beside the deliveries.
const SHARE_MAX: f64 = 0.02;

fn main() {
    let options = Options::read();
    let topics = options.pick(1_000_000, 20_000);
    let table = table(topics);
    let mut redis = Redis::start();
    let at_redis = at_redis(&mut redis, topics);
    drop(redis);
    let node = node(options.pick(200, 5));
    report::print(
        "demand",
        &options,
        json!({"topics": topics, "table": table, "redis": at_redis, "node": node.json()}),
    );
    // With few messages the loop's own wake-ups count.
    let share_max = if options.quick { 1.0 } else { SHARE_MAX };
    assert!(node.share() <= share_max, "{:.3} of the cost", node.share());
}

fn settings() -> DemandSettings {
    DemandSettings {
        prefix: "pub.".to_owned(),
        connections: 1,
        linger: 0,
        timeout: 60_000,
        own: Vec::new(),
    }
}

fn change(number: usize, is_wanted: bool) -> KeyChange {
    KeyChange { key: format!("user.{number}").into(), is_wanted }
}

/// Has every topic come and go, with a Redis that acknowledges at once.
fn table(topics: usize) -> Value {
    let mut demand = Demand::new(settings());
    demand.on_up(0);
    demand.write_commands(0, &mut Vec::new(), 0);
    assert_eq!(demand.take_whole(), Some(0));
    let (mut commands, mut channel) = (Vec::new(), String::new());
    let mut acknowledged = |demand: &mut Demand, numbers: &[usize], is_added: bool| {
        commands.clear();
        demand.write_commands(0, &mut commands, 0);
        for number in numbers {
            use std::fmt::Write;
            channel.clear();
            write!(channel, "pub.user.{number}").expect("a text grows");
            match is_added {
                true => demand.on_subscribed(0, channel.as_bytes()),
                false => assert!(demand.on_unsubscribed(0, channel.as_bytes())),
            }
        }
    };
    let numbers: Vec<usize> = (0..topics).collect();
    let start = Instant::now();
    for some in numbers.chunks(512) {
        some.iter().for_each(|number| demand.on_change(change(*number, true), 0));
        acknowledged(&mut demand, some, true);
    }
    demand.mark(1, 0);
    let joined = start.elapsed();
    let bytes = demand.bytes() as f64 / topics as f64;
    let start = Instant::now();
    for some in numbers.chunks(512) {
        some.iter().for_each(|number| demand.on_change(change(*number, false), 0));
        demand.expire(1000);
        acknowledged(&mut demand, some, false);
    }
    let left = start.elapsed();
    assert_eq!(demand.topics_len(), 0, "all topics are gone");
    let each = |took: Duration| took.as_nanos() as f64 / topics as f64;
    println!("{} topics in the table", grouped(topics as i64));
    println!("{:<40}{:>10.1} bytes each", "memory", bytes);
    println!("{:<40}{:>10.0} ns each", "a first client, acknowledged", each(joined));
    println!("{:<40}{:>10.0} ns each\n", "a last client gone, acknowledged", each(left));
    json!({
        "bytes_per_topic": rounded_to(bytes, 1),
        "join_ns": rounded(each(joined)),
        "leave_ns": rounded(each(left)),
    })
}

/// A connection to a real Redis, with the state machine of the server.
struct Link {
    stream: TcpStream,
    subscriber: RedisSubscriber,
    buffer: Vec<u8>,
}

impl Link {
    fn open(redis: &Redis) -> Link {
        let stream = TcpStream::connect(redis.address).expect("Redis listens");
        stream.set_nodelay(true).expect("a socket takes its options");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes its options");
        let config = RedisConfig::from_url(&redis.url()).expect("the URL is right");
        let mut subscriber = RedisSubscriber::of_share(config, &settings(), 0, 0);
        subscriber.session.connecting(0);
        subscriber.session.connected(0);
        Link { stream, subscriber, buffer: vec![0; 64 * 1024] }
    }

    /// Subscribes to all that is wanted. Returns how long it took.
    fn subscribe(&mut self, demand: &mut Demand) -> Duration {
        let start = Instant::now();
        while demand.take_whole().is_none() {
            self.subscriber.subscribe(demand, 0);
            let output = self.subscriber.session.output().to_vec();
            self.stream.write_all(&output).expect("Redis takes commands");
            self.subscriber.session.wrote(output.len());
            if demand.pending_len() == 0 && self.subscriber.session.is_ready() {
                continue;
            }
            let length = self.stream.read(&mut self.buffer).expect("Redis answers in time");
            let mut input = &self.buffer[..length];
            while let Some(event) = self.subscriber.next(&mut input, 0).expect("Redis is sound") {
                match event {
                    SubscriptionEvent::Up => demand.on_up(0),
                    SubscriptionEvent::Changed(change) => {
                        let channel = change.channel.expect("no pattern is wanted");
                        demand.on_subscribed(0, &channel);
                    }
                    _ => {}
                }
            }
        }
        start.elapsed()
    }
}

/// Subscribes to all topics at a real Redis, and once more after its restart.
fn at_redis(redis: &mut Redis, topics: usize) -> Value {
    let mut demand = Demand::new(settings());
    (0..topics).for_each(|number| demand.on_change(change(number, true), 0));
    let before = RedisAsker::connect(redis).number("used_memory");
    let mut link = Link::open(redis);
    let first = link.subscribe(&mut demand);
    let after = RedisAsker::connect(redis).number("used_memory");
    let bytes = (after - before) as f64 / topics as f64;
    drop(link);
    demand.on_down(0);
    redis.restart();
    let again = Link::open(redis).subscribe(&mut demand);
    println!("{} topics at Redis, over one connection", grouped(topics as i64));
    println!("{:<40}{:>10.1} bytes each", "memory of Redis", bytes);
    println!("{:<40}{:>10.2} s", "all subscribed to", first.as_secs_f64());
    println!("{:<40}{:>10.2} s\n", "and again after a restart", again.as_secs_f64());
    json!({
        "redis_bytes_per_topic": rounded_to(bytes, 1),
        "subscribe_seconds": rounded_to(first.as_secs_f64(), 2),
        "subscribe_again_seconds": rounded_to(again.as_secs_f64(), 2),
    })
}

/// The CPU of a node with a hundredth of the clients, in nanoseconds for each message of the fleet.
struct Node {
    messages: usize,
    /// All topics, and those of its clients.
    all: [f64; 2],
    demand: [f64; 2],
}

impl Node {
    /// The share of the cost that hearing messages for others has.
    fn share(&self) -> f64 {
        self.demand[1] / self.all[1]
    }

    fn json(&self) -> Value {
        json!({
            "fleet_clients": FLEET,
            "node_clients": FLEET / 100,
            "messages": self.messages,
            "all_ns_per_message": rounded(self.all[0]),
            "demand_ns_per_message": rounded(self.demand[0]),
            "all_ns_per_message_for_others": rounded(self.all[1]),
            "demand_ns_per_message_for_others": rounded_to(self.demand[1], 2),
            "share_for_others": rounded_to(self.share(), 4),
            "share_max": SHARE_MAX,
        })
    }
}

fn node(rounds: usize) -> Node {
    let [all, demand] = ["all", "demand"].map(|mode| node_in(mode, rounds));
    let messages = rounds * FLEET;
    println!("a node with {} of {FLEET} clients, ns per message of the fleet", FLEET / 100);
    println!("{:<40}{:>10}{:>10}", "", "all", "demand");
    println!("{:<40}{:>10.0}{:>10.0}", "messages for everybody", all[0], demand[0]);
    println!("{:<40}{:>10.1}{:>10.1}\n", "messages for clients of other nodes", all[1], demand[1]);
    Node { messages, all, demand }
}

fn node_in(mode: &str, rounds: usize) -> [f64; 2] {
    let redis = Redis::start();
    let server =
        Server::start(&["--redis", &redis.url(), "--subscribe", mode, "--admin", "127.0.0.1:0"]);
    assert!(wait_until(|| server.metrics().get("source_up") == 1), "the subscription is up");
    let mut clients = Client::open(server.clients, 0..FLEET / 100);
    let mut publisher = RedisPublisher::connect(&redis);
    let mut cost = |from: usize| {
        let before = server.cpu_time();
        for _ in 0..rounds {
            (from..FLEET).for_each(|number| publisher.publish(&own_topic(number), PAYLOAD, 1));
            if from == 0 {
                clients.iter_mut().for_each(|client| _ = client.read());
            }
        }
        // The last one comes behind all others.
        publisher.publish(&own_topic(0), "0", 1);
        clients[0].read();
        server.cpu_time().since(before).total as f64 / (rounds * (FLEET - from)) as f64
    };
    let costs = [cost(0), cost(FLEET / 100)];
    server.stop();
    costs
}
