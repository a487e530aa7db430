//! A look at Redis from outside the loop: one connection that greets as ours do, and then asks one command at a time.

use redis::Value;

use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::opening::Opening;
use crate::engine::redis::resp::{Framer, Whole};
use crate::engine::redis::scanner::Grammar;

/// A larger answer is not held.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// How it calls itself in `CLIENT LIST`.
const NAME: &str = "oneloop-doctor";

/// What Redis says.
#[derive(Debug, PartialEq, Eq)]
pub enum RedisReply {
    /// Every string and number of it in their order, whatever they are nested in.
    Words(Vec<String>),
    /// An error: its code, and the rest of the line.
    Refused(String, String),
}

/// A connection that asks. The caller owns the socket.
pub struct RedisExchange {
    config: RedisConfig,
    framer: Framer,
    /// Which answer comes next, while it is greeting.
    opening: Option<Opening>,
}

impl RedisExchange {
    /// Queues the greeting.
    pub fn begin(config: RedisConfig, output: &mut Vec<u8>) -> RedisExchange {
        let opening = Some(Opening::begin(NAME, &config, output));
        RedisExchange { config, framer: Framer::new(Grammar::Replies), opening }
    }

    /// Whether commands are taken.
    pub fn is_open(&self) -> bool {
        self.opening.is_none()
    }

    /// What is waited for, for a sentence.
    pub fn awaited(&self) -> &'static str {
        self.opening.map_or("a command", Opening::command)
    }

    /// Takes one answer from `input`; `None`: the input is used up, or that was the end of the greeting.
    ///
    /// # Errors
    /// The connection is of no use: the text says what to do.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<RedisReply>, String> {
        loop {
            let whole = self.framer.next(input, ANSWER_BYTES_MAX);
            let whole = whole.map_err(|garbage| advice::garbage(&self.config, garbage))?;
            let value = match whole {
                None => return Ok(None),
                Some(Whole::Oversized { .. }) => return Ok(Some(RedisReply::Words(Vec::new()))),
                Some(Whole::Value(bytes)) => redis::parse_redis_value(&bytes)
                    .map_err(|_| advice::not_redis(&self.config, "no RESP"))?,
            };
            let Some(opening) = self.opening else {
                match answer(value) {
                    // A message of a subscription: nobody asked for it.
                    RedisReply::Words(words)
                        if words.first().is_some_and(|word| word == "pmessage") =>
                    {
                        continue;
                    }
                    answer => return Ok(Some(answer)),
                }
            };
            self.opening = opening.answered(&self.config, &value)?;
            if self.opening.is_none() {
                return Ok(None);
            }
        }
    }
}

/// A command as it goes out.
pub fn command(words: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word.as_ref());
    }
    command.get_packed_command()
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

fn flatten(value: Value, words: &mut Vec<String>) {
    match value {
        Value::Array(values) => values.into_iter().for_each(|value| flatten(value, words)),
        Value::BulkString(bytes) => words.push(String::from_utf8_lossy(&bytes).into_owned()),
        Value::SimpleString(text) => words.push(text),
        Value::Int(number) => words.push(number.to_string()),
        Value::Okay => words.push("OK".to_owned()),
        // Of RESP3, which is not spoken here, or null.
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
        let words = ["a", "7", "OK"].map(str::to_owned).to_vec();
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
