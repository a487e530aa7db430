//! A publisher that adds entries to a stream, each exactly once, however often Redis is killed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;
use super::process::wait_until;
use super::redis::{Redis, answers, command};

/// The stream's key.
pub const STREAM: &str = "pub";

/// About so many entries stay.
const ENTRIES_MAX: &str = "1000000";

/// Lines of an answer with one entry of two fields.
const ENTRY_LINES: usize = 12;

/// A connection that is made again when it has broken.
pub struct StreamPublisher {
    redis: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    /// The number of times that it was unknown whether entries were added, and of those that had been.
    pub doubts: usize,
    pub added_in_doubt: usize,
}

impl StreamPublisher {
    /// Connects when it has something to add.
    pub fn new(redis: &Redis) -> StreamPublisher {
        StreamPublisher { redis: redis.address, connection: None, doubts: 0, added_in_doubt: 0 }
    }

    /// Adds messages in their order, and waits until Redis has them all. No message may come twice, neither now nor later: what
    /// the answers of a Redis that died leave open is found out by the stream's last entry.
    ///
    /// # Panics
    /// If an entry is gone that was acknowledged.
    pub fn add(&mut self, messages: &[(&str, u64)]) {
        let mut left = messages;
        while !left.is_empty() {
            let mut acknowledged = 0;
            if self.try_to_add(left, &mut acknowledged).is_ok() {
                return;
            }
            let added = self.count_added(left);
            assert!(added >= acknowledged, "Redis has lost what it had acknowledged");
            self.doubts += 1;
            self.added_in_doubt += added - acknowledged;
            left = &left[added..];
        }
    }

    fn try_to_add(&mut self, messages: &[(&str, u64)], acknowledged: &mut usize) -> io::Result<()> {
        let commands = messages.iter().flat_map(|(topic, number)| {
            let number = number.to_string();
            let fields = ["topic", *topic, "data", number.as_str()];
            let add = ["XADD", STREAM, "MAXLEN", "~", ENTRIES_MAX, "*"];
            command(&[&add[..], &fields].concat())
        });
        let commands: Vec<u8> = commands.collect();
        let connection = self.connection()?;
        connection.get_mut().write_all(&commands)?;
        for _ in messages {
            let line = read_line(connection)?;
            assert!(line.starts_with('$'), "XADD was answered {line:?}");
            read_line(connection)?;
            *acknowledged += 1;
        }
        Ok(())
    }

    /// The number of these entries, all from the first on, that the next Redis has.
    fn count_added(&mut self, messages: &[(&str, u64)]) -> usize {
        let mut last = None;
        let found = wait_until(|| {
            self.connection = None;
            answers(self.redis) && self.last_entry().map(|entry| last = entry).is_ok()
        });
        assert!(found, "Redis does not come back");
        let Some((topic, number)) = last else { return 0 };
        let at = messages.iter().position(|one| (one.0, one.1) == (topic.as_str(), number));
        at.map_or(0, |at| at + 1)
    }

    /// The topic and the number of the latest entry.
    fn last_entry(&mut self) -> io::Result<Option<(String, u64)>> {
        let connection = self.connection()?;
        let ask = command(&["XREVRANGE", STREAM, "+", "-", "COUNT", "1"]);
        connection.get_mut().write_all(&ask)?;
        if read_line(connection)? == "*0" {
            return Ok(None);
        }
        let lines: Vec<String> =
            (0..ENTRY_LINES).map(|_| read_line(connection)).collect::<io::Result<_>>()?;
        let number = lines[ENTRY_LINES - 1].parse().expect("what was added is a number");
        Ok(Some((lines[7].clone(), number)))
    }

    fn connection(&mut self) -> io::Result<&mut BufReader<TcpStream>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.redis)?;
                stream.set_read_timeout(Some(DEADLINE))?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        Ok(self.connection.insert(connection))
    }
}

fn read_line(connection: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    match connection.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ if !line.ends_with('\n') => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}
