//! The parent's part in features that speak for all loops: its own features learn what workers tell of their clients.

use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::feature::FeatureEvent;
use crate::engine::router::Router;
use crate::loops::deliveries::LoopDeliveries;
use crate::loops::hello::LOOPS_MAX;
use crate::loops::kinds::{DELIVERIES, MEMBERS, MEMBERS_READ, ROSTER};
use crate::loops::link::{LinkFrame, MalformedLink};
use crate::loops::members::LoopMembers;
use crate::loops::roster::{CHANGES_PER_TURN, Roster, read_changes};

/// The state of the exchange with all workers.
#[derive(Default)]
pub struct LoopExchange {
    users: Roster,
    pub members: LoopMembers,
    pub deliveries: LoopDeliveries,
}

impl LoopExchange {
    /// Takes a frame of a worker. Returns whether no more of its frames are to be taken in this turn.
    ///
    /// # Errors
    /// The frame is malformed, or none of the exchange.
    pub fn take_frame(
        &mut self,
        (place, process): (usize, u32),
        frame: LinkFrame<'_>,
        router: &mut Router,
    ) -> Result<bool, MalformedLink> {
        let count = match frame.kind {
            ROSTER => read_changes(frame, |user, has_come| {
                self.users.change(place, user, has_come)?;
                router.notify_features(FeatureEvent::UserElsewhere { user, has_come });
                Ok(())
            })?,
            MEMBERS => self.members.take_changes(frame, place, &mut router.server)?,
            MEMBERS_READ => return self.members.take_request(frame, process).map(|()| false),
            DELIVERIES => return self.deliveries.take_reports(frame, place).map(|()| false),
            _ => return Err(MalformedLink),
        };
        Ok(count >= CHANGES_PER_TURN)
    }

    /// Expects counts of deliveries, by the numbers of their messages, from these workers, a bit for each.
    pub fn expect(&mut self, deliveries: Vec<(u64, Rc<DeliveryCount>)>, workers: u64) {
        for (number, count) in deliveries {
            let workers = (0..LOOPS_MAX).filter(|place| workers & 1 << place != 0);
            self.deliveries.expect(number, count, workers);
        }
    }

    /// A worker has ended with all of its clients.
    pub fn leave(&mut self, place: usize) {
        self.users.leave(place);
        self.members.leave(place);
        self.deliveries.leave(place);
    }

    /// Does what is due in a turn.
    pub fn tick(&mut self, router: &mut Router) {
        self.members.tick(&mut router.server);
        for _ in 0..CHANGES_PER_TURN {
            let Some(user) = self.users.take_leaving() else { return };
            let event = FeatureEvent::UserElsewhere { user: &user, has_come: false };
            router.notify_features(event);
        }
    }

    /// Returns when the loop must turn again.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        self.users.has_leaving().then_some(now).or(self.members.deadline(now))
    }
}
