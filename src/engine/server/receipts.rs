//! Receipts: what became of a message, told to a publisher who asked for it.
//!
//! A receipt is sent as soon as every copy was written or dropped, and after `receipt_seconds` with what is still pending. What
//! is written in the turn of the message itself is found at the end of that turn; what waits for a full socket is looked
//! after some times a second.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::client::frame::Frame;
use crate::engine::client::tally::DeliveryCount;
use crate::engine::redis::request::{Ticket, command};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::Server;
use crate::engine::server::scope::SubscriberCount;
use crate::features::control::report;

/// Receipts that wait at one time; a further one is sent at once, with all as pending.
pub(crate) const RECEIPTS_MAX: usize = 4096;

/// Between two looks at those that wait.
const LOOK_PAUSE: Millis = 200;

/// Those that were not sent yet.
#[derive(Default)]
pub(crate) struct Receipts {
    /// Of messages of this turn.
    fresh: Vec<Receipt>,
    /// Looked at again and again.
    waiting: VecDeque<Receipt>,
    next_look: Millis,
    /// Of the message that is being published.
    current: Option<Rc<DeliveryCount>>,
}

/// What a publisher wants to hear.
pub(crate) struct Wanted<'a> {
    /// On which channel.
    pub to: &'a [u8],
    /// The message's entry, where it came from a stream.
    pub entry: Option<EntryId>,
}

struct Receipt {
    /// The channel that it is sent to.
    to: Box<[u8]>,
    topic: Box<str>,
    /// The message's cursor.
    id: String,
    /// Where it came from a stream.
    entry: Option<EntryId>,
    tally: Rc<DeliveryCount>,
    until: Millis,
}

impl Receipts {
    /// When they want to be looked at.
    pub fn deadline(&self) -> Option<Millis> {
        (!self.waiting.is_empty()).then_some(self.next_look)
    }
}

impl Server {
    /// What is published until [`Server::end_receipt`] is counted.
    pub(crate) fn begin_receipt(&mut self) {
        self.receipts.current = Some(Rc::default());
    }

    /// The message was published.
    pub(crate) fn end_receipt(&mut self, topic: &str, wanted: Wanted<'_>) {
        let Some(tally) = self.receipts.current.take() else { return };
        let seconds = Millis::from(self.bounds.receipt_seconds);
        let receipt = Receipt {
            to: wanted.to.into(),
            topic: topic.into(),
            id: self.cursor(),
            entry: wanted.entry,
            tally,
            until: self.now.millis + seconds * 1000,
        };
        if self.receipts.fresh.len() + self.receipts.waiting.len() >= RECEIPTS_MAX {
            self.send_receipt(&receipt);
        } else {
            self.receipts.fresh.push(receipt);
        }
    }

    /// Has the copies of a frame counted if the message that is being published is to have a receipt.
    pub(super) fn count_copies(&self, frame: Frame) -> Frame {
        match &self.receipts.current {
            None => frame,
            Some(tally) => frame.counted_by(Rc::clone(tally)),
        }
    }

    /// The message that is being published goes to so many clients of this route.
    pub(super) fn count_subscribers(&self, listeners: SubscriberCount) {
        if let Some(tally) = &self.receipts.current {
            tally.met(listeners.count, listeners.is_exact);
        }
    }

    /// Sends those receipts that are due, after what this turn had to write was written.
    pub(crate) fn settle_receipts(&mut self) {
        let now = self.now.millis;
        for receipt in std::mem::take(&mut self.receipts.fresh) {
            if receipt.tally.is_settled() {
                self.send_receipt(&receipt);
                continue;
            }
            if self.receipts.waiting.is_empty() {
                self.receipts.next_look = now + LOOK_PAUSE;
            }
            self.receipts.waiting.push_back(receipt);
        }
        if self.receipts.deadline().is_none_or(|look| now < look) {
            return;
        }
        self.receipts.next_look = now + LOOK_PAUSE;
        let mut waiting = std::mem::take(&mut self.receipts.waiting);
        waiting.retain(|receipt| {
            let is_due = receipt.tally.is_settled() || receipt.until <= now;
            if is_due {
                self.send_receipt(receipt);
            }
            !is_due
        });
        if !waiting.is_empty() {
            self.receipts.waiting = waiting;
        }
    }

    fn send_receipt(&mut self, receipt: &Receipt) {
        let count = receipt.tally.count();
        self.metrics.receipts += 1;
        self.metrics.receipts_pending += u64::from(count.pending > 0);
        let entry = receipt.entry.map(|entry| entry.to_string());
        let text = report::receipt(&report::Receipt {
            topic: &receipt.topic,
            id: &receipt.id,
            stream: entry.as_deref(),
            queued: count.queued,
            written: count.written,
            dropped: count.dropped,
            pending: count.pending,
            node: self.node(),
        });
        self.ask(
            command(&[b"PUBLISH", &receipt.to, text.as_bytes()]),
            Ticket::of_feature("reports", 0),
        );
    }
}
