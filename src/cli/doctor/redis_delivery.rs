//! The check that messages can come through this Redis: its role, and a message sent through it.

use super::redis_server::{field, setuser};
use super::report::{Problem, Report};
use crate::cli::redis_client::{RedisClient, RedisReply};
use crate::engine::redis::config::RedisConfig;
use crate::engine::redis::probe::CHANNEL;

const NAME: &str = "redis-way";

/// The role of a Redis.
#[derive(Debug, PartialEq, Eq)]
enum RedisRole {
    Unknown,
    Sentinel,
    /// A replica without its primary; the state in the words of Redis.
    CutOff(String),
    /// A Redis that carries messages, in words for people.
    Sound(String),
}

/// Reports the role by INFO and ROLE. Returns `false` if this Redis certainly carries no messages.
pub(super) fn check(report: &mut Report, info: &str, role: &[String], shell: &str) -> bool {
    const WHY: &str = "no message of a publisher comes by it";
    match role_of(info, role) {
        RedisRole::Unknown => {
            report.unseen(NAME, "neither INFO nor ROLE tells what it is (+info, +role)", "")
        }
        RedisRole::Sound(what) => report.ok(NAME, &what),
        RedisRole::Sentinel => {
            let mend = [
                shell,
                " SENTINEL GET-MASTER-ADDR-BY-NAME <name> (name that in the setting redis)",
            ];
            report.say(
                Problem,
                NAME,
                "a Sentinel, which only takes subscriptions",
                WHY,
                &mend.concat(),
            );
            return false;
        }
        RedisRole::CutOff(state) => {
            let seen = format!("a replica that is cut off from its primary ({state})");
            let mend = "redis = the URL of the primary, in the settings; or mend the replication";
            report.say(Problem, NAME, &seen, WHY, mend);
            return false;
        }
    }
    true
}

fn role_of(info: &str, role: &[String]) -> RedisRole {
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    let link = match words[..] {
        ["slave", _, _, "connected", ..] => Some("up"),
        ["slave", _, _, state, ..] => Some(state),
        _ => field(info, "master_link_status"),
    };
    match (field(info, "redis_mode"), field(info, "role").or(words.first().copied()), link) {
        (Some("sentinel"), ..) | (_, Some("sentinel"), _) => RedisRole::Sentinel,
        (_, Some("slave"), Some(state)) if state != "up" => RedisRole::CutOff(state.to_owned()),
        (_, Some("slave"), _) => RedisRole::Sound(
            "a replica in sync: it carries what is published at its primary".to_owned(),
        ),
        (Some("cluster"), ..) => RedisRole::Sound(
            "a node of a cluster, which carries what is published at any".to_owned(),
        ),
        (_, Some(role), _) => RedisRole::Sound(["a ", role].concat()),
        (_, None, _) => RedisRole::Unknown,
    }
}

/// Publishes a message on one connection, and waits for it on another.
pub(super) fn probe(report: &mut Report, config: &RedisConfig, shell: &str) {
    let channel = [CHANNEL, "doctor-", &config.node].concat();
    match send(config, &channel) {
        Ok(None) => report.ok(NAME, "a message that was published there came back"),
        Ok(Some(why)) => {
            let mend = [shell, &setuser(config), "'&oneloop:probe:*' +subscribe +publish"].concat();
            report.unseen(NAME, &format!("{why}, to a message of our own"), &mend);
        }
        Err(why) => {
            let seen = format!("a message that was published there did not come back: {why}");
            let mend = "redis = the URL of the Redis that publishers use, in the settings";
            report.problem(NAME, &seen, mend);
        }
    }
}

/// Returns `None` if the message came, or the reason why it could not be tried.
///
/// # Errors
/// A sentence if the message did not come.
fn send(config: &RedisConfig, channel: &str) -> Result<Option<String>, String> {
    let clients = (RedisClient::open(config.clone()), RedisClient::open(config.clone()));
    let (Ok(mut subscriber), Ok(mut publisher)) = clients else {
        return Ok(Some("no room for two connections".to_owned()));
    };
    if let RedisReply::Refused(code, _) = subscriber.ask(&["SUBSCRIBE", channel])? {
        return Ok(Some(code));
    }
    if let RedisReply::Refused(code, _) = publisher.ask(&["PUBLISH", channel, "probe"])? {
        return Ok(Some(code));
    }
    subscriber.next().map(|_| None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_is_what_it_says() {
        let cut_off = |state: &str| RedisRole::CutOff(state.to_owned());
        for (info, role, expected) in [
            ("redis_mode:sentinel\r\n", "", RedisRole::Sentinel),
            ("", "sentinel mymaster", RedisRole::Sentinel),
            ("role:slave\r\nmaster_link_status:down\r\n", "", cut_off("down")),
            ("", "slave h 1 connect -1", cut_off("connect")),
            ("", "", RedisRole::Unknown),
            (
                "redis_mode:standalone\r\nrole:master\r\n",
                "",
                RedisRole::Sound("a master".to_owned()),
            ),
            ("", "master 0", RedisRole::Sound("a master".to_owned())),
        ] {
            let role: Vec<String> = role.split_whitespace().map(str::to_owned).collect();
            assert_eq!(role_of(info, &role), expected, "{info} {role:?}");
        }
        for (info, part) in [
            ("role:slave\r\nmaster_link_status:up\r\n", "in sync"),
            ("redis_mode:cluster\r\nrole:master\r\n", "cluster"),
        ] {
            assert!(
                matches!(role_of(info, &[]), RedisRole::Sound(what) if what.contains(part)),
                "{info}"
            );
        }
    }
}
