//! Settings that subscriptions on demand need, or exclude.

use super::Subscribe;
use super::draft::Draft;

impl Draft {
    /// Refuses subscriptions on demand where they cannot be had.
    pub(super) fn check_demand(&mut self) {
        if self.config.subscribe != Subscribe::Demand {
            return;
        }
        if !self.has("redis") {
            self.refuse("subscribe", "is demand, but redis is not set: it is about a Redis");
        }
        if self.has("patterns") {
            let patterns = self.label("patterns");
            let problem =
                format!("is demand, which subscribes to channels by name: leave out {patterns}");
            self.refuse("subscribe", &problem);
        }
        if self.config.loops() > 1 {
            let loops = self.label("loops");
            let problem = format!(
                "is demand, but {loops} is more than 1: one process subscribes for all loops, and does not know what their \
                 clients want; set loops = 1, and start more processes"
            );
            self.refuse("subscribe", &problem);
        }
    }
}
