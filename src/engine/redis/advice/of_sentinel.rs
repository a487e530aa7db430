//! The reasons to leave a Sentinel, said so that an operator can act on them.

use super::{names_secret, not_redis, printable, who};
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::sentinel_reply::NamedPrimary;

fn name(config: &RedisConfig) -> &str {
    config.sentinels.as_ref().map_or("", |sentinels| &sentinels.name)
}

/// It answered SENTINEL MASTER with an error.
pub fn refused(config: &RedisConfig, code: &str, details: &str) -> String {
    let (who, name) = (who(config), name(config));
    match code {
        "ERR" if details.contains("No such master") => format!(
            "{who} watches no primary of the name {name}: SENTINEL MASTERS there lists those that it watches; \
             write the name behind the hosts of redis+sentinel://…/NAME"
        ),
        "ERR" if details.contains("unknown command") => format!(
            "{} is a Redis and no Sentinel: name the Sentinels in redis+sentinel:// (their port is mostly 26379), \
             or write redis:// for this one server",
            config.server.address
        ),
        "NOPERM" => format!(
            "{who} does not let this user ask: run there ACL SETUSER <user> +sentinel|master +sentinel|ckquorum \
             +sentinel|get-master-addr-by-name +subscribe &+switch-master +hello +auth +ping +client|setname"
        ),
        code => {
            let details = if names_secret(config, details) { "" } else { details };
            let (code, said) = (printable(code), printable(details));
            format!(
                "{who} answered -{code} to SENTINEL MASTER: expected it to be accepted, it said: {said}"
            )
        }
    }
}

/// It answered something that is no answer of a Sentinel.
pub fn odd(config: &RedisConfig, why: &str) -> String {
    not_redis(config, why).replacen("not Redis answers", "no Sentinel answers", 1)
}

/// It cannot reach enough others.
pub fn no_quorum(config: &RedisConfig) -> String {
    let (who, name) = (who(config), name(config));
    format!(
        "{who} cannot reach a quorum of Sentinels for {name}: its word may be old, and no failover comes; asking the others \
         (start the missing Sentinels, or mend the network between them: SENTINEL CKQUORUM {name})"
    )
}

/// It names a primary by an older epoch than one that is known.
pub fn outdated(config: &RedisConfig, named: &NamedPrimary, followed: &NamedPrimary) -> String {
    format!(
        "{} names {} the primary of {} by epoch {}, which is older than epoch {} that names {}: it is passed over \
         (is it cut off from the others? if all Sentinels were set up anew, restart oneloop)",
        who(config),
        named.address,
        name(config),
        named.epoch,
        followed.epoch,
        followed.address
    )
}

/// It names another primary than another Sentinel in the same epoch.
pub fn two_primaries(
    config: &RedisConfig,
    named: &NamedPrimary,
    followed: &NamedPrimary,
) -> String {
    format!(
        "{} names {} the primary of {} by epoch {}, and another Sentinel {}, which serves: it is passed over \
         (were they given two primaries, or do some announce names and some addresses? see announce-hostnames)",
        who(config),
        named.address,
        name(config),
        named.epoch,
        followed.address
    )
}

/// No connection to the primary that it names comes up.
pub fn fruitless(config: &RedisConfig, followed: Option<&NamedPrimary>) -> String {
    let address = followed.map_or(String::new(), |one| one.address.to_string());
    let state = match followed {
        Some(named) if named.is_down => {
            ", which it holds for down itself (a failover has yet to come)"
        }
        _ => "",
    };
    format!(
        "{} still names {address} the primary of {}{state}, and no connection there comes up: asking the next Sentinel",
        who(config),
        name(config)
    )
}
