//! The source of lists: Redis, this node alone, or neither while it is not known what Redis has.

use crate::clock::Millis;

/// The time that lists stay as they are, since Redis may lack members: for Redis to come back, and if it lost its data for other nodes
/// to notice that and to report theirs. A node reports every 5 s, and waits for 1 s before it reports all members.
const PATIENCE: Millis = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListSource {
    /// It has the members of this node, and those of the others.
    Redis,
    /// This node's own members: there is no Redis, or it has been away for long.
    Own,
    /// Redis may lack members of this node. After `until` the lists have its own. `is_empty`: it did lack them.
    Unsure { until: Millis, is_empty: bool },
    /// Redis has the members of this node again, and those of the others after this.
    Settling { until: Millis },
}

impl ListSource {
    /// The source of a node that is to report its members to Redis for the first time, if there is one.
    pub(super) fn new(has_redis: bool, now: Millis) -> ListSource {
        match has_redis {
            true => ListSource::Unsure { until: now + PATIENCE, is_empty: false },
            false => ListSource::Own,
        }
    }

    /// Returns whether lists are read. If not, they stay as they are.
    pub(super) fn is_known(self) -> bool {
        matches!(self, ListSource::Redis | ListSource::Own)
    }

    /// Redis came back, or does not answer: it may lack members until this node's next report was executed.
    pub(super) fn doubt(&mut self, now: Millis) {
        let until = now + PATIENCE;
        match self {
            ListSource::Redis => *self = ListSource::Unsure { until, is_empty: false },
            ListSource::Settling { .. } => *self = ListSource::Unsure { until, is_empty: true },
            // However often: lists do not wait for ever.
            ListSource::Unsure { .. } | ListSource::Own => {}
        }
    }

    /// Redis does not know this node: it lost its data.
    pub(super) fn lost(&mut self, now: Millis) {
        self.doubt(now);
        if let ListSource::Unsure { is_empty, .. } = self {
            *is_empty = true;
        }
    }

    /// Redis refused what it was asked. Returns whether lists have this node's own members from now on.
    pub(super) fn refused(&mut self) -> bool {
        std::mem::replace(self, ListSource::Own) != ListSource::Own
    }

    /// Redis has all members of this node. Returns whether lists come from it from now on.
    pub(super) fn on_reported(&mut self, now: Millis) -> bool {
        *self = match *self {
            ListSource::Unsure { is_empty: true, .. } => {
                ListSource::Settling { until: now + PATIENCE }
            }
            ListSource::Unsure { .. } | ListSource::Own => ListSource::Redis,
            ListSource::Redis | ListSource::Settling { .. } => return false,
        };
        *self == ListSource::Redis
    }

    /// Ends a wait. Returns whether lists come from elsewhere from now on.
    pub(super) fn tick(&mut self, now: Millis) -> bool {
        match *self {
            ListSource::Unsure { until, .. } if now >= until => *self = ListSource::Own,
            ListSource::Settling { until } if now >= until => *self = ListSource::Redis,
            _ => return false,
        }
        true
    }

    /// Returns when [`ListSource::tick`] is to be called at the latest.
    pub(super) fn deadline(self) -> Option<Millis> {
        match self {
            ListSource::Unsure { until, .. } | ListSource::Settling { until } => Some(until),
            ListSource::Redis | ListSource::Own => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_as_they_are_until_redis_has_the_members_of_all_nodes() {
        let mut source = ListSource::new(true, 0);
        assert!(!source.is_known() && source.on_reported(1) && source.is_known());
        source.doubt(10);
        assert!(!source.is_known() && !source.tick(9 + PATIENCE));
        assert!(source.on_reported(20), "it kept its data");
        source.lost(30);
        assert!(!source.on_reported(40) && !source.is_known(), "others are still to report");
        assert_eq!(source.deadline(), Some(40 + PATIENCE));
        assert!(!source.on_reported(50), "the next sign of life changes nothing");
        assert!(source.tick(40 + PATIENCE));
        assert_eq!((source, source.deadline()), (ListSource::Redis, None));
    }

    #[test]
    fn a_redis_that_stays_away_leaves_the_lists_to_the_node() {
        let mut source = ListSource::Redis;
        for now in 0..PATIENCE {
            source.doubt(now);
            assert!(!source.tick(now));
        }
        assert!(source.tick(PATIENCE));
        source.doubt(PATIENCE);
        source.lost(PATIENCE);
        assert_eq!(source, ListSource::Own, "until a report succeeds");
        assert!(source.on_reported(PATIENCE) && source == ListSource::Redis);
        assert!(source.refused() && !source.refused() && source == ListSource::Own);
    }

    #[test]
    fn an_outage_while_others_report_begins_the_wait_anew() {
        let mut source = ListSource::Redis;
        source.lost(0);
        source.on_reported(0);
        source.doubt(100);
        assert!(!source.on_reported(200));
        assert_eq!(source, ListSource::Settling { until: 200 + PATIENCE });
    }
}
