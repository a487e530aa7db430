//! INFO, CONFIG GET and COMMAND, true of a server without keys, replicas or a disk.

use crate::engine::redis::glob;
use crate::features::publisher::catalog::{COMMANDS, KnownCommand};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::reply::PortReply::{self, Array, Integer, Map, NullArray};
use crate::features::publisher::reply::text;
use crate::features::publisher::settings::{Moment, Terms};

/// The version by which libraries choose their commands.
pub const REDIS_VERSION: &str = "7.0.0";

/// Answers `INFO [section…]`.
pub fn info(wanted: &[&[u8]], exchange: &Exchange, moment: &Moment) -> PortReply {
    let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let (uptime, started) = (moment.now.millis / 1000, moment.started());
    let (connections, subscribers) = (moment.connections, exchange.subscribers_len());
    let (channels, patterns) = (exchange.channels(None).count(), exchange.patterns_len());
    // Sections end with an empty line.
    let sections = format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:oneloop\r\n\
         oneloop_version:{version}\r\nprocess_id:{process}\r\nuptime_in_seconds:{uptime}\r\n\r\n\
         # Clients\r\nconnected_clients:{connections}\r\nblocked_clients:0\r\npubsub_clients:{subscribers}\r\n\r\n\
         # Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\n\
         rdb_last_save_time:{started}\r\naof_enabled:0\r\n\r\n\
         # Stats\r\npubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
         master_repl_offset:0\r\n\r\n\
         # Modules\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n\r\n"
    );
    let is_wanted = |section: &&str| {
        let name = section.lines().next().unwrap_or_default().trim_start_matches("# ");
        let names = ["all", "everything", "default", name];
        let is_one =
            |word: &&[u8]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        wanted.is_empty() || wanted.iter().any(is_one)
    };
    let info: String = sections.split_inclusive("\r\n\r\n").filter(is_wanted).collect();
    text(info.strip_suffix("\r\n").unwrap_or(&info))
}

/// Answers `CONFIG GET pattern…` with the settings that libraries ask for, as far as they are true here.
pub fn config(patterns: &[&[u8]], terms: &Terms) -> PortReply {
    let backlog = terms.bounds.backlog_bytes_max;
    let limits = format!("normal 0 0 0 slave 0 0 0 pubsub {backlog} {} 60", backlog / 4);
    let settings = [
        ("appendonly", "no".to_owned()),
        ("client-output-buffer-limit", limits),
        ("cluster-enabled", "no".to_owned()),
        // As many as Redis has by default. Here they are all one.
        ("databases", "16".to_owned()),
        ("maxclients", terms.bounds.connections_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("notify-keyspace-events", String::new()),
        ("proto-max-bulk-len", terms.payload_bytes_max.to_string()),
        ("replica-read-only", "yes".to_owned()),
        ("save", String::new()),
        ("slave-read-only", "yes".to_owned()),
        ("timeout", "0".to_owned()),
    ];
    let is_wanted = |name: &str| {
        let matches = |one: &&[u8]| glob::matches(&one.to_ascii_lowercase(), name.as_bytes());
        patterns.iter().any(matches)
    };
    let wanted = settings.into_iter().filter(|(name, _)| is_wanted(name));
    Map(wanted.map(|(name, value)| (name, text(value))).collect())
}

/// Answers `COMMAND` and its subcommands from the table in which commands are looked up.
pub fn commands(words: &[&[u8]]) -> PortReply {
    let named = words.get(2..).unwrap_or_default();
    let mut plain = COMMANDS.iter().filter(|command| !command.name.contains(' '));
    match words.get(1).map(|word| word.to_ascii_uppercase()).as_deref() {
        Some(b"COUNT") => Integer(plain.count() as i64),
        Some(b"DOCS") => Map(Vec::new()),
        Some(b"LIST") => {
            Array(plain.map(|command| text(command.name.to_ascii_lowercase())).collect())
        }
        Some(b"INFO") if !named.is_empty() => {
            let find = |name: &&[u8]| {
                let is = |one: &&KnownCommand| name.eq_ignore_ascii_case(one.name.as_bytes());
                plain.clone().find(is).map_or(NullArray, command)
            };
            Array(named.iter().map(find).collect())
        }
        _ => Array(plain.by_ref().map(command).collect()),
    }
}

/// Returns name, arity, flags and places of keys (none), as Redis 6 does: later fields are optional to clients.
fn command(command: &KnownCommand) -> PortReply {
    let name = text(command.name.to_ascii_lowercase());
    let arity = Integer(i64::from(command.arity));
    Array(vec![name, arity, Array(Vec::new()), Integer(0), Integer(0), Integer(0)])
}
