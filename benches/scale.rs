//! A model of scale: nodes, servers of Redis, memory, traffic and money for 1, 10 and 100 million clients.
//!
//! The unit costs of Redis, and of a message that it sends, are measured in the run; those of clients are figures of the other
//! benches ([`Client::PLAIN`], [`Client::TLS`]). The load and the prices are assumptions, each with a flag of the same name:
//! `cargo bench --bench scale -- --plain --personal_per_hour 600 --vcpu_hour 0.05`. How many nodes hear a message is a formula,
//! which is tried against nodes that clients chose by chance.
//!
//! A node is one process with one loop on one core. `all` is a pattern at each node; `demand` subscribes to the topics of a
//! node's clients; `sharded` does so at the shards of a cluster. The last two are computed from what Redis needs for them, not
//! from a server that runs so; an unsubscription at each disconnection is their worst case. In the first two each server of Redis gets each message: more
//! servers are replicas, each with a part of the nodes.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};
use support::Options;
use support::client::Client as Connection;
use support::random::Random;
use support::redis::{Redis, RedisAsker, RedisPublisher, command, publish_command};
use support::report::{self, grouped, rounded};
use support::server::{Server, own_topic};
use support::usage::cpu_time;

const HOURS_PER_MONTH: f64 = 730.0;

/// The most nodes that are tried.
const NODES_MAX: f64 = 100_000.0;

/// Subscribers of one Redis while the cost of each is measured.
const SUBSCRIBERS: usize = 16;

/// Commands that go to Redis in one write, and channels of one command: as many as oneloop names at once.
const BATCH: usize = 512;

const PAYLOAD_BYTES: usize = 100;

/// The most by which the formula and the simulation may differ.
const ERROR_MAX: f64 = 0.02;

/// The costs of Redis and of its messages, measured here; in microseconds of CPU and in bytes.
#[derive(Clone, Copy)]
struct Costs {
    /// A PUBLISH that nobody hears.
    publish: f64,
    /// Each subscriber that hears it, more.
    subscriber: f64,
    /// SUBSCRIBE and UNSUBSCRIBE of one channel.
    join_and_leave: f64,
    /// Memory of Redis for a channel with one subscriber.
    channel_bytes: f64,
    /// A message at a node, whether or not one of its clients wants it.
    message: f64,
}

/// The costs of a client, as other benches measure them; in microseconds of CPU of the server, and in bytes.
#[derive(Clone, Copy)]
struct Client {
    /// User space (`memory`, `tls -- --only memory`), and the kernel's part (`tls -- --only machine`).
    idle_bytes: f64,
    /// One message in flight, 100 B (`fanout`, `tls -- --only deliveries`).
    delivery: f64,
    /// A connection until its welcome (`connect`); over TLS with a full P-256 handshake (7,000 a second in
    /// `tls -- --only storm`).
    connect: f64,
    /// Bytes on the wire around a message: frame, TCP and IP, the record of TLS.
    envelope_bytes: f64,
}

impl Client {
    const PLAIN: Client =
        Client { idle_bytes: 133.0 + 4000.0, delivery: 4.1, connect: 16.0, envelope_bytes: 56.0 };
    const TLS: Client =
        Client { idle_bytes: 292.0 + 4000.0, delivery: 4.4, connect: 159.0, envelope_bytes: 78.0 };
}

/// The assumed load of a fleet, and what a provider asks for.
#[derive(Clone, Copy)]
struct Assumptions {
    /// Messages to a client's own topic.
    personal_per_hour: f64,
    /// Rooms of a client, the clients of each, and the messages of each.
    rooms: f64,
    room_clients: f64,
    room_per_hour: f64,
    payload_bytes: f64,
    reconnects_per_day: f64,
    ping_seconds: f64,
    /// The share of a core that may be used, so that bursts find room.
    busy_max: f64,
    /// Memory of a machine for each core.
    gigabytes_per_core: f64,
    vcpu_hour: f64,
    gigabyte_hour: f64,
    terabyte: f64,
}

impl Assumptions {
    fn read(options: &Options) -> Assumptions {
        let number = |name: &str, default: f64| {
            let given = options.value(&format!("--{name}"));
            given.map_or(default, |text| text.parse().expect("a number behind each flag"))
        };
        Assumptions {
            personal_per_hour: number("personal_per_hour", 20.0),
            rooms: number("rooms", 3.0),
            room_clients: number("room_clients", 50.0),
            room_per_hour: number("room_per_hour", 20.0),
            payload_bytes: number("payload_bytes", 300.0),
            reconnects_per_day: number("reconnects_per_day", 20.0),
            ping_seconds: number("ping_seconds", 25.0),
            busy_max: number("busy_max", 0.5),
            gigabytes_per_core: number("gigabytes_per_core", 4.0),
            vcpu_hour: number("vcpu_hour", 0.02),
            gigabyte_hour: number("gigabyte_hour", 0.003),
            terabyte: number("terabyte", 10.0),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    All,
    Demand,
    Sharded,
}

/// A fleet that carries the load.
struct Fleet {
    nodes: f64,
    redis_servers: f64,
    /// The share of a core of each node, and of each server of Redis.
    node_busy: f64,
    redis_busy: f64,
    /// Memory of all nodes and of all servers of Redis.
    gigabytes: f64,
    /// Traffic to clients in a month.
    terabytes: f64,
    /// Money in a month, and of it the traffic.
    price: f64,
    traffic_price: f64,
}

/// The nodes that hear a topic with so many clients, if each chose its node by chance.
fn nodes_that_hear(nodes: f64, clients: f64) -> f64 {
    nodes * (1.0 - (1.0 - 1.0 / nodes).powf(clients))
}

/// Returns the smallest fleet, or nothing if no number of nodes carries the load.
fn fleet(
    mode: Mode,
    clients: f64,
    client: Client,
    costs: Costs,
    load: &Assumptions,
) -> Option<Fleet> {
    let second = 1e6;
    let rooms = clients * load.rooms / load.room_clients;
    let personal = clients * load.personal_per_hour / 3600.0;
    let of_rooms = rooms * load.room_per_hour / 3600.0;
    let messages = personal + of_rooms;
    let deliveries = personal + of_rooms * load.room_clients;
    let connects = clients * load.reconnects_per_day / 86_400.0;
    let pings = clients / load.ping_seconds;
    // The answer to a ping is read: about as much again.
    let of_clients = (deliveries + 2.0 * pings) * client.delivery + connects * client.connect;
    let memory_max = load.gigabytes_per_core * 1e9;
    let mut nodes = (clients * client.idle_bytes / memory_max).ceil();
    loop {
        let heard = match mode {
            Mode::All => messages * nodes,
            Mode::Demand | Mode::Sharded => {
                personal + of_rooms * nodes_that_hear(nodes, load.room_clients)
            }
        };
        let node_busy = (of_clients + heard * costs.message) / nodes / second;
        if node_busy <= load.busy_max {
            let (joins, channels) = match mode {
                Mode::All => (0.0, 0.0),
                Mode::Demand | Mode::Sharded => (
                    connects * (1.0 + load.rooms),
                    clients + rooms * nodes_that_hear(nodes, load.room_clients),
                ),
            };
            let each = messages * costs.publish;
            let shared = heard * costs.subscriber + joins * costs.join_and_leave;
            let (redis_servers, redis_busy) =
                redis_servers(mode, each / second, shared / second, load.busy_max)?;
            let gigabytes = (clients * client.idle_bytes + channels * costs.channel_bytes) / 1e9;
            let bytes = deliveries * (load.payload_bytes + client.envelope_bytes)
                + pings * 2.0 * client.envelope_bytes;
            let terabytes = bytes * HOURS_PER_MONTH * 3600.0 / 1e12;
            let traffic_price = terabytes * load.terabyte;
            let hourly = (nodes + redis_servers) * load.vcpu_hour + gigabytes * load.gigabyte_hour;
            return Some(Fleet {
                nodes,
                redis_servers,
                node_busy,
                redis_busy,
                gigabytes,
                terabytes,
                price: hourly * HOURS_PER_MONTH + traffic_price,
                traffic_price,
            });
        }
        nodes = (nodes * 1.01).ceil();
        if nodes > NODES_MAX {
            return None;
        }
    }
}

/// Returns the servers of Redis and the share of a core of each. `each` is the cores that every server without shards needs,
/// `shared` the ones that they divide among them.
fn redis_servers(mode: Mode, each: f64, shared: f64, busy_max: f64) -> Option<(f64, f64)> {
    if mode == Mode::Sharded {
        let servers = ((each + shared) / busy_max).ceil().max(1.0);
        return Some((servers, (each + shared) / servers));
    }
    if each >= busy_max {
        return None;
    }
    let servers = (shared / (busy_max - each)).ceil().max(1.0);
    Some((servers, each + shared / servers))
}

/// Sums whose result is known without the model.
fn check_the_arithmetic(load: &Assumptions) {
    let near = |found: f64, wanted: f64| {
        assert!((found - wanted).abs() <= wanted * 1e-9, "{found} instead of {wanted}");
    };
    near(nodes_that_hear(1.0, 50.0), 1.0);
    near(nodes_that_hear(2.0, 2.0), 1.5);
    near(nodes_that_hear(1000.0, 1.0), 1.0);
    assert_eq!(redis_servers(Mode::All, 0.5, 0.0, 0.5), None, "more replicas do not help");
    assert_eq!(redis_servers(Mode::Demand, 0.25, 0.5, 0.5), Some((2.0, 0.5)));
    assert_eq!(redis_servers(Mode::Sharded, 0.5, 0.5, 0.5), Some((2.0, 0.5)));
    // A million messages a second to clients that cost nothing else: 4 µs and 1 µs for each make 5 cores, 10 half-used ones.
    let load = Assumptions {
        personal_per_hour: 3600.0,
        rooms: 0.0,
        reconnects_per_day: 0.0,
        ping_seconds: f64::INFINITY,
        busy_max: 0.5,
        payload_bytes: 100.0,
        gigabytes_per_core: 4.0,
        ..*load
    };
    let client = Client { idle_bytes: 4000.0, delivery: 4.0, connect: 0.0, envelope_bytes: 0.0 };
    let costs = Costs {
        publish: 1.0,
        subscriber: 1.0,
        join_and_leave: 0.0,
        channel_bytes: 0.0,
        message: 1.0,
    };
    let found = fleet(Mode::Sharded, 1e6, client, costs, &load).expect("it is feasible");
    near(found.nodes, 10.0);
    near(found.node_busy, 0.5);
    near(found.redis_servers, 4.0);
    near(found.gigabytes, 4.0);
    near(found.terabytes, 100.0 * 1e6 * 730.0 * 3600.0 / 1e12);
    // Each node would need a core for the messages alone.
    assert!(fleet(Mode::All, 1e6, client, costs, &load).is_none());
}

/// Nodes that clients chose by chance, against the formula. Returns the largest error.
fn check_the_formula(load: &Assumptions) -> f64 {
    const ROOMS: usize = 20_000;
    let members = load.room_clients.max(1.0) as usize;
    let mut random = Random::new(17);
    let mut worst: f64 = 0.0;
    for nodes in [2, 10, 50, 400] {
        let mut hearing = 0;
        let mut topics_of_first = 0;
        for _ in 0..ROOMS {
            let mut hears = vec![false; nodes];
            for _ in 0..members {
                // The high bits: the low ones of this generator are the weaker ones.
                hears[(random.next() >> 33) as usize % nodes] = true;
            }
            hearing += hears.iter().filter(|hears| **hears).count();
            topics_of_first += usize::from(hears[0]);
        }
        let formula = nodes_that_hear(nodes as f64, members as f64);
        let found = hearing as f64 / ROOMS as f64;
        let error = (found / formula - 1.0).abs();
        println!(
            "{nodes:5} nodes, rooms of {members}: {formula:.2} hear a message by the formula, {found:.2} by chance; \
             one node has {} of {ROOMS} topics, expected {:.0}",
            topics_of_first,
            ROOMS as f64 * formula / nodes as f64,
        );
        assert!(error <= ERROR_MAX, "the formula is wrong by {error:.3}");
        worst = worst.max(error);
    }
    worst
}

fn main() {
    let options = Options::read();
    let load = Assumptions::read(&options);
    check_the_arithmetic(&load);
    let error = check_the_formula(&load);
    let is_plain = std::env::args().any(|argument| argument == "--plain");
    let client = if is_plain { Client::PLAIN } else { Client::TLS };
    let costs = measure(&options);
    println!(
        "\nµs of CPU: Redis {:.2} for a PUBLISH, {:.2} for each subscriber, {:.2} for a join and leave ({:.0} B a channel); \
         a node {:.2} for a message, {} for a delivery, {} for a connection ({} B)\n",
        costs.publish,
        costs.subscriber,
        costs.join_and_leave,
        costs.channel_bytes,
        costs.message,
        client.delivery,
        client.connect,
        client.idle_bytes,
    );
    println!(
        "    clients  subscribe    nodes  busy   redis  busy       GB   TB a month   a month   of it traffic"
    );
    let mut rows = Vec::new();
    for clients in [1e6, 1e7, 1e8] {
        for (name, mode) in
            [("all", Mode::All), ("demand", Mode::Demand), ("sharded", Mode::Sharded)]
        {
            let found = fleet(mode, clients, client, costs, &load);
            print(clients, name, found.as_ref());
            rows.push(row(clients, name, found.as_ref()));
        }
    }
    report::print(
        "scale",
        &options,
        json!({
            "plain": is_plain,
            "publish_us": rounded(costs.publish),
            "subscriber_us": rounded(costs.subscriber),
            "join_and_leave_us": rounded(costs.join_and_leave),
            "channel_bytes": rounded(costs.channel_bytes),
            "message_us": rounded(costs.message),
            "formula_error": error,
            "fleets": rows,
        }),
    );
}

fn print(clients: f64, name: &str, found: Option<&Fleet>) {
    let count = |number: f64| grouped(number.round() as i64);
    let clients = count(clients);
    let Some(found) = found else {
        println!("{clients:>11}  {name:<9}  no number of nodes or replicas carries it");
        return;
    };
    println!(
        "{clients:>11}  {name:<9} {:>8} {:>4.0}% {:>7} {:>4.0}% {:>8} {:>12} {:>9} {:>15}",
        count(found.nodes),
        found.node_busy * 100.0,
        count(found.redis_servers),
        found.redis_busy * 100.0,
        count(found.gigabytes),
        count(found.terabytes),
        count(found.price),
        count(found.traffic_price),
    );
}

fn row(clients: f64, name: &str, found: Option<&Fleet>) -> Value {
    json!({
        "clients": clients,
        "subscribe": name,
        "nodes": found.map(|found| found.nodes),
        "redis_servers": found.map(|found| found.redis_servers),
        "gigabytes": found.map(|found| rounded(found.gigabytes)),
        "terabytes_a_month": found.map(|found| rounded(found.terabytes)),
        "price_a_month": found.map(|found| rounded(found.price)),
    })
}

fn measure(options: &Options) -> Costs {
    let messages = options.pick(200_000, 20_000);
    let redis = Redis::start();
    let publish = publish_cost(&redis, messages);
    let subscribers: Vec<TcpStream> =
        (0..SUBSCRIBERS).map(|_| drained_subscriber(&redis)).collect();
    let heard = publish_cost(&redis, messages);
    for subscriber in subscribers {
        let _ = subscriber.shutdown(std::net::Shutdown::Both);
    }
    let (join_and_leave, channel_bytes) = channel_costs(&redis, options.pick(200_000, 20_000));
    Costs {
        publish,
        subscriber: ((heard - publish) / SUBSCRIBERS as f64).max(0.0),
        join_and_leave,
        channel_bytes,
        message: message_cost(messages),
    }
}

/// CPU time of Redis in microseconds.
fn redis_microseconds(redis: &Redis) -> f64 {
    cpu_time(redis.pid()).total as f64 / 1000.0
}

fn payload() -> String {
    format!("{:?}", "x".repeat(PAYLOAD_BYTES - 2))
}

fn publish_cost(redis: &Redis, messages: usize) -> f64 {
    let mut stream = Answered::connect(redis);
    let one = publish_command("user.1", &payload());
    let before = redis_microseconds(redis);
    for start in (0..messages).step_by(BATCH) {
        let count = BATCH.min(messages - start);
        stream.ask(&one.repeat(count), count);
    }
    (redis_microseconds(redis) - before) / messages as f64
}

/// A subscriber to the pattern of a node, with a thread that reads what comes until the socket is shut.
fn drained_subscriber(redis: &Redis) -> TcpStream {
    let mut subscriber = Answered::connect(redis);
    subscriber.ask(&command(&["PSUBSCRIBE", "pub.*"]), LINES_OF_AN_ACKNOWLEDGEMENT);
    let socket = subscriber.0.get_ref().try_clone().expect("a descriptor");
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        let socket = subscriber.0.get_mut();
        while socket.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    socket
}

/// Returns Redis' CPU in microseconds for a join and leave, and its bytes for a channel.
fn channel_costs(redis: &Redis, channels: usize) -> (f64, f64) {
    let mut subscriber = Answered::connect(redis);
    let mut asker = RedisAsker::connect(redis);
    let memory = asker.number("used_memory");
    let before = redis_microseconds(redis);
    let mut bytes = 0.0;
    for verb in ["SUBSCRIBE", "UNSUBSCRIBE"] {
        for start in (0..channels).step_by(BATCH) {
            let end = channels.min(start + BATCH);
            let names: Vec<String> =
                (start..end).map(|number| format!("pub.user.{number}")).collect();
            let mut words = vec![verb];
            words.extend(names.iter().map(String::as_str));
            subscriber.ask(&command(&words), (end - start) * LINES_OF_AN_ACKNOWLEDGEMENT);
        }
        if verb == "SUBSCRIBE" {
            bytes = (asker.number("used_memory") - memory) as f64 / channels as f64;
        }
    }
    ((redis_microseconds(redis) - before) / channels as f64, bytes)
}

/// Returns a node's CPU in microseconds for a message that none of its clients wants.
fn message_cost(messages: usize) -> f64 {
    let redis = Redis::start();
    let server = Server::start(&["--redis", &redis.url(), "--admin", "127.0.0.1:0"]);
    server.wait_for_redis();
    let mut client = Connection::open(server.clients, 0..1).remove(0);
    let mut publisher = RedisPublisher::connect(&redis);
    let payload = payload();
    let mut publish = |count: usize| {
        let before = server.cpu_time();
        publisher.publish("user.nobody", &payload, count);
        publisher.publish(&own_topic(0), "0", 1);
        let last = client.read();
        assert!(last.ends_with(r#","data":0}"#), "{last}");
        server.cpu_time().since(before).total as f64 / 1000.0 / count as f64
    };
    // Not counted: caches are cold and Redis grows its buffers.
    publish(1000);
    let cost = publish(messages);
    server.stop();
    cost
}

/// `*3`, the length of the verb, the verb, the length of the channel, the channel, the number of subscriptions.
const LINES_OF_AN_ACKNOWLEDGEMENT: usize = 6;

/// A connection that reads as many lines as its commands are answered with.
struct Answered(BufReader<TcpStream>);

impl Answered {
    fn connect(redis: &Redis) -> Answered {
        let stream = TcpStream::connect(redis.address).expect("Redis listens");
        stream
            .set_read_timeout(Some(support::DEADLINE))
            .and_then(|()| stream.set_nodelay(true))
            .expect("a socket takes its options");
        Answered(BufReader::new(stream))
    }

    fn ask(&mut self, commands: &[u8], lines: usize) {
        self.0.get_mut().write_all(commands).expect("Redis takes commands");
        let mut line = String::new();
        for _ in 0..lines {
            line.clear();
            self.0.read_line(&mut line).expect("Redis answers in time");
            assert!(!line.is_empty() && !line.starts_with('-'), "Redis answers {line}");
        }
    }
}
