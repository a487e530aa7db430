//! A client's commands per second, by price.
//!
//! A new client subscribes to all its topics at once and must not be closed for it. A topic therefore costs less than another
//! command, so that `topics_per_client_max` topics fit into a second beside the other commands.

/// The prices of commands, and their limit per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The price of a command other than a topic, which costs 1.
    pub command: u32,
    /// The limit on the sum of one second.
    total: u32,
}

/// A client's sum stops here.
const SPENT_MAX: u32 = u16::MAX as u32;

impl Allowance {
    /// An allowance of `commands_max` commands a second (0: no bound) for clients of up to `topics_max` topics.
    pub fn new(commands_max: u32, topics_max: usize) -> Allowance {
        if commands_max == 0 {
            return Allowance { command: 0, total: SPENT_MAX };
        }
        let topics = u32::try_from(topics_max).unwrap_or(SPENT_MAX);
        let wanted = commands_max.saturating_add(topics).div_ceil(commands_max);
        // Twice the total must still be countable.
        let command = wanted.min(SPENT_MAX / 2 / commands_max).max(1);
        Allowance { command, total: command.saturating_mul(commands_max) }
    }

    /// Returns whether the limit is exceeded, so that topics are refused and any other command closes the client.
    pub fn is_spent(&self, spent: u16) -> bool {
        u32::from(spent) > self.total
    }

    /// Returns whether the client continues despite the refusals, so that it is closed.
    pub fn is_flooded(&self, spent: u16) -> bool {
        u32::from(spent) >= (self.total.saturating_mul(2)).min(SPENT_MAX) && self.command > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_topics_of_a_client_fit_into_a_second_beside_other_commands() {
        for (commands, topics) in
            [(50, 128), (10, 128), (1, 1), (128, 128), (1000, 16), (3, 20_000)]
        {
            let allowance = Allowance::new(commands, topics);
            let only_commands = (commands * allowance.command) as u16;
            assert!(!allowance.is_spent(only_commands), "{commands} {topics}");
            assert!(allowance.is_spent(only_commands + 1), "{commands} {topics}");
            assert!(!allowance.is_spent(topics as u16), "{commands} {topics}");
            assert!(allowance.is_flooded((2 * u32::from(only_commands)) as u16));
        }
    }

    #[test]
    fn nothing_overflows_and_no_bound_is_none() {
        for commands in [1, 2, 65_534, u32::MAX] {
            for topics in [0, 1, 1 << 24, usize::MAX] {
                let allowance = Allowance::new(commands, topics);
                assert!(allowance.command >= 1 && !allowance.is_spent(1), "{commands} {topics}");
            }
        }
        let none = Allowance::new(0, 128);
        assert!(!none.is_spent(u16::MAX) && !none.is_flooded(u16::MAX));
    }
}
