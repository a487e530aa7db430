//! The permissions that the user in the Redis URL needs, each tried without an effect.

use crate::cli::redis_client::{RedisClient, RedisReply};
use crate::config::{Config, Subscribe};
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::glob;
use crate::engine::redis::sink::Sink;
use crate::features::control::revocations_key;
use crate::features::presence::members;

/// A permission that the settings need.
pub(super) struct Requirement {
    /// Its purpose, for people.
    pub(super) purpose: String,
    /// Commands that need the same rule, with their arguments.
    commands: Vec<Vec<String>>,
    /// The rule for `ACL SETUSER` that grants it.
    pub(super) rule: String,
    /// The commands change nothing, so they are executed. Others are queued in a transaction that is discarded.
    is_harmless: bool,
}

/// The calls of `src/features/presence/script.lua`, with `K` for the key.
const SCRIPT: &str = "EVAL return,1 1 K;TIME;ZSCORE K m;ZADD K 1 m;ZREM K m;ZREVRANGE K 0 0;ZRANGEBYSCORE K 0 0;HGET K m;\
    HSET K m 1;HDEL K m;HINCRBY K m 1;HLEN K;SADD K m;SREM K m;SCARD K;SISMEMBER K m;SRANDMEMBER K";

/// The other calls for members of topics.
const MEMBERS: &str = "ZCARD K;ZRANGE K 0 0";

/// The commands that read a stream, from its end.
const READING: &str =
    "XINFO STREAM K;XREAD COUNT 1 STREAMS K $;XRANGE K + + COUNT 1;XREVRANGE K + + COUNT 1";

/// The calls of `src/features/control/revocations.lua`, with `K` for the key.
const REVOCATIONS: &str =
    "EVAL return,1 1 K;ZADD K 1 m;ZREMRANGEBYSCORE K 0 0;ZREVRANGE K 0 0;EXPIRE K 1;PERSIST K";

/// Lists the permissions that the settings need.
pub(super) fn needs(config: &Config, link: &RedisConfig) -> Vec<Requirement> {
    let patterns = link.patterns.iter().map(|pattern| Requirement {
        purpose: format!("to PSUBSCRIBE {pattern}"),
        commands: vec![vec!["PSUBSCRIBE".to_owned(), pattern.clone()]],
        rule: format!("&{pattern} +psubscribe +ping"),
        is_harmless: true,
    });
    let streams = link.streams.iter().map(|stream| Requirement {
        purpose: format!("to read the stream {stream}"),
        commands: spelled(READING, stream),
        rule: format!("~{stream} +xinfo +xread +xrange +xrevrange"),
        is_harmless: true,
    });
    let upstream = config.routes.iter().filter_map(|route| route.upstream.as_ref());
    let receipts = config.receipts.clone().map(Sink::Channel);
    let sinks = upstream.cloned().chain(receipts).map(|sink| writing(&sink));
    // Subscriptions come last: in RESP2, a subscribed connection takes no other command.
    let others = streams.chain(sinks).chain(config.events.as_ref().map(events));
    let others = others.chain(config.control.as_deref().map(revocations));
    let others = others.chain(config.lists_members().then(|| listing(&config.prefix)));
    let demand = (config.subscribe == Subscribe::Demand).then(|| demand(&config.prefix));
    others.chain(demand).chain(patterns).collect()
}

/// Subscribing to channels by name. The channel of the trial is no topic: nobody receives on it.
fn demand(prefix: &str) -> Requirement {
    let channel = [prefix, "."].concat();
    Requirement {
        purpose: "to SUBSCRIBE on demand".to_owned(),
        commands: vec![vec!["SUBSCRIBE".to_owned(), channel]],
        rule: format!("&{prefix}* +subscribe +unsubscribe +punsubscribe"),
        is_harmless: true,
    }
}

fn writing(sink: &Sink) -> Requirement {
    let name = sink.name();
    let (words, rule) = match sink {
        Sink::Stream(_) => ("XADD K * a b", format!("~{name} +xadd")),
        Sink::Channel(_) => ("PUBLISH K m", format!("&{name} +publish")),
    };
    let purpose = format!("to write to {name}");
    Requirement { purpose, commands: spelled(words, name), rule, is_harmless: false }
}

fn events(sink: &Sink) -> Requirement {
    let target = writing(sink);
    let keys = format!("oneloop:{{{}}}:", sink.name());
    let script = spelled(SCRIPT, &[&keys, "here"].concat());
    Requirement {
        purpose: format!("to tell {} who is here", sink.name()),
        rule: format!("{} ~{keys}* {}", target.rule, names(&script)),
        commands: [script, target.commands].concat(),
        is_harmless: false,
    }
}

fn listing(prefix: &str) -> Requirement {
    let channel = members::channel(prefix);
    let target = writing(&Sink::Channel(channel.clone()));
    let script = spelled(&[SCRIPT, ";", MEMBERS].concat(), &[&channel, ":here"].concat());
    Requirement {
        purpose: "to list the members of topics".to_owned(),
        rule: format!("{} ~{channel}:* {}", target.rule, names(&script)),
        commands: [script, target.commands].concat(),
        is_harmless: false,
    }
}

fn revocations(control: &str) -> Requirement {
    let key = revocations_key(control);
    let commands = spelled(REVOCATIONS, &key);
    Requirement {
        purpose: "to keep revocations".to_owned(),
        rule: format!("~{} {}", glob::escaped(&key), names(&commands)),
        commands,
        is_harmless: false,
    }
}

/// The rules for these commands.
fn names(commands: &[Vec<String>]) -> String {
    let names: Vec<String> =
        commands.iter().map(|words| ["+", &words[0].to_lowercase()].concat()).collect();
    names.join(" ")
}

/// The commands of a list, with `key` for `K`.
fn spelled(list: &str, key: &str) -> Vec<Vec<String>> {
    let word = |word: &str| if word == "K" { key.to_owned() } else { word.replace(',', " ") };
    list.split(';').map(|words| words.trim().split(' ').map(word).collect()).collect()
}

/// Quotes a rule for a shell, which would interpret `&` and `~`.
pub(super) fn for_shell(rule: &str) -> String {
    let quoted = |word: &str| match word.starts_with('+') {
        true => word.to_owned(),
        false => ["'", &word.replace('\'', "'\\''"), "'"].concat(),
    };
    rule.split(' ').map(quoted).collect::<Vec<_>>().join(" ")
}

/// The result of trying a permission.
pub(super) enum Permission {
    Allowed,
    /// Redis does not have this command: it was renamed or disabled.
    Missing(String),
    /// It cannot be tried without an effect.
    Unknown,
    /// Refused with a code and a message.
    Refused(String, String),
}

impl Requirement {
    /// Tries the commands.
    ///
    /// # Errors
    /// A sentence if the connection is gone.
    pub(super) fn try_on(&self, session: &mut RedisClient) -> Result<Permission, String> {
        if !self.is_harmless && matches!(session.ask(&["MULTI"])?, RedisReply::Refused(..)) {
            return Ok(Permission::Unknown);
        }
        let mut tried = Permission::Allowed;
        for words in &self.commands {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let RedisReply::Refused(code, said) = session.ask(&words)? else { continue };
            tried = match tried {
                Permission::Allowed => judge(words[0], code, &said),
                first => first,
            };
        }
        if !self.is_harmless {
            session.ask(&["DISCARD"])?;
        }
        Ok(tried)
    }
}

/// Judges an error in the reply to `command`.
fn judge(command: &str, code: String, said: &str) -> Permission {
    let is_missing = said.starts_with("unknown command") || said.starts_with("Unknown subcommand");
    match code.as_str() {
        // The stream has no entry yet.
        "ERR" if said.contains("no such key") => Permission::Allowed,
        "ERR" if is_missing => Permission::Missing(command.to_owned()),
        _ => Permission::Refused(code, [command, ": ", said].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_but_that_of_an_empty_stream_is_allowed() {
        let judged = |code: &str, said: &str| match judge("XADD", code.to_owned(), said) {
            Permission::Allowed => "allowed".to_owned(),
            Permission::Unknown => "unknown".to_owned(),
            Permission::Missing(command) => ["missing ", &command].concat(),
            Permission::Refused(code, said) => format!("{code} {said}"),
        };
        assert_eq!(judged("ERR", "no such key"), "allowed");
        assert_eq!(judged("ERR", "unknown command 'XADD', with args"), "missing XADD");
        assert_eq!(judged("ERR", "unknown command `XADD`, with args"), "missing XADD");
        assert_eq!(judged("ERR", "not here"), "ERR XADD: not here");
        assert_eq!(judged("NOPERM", "no"), "NOPERM XADD: no");
    }

    #[test]
    fn the_settings_say_what_is_needed() {
        let args = [
            "--redis",
            "redis://h",
            "--streams",
            "s",
            "--receipts",
            "r",
            "--control",
            "c",
            "--upstream",
            "stream:up",
            "--events",
            "channel:e",
            "--members",
            "room.*",
        ];
        let config = crate::cli::read(args.map(Into::into), []).ok().unwrap().config;
        let link = crate::app::link(&config).unwrap().unwrap();
        let needs = needs(&config, &link);
        let rules: Vec<&str> = needs.iter().map(|need| need.rule.as_str()).collect();
        assert_eq!(rules[0], "~s +xinfo +xread +xrange +xrevrange");
        assert_eq!(rules[1..3], ["~up +xadd", "&r +publish"]);
        assert!(
            rules[3].starts_with("&e +publish ~oneloop:{e}:* +eval +time +zscore"),
            "{rules:?}"
        );
        let kept = "~oneloop:{c}:revoked +eval +zadd +zremrangebyscore +zrevrange +expire +persist";
        assert_eq!(rules[4], kept);
        let members =
            "&oneloop:{pub.members} +publish ~oneloop:{pub.members}:* +eval +time +zscore";
        assert!(
            rules[5].starts_with(members) && rules[5].ends_with(" +zcard +zrange"),
            "{rules:?}"
        );
        let patterns = ["&pub.*", "&c", "&oneloop:{pub.members}"];
        assert_eq!(rules[6..], patterns.map(|pattern| format!("{pattern} +psubscribe +ping")));
        let on_demand =
            crate::cli::read(["--redis", "redis://h", "--subscribe", "demand"].map(Into::into), []);
        let on_demand = on_demand.ok().unwrap().config;
        let needs_on_demand =
            super::needs(&on_demand, &crate::app::link(&on_demand).unwrap().unwrap());
        assert_eq!(needs_on_demand[0].rule, "&pub.* +subscribe +unsubscribe +punsubscribe");
        let commands = &needs[3].commands;
        assert_eq!(commands[0], ["EVAL", "return 1", "1", "oneloop:{e}:here"]);
        assert_eq!(commands.last().unwrap(), &["PUBLISH", "e", "m"]);
    }

    #[test]
    fn a_shell_leaves_a_rule_as_it_is() {
        assert_eq!(for_shell("&pub.* +psubscribe"), "'&pub.*' +psubscribe");
        assert_eq!(for_shell("~a'b"), r"'~a'\''b'");
    }

    /// A call that is not tried would first fail for a client.
    #[test]
    fn every_command_of_the_scripts_is_tried() {
        let kept = include_str!("../../features/control/revocations.lua");
        for call in kept.split("redis.call('").skip(1) {
            let name = call.split('\'').next().unwrap();
            let tried = revocations("c").commands;
            assert!(tried.iter().any(|words| words[0] == name), "{name}");
        }
        let script = include_str!("../../features/presence/script.lua");
        let sinks = [Sink::Stream("s".to_owned()), Sink::Channel("c".to_owned())];
        let needs = sinks.each_ref().map(events);
        let tried: Vec<&str> =
            needs.iter().flat_map(|need| &need.commands).map(|words| words[0].as_str()).collect();
        let mut calls = 0;
        for call in script.split("redis.call('").skip(1) {
            let name = call.split('\'').next().unwrap();
            assert!(tried.contains(&name), "{name}");
            calls += 1;
        }
        assert!(calls > 15, "the calls were found");
    }
}
