//! The progress of one client's replay: a state machine that knows neither the connection nor the history.

pub mod saved;

use std::cell::Cell;

use crate::engine::pubsub::topic::Subject;
use crate::engine::resume::cursor::EntryId;

/// The outcome of a cursor that a client came back with.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The missed messages follow. This cursor stands where the client's own does, among those of this connection.
    From(String),
    /// The missed messages are not held any more, or the cursor is not one of ours; everything after this cursor is held.
    No(String),
}

/// An item of a replay, which the route encodes.
pub enum ReplayItem<'a> {
    /// A message, and the cursor that includes it.
    Message { cursor: &'a str, subject: Subject<'a>, payload: &'a [u8] },
    /// Messages after this cursor may be missing.
    Gap { from: &'a str },
}

/// A client's place in the history. While a client has one, nothing live is sent to it: it reads that in the history too, until
/// it reaches the end. So nothing is lost or sent twice between the two, and missed messages take no room in its backlog.
#[derive(Debug)]
pub struct Replay {
    /// The number of the next message; while the client is given pages, the one after the last number that it was sent.
    pub next: u64,
    /// Messages of channels and gaps with lower numbers are not for the client: it was connected to another process then.
    pub live: u64,
    /// The latest entry of each stream that the client was sent, or that was not for it.
    pub entries: Vec<EntryId>,
    /// The place in the streams stands for all that the client had: it is as good at another process.
    pub is_portable: bool,
    /// The messages for which a subscription without a change counts.
    pub others: Span,
    /// Subscriptions that began or ended during the replay, or count from an earlier message on than the others.
    pub changes: Vec<SubscriptionChange>,
    pub stage: ReplayStage,
    /// Streams that were checked for being behind this client, a bit for each.
    pub checked_ahead: u8,
    /// The most entries of the next page.
    pub page_entries: usize,
    /// The stream that the client is given pages of, and the proof that nothing is missing before the next one.
    pub proof: Option<(usize, Proof)>,
    /// The stream in which a gap was reported to the client, and the highest entry that was deleted by then.
    pub reported_gap: Option<(usize, Option<EntryId>)>,
}

/// Entries of a client's first page. Each may be as large as `payload_bytes_max`, and Redis builds the whole page at once.
const PAGE_ENTRIES_FIRST: usize = 8;
/// The intended size of a page in bytes; after half of it or less, the next one may have twice as many entries.
const PAGE_BYTES: u64 = 256 * 1024;

/// The source of the next messages of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayStage {
    /// The client reads the history.
    History,
    /// It is to be decided whether the history suffices.
    Undecided,
    /// The client has entries that this process has not read yet: it waits for more, so that none is sent twice.
    Ahead,
    /// The client waits for Redis to subscribe to its topics.
    Held,
    /// The client waits for its turn to be given a page.
    Queued,
    /// A page is on its way.
    Paging(PageRequest),
    /// The client waits for a check of a stream.
    Checking(StreamCheck),
}

/// A request for a page of older entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    pub stream: usize,
    /// The last entry that the client had: the page begins with it if nothing was trimmed.
    pub after: EntryId,
    /// The last entry that the history does not cover.
    pub up_to: EntryId,
    /// The most entries.
    pub count: usize,
    /// The client has been sent enough for now: the rest of the page is requested once more.
    pub is_full: bool,
    /// No entry was for this client so far.
    pub is_vain: bool,
    /// The client went back to an earlier place meanwhile: this page begins too late for it.
    pub is_void: bool,
}

/// A check of the entries that a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamCheck {
    pub stream: usize,
    /// The entry after which all must be there, or the client is sent a gap.
    pub after: EntryId,
    pub reason: CheckReason,
}

/// The reason for which a client waits for a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckReason {
    /// It comes before the first page.
    BeforePage,
    /// The page did not show whether it is complete.
    AfterPage,
    /// The client has more of the stream than this process has read.
    Ahead,
}

/// The proof that nothing is missing before a page. Each page is asked for from the client's own place on, and proves by that
/// entry that nothing behind it was trimmed; but the place may be no entry that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A check showed it.
    Checked,
    /// Something is missing, and the gap was reported.
    Reported,
    /// The place is an entry of the page before.
    Paged,
}

/// The allocator's overhead of a block.
const BLOCK_BYTES: usize = 16;

/// The messages for which a subscription counts.
#[derive(Clone, Debug)]
pub struct Span {
    /// The number of the first message.
    pub from: u64,
    /// The number behind the last message; `u64::MAX` while the subscription lasts.
    pub until: u64,
    /// The first entries are those after these ones; empty: all.
    pub after: Vec<EntryId>,
    /// The last entries are these; empty: all.
    pub up_to: Vec<EntryId>,
}

/// A subscription that began or ended during a replay, or counts from an earlier message on than others.
#[derive(Debug)]
pub struct SubscriptionChange {
    /// The key of a topic or a pattern.
    pub key: Box<str>,
    pub span: Span,
}

thread_local! {
    /// Bytes of all changes that there are.
    static CHANGES_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of the changes of all replays: a client that reads slowly may subscribe and unsubscribe as it likes.
pub fn changes_bytes() -> usize {
    CHANGES_BYTES.get()
}

impl Span {
    /// All messages.
    pub const ALL: Span = Span { from: 0, until: u64::MAX, after: Vec::new(), up_to: Vec::new() };

    /// Returns whether the subscription counts for a message of a channel.
    pub fn holds_number(&self, number: u64) -> bool {
        (self.from..self.until).contains(&number)
    }

    /// Returns whether the subscription counts for an entry of a stream, which may have no number any more.
    pub fn holds_entry(&self, stream: usize, id: EntryId) -> bool {
        self.after.get(stream).is_none_or(|after| id > *after)
            && self.up_to.get(stream).is_none_or(|up_to| id <= *up_to)
    }

    /// Leaves out the messages before this place.
    fn begin_at(&mut self, next: u64, entries: &[EntryId]) {
        self.from = self.from.max(next);
        if self.after.is_empty() {
            self.after = entries.to_vec();
        }
        self.after.iter_mut().zip(entries).for_each(|(after, has)| *after = (*after).max(*has));
    }

    /// Takes in the messages from this place on.
    fn reach_back_to(&mut self, next: u64, entries: &[EntryId]) {
        self.from = self.from.min(next);
        lower(&mut self.after, entries);
    }
}

/// Takes the earlier entry of each stream.
fn lower(entries: &mut [EntryId], others: &[EntryId]) {
    entries.iter_mut().zip(others).for_each(|(entry, other)| *entry = (*entry).min(*other));
}

impl SubscriptionChange {
    pub fn new(
        key: &str,
        (from, until): (u64, u64),
        after: Vec<EntryId>,
        up_to: Vec<EntryId>,
    ) -> SubscriptionChange {
        let span = Span { from, until, after, up_to };
        let change = SubscriptionChange { key: key.into(), span };
        CHANGES_BYTES.set(CHANGES_BYTES.get() + change.bytes());
        change
    }

    /// The size, which stays the same: a change names one entry of each stream from the start, and at most one more.
    fn bytes(&self) -> usize {
        let entries = self.span.after.len().max(self.span.up_to.len());
        let entries = 2 * entries * size_of::<EntryId>();
        size_of::<SubscriptionChange>() + self.key.len() + entries + 3 * BLOCK_BYTES
    }

    /// Returns whether the subscription lasts.
    pub fn is_open(&self) -> bool {
        self.span.until == u64::MAX
    }
}

impl Drop for SubscriptionChange {
    fn drop(&mut self) {
        CHANGES_BYTES.set(CHANGES_BYTES.get() - self.bytes());
    }
}

impl Replay {
    /// A replay from number `next` on, for a client whose subscriptions lasted all the time.
    pub fn new(next: u64, live: u64, entries: Vec<EntryId>) -> Replay {
        Replay {
            next,
            live,
            entries,
            is_portable: true,
            others: Span::ALL,
            changes: Vec::new(),
            stage: ReplayStage::History,
            checked_ahead: 0,
            page_entries: PAGE_ENTRIES_FIRST,
            proof: None,
            reported_gap: None,
        }
    }

    /// Goes back to an earlier place, or one that is ahead, for the subscription with this key alone: what this replay has read is
    /// not read again for any other. `earlier` is not ahead of the process, and neither is this.
    pub fn go_back(&mut self, earlier: &Replay, key: &str) {
        self.others.begin_at(self.next, &self.entries);
        for change in &mut self.changes {
            change.span.begin_at(self.next, &self.entries);
        }
        let (next, entries) = (earlier.live.max(earlier.next), &earlier.entries);
        match self.changes.iter_mut().find(|change| *change.key == *key && change.is_open()) {
            Some(change) => change.span.reach_back_to(next, entries),
            None => {
                let mut change =
                    SubscriptionChange::new(key, (next, u64::MAX), entries.clone(), Vec::new());
                change.span.reach_back_to(self.others.from, &self.others.after);
                self.changes.push(change);
            }
        }
        self.live = self.live.max(self.next).min(next);
        self.next = self.next.min(earlier.next);
        lower(&mut self.entries, entries);
        self.is_portable &= earlier.is_portable;
        self.proof = None;
        self.stage = match self.stage {
            ReplayStage::History => earlier.stage,
            ReplayStage::Paging(page) => ReplayStage::Paging(PageRequest { is_void: true, ..page }),
            ReplayStage::Checking(check) => {
                let after = self.entries[check.stream];
                ReplayStage::Checking(StreamCheck { after, ..check })
            }
            stage => stage,
        };
    }

    pub fn changes_bytes(&self) -> usize {
        self.changes.iter().map(SubscriptionChange::bytes).sum()
    }

    /// Returns whether the replay can go on now, or is to decide how.
    pub fn is_ready(&self) -> bool {
        matches!(self.stage, ReplayStage::History | ReplayStage::Undecided)
    }

    /// Fits the size of the next page to one of so many bytes, which the client had room for or not (`is_full`), and which had as
    /// many entries as it might (`is_whole`).
    pub fn fit_page(&mut self, is_full: bool, is_whole: bool, bytes: u64, entries_max: usize) {
        let entries = match self.page_entries {
            entries if is_full || bytes > PAGE_BYTES => entries / 2,
            entries if is_whole && bytes <= PAGE_BYTES / 2 => entries * 2,
            entries => entries,
        };
        self.page_entries = entries.clamp(1, entries_max);
    }

    /// The proof for this stream, if the client is given pages of it.
    pub fn proof_of(&self, stream: usize) -> Option<Proof> {
        self.proof.filter(|(of, _)| *of == stream).map(|(_, proof)| proof)
    }

    /// Notes a subscription that counts from the message with the number `next` on.
    pub fn subscribe(&mut self, key: &str, next: u64, entries: &[EntryId]) {
        let change = SubscriptionChange::new(key, (next, u64::MAX), entries.to_vec(), Vec::new());
        self.changes.push(change);
    }

    /// Notes the end of a subscription. Earlier messages are still for the client if another of its keys covers them; at most
    /// `changes_max` changes are kept.
    pub fn unsubscribe(&mut self, key: &str, next: u64, entries: &[EntryId], changes_max: usize) {
        let entries = entries.to_vec();
        match self.changes.iter_mut().find(|change| *change.key == *key && change.is_open()) {
            Some(change) => (change.span.until, change.span.up_to) = (next, entries),
            None => {
                let Span { from, after, .. } = self.others.clone();
                self.changes.push(SubscriptionChange::new(key, (from, next), after, entries));
            }
        }
        if self.changes.len() > changes_max
            && let Some(oldest) = self.changes.iter().position(|change| !change.is_open())
        {
            self.changes.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_changes_are_counted_until_the_replay_is_over() {
        let before = changes_bytes();
        let entries = [EntryId::ZERO; 2];
        let mut replay = Replay::new(1, 0, entries.to_vec());
        replay.subscribe("room.1", 2, &entries);
        replay.unsubscribe("room.1", 3, &entries, 2);
        replay.unsubscribe("room.2", 3, &entries, 2);
        assert_eq!(changes_bytes() - before, replay.changes_bytes());
        replay.unsubscribe("room.3", 3, &entries, 2);
        assert_eq!(replay.changes.len(), 2);
        assert_eq!(changes_bytes() - before, replay.changes_bytes());
        drop(replay);
        assert_eq!(changes_bytes(), before);
    }
}
