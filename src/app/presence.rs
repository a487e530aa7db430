//! The settings of presence, out of those of the server.

use crate::clock::Millis;
use crate::config::Config;
use crate::features::presence::{BATCH_MAX, ReportUse, Settings};

/// Returns the settings of presence, if it has a place to report to.
pub(super) fn presence(config: &Config, clients_max: usize) -> Option<Settings> {
    Some(Settings {
        report: ReportUse::Events {
            sink: config.events.clone()?,
            entries_max: config.bounds.events_entries_max,
        },
        wait: Millis::from(config.bounds.offline_seconds) * 1000,
        waiting_max: clients_max,
        batch_max: BATCH_MAX,
    })
}
