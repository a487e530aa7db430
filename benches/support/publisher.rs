//! A publisher: a connection to the server's port that speaks as much RESP as PUBLISH takes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;
use super::server::Server;

/// A connection to the publishers' port.
pub struct Publisher(BufReader<TcpStream>);

impl Publisher {
    /// Connects to the server's own port.
    pub fn connect(server: &Server) -> Publisher {
        Publisher::connect_to(server.publishers)
    }

    /// Connects to a Redis, or to whatever speaks like one: its answers are numbers of subscribers.
    pub fn connect_to(address: SocketAddr) -> Publisher {
        let stream = TcpStream::connect(address).expect("the port is open");
        stream
            .set_read_timeout(Some(DEADLINE))
            .and_then(|()| stream.set_nodelay(true))
            .expect("a socket takes its options");
        Publisher(BufReader::new(stream))
    }

    /// Publishes the same payload `times` times in one write, and returns the clients that each went to.
    pub fn publish(&mut self, topic: &str, payload: &str, times: usize) -> Vec<usize> {
        self.write(&command(topic, payload).repeat(times));
        (0..times).map(|_| self.answer()).collect()
    }

    /// Publishes numbers in one write, whoever they reach.
    pub fn publish_all(&mut self, messages: &[(&str, u64)]) {
        let commands = messages.iter().map(|(topic, number)| command(topic, &number.to_string()));
        self.write(&commands.collect::<String>());
        for _ in messages {
            self.answer();
        }
    }

    /// Publishes once; the answer is still to be read.
    pub fn send(&mut self, topic: &str, payload: &str) {
        self.write(&command(topic, payload));
    }

    /// Waits until the server has left the turn in which it did what came before: this answer is made in a later one.
    pub fn settle(&mut self) {
        let reached = self.publish("nobody.listens", "0", 1);
        assert_eq!(reached, [0]);
    }

    /// The next answer: to how many clients a message went.
    pub fn answer(&mut self) -> usize {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a command is answered");
        line.trim_end()
            .strip_prefix(':')
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("not an integer: {line}"))
    }

    fn write(&mut self, commands: &str) {
        self.0.get_mut().write_all(commands.as_bytes()).expect("the port takes commands");
    }
}

fn command(topic: &str, payload: &str) -> String {
    let (channel, bytes) = (format!("pub.{topic}"), payload.len());
    let length = channel.len();
    format!("*3\r\n$7\r\nPUBLISH\r\n${length}\r\n{channel}\r\n${bytes}\r\n{payload}\r\n")
}
