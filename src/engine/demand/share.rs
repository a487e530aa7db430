//! The part of the topics that one connection to Redis carries.

use std::collections::VecDeque;

use crate::clock::Millis;

/// Channels in one command.
pub(super) const BATCH: usize = 512;
/// The most channels of a connection whose acknowledgement is still to come.
pub(super) const UNACKNOWLEDGED_MAX: usize = 8 * BATCH;

/// The state of a topic, or of the pattern for all topics, at Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TopicLink {
    /// Redis does not know of it.
    #[default]
    Absent,
    /// It waits to be sent.
    Queued,
    /// It was sent, and is not acknowledged.
    Sent,
    /// Redis acknowledged it.
    Held,
    /// Its end was sent, and is not acknowledged.
    Leaving,
}

/// The mark of a topic that was acknowledged, and has no mark yet.
pub(super) const UNMARKED: u64 = u64::MAX;

/// The pattern for all topics on one connection.
#[derive(Default)]
pub(super) struct Everything {
    pub link: TopicLink,
    pub from: u64,
}

/// One connection: what is sent to it, and how far Redis acknowledged that.
#[derive(Default)]
pub(super) struct TopicShare {
    /// Connections so far: what an earlier one carried is void, without a look at each topic.
    pub epoch: u32,
    pub is_up: bool,
    /// The next place of the table that is looked at after the connection came up; `None`: all were.
    pub scan: Option<u32>,
    /// Topics to subscribe to, before those of the scan. Some may not be wanted any more.
    pub queued: VecDeque<u32>,
    /// Topics whose time after the last client is over. Some may be wanted again.
    pub over: VecDeque<u32>,
    /// Topics that are wanted again before Redis has acknowledged their end.
    pub returning: usize,
    /// Commands that are not acknowledged: when each was sent, and its channels that are still open.
    sent: VecDeque<(Millis, usize)>,
    unacknowledged: usize,
    /// Acknowledgements to come before everything that was wanted when the connection came up is subscribed to.
    before_whole: Option<usize>,
    /// It was whole, and what was missed before is reported: messages count from then on.
    pub is_told: bool,
    /// Topics that were acknowledged after the latest mark.
    pub unmarked: Vec<u32>,
    pub everything: Everything,
}

impl TopicShare {
    /// The connection is up: nothing is subscribed to yet.
    pub fn up(&mut self) {
        self.is_up = true;
        self.scan = Some(0);
    }

    /// The connection is gone, with everything on it.
    pub fn down(&mut self) {
        *self = TopicShare { epoch: self.epoch.wrapping_add(1), ..TopicShare::default() };
    }

    /// Returns whether everything that was wanted when the connection came up is acknowledged.
    pub fn is_whole(&self) -> bool {
        self.is_up && self.scan.is_none() && self.before_whole == Some(0)
    }

    /// Nothing is left of the scan: it is over once what was sent so far is acknowledged, and so many `topics` that follow.
    pub fn end_scan(&mut self, topics: usize) {
        self.scan = None;
        self.before_whole = Some(self.unacknowledged + topics);
    }

    /// Returns whether another command may be sent.
    pub fn has_room(&self) -> bool {
        self.is_up && self.unacknowledged + BATCH <= UNACKNOWLEDGED_MAX
    }

    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }

    /// A command with so many channels goes out.
    pub fn send(&mut self, channels: usize, now: Millis) {
        self.sent.push_back((now, channels));
        self.unacknowledged += channels;
    }

    /// Redis acknowledged a channel. It does so in the order of the commands.
    pub fn acknowledge(&mut self) {
        let Some((_, left)) = self.sent.front_mut() else { return };
        *left -= 1;
        if *left == 0 {
            self.sent.pop_front();
        }
        self.unacknowledged -= 1;
        if let Some(left) = &mut self.before_whole {
            *left = left.saturating_sub(1);
        }
    }

    /// When the oldest command was sent that is not acknowledged.
    pub fn oldest(&self) -> Option<Millis> {
        self.sent.front().map(|(sent, _)| *sent)
    }
}
