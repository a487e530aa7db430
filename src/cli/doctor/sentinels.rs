//! The checks of Sentinels: which primary they name, and whether they agree.

use super::report::{Fine, Problem, Report, Warning};
use crate::cli::redis_servers::{Named, ask, best, primary};
use crate::engine::redis::config::{RedisConfig, RedisServer};

const NAME: &str = "sentinel";

/// Reports the word of each Sentinel. Returns the primary if one is named.
pub(super) fn check(report: &mut Report, link: &RedisConfig) -> Option<RedisServer> {
    let words = ask(link, false);
    let name = link.sentinels.as_ref().map_or("", |sentinels| &sentinels.name);
    let best = best(&words);
    for word in &words {
        let at = &word.sentinel;
        match &word.named {
            // Without the others there is no primary at all; with them, it will be missed at the next failover.
            Err(why) => {
                let level = if best.is_some() { Warning } else { Problem };
                report.say(level, NAME, why, "", &format!("redis-cli -u redis://{at} PING"));
            }
            Ok(named) => say(report, named, best, &at.to_string(), name),
        }
    }
    primary(&words).ok().cloned()
}

fn say(report: &mut Report, named: &Named, best: Option<&Named>, at: &str, name: &str) {
    let (address, epoch) = (&named.primary.address, named.primary.epoch);
    let seen = format!("{at} names {address} the primary of {name} (epoch {epoch})");
    let disagrees = best.is_some_and(|best| best.primary.address != *address);
    let shell = |command: &str| format!("redis-cli -u redis://{at} SENTINEL {command} {name}");
    if disagrees {
        let why =
            "another Sentinel names another one, by a quorum or a later epoch: that one counts";
        report.say(Warning, NAME, &seen, why, &shell("MASTER"));
    } else if !named.has_quorum {
        let why = "it reaches no quorum of Sentinels: no failover comes if the primary fails";
        report.say(Warning, NAME, &seen, why, &shell("CKQUORUM"));
    } else if named.primary.is_down {
        let why = "it holds this primary for down: a failover may be under way";
        report.say(Warning, NAME, &seen, why, &shell("MASTER"));
    } else {
        report.say(Fine, NAME, &seen, "", "");
    }
}
