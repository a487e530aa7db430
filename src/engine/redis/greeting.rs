//! The greeting of a new connection to Redis: `HELLO 3`, or `AUTH`; then `CLIENT SETNAME`, a look at what it is, `PSUBSCRIBE`.
//!
//! `HELLO 3` is sent alone, since what follows depends on its answer: a server that does not know it is greeted in RESP2, and one
//! that does not say its mode is no Redis, and not asked for more. The rest goes out at once, and is answered in order.

use redis::{ServerError, Value};

use crate::engine::redis::advice;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::far_end::{self, FarEnd};

/// How we call ourselves in `CLIENT LIST`.
const NAME: &str = "oneloop";

/// Which answer comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    Hello,
    Auth,
    SetName(Look),
    Role(Look),
    Info,
    Subscribe,
}

/// How closely the far end is looked at before it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Nothing,
    /// By ROLE, before a subscription in RESP2 takes no further commands.
    Role,
    /// By ROLE and INFO, and by a message to ourselves.
    All,
}

impl Greeting {
    /// Queues the first command.
    pub fn begin(config: &RedisConfig, output: &mut Vec<u8>) -> Greeting {
        if config.resp2_only {
            return greet_in_resp2(config, output);
        }
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if let Some((username, password)) = credentials(config) {
            hello.arg("AUTH").arg(username.unwrap_or("default")).arg(password);
        }
        output.extend(hello.get_packed_command());
        Greeting::Hello
    }

    /// The command whose answer comes next.
    pub fn command(self) -> &'static str {
        match self {
            Greeting::Hello => "HELLO",
            Greeting::Auth => "AUTH",
            Greeting::SetName(_) => "CLIENT SETNAME",
            Greeting::Role(_) => "ROLE",
            Greeting::Info => "INFO",
            Greeting::Subscribe => "PSUBSCRIBE",
        }
    }

    /// The answer came, and is no error.
    ///
    /// # Errors
    /// It tells that no messages would come: the text says what to do.
    pub fn accepted(
        self,
        config: &RedisConfig,
        output: &mut Vec<u8>,
        answer: &Value,
    ) -> Result<Greeting, String> {
        match self {
            Greeting::Hello => match far_end::mode(answer) {
                Some("sentinel") => return Err(advice::sentinel(config)),
                Some(_) => return Ok(subscribe(config, output, Look::All)),
                None => return Ok(subscribe(config, output, Look::Nothing)),
            },
            Greeting::Role(_) => sound(config, far_end::by_role(answer))?,
            Greeting::Info => sound(config, far_end::by_info(answer))?,
            Greeting::Auth | Greeting::SetName(_) | Greeting::Subscribe => {}
        }
        Ok(self.next())
    }

    /// Which answer comes after this one.
    fn next(self) -> Greeting {
        match self {
            Greeting::Auth => Greeting::SetName(Look::Role),
            Greeting::SetName(look @ (Look::Role | Look::All)) => Greeting::Role(look),
            Greeting::Role(Look::All) => Greeting::Info,
            _ => Greeting::Subscribe,
        }
    }

    /// Returns whether this begins a connection that is looked at closely.
    pub fn looks_closely(self) -> bool {
        self == Greeting::SetName(Look::All)
    }

    /// The answer is an error. Some are no obstacle; for the others the text says what to do.
    pub fn refused(
        self,
        config: &RedisConfig,
        output: &mut Vec<u8>,
        error: &ServerError,
    ) -> Result<Greeting, String> {
        match self {
            Greeting::Hello if wants_resp2(config, error) => Ok(greet_in_resp2(config, output)),
            // The name is for the eyes of the operator: an ACL may forbid it. But where no HELLO was sent, this may be
            // what Redis answers to the connection itself.
            Greeting::SetName(_) if error.code() != "DENIED" && !advice::is_full(error) => {
                Ok(self.next())
            }
            // Whoever may not look is believed.
            Greeting::Role(_) | Greeting::Info if error.code() != "NOAUTH" => Ok(self.next()),
            _ => Err(advice::refused(config, self.command(), error)),
        }
    }
}

/// Whether this answer to HELLO may come from a server that merely does not know it.
fn wants_resp2(config: &RedisConfig, error: &ServerError) -> bool {
    match error.code() {
        "ERR" => !advice::is_full(error),
        "NOPROTO" | "NOPERM" => true,
        // Redis takes HELLO with AUTH; what stands before it may ask for AUTH first.
        "NOAUTH" => credentials(config).is_some(),
        _ => false,
    }
}

fn greet_in_resp2(config: &RedisConfig, output: &mut Vec<u8>) -> Greeting {
    let has_auth = write_auth(config, output);
    let next = subscribe(config, output, Look::Role);
    if has_auth { Greeting::Auth } else { next }
}

/// Queues AUTH as RESP2 has it, where the URL names a user or a password; says whether it does.
pub fn write_auth(config: &RedisConfig, output: &mut Vec<u8>) -> bool {
    let Some((username, password)) = credentials(config) else {
        return false;
    };
    let mut auth = redis::cmd("AUTH");
    if let Some(username) = username {
        auth.arg(username);
    }
    output.extend(auth.arg(password).get_packed_command());
    true
}

fn subscribe(config: &RedisConfig, output: &mut Vec<u8>, look: Look) -> Greeting {
    output.extend(redis::cmd("CLIENT").arg("SETNAME").arg(NAME).get_packed_command());
    if look != Look::Nothing {
        write_role(output);
    }
    if look == Look::All {
        write_info(output);
    }
    output.extend(redis::cmd("PSUBSCRIBE").arg(&config.patterns).get_packed_command());
    Greeting::SetName(look)
}

/// Queues ROLE.
pub fn write_role(output: &mut Vec<u8>) {
    output.extend(redis::cmd("ROLE").get_packed_command());
}

/// Queues `INFO replication`.
pub fn write_info(output: &mut Vec<u8>) {
    output.extend(redis::cmd("INFO").arg("replication").get_packed_command());
}

/// Turns a far end that carries no messages into what to do about it.
///
/// # Errors
/// The text.
pub fn sound(config: &RedisConfig, far_end: FarEnd) -> Result<(), String> {
    match far_end {
        FarEnd::Sound => Ok(()),
        FarEnd::Sentinel => Err(advice::sentinel(config)),
        FarEnd::CutOff(state) => Err(advice::cut_off(config, &state)),
    }
}

/// User, where one is named, and password. A user without one is taken at its word: an ACL may ask none of it.
fn credentials(config: &RedisConfig) -> Option<(Option<&str>, &str)> {
    let (username, password) = (config.username.as_deref(), config.password.as_deref());
    (username.is_some() || password.is_some()).then_some((username, password.unwrap_or("")))
}
