//! Deliveries of messages whose publishers want a receipt, counted over all workers.
//!
//! Each worker counts its own, and tells the parent twice at most: when it knows for how many clients a message is, and when all copies
//! are written or dropped, or the time of the receipt is over. The parent adds that to the counter of its own, from which its receipts
//! are written as those of one loop. A worker that ends has dropped the copies that were left; without a word from it, it had none.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::client::delivery_count::{CountedFanout, Deliveries, DeliveryCount};
use crate::engine::feature::{Feature, FeatureEvent, MessageSource};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::loops::kinds::DELIVERIES;
use crate::loops::link::{Fields, LinkFrame, MalformedLink, write_frame, write_number};
use crate::loops::{notes_in, notes_of};

/// Above this many counts that workers have yet to tell, nothing more is read from the sources: some 16 MB.
const UNTOLD_MAX: usize = if cfg!(test) { 1 << 8 } else { 1 << 16 };

/// Messages that wait at a worker for full sockets; the counts of a further one are told as they are.
const WAITING_MAX: usize = 4096;

/// The pause between two looks at those that wait.
const LOOK_PAUSE: Millis = 200;

/// A worker's deliveries that are counted.
pub struct DeliveryNotes {
    /// The channel of receipts for messages that come by channels.
    channel: Option<String>,
    /// Deliveries of messages of this turn.
    fresh: Vec<NotedDelivery>,
    waiting: VecDeque<NotedDelivery>,
    next_look: Millis,
    /// Reports for the parent.
    reports: Vec<DeliveryReport>,
}

struct NotedDelivery {
    /// The number of the message in the history, which is that of all processes.
    number: u64,
    count: Rc<DeliveryCount>,
    /// The parent knows for how many clients it is.
    is_told: bool,
    until: Millis,
}

/// The counts of a message at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DeliveryReport {
    number: u64,
    counts: Deliveries,
    /// No other one follows.
    is_last: bool,
}

impl DeliveryNotes {
    /// Counts the deliveries of messages that have a receipt. `channel`: that of receipts for messages that come by channels.
    pub fn new(channel: Option<String>) -> DeliveryNotes {
        let (fresh, waiting, reports) = Default::default();
        DeliveryNotes { channel, fresh, waiting, next_look: 0, reports }
    }

    /// Returns whether the parent knows for how many clients each message is.
    pub fn are_told(router: &Router) -> bool {
        notes_in::<DeliveryNotes>(router).is_none_or(|notes| {
            let are_told = notes.waiting.iter().all(|delivery| delivery.is_told);
            are_told && notes.fresh.is_empty() && notes.reports.is_empty()
        })
    }

    /// Appends a frame with the reports that the parent has not got yet, if there are any and the router counts deliveries.
    pub fn write_reports(router: &mut Router, out: &mut Vec<u8>) {
        let Some(notes) = notes_of::<DeliveryNotes>(router) else { return };
        let reports = std::mem::take(&mut notes.reports);
        if !reports.is_empty() {
            write_frame(out, DELIVERIES, |out| {
                for DeliveryReport { number, counts, is_last } in reports {
                    write_number(out, number);
                    write_number(out, counts.queued as u64);
                    write_number(out, counts.written as u64);
                    write_number(out, counts.pending as u64);
                    out.push(u8::from(is_last));
                }
            });
        }
    }

    /// Reports what is to be reported of a message. Returns whether that was the last time.
    fn report(&mut self, delivery: &mut NotedDelivery, now: Millis) -> bool {
        let is_last = delivery.count.is_settled()
            || delivery.until <= now
            || self.waiting.len() >= WAITING_MAX && delivery.count.is_given();
        if is_last || !delivery.is_told && delivery.count.is_given() {
            let (number, counts) = (delivery.number, delivery.count.counts());
            self.reports.push(DeliveryReport { number, counts, is_last });
            delivery.is_told = true;
        }
        is_last
    }
}

impl Feature for DeliveryNotes {
    fn name(&self) -> &'static str {
        "deliveries"
    }

    fn on_publish(
        &mut self,
        server: &mut Server,
        _topic: &str,
        source: MessageSource<'_>,
    ) -> Option<Rc<DeliveryCount>> {
        source.receipt_channel(self.channel.as_deref())?;
        let count = Rc::<DeliveryCount>::default();
        let seconds = Millis::from(server.bounds().receipt_seconds);
        self.fresh.push(NotedDelivery {
            number: server.resume.history.next() - 1,
            count: Rc::clone(&count),
            is_told: false,
            until: server.now().millis + seconds * 1000,
        });
        Some(count)
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        let FeatureEvent::TurnEnd = event else { return };
        let now = server.now().millis;
        for mut delivery in std::mem::take(&mut self.fresh) {
            if !self.report(&mut delivery, now) {
                if self.waiting.is_empty() {
                    self.next_look = now + LOOK_PAUSE;
                }
                self.waiting.push_back(delivery);
            }
        }
        if !self.waiting.is_empty() && now >= self.next_look {
            self.next_look = now + LOOK_PAUSE;
            for mut delivery in std::mem::take(&mut self.waiting) {
                if !self.report(&mut delivery, now) {
                    self.waiting.push_back(delivery);
                }
            }
        }
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        match self.reports.is_empty() {
            true => (!self.waiting.is_empty()).then_some(self.next_look),
            false => Some(server.now().millis),
        }
    }
}

/// Deliveries that workers count, as the parent knows them.
#[derive(Default)]
pub struct LoopDeliveries {
    /// Messages of which a worker has not told the last counts, by their numbers.
    awaited: BTreeMap<u64, AwaitedDelivery>,
    /// For each worker, counts of which it has told nothing yet.
    untold: BTreeMap<usize, usize>,
}

struct AwaitedDelivery {
    count: Rc<DeliveryCount>,
    /// The parts of workers whose last counts did not come.
    shares: Vec<DeliveryShare>,
}

struct DeliveryShare {
    place: usize,
    told: Deliveries,
    /// Until the worker has told for how many clients the message is, it is as if these were being gathered.
    fanout: Option<CountedFanout>,
}

impl LoopDeliveries {
    /// Expects the counts of each of these workers, which were given the message.
    pub fn expect(
        &mut self,
        number: u64,
        count: Rc<DeliveryCount>,
        workers: impl Iterator<Item = usize>,
    ) {
        let told = Deliveries::default();
        let share = |place| DeliveryShare { place, told, fanout: Some(count.begin_fanout()) };
        let shares: Vec<DeliveryShare> = workers.map(share).collect();
        for share in &shares {
            *self.untold.entry(share.place).or_default() += 1;
        }
        if !shares.is_empty() {
            self.awaited.insert(number, AwaitedDelivery { count, shares });
        }
    }

    /// Takes the reports of a worker.
    ///
    /// # Errors
    /// The frame is malformed, or about a message that the worker was not given.
    pub fn take_reports(
        &mut self,
        frame: LinkFrame<'_>,
        place: usize,
    ) -> Result<(), MalformedLink> {
        let mut fields = Fields::of(frame.body);
        while !fields.is_empty() {
            let number = fields.number()?;
            let [queued, written, pending] =
                [fields.number()?, fields.number()?, fields.number()?].map(|of| of as usize);
            let is_last = fields.truth()?;
            let settled = written.checked_add(pending).filter(|settled| *settled <= queued);
            let dropped = queued - settled.ok_or(MalformedLink)?;
            let counts = Deliveries { queued, written, dropped, pending };
            let awaited = self.awaited.get_mut(&number).ok_or(MalformedLink)?;
            let share = awaited.shares.iter_mut().find(|share| share.place == place);
            let share = share.ok_or(MalformedLink)?;
            awaited.count.add_elsewhere(share.told, counts);
            if share.fanout.take().is_some() {
                *self.untold.get_mut(&place).expect("it was expected") -= 1;
            }
            share.told = counts;
            if is_last {
                awaited.shares.retain(|share| share.place != place);
                if awaited.shares.is_empty() {
                    self.awaited.remove(&number);
                }
            }
        }
        Ok(())
    }

    /// A worker has ended: its copies that wait are dropped.
    pub fn leave(&mut self, place: usize) {
        self.awaited.retain(|_, AwaitedDelivery { count, shares }| {
            for share in shares.extract_if(.., |share| share.place == place) {
                let Deliveries { dropped, pending, .. } = share.told;
                let last = Deliveries { dropped: dropped + pending, pending: 0, ..share.told };
                count.add_elsewhere(share.told, last);
            }
            !shares.is_empty()
        });
        self.untold.remove(&place);
    }

    /// Returns whether workers have too much to tell.
    pub fn is_full(&self) -> bool {
        self.untold.values().sum::<usize>() > UNTOLD_MAX
    }

    /// Returns whether the sources wait for what this worker has to tell.
    pub fn wait_for(&self, place: usize) -> bool {
        self.is_full() && self.untold.get(&place).is_some_and(|untold| *untold > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(number: u64, [queued, written, pending]: [usize; 3], is_last: bool) -> Vec<u8> {
        let mut body = Vec::new();
        [number, queued as u64, written as u64, pending as u64]
            .iter()
            .for_each(|field| write_number(&mut body, *field));
        body.push(u8::from(is_last));
        body
    }

    fn take(all: &mut LoopDeliveries, place: usize, body: &[u8]) -> Result<(), MalformedLink> {
        all.take_reports(LinkFrame { kind: DELIVERIES, body }, place)
    }

    fn counts(count: &DeliveryCount) -> [usize; 4] {
        let Deliveries { queued, written, dropped, pending } = count.counts();
        [queued, written, dropped, pending]
    }

    #[test]
    fn counts_of_all_workers_add_up_and_settle_with_the_last() {
        let (mut all, count) = (LoopDeliveries::default(), Rc::<DeliveryCount>::default());
        all.expect(7, Rc::clone(&count), [0, 2].into_iter());
        assert!(!count.is_settled());
        take(&mut all, 0, &report(7, [3, 3, 0], true)).unwrap();
        assert!(!count.is_settled(), "the other one has not told");
        take(&mut all, 2, &report(7, [5, 1, 3], false)).unwrap();
        assert_eq!((counts(&count), count.is_settled()), ([8, 4, 1, 3], false));
        take(&mut all, 2, &report(7, [5, 3, 0], true)).unwrap();
        assert_eq!((counts(&count), count.is_settled()), ([8, 6, 2, 0], true));
        assert!(all.awaited.is_empty() && all.untold.values().all(|untold| *untold == 0));
    }

    #[test]
    fn copies_at_a_worker_that_ends_are_dropped() {
        let (mut all, count) = (LoopDeliveries::default(), Rc::<DeliveryCount>::default());
        all.expect(7, Rc::clone(&count), [0, 1].into_iter());
        let (late, untold) = (Rc::<DeliveryCount>::default(), Rc::<DeliveryCount>::default());
        all.expect(8, Rc::clone(&late), [1].into_iter());
        all.expect(9, Rc::clone(&untold), [0, 1].into_iter());
        take(&mut all, 0, &report(7, [1, 1, 0], true)).unwrap();
        take(&mut all, 1, &[report(7, [4, 1, 2], false), report(8, [1, 0, 1], false)].concat())
            .unwrap();
        all.leave(1);
        assert_eq!((counts(&count), count.is_settled()), ([5, 2, 3, 0], true));
        assert_eq!((counts(&late), late.is_settled()), ([1, 0, 1, 0], true));
        assert_eq!(
            (untold.is_settled(), &all.untold),
            (false, &[(0, 1)].into()),
            "one can still tell"
        );
        take(&mut all, 0, &report(9, [0, 0, 0], true)).unwrap();
        assert_eq!((counts(&untold), all.awaited.len()), ([0; 4], 0));
        let nobody = Rc::<DeliveryCount>::default();
        all.expect(10, Rc::clone(&nobody), std::iter::empty());
        assert!(nobody.is_settled() && all.awaited.is_empty());
    }

    #[test]
    fn the_sources_wait_for_those_who_have_too_much_to_tell() {
        let mut all = LoopDeliveries::default();
        for number in 0..=UNTOLD_MAX as u64 {
            assert!(!all.is_full() && !all.wait_for(0));
            all.expect(number, Rc::default(), [0].into_iter());
        }
        assert!(all.is_full() && all.wait_for(0) && !all.wait_for(1));
        take(&mut all, 0, &report(0, [1, 0, 1], false)).unwrap();
        assert!(!all.is_full() && !all.wait_for(0));
        all.expect(9999, Rc::default(), [0].into_iter());
        all.leave(0);
        assert!(!all.is_full() && !all.wait_for(0));
    }

    #[test]
    fn reports_that_cannot_be_are_malformed() {
        let mut all = LoopDeliveries::default();
        all.expect(7, Rc::default(), [0].into_iter());
        for (place, body) in [
            (0, report(8, [1, 1, 0], true)),
            (1, report(7, [1, 1, 0], true)),
            (0, report(7, [1, 1, 1], true)),
            (0, report(7, [1, usize::MAX, 2], true)),
            (0, report(7, [1, 1, 0], true)[..32].to_vec()),
        ] {
            assert_eq!(take(&mut all, place, &body), Err(MalformedLink), "{body:?}");
        }
    }
}
