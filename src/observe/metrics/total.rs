//! The value of a metric for several processes that are one server.

/// How the values of several processes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Total {
    /// Each process has its own: they are added up.
    Sum,
    /// All processes see the same: one that started later has seen less of it.
    Most,
    /// The server is as well off as the process that is worst off.
    Least,
}

impl Total {
    /// Takes in the value of one more process.
    pub fn take_in(self, total: &mut u64, value: u64) {
        *total = match self {
            Total::Sum => total.saturating_add(value),
            Total::Most => value.max(*total),
            Total::Least => value.min(*total),
        };
    }
}
