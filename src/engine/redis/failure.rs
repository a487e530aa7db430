//! The reasons to give a connection to Redis up.

use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::garbage::Garbage;

#[derive(Debug)]
pub enum Failure {
    /// The stream is not RESP.
    Garbage(Garbage),
    /// The text says what to do.
    Refused(String),
    /// The far end carries no messages; the text says what to do.
    Deaf(String),
}

impl From<Garbage> for Failure {
    fn from(garbage: Garbage) -> Failure {
        Failure::Garbage(garbage)
    }
}

impl Failure {
    /// A sentence for the operator.
    pub fn text(self, config: &RedisConfig) -> String {
        match self {
            Failure::Garbage(garbage) => advice::not_redis(config, &garbage.to_string()),
            Failure::Refused(text) | Failure::Deaf(text) => text,
        }
    }
}
