//! Judges whether a node of a Redis Cluster can carry what is published at the others, by its own word.
//!
//! The nodes pass every `PUBLISH` on to each other, so that one subscription at any node hears all of them. A node that has lost the
//! majority says `cluster_state:fail`: it still takes subscriptions, answers, and brings back what is published at itself, so that
//! neither its role nor the probe shows that the rest is missing.

use redis::Value;

use crate::engine::redis::config::{RedisConfig, ServerKind};
use crate::engine::redis::failure::RedisFailure;
use crate::engine::redis::far_end::info_text;
use crate::engine::redis::printable::printable;

/// Returns whether the server of these settings is a node of a cluster.
pub fn is_node(config: &RedisConfig) -> bool {
    config.server.kind == ServerKind::ClusterNode
}

/// Turns a server that is no node of a cluster into a failure, by its mode.
pub fn check_mode(mode: &str, config: &RedisConfig) -> Result<(), RedisFailure> {
    if !is_node(config) || mode == "cluster" {
        return Ok(());
    }
    Err(RedisFailure::Deaf(format!(
        "Redis at {} is no node of a cluster (redis_mode:{}): write redis:// in place of redis+cluster://, or set \
         cluster-enabled there",
        config.server.address,
        printable(mode)
    )))
}

/// Turns a node that is cut off from its cluster into a failure, by the answer to `CLUSTER INFO`.
pub fn check_state(answer: &Value, config: &RedisConfig) -> Result<(), RedisFailure> {
    let info = info_text(answer).unwrap_or_default();
    match info.lines().find_map(|line| line.trim_end().strip_prefix("cluster_state:")) {
        None | Some("ok") => Ok(()),
        Some(state) => Err(RedisFailure::Deaf(format!(
            "the node of the cluster at {} says cluster_state:{}: it may be cut off from the others, or slots have no primary; \
             trying the next node (if this stays so, redis-cli --cluster check {} says what is missing)",
            config.server.address,
            printable(state),
            config.server.address
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_says_so_is_cut_off() {
        let node = RedisConfig::from_url("redis+cluster://h").expect("the URL is right");
        let other = RedisConfig::from_url("redis://h").expect("the URL is right");
        let state = |info: &str| check_state(&Value::BulkString(info.into()), &node);
        assert!(state("cluster_state:ok\r\ncluster_slots_fail:0\r\n").is_ok());
        assert!(state("").is_ok() && check_state(&Value::Okay, &node).is_ok());
        let failure = state("cluster_enabled:1\r\ncluster_state:fail\r\n").expect_err("it failed");
        assert!(failure.text(&node).contains("cluster_state:fail"));
        assert!(check_mode("cluster", &node).is_ok() && check_mode("standalone", &other).is_ok());
        let failure = check_mode("standalone", &node).expect_err("it is none");
        assert!(failure.text(&node).contains("is no node of a cluster"));
    }
}
