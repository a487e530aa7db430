//! A blocking client of Redis for the commands: the server's own handshake, then one command at a time.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use redis::Value;

use crate::cli::dial::{self, Deadline, ServerConnection, TIMEOUT, is_silence};
use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::handshake::Handshake;
use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;
use crate::engine::redis::url::Address;

/// The longest reply that is kept. A longer one is read as a refusal with the code [`TOO_LONG`].
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The code of a refusal that is ours.
pub(super) const TOO_LONG: &str = "TOOLONG";

/// The connection's name in `CLIENT LIST`.
const NAME: &str = "oneloop-doctor";

/// A reply of Redis.
#[derive(Debug, PartialEq, Eq)]
pub enum RedisReply {
    /// All strings and numbers of the reply in order, without their nesting.
    Words(Vec<Vec<u8>>),
    /// An error: its code, and the rest of the line.
    Refused(String, String),
}

/// The protocol of a connection, without I/O.
pub struct RedisExchange {
    config: RedisConfig,
    framer: Framer,
    handshake: Handshake,
    bytes_max: usize,
}

impl RedisExchange {
    /// Queues the handshake in `output`.
    pub fn begin(config: RedisConfig, output: &mut Vec<u8>) -> RedisExchange {
        let mut handshake = Handshake::of_commands(NAME);
        handshake.begin(&config, output);
        let framer = Framer::new(Grammar::Replies);
        RedisExchange { config, framer, handshake, bytes_max: ANSWER_BYTES_MAX }
    }

    /// Returns whether the handshake is complete.
    pub fn is_open(&self) -> bool {
        self.handshake.is_over()
    }

    /// The command whose reply is awaited, for a sentence.
    pub fn awaited(&self) -> &'static str {
        self.handshake.command()
    }

    /// Takes one reply from `input`; `None` if the input is used up, or completed the handshake.
    ///
    /// # Errors
    /// A sentence that says what to do, if the connection is unusable.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<RedisReply>, String> {
        loop {
            let whole = self.framer.next(input, self.bytes_max);
            let whole = whole.map_err(|garbage| RedisFailure::from(garbage).text(&self.config))?;
            let value = match whole {
                None => return Ok(None),
                Some(Whole::Oversized { bytes }) => {
                    let details = format!("the reply has {bytes} bytes");
                    return Ok(Some(RedisReply::Refused(TOO_LONG.to_owned(), details)));
                }
                Some(Whole::Value(bytes)) => redis::parse_redis_value(&bytes)
                    .map_err(|_| advice::not_redis(&self.config, "no RESP"))?,
            };
            if self.handshake.is_over() {
                match answer(value) {
                    // A message of a subscription is not a reply.
                    RedisReply::Words(words)
                        if words.first().is_some_and(|word| word == b"pmessage") =>
                    {
                        continue;
                    }
                    answer => return Ok(Some(answer)),
                }
            }
            // In a handshake for commands nothing follows from a reply.
            let taken = self.handshake.on_reply(&self.config, &mut Vec::new(), &value);
            taken.map_err(|failure| failure.text(&self.config))?;
            if self.handshake.is_over() {
                return Ok(None);
            }
        }
    }
}

/// Encodes a command.
pub fn command(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word.as_ref());
    }
    command.get_packed_command()
}

/// The longest life of a connection to Redis, however slowly it answers.
const LIFE_MAX: Duration = Duration::from_secs(60);

/// A connection to Redis for one command at a time.
pub(super) struct RedisClient {
    connection: ServerConnection,
    /// The end of its life; `None` if it stays.
    deadline: Option<Deadline>,
    exchange: RedisExchange,
    /// Bytes that were read but not parsed yet.
    input: Vec<u8>,
    pub(super) config: RedisConfig,
}

impl RedisClient {
    /// Connects to the server that was chosen, and completes the handshake; see [`crate::cli::redis_servers::open`].
    ///
    /// # Errors
    /// A sentence if the server cannot be reached, does not speak Redis' protocol, or refuses the login.
    pub(super) fn open(config: RedisConfig) -> Result<RedisClient, String> {
        let config = RedisConfig { timeout: TIMEOUT.as_millis() as u64, ..config };
        let connection = match &config.server.address {
            Address::Unix(path) => UnixStream::connect(path).map(ServerConnection::new),
            Address::Tcp { .. } => dial::connect(&config.server.address.to_string()),
        };
        let connection =
            connection.map_err(|error| format!("{} ({error})", advice::unreachable(&config)))?;
        let deadline = Deadline::new(&connection, LIFE_MAX).map_err(|error| error.to_string())?;
        let connection = match &config.server.tls {
            None => connection,
            Some(tls) => {
                let secured = connection.secure(tls.begin()?);
                secured.map_err(|error| match tls.explain(&error, false) {
                    Some(why) => why,
                    None if is_silence(&error) => advice::unsecured(&config),
                    None => format!("{} ({error})", advice::unreachable(&config)),
                })?
            }
        };
        let mut handshake = Vec::new();
        let exchange = RedisExchange::begin(config.clone(), &mut handshake);
        let mut client = RedisClient {
            connection,
            deadline: Some(deadline),
            exchange,
            input: Vec::new(),
            config,
        };
        client.send(&handshake);
        while !client.exchange.is_open() {
            client.read()?;
        }
        Ok(client)
    }

    /// Lets the connection stay, and take replies of up to `bytes_max`.
    pub(super) fn staying(mut self, bytes_max: usize) -> RedisClient {
        self.deadline = None;
        self.exchange.bytes_max = bytes_max;
        self
    }

    /// Sends a command, and waits for its reply.
    ///
    /// # Errors
    /// A sentence if the connection is gone.
    pub(super) fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> Result<RedisReply, String> {
        self.send(&command(words));
        self.next()
    }

    /// Sends a command, and returns the words of its reply, or none if Redis refuses it.
    pub(super) fn words(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        Ok(match self.ask(words)? {
            RedisReply::Words(words) => {
                words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect()
            }
            RedisReply::Refused(..) => Vec::new(),
        })
    }

    /// Waits for the next reply or message.
    ///
    /// # Errors
    /// A sentence if none comes.
    pub(super) fn next(&mut self) -> Result<RedisReply, String> {
        loop {
            if let Some(reply) = self.read()? {
                return Ok(reply);
            }
        }
    }

    fn explain(&self, error: &io::Error) -> String {
        let explained = self.config.server.tls.as_ref().and_then(|tls| tls.explain(error, true));
        explained.unwrap_or_else(|| advice::unanswered(&self.config, self.exchange.awaited()))
    }

    fn send(&mut self, bytes: &[u8]) {
        // A failure shows in the next read.
        let _ = self.connection.write(bytes);
    }

    fn read(&mut self) -> Result<Option<RedisReply>, String> {
        if self.input.is_empty() {
            match self.connection.read(&mut self.input, TIMEOUT) {
                Ok(0) => {
                    return Err(format!(
                        "Redis at {} closed the connection",
                        self.config.server.address
                    ));
                }
                Ok(_) => {}
                Err(error) => return Err(self.explain(&error)),
            }
        }
        let mut rest = &self.input[..];
        let reply = self.exchange.next(&mut rest);
        let taken = self.input.len() - rest.len();
        self.input.drain(..taken);
        reply
    }
}

fn answer(value: Value) -> RedisReply {
    if let Value::ServerError(error) = value {
        let details = error.details().unwrap_or_default();
        return RedisReply::Refused(error.code().to_owned(), details.to_owned());
    }
    let mut words = Vec::new();
    flatten(value, &mut words);
    RedisReply::Words(words)
}

fn flatten(value: Value, words: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(values) => values.into_iter().for_each(|value| flatten(value, words)),
        Value::BulkString(bytes) => words.push(bytes),
        Value::SimpleString(text) => words.push(text.into_bytes()),
        Value::Int(number) => words.push(number.to_string().into_bytes()),
        Value::Okay => words.push(b"OK".to_vec()),
        // Null, or RESP3, which is not spoken here.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str, answers: &str) -> (RedisExchange, Result<Option<RedisReply>, String>) {
        let config = RedisConfig::from_url(url).expect("the URL is right");
        let mut inquiry = RedisExchange::begin(config, &mut Vec::new());
        let mut input = answers.as_bytes();
        let mut found = inquiry.next(&mut input);
        while found == Ok(None) && !input.is_empty() {
            found = inquiry.next(&mut input);
        }
        (inquiry, found)
    }

    #[test]
    fn what_is_answered_behind_the_greeting_comes_as_words() {
        let (inquiry, found) =
            asked("redis://h", "+OK\r\n+PONG\r\n*3\r\n$1\r\na\r\n:7\r\n*2\r\n+OK\r\n$-1\r\n");
        let words = ["a", "7", "OK"].map(|word| word.as_bytes().to_vec()).to_vec();
        assert!(inquiry.is_open());
        assert_eq!(found, Ok(Some(RedisReply::Words(words))));
        let (_, refused) = asked("redis://h", "+OK\r\n+PONG\r\n-NOPERM not you\r\n");
        assert_eq!(refused, Ok(Some(RedisReply::Refused("NOPERM".into(), "not you".into()))));
    }

    #[test]
    fn a_message_is_no_answer() {
        let message = "*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\na\r\n$1\r\nm\r\n";
        let answers = ["+OK\r\n+PONG\r\n", message, message, "-NOPERM not you\r\n"].concat();
        let (_, refused) = asked("redis://h", &answers);
        assert_eq!(refused, Ok(Some(RedisReply::Refused("NOPERM".into(), "not you".into()))));
    }

    #[test]
    fn a_greeting_that_is_refused_says_what_to_do() {
        let (inquiry, found) = asked("redis://h/3", "-NOAUTH Authentication required.\r\n");
        assert!(!inquiry.is_open() && inquiry.awaited() == "SELECT");
        assert!(found.expect_err("refused").contains("it wants a password"));
        let (_, found) = asked("redis://h", "HTTP/1.1 400 Bad Request\r\n");
        assert!(found.expect_err("no Redis").contains("something that is not Redis"));
    }
}
