//! INFO, CONFIG GET, COMMAND and the like, true of a server without keys, replicas or a disk.

use crate::engine::redis::{glob, resp};
use crate::features::publisher::catalog::{COMMANDS, KnownCommand};
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::terms::{Moment, Terms};

/// The version that libraries choose their commands by.
pub const REDIS_VERSION: &str = "7.0.0";

/// Answers `INFO [section…]`.
pub fn write_info(output: &mut Vec<u8>, wanted: &[&[u8]], exchange: &Exchange, moment: &Moment) {
    let (version, process) = (env!("CARGO_PKG_VERSION"), std::process::id());
    let uptime = moment.now.millis / 1000;
    let (connections, subscribers) = (moment.connections, exchange.subscribers_len());
    let (channels, patterns) = (exchange.channels(None).count(), exchange.patterns_len());
    // Sections end with an empty line.
    let sections = format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:oneloop\r\n\
         oneloop_version:{version}\r\nprocess_id:{process}\r\nuptime_in_seconds:{uptime}\r\n\r\n\
         # Clients\r\nconnected_clients:{connections}\r\nblocked_clients:0\r\npubsub_clients:{subscribers}\r\n\r\n\
         # Persistence\r\nloading:0\r\nasync_loading:0\r\nrdb_bgsave_in_progress:0\r\n\
         rdb_last_save_time:{}\r\naof_enabled:0\r\n\r\n\
         # Stats\r\npubsub_channels:{channels}\r\npubsub_patterns:{patterns}\r\n\r\n\
         # Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n\
         master_repl_offset:0\r\n\r\n\
         # Modules\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\n\r\n",
        started(moment)
    );
    let is_wanted = |section: &&str| {
        let name = section.lines().next().unwrap_or_default().trim_start_matches("# ");
        let names = ["all", "everything", "default", name];
        let is_one =
            |word: &&[u8]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        wanted.is_empty() || wanted.iter().any(is_one)
    };
    let info: String = sections.split_inclusive("\r\n\r\n").filter(is_wanted).collect();
    resp::write_bulk(output, info.strip_suffix("\r\n").unwrap_or(&info).as_bytes());
}

/// Returns the start of this process, in seconds of the wall clock.
fn started(moment: &Moment) -> u64 {
    moment.now.unix.saturating_sub(moment.now.millis / 1000)
}

/// Answers `CONFIG GET pattern…` with the settings that libraries ask for, as far as they are true here.
pub fn write_config(output: &mut Vec<u8>, patterns: &[&[u8]], terms: &Terms, is_resp3: bool) {
    let (backlog, bulk) = (terms.bounds.backlog_bytes_max, terms.payload_bytes_max);
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

/// Answers `ROLE`: a master without replicas.
pub fn write_role(output: &mut Vec<u8>) {
    output.extend_from_slice(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
}

/// Answers `TIME`: seconds and microseconds of the wall clock.
pub fn write_time(output: &mut Vec<u8>, moment: &Moment) {
    let millis = moment.now.unix_millis;
    resp::write_array(output, 2);
    resp::write_bulk(output, (millis / 1000).to_string().as_bytes());
    resp::write_bulk(output, (millis % 1000 * 1000).to_string().as_bytes());
}

/// Answers `LASTSAVE` with the start, as Redis does until something is saved.
pub fn write_last_save(output: &mut Vec<u8>, moment: &Moment) {
    resp::write_integer(output, started(moment) as usize);
}

/// Answers `COMMAND` and its subcommands from the table in which commands are looked up.
pub fn write_commands(output: &mut Vec<u8>, words: &[&[u8]], is_resp3: bool) {
    let named = words.get(2..).unwrap_or_default();
    let is =
        |command: &KnownCommand, name: &[u8]| name.eq_ignore_ascii_case(command.name.as_bytes());
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

/// Writes name, arity, flags and places of keys (none), as Redis 6 does: later fields are optional to clients.
fn write_command(output: &mut Vec<u8>, command: &KnownCommand) {
    resp::write_array(output, 6);
    resp::write_bulk(output, command.name.to_ascii_lowercase().as_bytes());
    resp::write_signed(output, i64::from(command.arity));
    resp::write_array(output, 0);
    (0..3).for_each(|_| resp::write_integer(output, 0));
}
