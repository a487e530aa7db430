//! The settings of subscriptions on demand.

use crate::clock::Millis;
use crate::config::{Config, Subscribe};
use crate::engine::demand::DemandSettings;
use crate::engine::redis::glob;
use crate::features::presence::members;

/// Returns the settings of subscriptions on demand, if these are wanted.
pub(super) fn demand(config: &Config, timeout: Millis) -> Option<DemandSettings> {
    (config.subscribe == Subscribe::Demand).then(|| DemandSettings {
        prefix: config.prefix.clone(),
        connections: config.subscribe_connections,
        linger: Millis::from(config.subscribe_linger_seconds) * 1000,
        timeout,
        own: own_channels(config),
    })
}

/// Returns the channels that features are told of.
fn own_channels(config: &Config) -> Vec<String> {
    let members = config.lists_members().then(|| members::channel(&config.prefix));
    config.control.iter().cloned().chain(members).collect()
}

/// Returns the patterns of these channels.
pub(super) fn own_patterns(config: &Config) -> Vec<String> {
    own_channels(config).iter().map(|channel| glob::escaped(channel)).collect()
}
