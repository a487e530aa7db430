//! The handshake of a new connection to Redis: commands, each with the meaning of its reply.
//!
//! A connection for commands sends `AUTH`, `SELECT`, `CLIENT SETNAME` and `PING` at once, in RESP2: RESP3 would bring nothing, and
//! every server speaks RESP2. The PING shows whether commands are taken: a Redis that is still loading its data set takes all
//! that precede it. Before it, a primary that a Sentinel has named is asked for its `ROLE`.
//!
//! A subscription begins with `HELLO 3` alone, since the rest depends on the reply: a server that does not know it is greeted in
//! RESP2, and one that does not say its mode is no Redis, and is not asked for more. The rest goes out at once: `CLIENT SETNAME`,
//! questions about the far end, `PSUBSCRIBE`.

use std::collections::VecDeque;

use redis::{ServerError, Value};

use crate::engine::redis::advice;
use crate::engine::redis::cluster;
use crate::engine::redis::config::{RedisConfig, ServerKind};
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::far_end;

/// The handshake of one connection after the other.
pub struct Handshake {
    /// The connection's name in `CLIENT LIST`.
    name: &'static str,
    is_subscription: bool,
    /// Commands without a reply, the oldest first. `PSUBSCRIBE` stays: its acknowledgements are pushes.
    awaited: VecDeque<HandshakeStep>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HandshakeStep {
    Hello,
    Auth,
    Select,
    SetName,
    /// In RESP2 before the subscription, after which Redis takes no further commands.
    Role,
    Info,
    /// Of a node of a cluster alone.
    ClusterInfo,
    Subscribe,
    Ping,
}

impl Handshake {
    /// The handshake of a connection for commands.
    pub fn of_commands(name: &'static str) -> Handshake {
        Handshake { name, is_subscription: false, awaited: VecDeque::new() }
    }

    /// The handshake of a subscription to the patterns of the settings.
    pub fn of_subscription(name: &'static str) -> Handshake {
        Handshake { name, is_subscription: true, awaited: VecDeque::new() }
    }

    /// Queues the first commands of a new connection.
    pub fn begin(&mut self, config: &RedisConfig, output: &mut Vec<u8>) {
        use HandshakeStep::{Auth, Hello, Ping, Role, Select, SetName};
        self.awaited.clear();
        match self.is_subscription {
            true if config.server.resp2_only => self.subscribe_in_resp2(config, output),
            true => self.send(&[Hello], config, output),
            false => self.send(&[Auth, Select, SetName, Role, Ping], config, output),
        }
    }

    /// Returns whether every command has its reply.
    pub fn is_over(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Returns whether no reply is awaited but acknowledgements of patterns.
    pub fn is_answered(&self) -> bool {
        self.awaited.iter().all(|step| *step == HandshakeStep::Subscribe)
    }

    /// The command whose reply comes next.
    pub fn command(&self) -> &'static str {
        self.awaited.front().map_or("a command", |step| step.command())
    }

    /// Returns whether the far end said its mode, and was asked for its state.
    pub fn looks_closely(&self) -> bool {
        self.awaited.contains(&HandshakeStep::Info)
    }

    /// Takes the next reply, and queues what follows from it.
    ///
    /// # Errors
    /// Redis refused the command, or says that it carries no messages.
    pub fn on_reply(
        &mut self,
        config: &RedisConfig,
        output: &mut Vec<u8>,
        reply: &Value,
    ) -> Result<(), RedisFailure> {
        use HandshakeStep::{ClusterInfo, Hello, Info, Role, SetName, Subscribe};
        let Some(&step) = self.awaited.front() else { return Ok(()) };
        match (step, reply) {
            (Hello, Value::ServerError(error)) if wants_resp2(config, error) => {
                self.subscribe_in_resp2(config, output);
            }
            (_, Value::ServerError(error)) if !self.may_be_refused(step, error) => {
                return Err(RedisFailure::Refused(advice::refused(config, step.command(), error)));
            }
            (Hello, hello) => match far_end::mode(hello) {
                Some("sentinel") => return Err(RedisFailure::Deaf(advice::sentinel(config))),
                Some(mode) => {
                    cluster::check_mode(mode, config)?;
                    far_end::by_hello(hello).check(config)?;
                    self.send(&[SetName, Role, Info, ClusterInfo, Subscribe], config, output);
                }
                None => self.send(&[SetName, Subscribe], config, output),
            },
            (Role, role) => far_end::by_role(role).check(config)?,
            (Info, info) => far_end::by_info(info).check(config)?,
            (ClusterInfo, info) => cluster::check_state(info, config)?,
            _ => {}
        }
        if step != Subscribe {
            self.awaited.pop_front();
        }
        Ok(())
    }

    fn subscribe_in_resp2(&mut self, config: &RedisConfig, output: &mut Vec<u8>) {
        use HandshakeStep::{Auth, ClusterInfo, Role, SetName, Subscribe};
        self.send(&[Auth, SetName, Role, ClusterInfo, Subscribe], config, output);
    }

    /// Queues these commands, but for those that the settings make needless.
    fn send(&mut self, steps: &[HandshakeStep], config: &RedisConfig, output: &mut Vec<u8>) {
        for &step in steps {
            let mut command = redis::Cmd::new();
            match (step, credentials(config)) {
                (HandshakeStep::Auth, None) => continue,
                (HandshakeStep::Select, _) if config.server.database == 0 => continue,
                (HandshakeStep::Role, _) if !self.asks_role(config) => continue,
                (HandshakeStep::Subscribe, _) if config.patterns.is_empty() => continue,
                (HandshakeStep::ClusterInfo, _) if !cluster::is_node(config) => continue,
                (HandshakeStep::Hello, None) => command.arg("HELLO").arg(3),
                (HandshakeStep::Hello, Some((user, password))) => command
                    .arg("HELLO")
                    .arg(3)
                    .arg("AUTH")
                    .arg(user.unwrap_or("default"))
                    .arg(password),
                (HandshakeStep::Auth, Some((user, password))) => {
                    command.arg("AUTH").arg(user).arg(password)
                }
                (HandshakeStep::Select, _) => command.arg("SELECT").arg(config.server.database),
                (HandshakeStep::SetName, _) => command.arg("CLIENT").arg("SETNAME").arg(self.name),
                (HandshakeStep::Role, _) => command.arg("ROLE"),
                (HandshakeStep::Info, _) => command.arg("INFO").arg("replication"),
                (HandshakeStep::ClusterInfo, _) => command.arg("CLUSTER").arg("INFO"),
                (HandshakeStep::Subscribe, _) => command.arg("PSUBSCRIBE").arg(&config.patterns),
                (HandshakeStep::Ping, _) => command.arg("PING"),
            };
            output.extend(command.get_packed_command());
            self.awaited.push_back(step);
        }
    }

    /// Returns whether the role of the far end matters: to commands only if a Sentinel has named it.
    fn asks_role(&self, config: &RedisConfig) -> bool {
        self.is_subscription || config.server.kind == ServerKind::Primary
    }

    /// Returns whether this error is no obstacle.
    fn may_be_refused(&self, step: HandshakeStep, error: &ServerError) -> bool {
        match step {
            // The name is for the eyes of the operator: an ACL may forbid it, and a full disk does not matter. But the error may be
            // the first reply of the connection, and about the connection itself.
            HandshakeStep::SetName => match error.code() {
                "DENIED" => false,
                "NOAUTH" => self.is_subscription,
                _ => !advice::is_full(error),
            },
            // A far end that may not be asked is believed.
            HandshakeStep::Role | HandshakeStep::Info => error.code() != "NOAUTH",
            HandshakeStep::ClusterInfo => error.code() == "NOPERM",
            HandshakeStep::Ping => error.code() == "MISCONF",
            _ => false,
        }
    }
}

impl HandshakeStep {
    fn command(self) -> &'static str {
        match self {
            HandshakeStep::Hello => "HELLO",
            HandshakeStep::Auth => "AUTH",
            HandshakeStep::Select => "SELECT",
            HandshakeStep::SetName => "CLIENT SETNAME",
            HandshakeStep::Role => "ROLE",
            HandshakeStep::Info => "INFO",
            HandshakeStep::ClusterInfo => "CLUSTER INFO",
            HandshakeStep::Subscribe => "PSUBSCRIBE",
            HandshakeStep::Ping => "PING",
        }
    }
}

/// Returns whether this reply to HELLO may come from a server that merely does not know it.
fn wants_resp2(config: &RedisConfig, error: &ServerError) -> bool {
    match error.code() {
        "ERR" => !advice::is_full(error),
        "NOPROTO" | "NOPERM" => true,
        // Redis takes HELLO with AUTH; what stands before it may ask for AUTH first.
        "NOAUTH" => credentials(config).is_some(),
        _ => false,
    }
}

/// The user, if the URL names one, and the password. A user without a password may be one of whom an ACL asks none.
fn credentials(config: &RedisConfig) -> Option<(Option<&str>, &str)> {
    let (username, password) =
        (config.server.username.as_deref(), config.server.password.as_deref());
    (username.is_some() || password.is_some()).then_some((username, password.unwrap_or("")))
}
