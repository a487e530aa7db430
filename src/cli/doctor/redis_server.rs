//! The checks of Redis: reachability, permissions, and whether it keeps its data.

use std::time::Duration;

use super::redis_delivery;
use super::redis_rights::{self, Permission};
use super::report::{Fine, Problem, Report, Warning};
use super::sentinels;
use crate::app;
use crate::cli::numbers::bytes;
use crate::cli::redis_client::RedisClient;
use crate::config::Config;
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::sink::Sink;
use crate::engine::redis::url::{Address, Security};

/// The first version of Redis with open intervals in XRANGE.
const STREAMS_NEED: (u32, u32) = (6, 2);

/// Our connections: channels, streams and commands.
const CONNECTIONS: u64 = 3;

/// Redis' own defaults for the buffer of a slow subscriber, hard and soft; less gets a warning.
const BUFFER_BYTES: (u64, u64) = (32 << 20, 8 << 20);

/// The tolerated difference of clocks; beyond it, good tokens count as expired or not yet valid.
const SKEW_MILLIS_MAX: u64 = 2000;

/// One run of the checks.
struct RedisCheck<'a, 'out> {
    report: &'a mut Report<'out>,
    config: &'a Config,
    session: RedisClient,
    /// The start of a shell command for this Redis.
    shell: String,
    /// The reply to `INFO`; empty if that is not permitted.
    info: String,
}

/// Checks each server of a list, or the primary that Sentinels name.
pub(super) fn check(
    report: &mut Report,
    config: &Config,
    mut link: RedisConfig,
    unix_millis: fn() -> u64,
) {
    if link.sentinels.is_some() {
        let Some(primary) = sentinels::check(report, &link) else { return };
        link.servers = vec![primary];
    }
    for server in link.servers.clone() {
        // One at a time, also for the connections that a check makes.
        let one =
            RedisConfig { servers: vec![server.clone()], sentinels: None, server, ..link.clone() };
        check_server(report, config, one, unix_millis);
    }
}

fn check_server(report: &mut Report, config: &Config, link: RedisConfig, unix_millis: fn() -> u64) {
    let shell = match &link.server.address {
        Address::Tcp { host, port } => {
            format!("redis-cli -h {host} -p {port}{}", tls_flags(config))
        }
        Address::Unix(path) => format!("redis-cli -s {}", path.display()),
    };
    let seen = format!("{} can be reached", link.server.address);
    let failed = |report: &mut Report, why: &str| {
        report.problem("redis", why, &[&shell, " PING"].concat());
    };
    let session = match RedisClient::open(link) {
        Ok(session) => session,
        Err(why) => return failed(report, &why),
    };
    report.ok("redis", &seen);
    let mut check =
        RedisCheck { report, config, session, shell: shell.clone(), info: String::new() };
    if let Err(why) = check.all(unix_millis) {
        failed(report, &why);
    }
}

impl RedisCheck<'_, '_> {
    fn all(&mut self, unix_millis: fn() -> u64) -> Result<(), String> {
        self.info = self.session.words(&["INFO"])?.pop().unwrap_or_default();
        let role = self.session.words(&["ROLE"])?;
        if !redis_delivery::check(self.report, &self.info, &role, &self.shell) {
            // Nothing else matters then.
            return Ok(());
        }
        if self.info.is_empty() {
            self.report.unseen(
                "redis-info",
                "not told: version, memory and persistence stay unknown",
                &self.grant("+info"),
            );
        } else {
            self.version();
            self.room();
            self.keeping();
        }
        self.clock(unix_millis)?;
        self.buffer()?;
        self.timeout()?;
        self.rights()?;
        redis_delivery::probe(self.report, &self.session.config, &self.shell);
        Ok(())
    }

    /// Checks `timeout`, after which Redis closes silent connections, except subscriptions and those that wait for a stream.
    fn timeout(&mut self) -> Result<(), String> {
        const NAME: &str = "redis-timeout";
        let Some(seconds) = self.setting(NAME, "timeout", |text| text.parse::<u64>().ok())? else {
            return Ok(());
        };
        let silence = u64::from(self.config.bounds.redis_silence_seconds);
        let seen = match seconds {
            0 => "idle connections stay".to_owned(),
            seconds => format!("idle connections are cut after {seconds} s"),
        };
        if seconds > 0 && seconds <= silence && self.has_commands() {
            let why = format!(
                "the connection for commands is cut again and again: a sign of life comes after redis_silence_seconds ({silence})"
            );
            let mend = format!("{} CONFIG SET timeout 0", self.shell);
            self.report.say(Problem, NAME, &seen, &why, &mend);
        } else {
            self.report.ok(NAME, &seen);
        }
        Ok(())
    }

    /// Returns whether the server keeps a connection for commands.
    fn has_commands(&self) -> bool {
        let Config { streams, control, receipts, .. } = self.config;
        self.writes() || !streams.is_empty() || control.is_some() || receipts.is_some()
    }

    /// Reads a setting of Redis. Reports it if Redis does not tell.
    fn setting<T>(
        &mut self,
        name: &str,
        setting: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let reply = self.session.words(&["CONFIG", "GET", setting])?;
        let found = reply.last().and_then(|text| parse(text));
        if found.is_none() {
            let mend = self.grant("'+config|get'");
            self.report.unseen(name, "not told (+config|get)", &mend);
        }
        Ok(found)
    }

    /// The shell command that grants the user of the settings a rule.
    fn grant(&self, rule: &str) -> String {
        [&self.shell, &setuser(&self.session.config), rule].concat()
    }

    fn number(&self, name: &str) -> Option<u64> {
        field(&self.info, name)?.parse().ok()
    }

    fn version(&mut self) {
        let Some(version) = field(&self.info, "redis_version") else {
            return self.report.unseen("redis-version", "INFO does not tell it", "");
        };
        let (major, minor) = STREAMS_NEED;
        let is_old = numbers(version) < STREAMS_NEED && !self.config.streams.is_empty();
        match is_old {
            false => self.report.ok("redis-version", version),
            true => self.report.problem(
                "redis-version",
                &format!("{version}; streams need {major}.{minor}"),
                "apt install redis (or take streams out of the settings)",
            ),
        }
    }

    /// Checks the number of connections, and whether writes are accepted.
    fn room(&mut self) {
        if let (Some(most), Some(now)) =
            (self.number("maxclients"), self.number("connected_clients"))
        {
            let seen = format!("{now} of {most} connections are taken");
            let mend = format!("{} CONFIG SET maxclients {}", self.shell, most.saturating_add(100));
            // The doctor's own connection is among them.
            match most.saturating_sub(now) < CONNECTIONS - 1 {
                true => self.report.problem("redis-clients", &seen, &mend),
                false => self.report.ok("redis-clients", &seen),
            }
        }
        if field(&self.info, "role") == Some("slave") && self.writes() {
            let mend = "redis = the URL of the primary, in the settings";
            self.report.problem("redis-role", "a replica, which takes no writes", mend);
        }
    }

    /// Checks whether streams are kept as written.
    fn keeping(&mut self) {
        let is_stream = |sink: &Sink| matches!(sink, Sink::Stream(_));
        let mut sinks = self.config.routes.iter().filter_map(|route| route.upstream.as_ref());
        let has_stream = !self.config.streams.is_empty()
            || sinks.any(is_stream)
            || self.config.events.as_ref().is_some_and(is_stream);
        if !has_stream {
            return;
        }
        let Some(most) = self.number("maxmemory") else {
            return self.report.unseen("redis-memory", "INFO does not tell it", "");
        };
        let policy = field(&self.info, "maxmemory_policy").unwrap_or("noeviction");
        let seen = match most {
            0 => "maxmemory is not set: nothing is evicted".to_owned(),
            most => format!("maxmemory is {}, maxmemory-policy {policy}", bytes(most as f64)),
        };
        if most > 0 && policy.starts_with("allkeys-") {
            let why = "when it is full, whole streams may go, and with them what clients missed";
            let mend = format!("{} CONFIG SET maxmemory-policy noeviction", self.shell);
            self.report.say(Problem, "redis-memory", &seen, why, &mend);
        } else {
            self.report.ok("redis-memory", &seen);
        }
        match field(&self.info, "aof_enabled") {
            Some("0") => self.report.say(
                Fine,
                "redis-disk",
                "appendonly is no",
                "after a crash of Redis, what its streams got since the last snapshot is lost",
                &format!("{} CONFIG SET appendonly yes", self.shell),
            ),
            Some(_) => self.report.ok("redis-disk", "appendonly is yes"),
            None => self.report.unseen("redis-disk", "INFO does not tell it", ""),
        }
    }

    /// Compares the clocks: tokens are checked by the one here, and often issued by another.
    fn clock(&mut self, unix_millis: fn() -> u64) -> Result<(), String> {
        let before = unix_millis();
        let reply = self.session.words(&["TIME"])?;
        let here = before.midpoint(unix_millis());
        let Some(there) = millis(&reply) else {
            let mend = self.grant("+time");
            self.report.unseen("clock", "Redis may not tell its own (+time)", &mend);
            return Ok(());
        };
        let off = here.abs_diff(there);
        let way = if here < there { "behind" } else { "ahead of" };
        let seen = format!("{}.{:03} s {way} that of Redis", off / 1000, off % 1000);
        if off <= SKEW_MILLIS_MAX {
            self.report.ok("clock", &seen);
            return Ok(());
        }
        let leeway = self.config.jwt.leeway_seconds;
        let why = format!(
            "exp and nbf of tokens are judged by the clock here; jwt.leeway_seconds is {leeway}"
        );
        self.report.say(Warning, "clock", &seen, &why, "timedatectl set-ntp true (on both)");
        Ok(())
    }

    /// Checks how far a subscriber may fall behind before Redis closes it.
    fn buffer(&mut self) -> Result<(), String> {
        const NAME: &str = "redis-buffer";
        const SETTING: &str = "client-output-buffer-limit";
        let Some((hard, soft, seconds)) = self.setting(NAME, SETTING, pubsub)? else {
            return Ok(());
        };
        let shown =
            |number: u64| if number == 0 { "none".to_owned() } else { bytes(number as f64) };
        let seen = format!("pubsub: hard {}, soft {} for {seconds} s", shown(hard), shown(soft));
        // Four of the largest messages at once.
        let largest = self.config.bounds.payload_bytes_max as u64;
        let needed = (BUFFER_BYTES.0.max(largest * 4), BUFFER_BYTES.1.max(largest));
        let is_below = |one: u64, other: u64| one > 0 && one < other;
        if !is_below(hard, needed.0) && !is_below(soft, needed.1) {
            self.report.ok(NAME, &seen);
            return Ok(());
        }
        // A message that does not fit ends the subscription each time.
        let level = if is_below(hard, largest) { Problem } else { Warning };
        let why = format!(
            "Redis cuts off a subscriber that is further behind; payload_bytes_max is {}",
            bytes(largest as f64)
        );
        let megabytes = |number: u64| number.div_ceil(1 << 20);
        let mend = format!(
            "{} CONFIG SET {SETTING} \"pubsub {}mb {}mb 60\"",
            self.shell,
            megabytes(needed.0),
            megabytes(needed.1)
        );
        self.report.say(level, NAME, &seen, &why, &mend);
        Ok(())
    }

    fn writes(&self) -> bool {
        let has_upstream = self.config.routes.iter().any(|route| route.upstream.is_some());
        has_upstream || self.config.events.is_some()
    }

    fn rights(&mut self) -> Result<(), String> {
        for need in redis_rights::needs(self.config, &self.session.config) {
            let tried = need.try_on(&mut self.session)?;
            let mend = |rule: &str| self.grant(&redis_rights::for_shell(rule));
            let (level, seen, mend) = match tried {
                Permission::Allowed => (Fine, need.purpose.clone(), String::new()),
                Permission::Unknown => {
                    let seen = format!("{}: not looked at, it cannot be tried", need.purpose);
                    (Warning, seen, mend("+multi +discard"))
                }
                Permission::Missing(command) => {
                    let seen = format!("{}: Redis has no command {command}", need.purpose);
                    let mend = format!(
                        "take rename-command {command} out of redis.conf, and restart Redis"
                    );
                    (Problem, seen, mend)
                }
                Permission::Refused(code, _) if code == "NOPERM" => {
                    (Problem, format!("{}: NOPERM", need.purpose), mend(&need.rule))
                }
                Permission::Refused(code, said) => {
                    let seen = format!("{}: {code} to {said}", need.purpose);
                    (Problem, seen, [&self.shell, " INFO"].concat())
                }
            };
            self.report.say(level, "redis-rights", &seen, "", &mend);
        }
        Ok(())
    }
}

/// The flags of `redis-cli` for TLS, each name standing for the file in the setting.
fn tls_flags(config: &Config) -> String {
    let Ok(Some(place)) = app::redis_place(config) else { return String::new() };
    let mut flags = match place.security() {
        Security::Plain => return String::new(),
        Security::Tls => " --tls".to_owned(),
        Security::UnverifiedTls => " --tls --insecure".to_owned(),
    };
    if config.redis_ca.is_some() {
        flags += " --cacert redis_ca_file";
    }
    if config.redis_certificate.is_some() {
        flags += " --cert redis_cert_file --key redis_key_file";
    }
    flags
}

pub(super) fn setuser(config: &RedisConfig) -> String {
    format!(" ACL SETUSER {} ", config.server.username.as_deref().unwrap_or("default"))
}

/// Reads a field of `INFO`.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Reads major and minor version of `7.0.15`.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Reads the reply to `TIME`, seconds and microseconds, as milliseconds.
fn millis(reply: &[String]) -> Option<u64> {
    let [seconds, micros] = reply else { return None };
    let (seconds, micros) = (seconds.parse::<u64>().ok()?, micros.parse::<u64>().ok()?);
    let time = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?;
    u64::try_from(time.as_millis()).ok()
}

/// Reads `normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60`: the hard limit, and the soft one with its seconds.
fn pubsub(text: &str) -> Option<(u64, u64, u64)> {
    let (_, limits) = text.split_once("pubsub ")?;
    let mut numbers = limits.split(' ').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_tells_is_read() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\n";
        assert_eq!(field(info, "redis_version"), Some("7.0.15"));
        assert_eq!((field(info, "role"), field(info, "redis")), (Some("master"), None));
        assert!(numbers("7.0.15") > STREAMS_NEED && numbers("6.0") < STREAMS_NEED);
        assert_eq!((numbers("6.2.0"), numbers("x"), numbers("")), ((6, 2), (0, 0), (0, 0)));
        let time = ["7", "8999"].map(str::to_owned);
        assert_eq!((millis(&time), millis(&[])), (Some(7008), None));
        assert_eq!(millis(&["18446744073709551615", "0"].map(str::to_owned)), None);
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(pubsub(limits), Some((33_554_432, 8_388_608, 60)));
        assert_eq!((pubsub("pubsub 1 2"), pubsub("")), (None, None));
    }
}
