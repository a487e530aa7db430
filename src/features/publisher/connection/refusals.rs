//! Commands that the port refuses: the answers, and the names of unknown commands for the operator.

use crate::features::publisher::session::printable;

/// Commands by which libraries ask, each time they connect, whether a server has more than Redis 7: no news to an operator.
const PROBES: [&str; 1] = ["CLIENT MAINT_NOTIFICATIONS"];

/// The answer to any EVAL but one.
pub const OTHER_SCRIPT: &str = "ERR the only script that this port carries out is that of Laravel's \
    broadcaster; use a Redis for others";

/// The unknown commands since they were last taken.
#[derive(Default)]
pub struct UnknownCommands {
    latest: Option<String>,
    count: u32,
}

impl UnknownCommands {
    /// Adds a command, and returns the answer to it.
    pub fn add(&mut self, name: &[u8], subcommand: Option<&[u8]>) -> String {
        let name = printable(name);
        match subcommand.map(printable) {
            None => {
                self.note(&name);
                format!(
                    "ERR unknown command '{name}': this port takes PUBLISH; use a Redis for the rest"
                )
            }
            Some(subcommand) => {
                self.note(&format!("{name} {subcommand}"));
                format!("ERR unknown subcommand '{subcommand}' of {name}: it is not known here")
            }
        }
    }

    /// Adds a command by its name.
    pub fn note(&mut self, name: &str) {
        let name = name.to_ascii_uppercase();
        if !PROBES.contains(&name.as_str()) {
            self.latest = Some(name);
            self.count = self.count.saturating_add(1);
        }
    }

    /// Takes the name of the latest and the number of all.
    pub fn take(&mut self) -> Option<(String, u32)> {
        let count = std::mem::take(&mut self.count);
        self.latest.take().map(|name| (name, count))
    }
}

/// The answer to a command for which a transaction has no room.
pub fn too_much_queued(count_max: usize, bytes_max: usize) -> String {
    format!(
        "ERR a transaction has at most {count_max} commands (transaction_commands_max) and \
         {bytes_max} bytes (transaction_bytes_max)"
    )
}

/// The answer to a payload, or a command, that is too large.
pub fn too_large(what: &str, bytes: u64, bytes_max: usize) -> String {
    format!("ERR {what} is {bytes} bytes, payload_bytes_max is {bytes_max}")
}
