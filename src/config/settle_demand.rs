//! Settings that subscriptions on demand need, or exclude.

use super::Subscribe;
use super::draft::Draft;

/// Refuses subscriptions on demand where they cannot be had.
pub(super) fn check(draft: &mut Draft) {
    if draft.config.subscribe != Subscribe::Demand {
        return;
    }
    if !draft.has("redis") {
        draft.refuse("subscribe", "is demand, but redis is not set: it is about a Redis");
    }
    if draft.has("patterns") {
        let patterns = draft.label("patterns");
        let problem =
            format!("is demand, which subscribes to channels by name: leave out {patterns}");
        draft.refuse("subscribe", &problem);
    }
    if draft.config.loops() > 1 {
        let loops = draft.label("loops");
        let problem = format!(
            "is demand, but {loops} is more than 1: one process subscribes for all loops, and does not know what their clients \
             want; set loops = 1, and start more processes"
        );
        draft.refuse("subscribe", &problem);
    }
}
