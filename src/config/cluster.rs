//! Settings whose commands have keys, which no single node of a cluster takes.

use crate::config::Config;
use crate::engine::redis::sink::Sink;

pub const NEEDS_KEYS: &str = "needs keys, and at redis+cluster:// only channels are served: leave it out, or name one Redis or \
    its Sentinels";

/// Returns those that are set, each with the path of its route if it is a setting of a route.
pub fn with_keys(config: &Config) -> Vec<(&'static str, Option<String>)> {
    let of_all = [
        ("streams", !config.streams.is_empty()),
        ("events", config.events.is_some()),
        ("control", config.control.is_some()),
    ];
    let of_routes = config.routes.iter().flat_map(|route| {
        let writes = matches!(route.upstream, Some(Sink::Stream(_)));
        let keys = [("upstream", writes), ("members", !route.members.is_empty())];
        keys.map(|(key, needs_keys)| (key, needs_keys, Some(route.path.clone())))
    });
    let of_all = of_all.map(|(key, needs_keys)| (key, needs_keys, None));
    let all = of_all.into_iter().chain(of_routes);
    all.filter(|(_, needs_keys, _)| *needs_keys).map(|(key, _, path)| (key, path)).collect()
}
