//! The memory of a server by its clients: as their number grows, as they exchange messages, and when they have gone.

use std::time::{Duration, Instant};

use super::DEADLINE;
use super::client::Client;
use super::process::wait_until;
use super::publisher::Publisher;
use super::report::grouped;
use super::server::{SHARED_TOPIC, Server};
use super::tls::Security;
use super::usage::descriptors;

/// Clients that come, say something and leave before the empty server is measured, as many as have handshakes under way at one
/// time later: what these cost once (buffers, pages of stack touched for the first time) is no cost of each connection.
pub const WARMING: usize = 200;

/// Clients that have sent something and not read the answer yet.
const PINGS: usize = 200;

/// Bytes of the messages that each client sends, and of those that each is sent.
const MESSAGES: [usize; 2] = [1024, 4096];

/// The server gives memory back a second after a burst: it is at rest when nothing has changed for so long.
const REST: Duration = Duration::from_millis(1500);

/// A server, its clients, and the memory that it had before they came.
pub struct Footprint {
    security: Security,
    pub server: Server,
    publisher: Publisher,
    clients: Vec<Client>,
    /// Anonymous memory before the first connection.
    pub at_start: i64,
    /// The same without a client, but after some.
    pub empty: i64,
    /// Descriptors of the server without a client.
    descriptors: usize,
}

impl Footprint {
    /// Starts a server for clients that come plainly or over TLS.
    pub fn start(security: Security) -> Footprint {
        let server = Server::start_for(security, &[]);
        let at_start = server.memory().anonymous;
        let mut publisher = Publisher::connect(&server);
        publisher.settle();
        let descriptors = descriptors(server.pid());
        let clients = Client::open_by(security, server.clients, 0..WARMING);
        let mut footprint =
            Footprint { security, server, publisher, clients, at_start, empty: 0, descriptors };
        for bytes in MESSAGES {
            footprint.each_sends(bytes);
            footprint.each_is_sent(bytes);
        }
        footprint.leave();
        rest(&footprint.server);
        footprint.empty = footprint.server.memory().anonymous;
        footprint
    }

    /// Adds connections up to this count; returns the bytes of each.
    pub fn grow(&mut self, count: usize) -> f64 {
        let more = Client::open_by(self.security, self.server.clients, self.clients.len()..count);
        self.clients.extend(more);
        self.row(count, "connected")
    }

    /// Measures something and stops the server.
    pub fn measure<R>(mut self, measure: impl FnOnce(&mut Footprint) -> R) -> R {
        let result = measure(&mut self);
        self.clients.clear();
        self.server.stop();
        result
    }

    /// Adds event streams up to this count, and sends each a message; returns the bytes of each before and after that.
    pub fn grow_streams(&mut self, count: usize) -> [f64; 2] {
        let more = Client::open_streams(self.server.clients, self.clients.len()..count);
        self.clients.extend(more);
        let connected = self.row(count, "event streams connected");
        let [bytes, _] = MESSAGES;
        self.each_is_sent(bytes);
        rest(&self.server);
        [connected, self.row(count, &format!("after each was sent {bytes} bytes"))]
    }

    /// Messages of each size in both directions: what stays of them, per connection.
    pub fn exchange(&mut self, clients: usize) -> Vec<(String, f64)> {
        let mut stages = Vec::new();
        for bytes in MESSAGES {
            self.each_sends(bytes);
            rest(&self.server);
            let name = format!("after each has sent {bytes} bytes");
            stages.push((name.clone(), self.row(clients, &name)));
            self.each_is_sent(bytes);
            rest(&self.server);
            let name = format!("after each was sent {bytes} bytes");
            stages.push((name.clone(), self.row(clients, &name)));
        }
        stages
    }

    /// All leave, and come and leave once more: what is left above the start each time, in bytes.
    pub fn leave_and_return(&mut self, clients: usize) -> [i64; 2] {
        [(); 2].map(|()| {
            if self.clients.is_empty() {
                self.grow(clients);
            }
            self.leave();
            rest(&self.server);
            let left = self.server.memory().anonymous - self.at_start;
            println!("{:<44}{:>12}", format!("{:>6} all have left", 0), grouped(left));
            left
        })
    }

    /// Each sends a message, and reads the answer.
    fn each_sends(&mut self, bytes: usize) {
        let ping = r#"{"op":"ping","ref":"1","padding":""}"#;
        let padding = "x".repeat(bytes - ping.len());
        let ping = ping.replace(r#""""#, &format!("{padding:?}"));
        for part in self.clients.chunks_mut(PINGS) {
            for client in &mut *part {
                client.send(&ping);
            }
            for client in part {
                assert_eq!(client.read(), r#"{"op":"pong","ref":"1"}"#);
            }
        }
    }

    /// All read one broadcast.
    fn each_is_sent(&mut self, bytes: usize) {
        let payload = format!("{:?}", "x".repeat(bytes - 2));
        let reached = self.publisher.publish(SHARED_TOPIC, &payload, 1);
        assert_eq!(reached, [self.clients.len()], "everybody is subscribed");
        for client in &mut self.clients {
            assert!(client.read().contains(&payload));
        }
    }

    /// All leave, and the server has noticed it.
    fn leave(&mut self) {
        self.clients.clear();
        let (pid, before) = (self.server.pid(), self.descriptors);
        let gone = wait_until(|| descriptors(pid) == before);
        assert!(gone, "the server keeps connections that have ended");
        self.publisher.settle();
    }

    /// Prints what the server occupies beyond the empty one; returns the bytes for each of so many clients.
    fn row(&mut self, clients: usize, what: &str) -> f64 {
        self.publisher.settle();
        let more = self.server.memory().anonymous - self.empty;
        let each = more as f64 / clients as f64;
        let name = format!("{:>6} {what}", grouped(clients as i64));
        println!("{name:<44}{:>12}{each:>16.1}", grouped(more));
        each
    }
}

/// Waits until the server's memory changes no more.
pub fn rest(server: &Server) {
    let start = Instant::now();
    let mut last = (server.memory().anonymous, Instant::now());
    while last.1.elapsed() < REST {
        std::thread::sleep(Duration::from_millis(50));
        let memory = server.memory().anonymous;
        if memory != last.0 {
            last = (memory, Instant::now());
        }
        assert!(start.elapsed() < DEADLINE, "the server never rests");
    }
}
