//! The server that a command connects to: the first usable one of a list, or the primary that Sentinels name.

use crate::cli::redis_client::{RedisClient, RedisReply};
use crate::engine::redis::advice::of_sentinel as advice;
use crate::engine::redis::config::{RedisConfig, RedisServer};
use crate::engine::redis::sentinel_reply::{NamedPrimary, address};
use crate::engine::redis::url::Address;

/// Connects to the first server that can be used, or to the primary that the Sentinels name.
///
/// # Errors
/// A sentence if none can be reached, speaks Redis' protocol, and takes the login.
pub(super) fn open(config: &RedisConfig) -> Result<RedisClient, String> {
    let servers = match &config.sentinels {
        None => config.servers.clone(),
        Some(_) => vec![primary(&ask(config, true))?.clone()],
    };
    let mut failures = Vec::new();
    for server in servers {
        match RedisClient::open(RedisConfig { server, ..config.clone() }) {
            Ok(client) => return Ok(client),
            Err(why) => failures.push(why),
        }
    }
    Err(failures.join("; "))
}

/// The word of one Sentinel.
pub(super) struct SentinelWord {
    pub(super) sentinel: Address,
    /// The primary that it names, or a sentence that says why it names none.
    pub(super) named: Result<Named, String>,
}

/// A primary, as one Sentinel names it.
pub(super) struct Named {
    pub(super) primary: NamedPrimary,
    /// The same with the login of the settings.
    server: RedisServer,
    /// It reaches enough other Sentinels to have it changed.
    pub(super) has_quorum: bool,
}

/// Asks the Sentinels one after the other; `is_brief`: as far as the first one with a quorum.
pub(super) fn ask(config: &RedisConfig, is_brief: bool) -> Vec<SentinelWord> {
    let sentinels = config.sentinels.iter().flat_map(|sentinels| &sentinels.servers);
    let mut words = Vec::new();
    for server in sentinels {
        let sentinel = server.address.clone();
        let named = ask_one(RedisConfig { server: server.clone(), ..config.clone() });
        let is_enough = is_brief && named.as_ref().is_ok_and(|named| named.has_quorum);
        words.push(SentinelWord { sentinel, named });
        if is_enough {
            break;
        }
    }
    words
}

fn ask_one(config: RedisConfig) -> Result<Named, String> {
    let Some(sentinels) = config.sentinels.clone() else {
        return Err("there are no Sentinels".to_owned());
    };
    let mut client = RedisClient::open(config.clone())?;
    let words = match client.ask(&["SENTINEL", "MASTER", &sentinels.name])? {
        RedisReply::Words(words) => words,
        RedisReply::Refused(code, details) => {
            return Err(advice::refused(&config, &code, &details));
        }
    };
    let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
    let pairs: Vec<(&str, &str)> =
        words.chunks_exact(2).map(|pair| (&*pair[0], &*pair[1])).collect();
    let mut primary = NamedPrimary::of_pairs(&pairs).map_err(|why| advice::odd(&config, why))?;
    let place = client.words(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &sentinels.name])?;
    if let [host, port] = &place[..] {
        let place = address(Some(host), Some(port));
        primary.address = place.map_err(|why| advice::odd(&config, why))?;
    }
    let server = sentinels.primary.at(primary.address.clone())?;
    let quorum = client.ask(&["SENTINEL", "CKQUORUM", &sentinels.name])?;
    let has_quorum = !matches!(quorum, RedisReply::Refused(code, _) if code == "NOQUORUM");
    Ok(Named { primary, server, has_quorum })
}

/// Returns the word that counts: with a quorum if there is one, and by the latest epoch.
pub(super) fn best(words: &[SentinelWord]) -> Option<&Named> {
    let named = words.iter().filter_map(|word| word.named.as_ref().ok());
    named.max_by_key(|named| (named.has_quorum, named.primary.epoch))
}

/// Returns the primary.
///
/// # Errors
/// The reasons of all Sentinels.
pub(super) fn primary(words: &[SentinelWord]) -> Result<&RedisServer, String> {
    let failures = || {
        let failures = words.iter().filter_map(|word| word.named.as_ref().err().cloned());
        format!("no Sentinel names the primary: {}", failures.collect::<Vec<_>>().join("; "))
    };
    best(words).map(|named| &named.server).ok_or_else(failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(host: &str, epoch: u64, has_quorum: bool) -> SentinelWord {
        let address = Address::Tcp { host: host.to_owned(), port: 6379 };
        let server =
            RedisConfig::from_url("redis://h").unwrap().server.at(address.clone()).unwrap();
        let primary = NamedPrimary { address: address.clone(), epoch, is_down: false };
        SentinelWord { sentinel: address, named: Ok(Named { primary, server, has_quorum }) }
    }

    #[test]
    fn a_quorum_counts_more_than_an_epoch_and_that_more_than_nothing() {
        let silent =
            || SentinelWord { sentinel: Address::Unix("/s".into()), named: Err("no".to_owned()) };
        for (words, expected) in [
            (vec![word("a", 1, true), word("b", 2, true)], Some("b:6379")),
            (vec![word("a", 1, true), word("b", 2, false)], Some("a:6379")),
            (vec![silent(), word("b", 2, false), word("a", 1, false)], Some("b:6379")),
            (vec![silent(), silent()], None),
        ] {
            let found = primary(&words).map(|server| server.address.to_string());
            assert_eq!(found.ok().as_deref(), expected);
        }
        let why = primary(&[silent()]).map(|_| ()).unwrap_err();
        assert_eq!(why, "no Sentinel names the primary: no");
    }
}
