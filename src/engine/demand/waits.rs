//! Clients that wait for Redis to acknowledge what they subscribed to, in the order in which they came.

use std::collections::VecDeque;

use crate::clock::Millis;
use crate::engine::pubsub::hub::KeyName;
use crate::engine::slots::ConnId;

/// The most clients and commands that wait at one time.
pub const WAITS_MAX: usize = 16_384;

/// A client, or an answer for it, that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub route: u8,
    pub id: ConnId,
    /// The key that it waits for; `None`: all of the client's.
    pub key: Option<KeyName>,
    pub then: WaitEnd,
}

/// The end of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The handler answers under this number, by this time at the latest.
    Answer { number: u64, by: Millis },
    /// The client is told that messages after this cursor may be missing.
    Gap { from: String },
}

/// The waits: those for answers, which have a deadline each, and those for gaps.
#[derive(Default)]
pub struct Waits {
    pub answers: VecDeque<Wait>,
    pub gaps: VecDeque<Wait>,
    /// The number of the latest answer.
    pub number: u64,
    /// Clients whose hold has ended, and whose input may wait to be read.
    pub released: Vec<ConnId>,
    /// More could have ended in the last turn.
    pub are_cut: bool,
}

impl Waits {
    /// Adds one. `false`: there are too many.
    pub fn push(&mut self, wait: Wait) -> bool {
        let has_room = self.len() < WAITS_MAX;
        if has_room {
            let is_answer = matches!(wait.then, WaitEnd::Answer { .. });
            let queue = if is_answer { &mut self.answers } else { &mut self.gaps };
            queue.push_back(wait);
        }
        has_room
    }

    /// Takes the wait for the answer with this number.
    pub fn take_answer(&mut self, wanted: u64) -> Option<Wait> {
        let number = |wait: &Wait| match wait.then {
            WaitEnd::Answer { number, .. } => number,
            WaitEnd::Gap { .. } => unreachable!("gaps wait apart"),
        };
        let at = self.answers.binary_search_by_key(&wanted, number).ok()?;
        self.answers.remove(at)
    }

    pub fn len(&self) -> usize {
        self.answers.len() + self.gaps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns when the first answer is due.
    pub fn deadline(&self) -> Option<Millis> {
        if self.are_cut || !self.released.is_empty() {
            return Some(0);
        }
        self.answers.front().and_then(|wait| match wait.then {
            WaitEnd::Answer { by, .. } => Some(by),
            WaitEnd::Gap { .. } => None,
        })
    }
}
