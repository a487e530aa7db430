//! The greeting of a connection for commands: `AUTH`, `SELECT`, `CLIENT SETNAME`, `PING`, in RESP2.
//!
//! All of it goes out at once and is answered in order. RESP3 would bring nothing here, and RESP2 is what every server speaks.
//! The PING tells whether commands are taken: a Redis that is still loading its data set takes all that stands before it.

use redis::{ServerError, Value};

use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::greeting::write_auth;

/// Which answer comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Auth,
    Select,
    SetName,
    Ping,
}

impl Opening {
    /// Queues all commands, for a connection that calls itself `name`.
    pub fn begin(name: &str, config: &RedisConfig, output: &mut Vec<u8>) -> Opening {
        let has_auth = write_auth(config, output);
        if config.database != 0 {
            output.extend(redis::cmd("SELECT").arg(config.database).get_packed_command());
        }
        output.extend(redis::cmd("CLIENT").arg("SETNAME").arg(name).get_packed_command());
        output.extend(redis::cmd("PING").get_packed_command());
        if has_auth { Opening::Auth } else { Opening::after_auth(config) }
    }

    /// The command whose answer comes next.
    pub fn command(self) -> &'static str {
        match self {
            Opening::Auth => "AUTH",
            Opening::Select => "SELECT",
            Opening::SetName => "CLIENT SETNAME",
            Opening::Ping => "PING",
        }
    }

    /// The answer came. `None`: it was the last one.
    ///
    /// # Errors
    /// It is an error that is an obstacle: the text says what to do.
    pub fn answered(self, config: &RedisConfig, answer: &Value) -> Result<Option<Opening>, String> {
        if let Value::ServerError(error) = answer
            && !self.may_fail_with(error)
        {
            return Err(advice::refused(config, self.command(), error));
        }
        Ok(match self {
            Opening::Auth => Some(Opening::after_auth(config)),
            Opening::Select => Some(Opening::SetName),
            Opening::SetName => Some(Opening::Ping),
            Opening::Ping => None,
        })
    }

    fn after_auth(config: &RedisConfig) -> Opening {
        if config.database == 0 { Opening::SetName } else { Opening::Select }
    }

    /// The name is for the eyes of the operator, and a disk that is full ends no reading. But this may be the first answer of
    /// the connection, and about the connection itself.
    fn may_fail_with(self, error: &ServerError) -> bool {
        match self {
            Opening::Auth | Opening::Select => false,
            Opening::SetName => {
                !matches!(error.code(), "DENIED" | "NOAUTH") && !advice::is_full(error)
            }
            Opening::Ping => error.code() == "MISCONF",
        }
    }
}
