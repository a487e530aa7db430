//! The reasons to give a connection to Redis up.

use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::garbage::Garbage;

#[derive(Debug)]
pub enum RedisFailure {
    /// The stream is not RESP.
    Garbage(Garbage),
    /// The text says what to do.
    Refused(String),
    /// The far end carries no messages; the text says what to do.
    Deaf(String),
}

impl From<Garbage> for RedisFailure {
    fn from(garbage: Garbage) -> RedisFailure {
        RedisFailure::Garbage(garbage)
    }
}

impl RedisFailure {
    /// A sentence for the operator.
    pub fn text(self, config: &RedisConfig) -> String {
        match self {
            RedisFailure::Garbage(garbage) => advice::not_redis(config, &garbage.to_string()),
            RedisFailure::Refused(text) | RedisFailure::Deaf(text) => text,
        }
    }
}
