//! `oneloop forward`: posts each entry of a stream to a back end that has only HTTP.
//!
//! It reads by consumer group, one entry at a time, and acknowledges an entry once the back end has taken it. So entries come in
//! order, none is lost, and one that was under way when something failed may come twice.

mod entry;
mod http_client;

use std::convert::Infallible;
use std::time::Duration;

use crate::app;
use crate::cli::command::ForwardOptions;
use crate::cli::redis_client::{RedisClient, RedisReply, TOO_LONG};
use crate::cli::redis_servers;
use crate::cli::url::Url;
use crate::config::Config;
use crate::engine::redis::config::RedisConfig;
use entry::StreamEntry;
use http_client::HttpClient;

/// The group unless one is named.
const GROUP: &str = "oneloop-forward";

/// The one consumer of the group: after a restart it finds the entry that was under way.
const CONSUMER: &str = "forward";

/// Refusals of one entry before it is set aside, unless a number is given.
const ATTEMPTS: u64 = 10;

/// The first wait before a new attempt; it doubles with each, up to the longest.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Milliseconds that Redis waits for an entry.
const BLOCK: &str = "2000";

/// Bytes of an entry beside the largest payload.
const ENTRY_BYTES: usize = 64 * 1024;

/// Entries that are kept of those set aside, about.
const FAILED_MAX: &str = "10000";

/// Answers by which a back end refuses one entry. Every other one but 2xx is an outage, which is waited for.
const REFUSALS: [u16; 6] = [400, 410, 413, 415, 422, 500];

/// Forwards for ever.
///
/// # Errors
/// A sentence if the settings or the options cannot be used.
pub fn forward(
    config: &Config,
    options: &ForwardOptions,
    sleep: &dyn Fn(Duration),
) -> Result<Infallible, String> {
    let redis = app::link(config)?.ok_or("forward reads from a Redis: --redis redis://HOST")?;
    let url = Url::parse_http(&options.url)?;
    let mut lines = format!("Oneloop-Stream: {}\r\n", options.stream);
    if let Some(file) = &options.token_file {
        lines.push_str(&format!("Authorization: Bearer {}\r\n", token(file)?));
    }
    let mut forwarder = Forwarder {
        stream: &options.stream,
        group: options.group.as_deref().unwrap_or(GROUP),
        attempts: options.attempts.unwrap_or(ATTEMPTS),
        reply_bytes_max: config.bounds.payload_bytes_max + ENTRY_BYTES,
        http: HttpClient::new(url, &lines),
        is_caught_up: false,
        tries: 0,
        sleep,
    };
    loop {
        let Err(why) = forwarder.run(&redis);
        forwarder.wait(&why);
    }
}

/// Reads the token for the back end.
fn token(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        true => Ok(token.to_owned()),
        false => Err(format!("{file}: a line of visible ASCII is expected")),
    }
}

struct Forwarder<'a> {
    stream: &'a str,
    group: &'a str,
    attempts: u64,
    reply_bytes_max: usize,
    http: HttpClient,
    /// No entry is pending: new ones are read.
    is_caught_up: bool,
    /// Failures since the last success.
    tries: u32,
    sleep: &'a dyn Fn(Duration),
}

impl Forwarder<'_> {
    /// Forwards on one connection to Redis, which begins with the entry that was under way on the last one.
    fn run(&mut self, redis: &RedisConfig) -> Result<Infallible, String> {
        let mut redis = redis_servers::open(redis)?.staying(self.reply_bytes_max);
        self.is_caught_up = false;
        loop {
            self.step(&mut redis)?;
        }
    }

    /// Reads one entry, if there is one, and forwards it.
    fn step(&mut self, redis: &mut RedisClient) -> Result<(), String> {
        // Redis waits for new entries only.
        let from = if self.is_caught_up { ">" } else { "0" };
        let read = ["XREADGROUP", "GROUP", self.group, CONSUMER, "COUNT", "1", "BLOCK", BLOCK];
        let words = [&read[..], &["STREAMS", self.stream, from]].concat();
        match redis.ask(&words)? {
            RedisReply::Words(words) => match StreamEntry::of_reply(words) {
                Some(entry) => self.settle(redis, &entry),
                None => {
                    self.is_caught_up = true;
                    self.tries = 0;
                    Ok(())
                }
            },
            RedisReply::Refused(code, _) if code == "NOGROUP" => self.create_group(redis),
            RedisReply::Refused(code, _) if code == TOO_LONG => self.skip_first(redis),
            RedisReply::Refused(code, details) => Err(refused("XREADGROUP", &code, &details)),
        }
    }

    /// Creates the group, and the stream if there is none. The group begins with the oldest entry.
    fn create_group(&mut self, redis: &mut RedisClient) -> Result<(), String> {
        let create = ["XGROUP", "CREATE", self.stream, self.group, "0", "MKSTREAM"];
        match redis.ask(&create)? {
            RedisReply::Refused(code, details) if code != "BUSYGROUP" => {
                Err(refused("XGROUP CREATE", &code, &details))
            }
            _ => Ok(()),
        }
    }

    /// Acknowledges the first pending entry, which is longer than a message may be.
    fn skip_first(&mut self, redis: &mut RedisClient) -> Result<(), String> {
        let pending = ["XPENDING", self.stream, self.group, "-", "+", "1", CONSUMER];
        let id = redis.words(&pending)?.into_iter().next();
        let id = id.ok_or("Redis does not say which entry is too long (+xpending)")?;
        let max = self.reply_bytes_max;
        log::error!("entry {id} of {} is skipped: it has more than {max} bytes", self.stream);
        self.acknowledge(redis, &id)
    }

    /// Posts an entry until the back end takes it, or has refused it too often.
    fn settle(&mut self, redis: &mut RedisClient, entry: &StreamEntry) -> Result<(), String> {
        let id = &entry.id;
        let Some(body) = entry.body() else {
            log::error!("entry {id} of {} was trimmed before it was forwarded", self.stream);
            return self.acknowledge(redis, id);
        };
        let line = format!("Oneloop-Entry: {id}\r\n");
        let mut refusals = 0;
        loop {
            let why = match self.http.post(&line, body.as_bytes()) {
                Ok(200..=299) => return self.acknowledge(redis, id),
                Ok(status) if REFUSALS.contains(&status) => {
                    refusals += 1;
                    if refusals == self.attempts {
                        self.set_aside(redis, entry, status)?;
                        return self.acknowledge(redis, id);
                    }
                    format!("entry {id} is answered with {status}")
                }
                Ok(status) => format!("{} answers {status}", self.http.address()),
                Err(why) => why,
            };
            self.wait(&why);
        }
    }

    fn acknowledge(&mut self, redis: &mut RedisClient, id: &str) -> Result<(), String> {
        match redis.ask(&["XACK", self.stream, self.group, id])? {
            RedisReply::Words(_) => {
                self.tries = 0;
                Ok(())
            }
            RedisReply::Refused(code, details) => Err(refused("XACK", &code, &details)),
        }
    }

    /// Keeps an entry that the back end refuses in the stream `STREAM:failed`.
    fn set_aside(
        &mut self,
        redis: &mut RedisClient,
        entry: &StreamEntry,
        status: u16,
    ) -> Result<(), String> {
        let (key, status) = (format!("{}:failed", self.stream), status.to_string());
        let add = ["XADD", &key, "MAXLEN", "~", FAILED_MAX, "*"];
        let about = ["entry", &entry.id, "status", &status];
        let words = add.iter().chain(&about).map(|word| word.as_bytes()).chain(entry.words());
        log::error!("entry {} is refused with {status} for good: it is kept in {key}", entry.id);
        match redis.ask(&words.collect::<Vec<_>>())? {
            RedisReply::Words(_) => Ok(()),
            RedisReply::Refused(code, details) => Err(refused("XADD", &code, &details)),
        }
    }

    fn wait(&mut self, why: &str) {
        let wait = BACKOFF.saturating_mul(1 << self.tries.min(10)).min(BACKOFF_MAX);
        self.tries += 1;
        log::warn!("{why}; next attempt in {:.1} s", wait.as_secs_f32());
        (self.sleep)(wait);
    }
}

fn refused(command: &str, code: &str, details: &str) -> String {
    format!("Redis refuses {command}: {code} {details}").escape_debug().to_string()
}
