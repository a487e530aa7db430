//! The Redis of a simulated world: it may disconnect at any byte, fall silent, or refuse, and move to its other address.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use crate::engine::random::Random;

/// A connection of the server to it.
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// Bytes on the way to the server.
    outgoing: Vec<u8>,
    /// It subscribes to all channels by a pattern.
    subscribed: bool,
    /// It has been greeted.
    greeted: bool,
    /// The channels that it subscribes to by name.
    channels: BTreeSet<String>,
}

/// A Redis on one of two sockets of its own in the file system: the other one takes connections and closes them.
pub struct Redis {
    listeners: [UnixListener; 2],
    pub paths: [PathBuf; 2],
    /// The socket at which it serves.
    at: usize,
    connection: Option<Connection>,
    /// It accepts and says nothing.
    pub silent: bool,
    /// It closes every new connection.
    pub refuses: bool,
    /// Complete messages sent to a subscriber.
    pub published: u64,
}

impl Redis {
    pub fn new(seed: u64) -> Redis {
        let paths = ["", "-b"].map(|end| {
            let name = format!("oneloop-simulation-{}-{seed}{end}", std::process::id());
            std::env::temp_dir().join(name)
        });
        let listeners = [0, 1].map(|number: usize| {
            let _ = std::fs::remove_file(&paths[number]);
            let listener = UnixListener::bind(&paths[number]).expect("a socket can be made");
            listener.set_nonblocking(true).expect("a socket takes its options");
            listener
        });
        let (connection, silent, refuses) = (None, false, false);
        Redis { listeners, paths, at: 0, connection, silent, refuses, published: 0 }
    }

    /// Returns whether it has a connection, which subscribes to all channels unless it does so on demand.
    pub fn is_connected(&self, on_demand: bool) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|one| if on_demand { one.greeted } else { one.subscribed })
    }

    /// The topics that are subscribed to by name.
    pub fn topics(&self) -> BTreeSet<String> {
        let channels = self.connection.iter().flat_map(|connection| &connection.channels);
        channels.filter_map(|channel| channel.strip_prefix("pub.")).map(str::to_owned).collect()
    }

    /// Publishes to all subscribers. Returns whether there are any.
    pub fn publish(&mut self, topic: &str, payload: &str) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        let channel = format!("pub.{topic}");
        let (length, bytes) = (channel.len(), payload.len());
        let rest = format!("${length}\r\n{channel}\r\n${bytes}\r\n{payload}\r\n");
        let by_name = connection.channels.contains(&channel);
        if by_name {
            let text = format!(">3\r\n$7\r\nmessage\r\n{rest}");
            connection.outgoing.extend_from_slice(text.as_bytes());
        }
        if connection.subscribed {
            let text = format!(">4\r\n$8\r\npmessage\r\n$5\r\npub.*\r\n{rest}");
            connection.outgoing.extend_from_slice(text.as_bytes());
        }
        let is_sent = by_name || connection.subscribed;
        self.published += u64::from(is_sent);
        is_sent
    }

    /// Ends the connection after sending a part of the pending bytes, and perhaps moves to the other address.
    pub fn cut(&mut self, random: &mut Random) {
        if let Some(mut connection) = self.connection.take() {
            let part = random.below(connection.outgoing.len() + 1);
            let _ = connection.stream.write(&connection.outgoing[..part]);
        }
        if random.below(4) == 0 {
            self.at = 1 - self.at;
        }
    }

    /// Accepts, answers, and sends some of the pending bytes.
    pub fn step(&mut self, random: &mut Random) {
        drop(self.listeners[1 - self.at].accept());
        if let Ok((stream, _)) = self.listeners[self.at].accept() {
            stream.set_nonblocking(true).expect("a socket takes its options");
            let fresh = Connection {
                stream,
                received: vec![],
                outgoing: vec![],
                subscribed: false,
                greeted: false,
                channels: BTreeSet::new(),
            };
            self.connection = (!self.refuses).then_some(fresh);
        }
        let Some(connection) = &mut self.connection else { return };
        let mut buffer = [0; 4096];
        match connection.stream.read(&mut buffer) {
            Ok(0) => {
                self.connection = None;
                return;
            }
            Ok(length) => connection.received.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.connection = None;
                return;
            }
        }
        if self.silent {
            return;
        }
        connection.answer();
        let most = connection.outgoing.len();
        let part = if random.below(3) == 0 { random.below(most + 1) } else { most };
        if part > 0 {
            let sent = connection.stream.write(&connection.outgoing[..part]).unwrap_or(0);
            connection.outgoing.drain(..sent);
        }
    }
}

impl Connection {
    fn answer(&mut self) {
        while let Some((words, length)) = command(&self.received) {
            self.received.drain(..length);
            let verb = words[0].to_lowercase();
            let reply = match words[0].as_str() {
                "HELLO" => "%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n",
                "SUBSCRIBE" | "UNSUBSCRIBE" => {
                    for channel in &words[1..] {
                        match verb.as_str() {
                            "subscribe" => self.channels.insert(channel.clone()),
                            _ => self.channels.remove(channel),
                        };
                        let (kind, length) = (verb.len(), channel.len());
                        let text =
                            format!(">3\r\n${kind}\r\n{verb}\r\n${length}\r\n{channel}\r\n:1\r\n");
                        self.outgoing.extend_from_slice(text.as_bytes());
                    }
                    ""
                }
                "PUNSUBSCRIBE" => {
                    self.subscribed = false;
                    ">3\r\n$12\r\npunsubscribe\r\n$5\r\npub.*\r\n:1\r\n"
                }
                "PSUBSCRIBE" => {
                    self.subscribed = true;
                    ">3\r\n$10\r\npsubscribe\r\n$5\r\npub.*\r\n:1\r\n"
                }
                "PING" => "+PONG\r\n",
                _ => {
                    self.greeted = true;
                    "+OK\r\n"
                }
            };
            self.outgoing.extend_from_slice(reply.as_bytes());
        }
    }
}

/// The first complete command and its length.
fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut at = 0;
    let mut line = |bytes: &[u8]| -> Option<String> {
        let end = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let text = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        at += end + 2;
        Some(text)
    };
    let count: usize = line(bytes)?[1..].parse().expect("an array");
    let mut words = Vec::new();
    for _ in 0..count {
        line(bytes)?;
        words.push(line(bytes)?);
    }
    Some((words, at))
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}
