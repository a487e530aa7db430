//! Server CPU per message at the ZeroMQ port, beside the publishers' port: the same payloads on the same topic, without a
//! subscriber.
//!
//! The sides take turns in many rounds, so that whatever else the machine does disturbs all alike. Each writes as fast as the
//! server reads. That all of a round is processed shows in a last message to the one client there is. Answers are part of the
//! cost of the publishers' port: a PUSH socket gets none.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use serde_json::{Value, json};
use support::client::Client;
use support::report::{self, grouped, median, quantile, rounded};
use support::server::{Server, own_topic};
use support::{DEADLINE, Options};

/// A topic without a subscriber.
const TOPIC: &str = "room.7.chat";

const PAYLOAD_BYTES: usize = 100;

/// Bytes of an answer to PUBLISH: `:0` and a line's end.
const ANSWER_BYTES: usize = 4;

/// The greeting of ZMTP 3.1 without a mechanism, READY of a PUSH socket, and the length of their answers.
const GREETING: &[u8] = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL";
const GREETING_BYTES: usize = 64;
const READY: &[u8] = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH";

fn main() {
    let options = Options::read();
    let (rounds, messages) = (options.pick(10, 3), options.pick(100_000, 5_000));
    let server = Server::start(&["--zeromq", "tcp://127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let zeromq = server.zeromq.expect("it was asked for");
    let mut client = Client::open(server.clients, 0..1).remove(0);
    let mut sides = [
        Side::new("RESP, PUBLISH", connect(server.publishers), ANSWER_BYTES, publish),
        Side::new("ZeroMQ, two parts", greet(zeromq), 0, two_parts),
        Side::new("ZeroMQ, one part", greet(zeromq), 0, one_part),
    ];
    // The first round finds cold caches.
    for round in 0..rounds + 1 {
        for place in 0..sides.len() {
            let side = &mut sides[(place + round) % 3];
            side.measure(&server, &mut client, messages);
        }
    }
    let sent = ((rounds + 1) * (messages + 1)) as u64;
    assert_eq!(server.counter("zeromq_messages_total"), 2 * sent, "each message came once");
    assert_eq!(server.counter("messages_total"), 3 * sent);
    sides.iter_mut().for_each(|side| _ = side.rounds.remove(0));
    print(&sides, messages);
    let ratios = |place: usize| sides[place].to(&sides[0]);
    report::print(
        "zeromq",
        &options,
        json!({
            "clients": 1,
            "payload_bytes": PAYLOAD_BYTES,
            "rounds": rounds,
            "messages_per_round": messages,
            "sides": sides.iter().map(Side::json).collect::<Vec<Value>>(),
            "two_parts_to_resp": rounded(ratios(1)),
            "one_part_to_resp": rounded(ratios(2)),
        }),
    );
    server.stop();
}

/// One way to publish.
struct Side {
    name: &'static str,
    stream: TcpStream,
    answer_bytes: usize,
    /// Writes a message for a topic, with a payload that names it.
    encode: fn(&str, &str) -> Vec<u8>,
    /// Nanoseconds per message in each round.
    rounds: Vec<f64>,
}

impl Side {
    fn new(
        name: &'static str,
        stream: TcpStream,
        answer_bytes: usize,
        encode: fn(&str, &str) -> Vec<u8>,
    ) -> Side {
        Side { name, stream, answer_bytes, encode, rounds: Vec::new() }
    }

    /// Publishes so many messages and a last one, and notes what they cost the server.
    fn measure(&mut self, server: &Server, client: &mut Client, messages: usize) {
        let own = own_topic(0);
        let mut bytes = (self.encode)(TOPIC, &payload(TOPIC)).repeat(messages);
        bytes.extend((self.encode)(&own, &payload(&own)));
        let mut answers = vec![0; self.answer_bytes * (messages + 1)];
        let mut reader = self.stream.try_clone().expect("a descriptor is free");
        let before = server.cpu_time();
        thread::scope(|scope| {
            scope.spawn(|| reader.read_exact(&mut answers).expect("all is answered"));
            self.stream.write_all(&bytes).expect("the port reads");
        });
        let last = client.read();
        let used = server.cpu_time().since(before).total;
        assert!(last.contains(&own), "{last}");
        self.rounds.push(used as f64 / messages as f64);
    }

    /// The cost of a message, as a multiple of that of another side: the ratio in the median round.
    fn to(&self, other: &Side) -> f64 {
        let rounds = self.rounds.iter().zip(&other.rounds);
        median(&rounds.map(|(own, other)| own / other).collect::<Vec<f64>>())
    }

    fn json(&self) -> Value {
        let quartiles = [0.25, 0.75].map(|share| rounded(quantile(&self.rounds, share)));
        json!({
            "name": self.name,
            "ns_per_message": rounded(median(&self.rounds)),
            "ns_quartiles": quartiles,
        })
    }
}

/// A JSON object that names its topic.
fn payload(topic: &str) -> String {
    let start = format!(r#"{{"topic":"{topic}","text":""#);
    let filling = "x".repeat(PAYLOAD_BYTES - start.len() - 2);
    format!(r#"{start}{filling}"}}"#)
}

fn publish(topic: &str, payload: &str) -> Vec<u8> {
    let channel = format!("pub.{topic}");
    let words = ["PUBLISH", &channel, payload].map(|word| format!("${}\r\n{word}\r\n", word.len()));
    ["*3\r\n", &words.concat()].concat().into_bytes()
}

fn two_parts(topic: &str, payload: &str) -> Vec<u8> {
    let channel = format!("pub.{topic}");
    [&[1, channel.len() as u8], channel.as_bytes(), &one_part(topic, payload)].concat()
}

fn one_part(_: &str, payload: &str) -> Vec<u8> {
    [&[0, payload.len() as u8], payload.as_bytes()].concat()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(DEADLINE)).expect("a socket takes its options");
    stream
}

/// Connects as a PUSH socket does.
fn greet(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    let mut greeting = GREETING.to_vec();
    greeting.resize(GREETING_BYTES, 0);
    stream.write_all(&[&greeting, READY].concat()).expect("the port reads");
    let mut answer = [0; GREETING_BYTES + READY.len()];
    stream.read_exact(&mut answer).expect("the port greets");
    assert!(answer.ends_with(b"PULL"));
    stream
}

fn print(sides: &[Side], messages: usize) {
    let count = grouped(messages as i64);
    println!("messages of {PAYLOAD_BYTES} bytes on {TOPIC}, {count} a round\n");
    println!("{:<24}{:>12}{:>12}", "", "ns each", "to RESP");
    for side in sides {
        let cost = median(&side.rounds);
        println!("{:<24}{cost:>12.0}{:>12.2}", side.name, side.to(&sides[0]));
    }
    println!();
}
