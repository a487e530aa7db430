//! Receipts: the number of clients that a message reached, sent to a publisher that asked for it.
//!
//! A receipt is sent as soon as every copy is written or dropped, and after `receipt_seconds` with the copies that are still
//! pending. A copy that is written in the turn of the message is seen at the end of that turn; one that waits for a full socket is
//! looked for five times a second.

use std::collections::VecDeque;
use std::rc::Rc;

use serde::Serialize;

use crate::clock::{Millis, RateLimit};
use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::feature::{Feature, FeatureEvent, MessageSource};
use crate::engine::redis::advice;
use crate::engine::redis::request::{Ticket, command};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::Server;
use crate::json;

/// Receipts that wait at one time for full sockets; a further one is sent at the end of its turn, whatever is pending.
const RECEIPTS_MAX: usize = 4096;

/// The pause between two looks at the receipts that wait.
const LOOK_PAUSE: Millis = 200;

/// Receipts that were not sent yet.
#[derive(Default)]
pub struct Receipts {
    /// The channel of receipts for messages that came by channels.
    channel: Option<String>,
    /// Receipts for messages of this turn.
    fresh: Vec<Receipt>,
    waiting: VecDeque<Receipt>,
    next_look: Millis,
    /// The loop comes to rest: all are to be sent as soon as the recipients are known, whatever is pending.
    is_hasty: bool,
    refusals: RateLimit,
}

struct Receipt {
    /// The channel that it is sent to.
    to: Box<[u8]>,
    topic: Box<str>,
    /// The message's cursor.
    id: String,
    /// The message's entry, if it came from a stream.
    entry: Option<EntryId>,
    count: Rc<DeliveryCount>,
    until: Millis,
    /// It waits only until the recipients are known.
    is_hurried: bool,
}

impl Receipts {
    /// Gives receipts for entries that ask for them, and for all messages of channels if there is a channel for that.
    pub fn new(channel: Option<String>) -> Receipts {
        Receipts { channel, ..Receipts::default() }
    }
}

impl Feature for Receipts {
    fn name(&self) -> &'static str {
        "receipts"
    }

    fn on_publish(
        &mut self,
        server: &mut Server,
        topic: &str,
        source: MessageSource<'_>,
    ) -> Option<Rc<DeliveryCount>> {
        let to = source.receipt_channel(self.channel.as_deref())?;
        let entry = match source {
            MessageSource::Channel(_) => None,
            MessageSource::Entry { id, .. } => Some(id),
        };
        let count = Rc::<DeliveryCount>::default();
        let seconds = Millis::from(server.bounds().receipt_seconds);
        self.fresh.push(Receipt {
            to: to.into(),
            topic: topic.into(),
            id: server.cursor(),
            entry,
            count: Rc::clone(&count),
            until: server.now().millis + seconds * 1000,
            is_hurried: false,
        });
        Some(count)
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::Rest => self.is_hasty = true,
            FeatureEvent::TurnEnd => self.send_due(server),
            FeatureEvent::Answer { answer, .. } => {
                advice::log_unsent_report(answer, &mut self.refusals, server.now().millis);
            }
            _ => {}
        }
    }

    fn deadline(&self, _server: &Server) -> Option<Millis> {
        (!self.waiting.is_empty()).then_some(self.next_look)
    }
}

impl Receipts {
    /// Sends the receipts whose copies are all written or dropped, and those whose time is over.
    fn send_due(&mut self, server: &mut Server) {
        let (now, is_hasty) = (server.now().millis, std::mem::take(&mut self.is_hasty));
        if is_hasty {
            let all = self.waiting.iter_mut().chain(&mut self.fresh);
            all.for_each(|receipt| receipt.is_hurried = true);
            self.next_look = now;
        }
        for receipt in std::mem::take(&mut self.fresh) {
            let is_full = self.waiting.len() >= RECEIPTS_MAX && receipt.count.is_given();
            if is_full || receipt.is_ready() {
                receipt.send(server);
                continue;
            }
            if self.waiting.is_empty() && !receipt.is_hurried {
                self.next_look = now + LOOK_PAUSE;
            }
            self.waiting.push_back(receipt);
        }
        while self.waiting.front().is_some_and(|first| first.count.is_settled())
            && let Some(receipt) = self.waiting.pop_front()
        {
            receipt.send(server);
        }
        if !self.waiting.is_empty() && now >= self.next_look {
            self.next_look = now + LOOK_PAUSE;
            self.waiting.retain(|receipt| {
                let is_due = receipt.is_ready() || receipt.until <= now;
                if is_due {
                    receipt.send(server);
                } else if receipt.is_hurried {
                    self.next_look = now;
                }
                !is_due
            });
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }
}

impl Receipt {
    fn is_ready(&self) -> bool {
        self.count.is_settled() || self.is_hurried && self.count.is_given()
    }

    fn send(&self, server: &mut Server) {
        /// The members of a receipt, as documented.
        #[derive(Serialize)]
        struct Members<'a> {
            topic: &'a str,
            id: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            stream: Option<String>,
            queued: usize,
            written: usize,
            dropped: usize,
            #[serde(skip_serializing_if = "Option::is_none")]
            pending: Option<usize>,
            node: &'a str,
        }
        let counts = self.count.counts();
        let text = json::encode(&Members {
            topic: &self.topic,
            id: &self.id,
            stream: self.entry.map(|entry| entry.to_string()),
            queued: counts.queued,
            written: counts.written,
            dropped: counts.dropped,
            pending: (counts.pending > 0).then_some(counts.pending),
            node: server.node(),
        });
        server.metrics().receipts += 1;
        server.metrics().receipts_pending += u64::from(counts.pending > 0);
        let publish = command(&[b"PUBLISH", &self.to, text.as_bytes()]);
        server.ask(publish, Ticket::of_feature("receipts", 0));
    }
}

#[cfg(test)]
mod tests;
