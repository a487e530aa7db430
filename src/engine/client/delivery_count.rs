//! The deliveries of one message, counted for a publisher that wants to know.
//!
//! A frame that is counted holds the counter. A copy in an outbox is a [`QueuedFrame`], which counts itself: outboxes and the
//! fan-out know nothing of it, and a frame that is not counted pays one look at an empty field.
//!
//! [`QueuedFrame`]: crate::engine::client::queued_frame::QueuedFrame

use std::cell::Cell;
use std::rc::Rc;

/// A counter that all frames of one message share.
#[derive(Debug, Default)]
pub struct DeliveryCount {
    /// Clients that the message is for.
    recipients: Cell<usize>,
    /// `recipients` is an upper bound: in the end the copies are counted.
    is_bound: Cell<bool>,
    copies: Cell<usize>,
    /// Copies that wait to be written.
    waiting: Cell<usize>,
    written: Cell<usize>,
    /// Fan-outs of the message that are under way.
    fanouts: Cell<usize>,
}

/// The state of all copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Clients that the message was for: the sum of the others.
    pub queued: usize,
    /// Copies on the wire.
    pub written: usize,
    /// Copies of clients that are gone, or read too slowly.
    pub dropped: usize,
    /// Copies that are not settled yet.
    pub pending: usize,
}

/// A fan-out of a counted message; it ends when this is dropped.
#[derive(Debug)]
pub struct CountedFanout(Rc<DeliveryCount>);

impl DeliveryCount {
    /// Adds recipients, or an upper bound of their number.
    pub fn add_recipients(&self, count: usize, is_exact: bool) {
        add(&self.recipients, count);
        self.is_bound.set(self.is_bound.get() || !is_exact);
    }

    /// Takes back a recipient that is given the message by its replay, which is not counted.
    pub fn remove_recipient(&self) {
        subtract(&self.recipients);
    }

    pub(super) fn on_queued(&self) {
        add(&self.copies, 1);
        add(&self.waiting, 1);
    }

    pub(super) fn on_written(&self) {
        add(&self.written, 1);
    }

    /// A copy left its outbox, written or not.
    pub(super) fn on_left(&self) {
        subtract(&self.waiting);
    }

    /// Begins a fan-out.
    pub fn begin_fanout(self: &Rc<Self>) -> CountedFanout {
        add(&self.fanouts, 1);
        CountedFanout(Rc::clone(self))
    }

    /// Adds the counts of another process, instead of those that it gave before.
    pub fn add_elsewhere(&self, before: Deliveries, now: Deliveries) {
        let add = |cell: &Cell<usize>, before, now| cell.set((cell.get() + now) - before);
        add(&self.recipients, before.queued, now.queued);
        add(&self.written, before.written, now.written);
        add(&self.waiting, before.pending, now.pending);
    }

    /// Returns whether all recipients are known.
    pub fn is_given(&self) -> bool {
        self.fanouts.get() == 0
    }

    /// Returns whether the counts are final.
    pub fn is_settled(&self) -> bool {
        self.waiting.get() == 0 && self.is_given()
    }

    /// The counts as far as they are known.
    pub fn counts(&self) -> Deliveries {
        let is_given = self.is_given();
        let queued =
            if self.is_bound.get() && is_given { self.copies.get() } else { self.recipients.get() };
        let written = self.written.get().min(queued);
        // The recipients that a fan-out has not met yet are not known one by one.
        let open = if is_given { self.waiting.get() } else { queued };
        let pending = open.min(queued - written);
        Deliveries { queued, written, dropped: queued - written - pending, pending }
    }
}

impl Drop for CountedFanout {
    fn drop(&mut self) {
        subtract(&self.0.fanouts);
    }
}

fn add(cell: &Cell<usize>, more: usize) {
    cell.set(cell.get() + more);
}

fn subtract(cell: &Cell<usize>) {
    cell.set(cell.get().saturating_sub(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::frame::Frame;
    use crate::engine::client::queued_frame::QueuedFrame;

    fn counted() -> (Rc<DeliveryCount>, Frame) {
        let count = Rc::<DeliveryCount>::default();
        (Rc::clone(&count), Frame::text("x").counted_by(count))
    }

    fn deliveries(queued: usize, written: usize, dropped: usize, pending: usize) -> Deliveries {
        Deliveries { queued, written, dropped, pending }
    }

    #[test]
    fn a_count_always_adds_up() {
        let (count, frame) = counted();
        count.add_recipients(5, true);
        let fanout = count.begin_fanout();
        QueuedFrame::new(&frame).into_written();
        let first = QueuedFrame::new(&frame);
        assert_eq!(count.counts(), deliveries(5, 1, 0, 4));
        let second = QueuedFrame::new(&frame);
        drop(fanout);
        assert_eq!(count.counts(), deliveries(5, 1, 2, 2), "two were gone before they were met");
        assert!(!count.is_settled());
        first.into_written();
        drop(second);
        assert_eq!(count.counts(), deliveries(5, 2, 3, 0));
        assert!(count.is_settled());
    }

    #[test]
    fn clients_that_were_counted_twice_are_not_called_dropped() {
        let (count, frame) = counted();
        count.add_recipients(10, false);
        let fanout = count.begin_fanout();
        (0..5).for_each(|_| QueuedFrame::new(&frame).into_written());
        let last = QueuedFrame::new(&frame);
        assert_eq!(count.counts(), deliveries(10, 5, 0, 5));
        drop(fanout);
        assert_eq!(count.counts(), deliveries(6, 5, 0, 1));
        drop(last);
        assert_eq!(count.counts(), deliveries(6, 5, 1, 0));
    }
}
