//! The greeting of a new connection to Redis: `HELLO 3`, or `AUTH`; then `CLIENT SETNAME`, then `PSUBSCRIBE`.
//!
//! `HELLO 3` is sent alone, since what follows depends on its answer: a server that does not know it is greeted in RESP2.
//! The rest goes out at once, and is answered in order.

use redis::ServerError;

use super::link_config::LinkConfig;
use super::refusal;

/// How we call ourselves in `CLIENT LIST`.
const NAME: &str = "oneloop";

/// Which answer comes next.
#[derive(Clone, Copy)]
pub enum Greeting {
    Hello,
    Auth,
    SetName,
    Subscribe,
}

impl Greeting {
    /// Queues the first command.
    pub fn begin(config: &LinkConfig, output: &mut Vec<u8>) -> Greeting {
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
            Greeting::SetName => "CLIENT SETNAME",
            Greeting::Subscribe => "PSUBSCRIBE",
        }
    }

    /// The answer came, and is no error.
    pub fn accepted(self, config: &LinkConfig, output: &mut Vec<u8>) -> Greeting {
        match self {
            Greeting::Hello => subscribe(config, output),
            Greeting::Auth => Greeting::SetName,
            Greeting::SetName | Greeting::Subscribe => Greeting::Subscribe,
        }
    }

    /// The answer is an error. Some are no obstacle; for the others the text says what to do.
    pub fn refused(
        self,
        config: &LinkConfig,
        output: &mut Vec<u8>,
        error: &ServerError,
    ) -> Result<Greeting, String> {
        match self {
            Greeting::Hello if wants_resp2(config, error) => Ok(greet_in_resp2(config, output)),
            // The name is for the eyes of the operator: an ACL may forbid it. But where no HELLO was sent, this may be
            // what Redis answers to the connection itself.
            Greeting::SetName if error.code() != "DENIED" && !refusal::is_full(error) => {
                Ok(Greeting::Subscribe)
            }
            _ => Err(refusal::refused(config, self.command(), error)),
        }
    }
}

/// Whether this answer to HELLO may come from a server that merely does not know it.
fn wants_resp2(config: &LinkConfig, error: &ServerError) -> bool {
    match error.code() {
        "ERR" => !refusal::is_full(error),
        "NOPROTO" | "NOPERM" => true,
        // Redis takes HELLO with AUTH; what stands before it may ask for AUTH first.
        "NOAUTH" => credentials(config).is_some(),
        _ => false,
    }
}

fn greet_in_resp2(config: &LinkConfig, output: &mut Vec<u8>) -> Greeting {
    let has_auth = write_auth(config, output);
    let next = subscribe(config, output);
    if has_auth { Greeting::Auth } else { next }
}

/// Queues AUTH as RESP2 has it, where the URL names a user or a password; says whether it does.
pub fn write_auth(config: &LinkConfig, output: &mut Vec<u8>) -> bool {
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

fn subscribe(config: &LinkConfig, output: &mut Vec<u8>) -> Greeting {
    output.extend(redis::cmd("CLIENT").arg("SETNAME").arg(NAME).get_packed_command());
    output.extend(redis::cmd("PSUBSCRIBE").arg(&config.patterns).get_packed_command());
    Greeting::SetName
}

/// User, where one is named, and password. A user without one is taken at its word: an ACL may ask none of it.
fn credentials(config: &LinkConfig) -> Option<(Option<&str>, &str)> {
    let (username, password) = (config.username.as_deref(), config.password.as_deref());
    (username.is_some() || password.is_some()).then_some((username, password.unwrap_or("")))
}
