//! The port's answers about itself, true of a server without keys, replicas or a disk: INFO, CONFIG GET, COMMAND and the like.

use std::fmt::Write;

use crate::engine::redis::glob;
use crate::engine::redis::resp;
use crate::features::publisher::catalog::{COMMANDS, Command};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::terms::{Moment, Terms};

/// Clients look at it to choose their commands.
pub const REDIS_VERSION: &str = "7.0.0";

/// Databases of a Redis by default. Here they are all one.
const DATABASES: usize = 16;

/// `INFO [section…]`.
pub fn write_info(output: &mut Vec<u8>, sections: &[&[u8]], exchange: &Exchange, moment: &Moment) {
    let is_wanted = |name: &str| {
        let all = ["all", "everything", "default", name];
        sections.is_empty()
            || sections
                .iter()
                .any(|one| all.iter().any(|all| one.eq_ignore_ascii_case(all.as_bytes())))
    };
    let mut info = String::new();
    for (name, text) in sections_of(exchange, moment) {
        if is_wanted(&name.to_ascii_lowercase()) {
            let separator = if info.is_empty() { "" } else { "\r\n" };
            let _ = write!(info, "{separator}# {name}\r\n{text}");
        }
    }
    resp::write_bulk(output, info.as_bytes());
}

fn sections_of(exchange: &Exchange, moment: &Moment) -> [(&'static str, String); 8] {
    let version = env!("CARGO_PKG_VERSION");
    let uptime = moment.now.millis / 1000;
    let started = moment.now.unix.saturating_sub(uptime);
    let (channels, patterns) = (exchange.channels(None).count(), exchange.patterns_len());
    [
        (
            "Server",
            format!(
                "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:oneloop\r\n\
                 oneloop_version:{version}\r\nprocess_id:{}\r\nuptime_in_seconds:{uptime}\r\n",
                std::process::id()
            ),
        ),
        (
            "Clients",
            format!(
                "connected_clients:{}\r\nblocked_clients:0\r\npubsub_clients:{}\r\n",
                moment.connections,
                exchange.subscribers_len()
            ),
        ),
        (
            "Persistence",
            format!(
                "loading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\n\
                 rdb_last_save_time:{started}\r\naof_enabled:0\r\n"
            ),
        ),
        ("Stats", format!("pubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\n")),
        (
            "Replication",
            "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
             master_repl_offset:0\r\n"
                .to_owned(),
        ),
        ("Modules", String::new()),
        ("Cluster", "cluster_enabled:0\r\n".to_owned()),
        ("Keyspace", String::new()),
    ]
}

/// `CONFIG GET pattern…`: what is true here of the settings that libraries ask for, and no others.
pub fn write_config(output: &mut Vec<u8>, patterns: &[&[u8]], terms: &Terms, is_resp3: bool) {
    let (backlog, bulk) = (terms.backlog_bytes_max, terms.payload_bytes_max);
    let limits = format!("normal 0 0 0 slave 0 0 0 pubsub {backlog} {} 60", backlog / 4);
    let settings = [
        ("appendonly", "no".to_owned()),
        ("client-output-buffer-limit", limits),
        ("cluster-enabled", "no".to_owned()),
        ("databases", DATABASES.to_string()),
        ("maxclients", terms.connections_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("notify-keyspace-events", String::new()),
        ("proto-max-bulk-len", bulk.to_string()),
        ("replica-read-only", "yes".to_owned()),
        ("save", String::new()),
        ("slave-read-only", "yes".to_owned()),
        ("timeout", "0".to_owned()),
    ];
    let is_meant = |name: &str| {
        let matches = |one: &&[u8]| glob::matches(&one.to_ascii_lowercase(), name.as_bytes());
        patterns.iter().any(matches)
    };
    let meant: Vec<_> = settings.iter().filter(|(name, _)| is_meant(name)).collect();
    resp::write_map(output, meant.len(), is_resp3);
    for (name, value) in meant {
        resp::write_bulk(output, name.as_bytes());
        resp::write_bulk(output, value.as_bytes());
    }
}

/// `ROLE`: a master without replicas.
pub fn write_role(output: &mut Vec<u8>) {
    resp::write_array(output, 3);
    resp::write_bulk(output, b"master");
    resp::write_integer(output, 0);
    resp::write_array(output, 0);
}

/// `TIME`: seconds and microseconds of the wall clock.
pub fn write_time(output: &mut Vec<u8>, moment: &Moment) {
    let millis = moment.now.unix_millis;
    resp::write_array(output, 2);
    resp::write_bulk(output, (millis / 1000).to_string().as_bytes());
    resp::write_bulk(output, (millis % 1000 * 1000).to_string().as_bytes());
}

/// `LASTSAVE`: Redis answers with its start as long as nothing was saved.
pub fn write_last_save(output: &mut Vec<u8>, moment: &Moment) {
    let started = moment.now.unix.saturating_sub(moment.now.millis / 1000);
    resp::write_integer(output, started as usize);
}

/// `COMMAND` and its subcommands, of the table that commands are looked up in.
pub fn write_commands(output: &mut Vec<u8>, words: &[&[u8]], is_resp3: bool) {
    let named = words.get(2..).unwrap_or_default();
    let is = |command: &Command, name: &[u8]| name.eq_ignore_ascii_case(command.name.as_bytes());
    let plain = || COMMANDS.iter().filter(|command| !command.name.contains(' '));
    match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
        Some(b"COUNT") => resp::write_integer(output, plain().count()),
        Some(b"DOCS") => resp::write_map(output, 0, is_resp3),
        Some(b"LIST") => {
            resp::write_array(output, plain().count());
            plain().for_each(|command| {
                resp::write_bulk(output, command.name.to_ascii_lowercase().as_bytes());
            });
        }
        Some(b"INFO") if !named.is_empty() => {
            resp::write_array(output, named.len());
            for name in named {
                match plain().find(|command| is(command, name)) {
                    Some(command) => write_command(output, command),
                    None => resp::write_null_array(output, is_resp3),
                }
            }
        }
        _ => {
            resp::write_array(output, plain().count());
            plain().for_each(|command| write_command(output, command));
        }
    }
}

/// Name, arity, flags, and that it has no keys, as Redis 6 has it: later fields are optional to clients.
fn write_command(output: &mut Vec<u8>, command: &Command) {
    resp::write_array(output, 6);
    resp::write_bulk(output, command.name.to_ascii_lowercase().as_bytes());
    resp::write_signed(output, i64::from(command.arity));
    resp::write_array(output, 0);
    (0..3).for_each(|_| resp::write_integer(output, 0));
}
