//! How far a client that came back has been given what it missed.

use std::cell::Cell;

use crate::engine::client::Client;
use crate::engine::resume::cursor::EntryId;

/// Its place in the history. While there is one, the client is given nothing live: it reads that in the history too, until it has
/// come to its end. So nothing is lost or told twice between the two, and what it missed takes no room in its backlog.
#[derive(Debug)]
pub struct Replay {
    /// The number of the next message; while it is given pages, the one after the last number that it was told.
    pub next: u64,
    /// Messages of channels and gaps with lower numbers are not for it: it was connected to another process then.
    pub live: u64,
    /// The latest entry of each stream that it was given, or that was not for it.
    pub entries: Vec<EntryId>,
    /// Whether its place in the streams says all that it had: it is as good at another process.
    pub is_portable: bool,
    /// What it began or ceased to listen to meanwhile.
    pub changes: Vec<Change>,
    /// Whether it is given older entries first, which Redis alone has.
    pub page: Page,
    /// Streams of which Redis was asked whether they have got as far as this client, a bit for each.
    pub asked_ahead: u8,
    /// Entries of the next page, at most.
    pub page_entries: usize,
    /// Of the stream that it is given pages of: how it is known that nothing is missing before the next one.
    pub proof: Option<(usize, Proof)>,
    /// Of which stream it was told that entries are missing, and the highest one that was deleted then.
    pub told_missing: Option<(usize, Option<EntryId>)>,
}

/// Entries of the first page of a client. They may be as large as `payload_bytes_max` each, and Redis puts the whole page together.
const PAGE_ENTRIES_FIRST: usize = 8;
/// Bytes that a page should come to; one of fewer may be followed by one of twice as many entries.
const PAGE_BYTES: u64 = 256 * 1024;

/// How it comes to older entries of streams.
#[derive(Debug, PartialEq, Eq)]
pub enum Page {
    /// It needs none: it reads the history.
    None,
    /// It is to look whether it needs one.
    Due,
    /// It has entries that this process was not told of yet, and waits for what comes next: those are not told twice.
    Ahead,
    /// It waits until fewer others are given pages, or until the streams are known.
    Queued,
    /// One is on its way.
    Asked {
        /// Of this stream.
        stream: usize,
        /// After this entry.
        after: EntryId,
        /// Up to and with this one.
        up_to: EntryId,
        /// So many entries at most.
        count: usize,
        /// It has been given enough for now: what else comes of the page is asked for once more.
        is_full: bool,
        /// Nothing of it is for this client so far.
        is_vain: bool,
    },
    /// It waits until Redis says what the stream holds.
    Looking {
        /// This stream.
        stream: usize,
        /// All after this entry must be there, or it is told of a gap.
        after: EntryId,
        /// Why that is asked.
        why: Look,
    },
}

/// Why a client waits until Redis says what a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Before its first page.
    Before,
    /// Behind it: the page did not show whether it is complete.
    Behind,
    /// It has more of the stream than this process was told of.
    Ahead,
}

/// How it is known that nothing is missing before a page. Each page is asked for from the client's own place on, and proves by that
/// entry that nothing behind it was trimmed; but its place may be no entry that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Redis said so.
    Looked,
    /// The client was told that something is.
    Told,
    /// Its place is an entry of the page before.
    Paged,
}

/// What the allocator puts before a block.
const BLOCK_BYTES: usize = 16;

/// For which messages a key counts that a client did not listen to all the time.
#[derive(Debug)]
pub struct Change {
    /// Of a topic or a pattern.
    pub key: Box<str>,
    /// From the message with this number on.
    pub from: u64,
    /// Up to the message before this number.
    pub until: u64,
    /// The same for entries that have no number any more: behind these, one of each stream.
    pub after: Vec<EntryId>,
    /// Up to and with these; none: to the end.
    pub up_to: Vec<EntryId>,
}

thread_local! {
    /// See [`noted_bytes`].
    static NOTED_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// Bytes of all changes that are noted on this thread.
pub fn noted_bytes() -> usize {
    NOTED_BYTES.get()
}

impl Change {
    /// A note that counts among [`noted_bytes`] for as long as it lives.
    pub fn new(
        key: &str,
        (from, until): (u64, u64),
        after: Vec<EntryId>,
        up_to: Vec<EntryId>,
    ) -> Change {
        let change = Change { key: key.into(), from, until, after, up_to };
        NOTED_BYTES.set(NOTED_BYTES.get() + change.bytes());
        change
    }

    /// The same for as long as it lives: of each stream it names one entry from the start, and at most one more.
    fn bytes(&self) -> usize {
        let entries = 2 * self.after.len().max(self.up_to.len()) * size_of::<EntryId>();
        size_of::<Change>() + self.key.len() + entries + 3 * BLOCK_BYTES
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        NOTED_BYTES.set(NOTED_BYTES.get() - self.bytes());
    }
}

impl Replay {
    /// Bytes of what it notes.
    pub fn noted_bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }

    /// A client that listened to it all the time but for what comes.
    pub fn new(next: u64, live: u64, entries: Vec<EntryId>) -> Replay {
        Replay {
            next,
            live,
            entries,
            is_portable: true,
            changes: Vec::new(),
            page: Page::None,
            asked_ahead: 0,
            page_entries: PAGE_ENTRIES_FIRST,
            proof: None,
            told_missing: None,
        }
    }

    /// Whether it can go on without Redis, or is to ask it.
    pub fn is_ready(&self) -> bool {
        matches!(self.page, Page::None | Page::Due)
    }

    /// A page of so many bytes has come, and fitted or not: the next one is larger, or smaller. `is_whole`: it had as many entries as
    /// it might.
    pub fn fit_page(&mut self, is_full: bool, is_whole: bool, bytes: u64, most: usize) {
        let entries = self.page_entries;
        let wanted = if is_full || bytes > PAGE_BYTES {
            entries / 2
        } else if is_whole && bytes <= PAGE_BYTES / 2 {
            entries * 2
        } else {
            entries
        };
        self.page_entries = wanted.clamp(1, most);
    }

    /// What is known of this stream since the client is given pages of it.
    pub fn proof_of(&self, stream: usize) -> Option<Proof> {
        self.proof.filter(|(of, _)| *of == stream).map(|(_, proof)| proof)
    }

    /// It listens to this from the message with the number `next` on.
    pub fn subscribe(&mut self, key: &str, next: u64, told: &[EntryId]) {
        self.changes.push(Change::new(key, (next, u64::MAX), told.to_vec(), Vec::new()));
    }

    /// It listens to this no more. What came before it left is still for it if another of its keys covers it; so much is kept of at
    /// most `most` keys.
    pub fn unsubscribe(&mut self, key: &str, next: u64, told: &[EntryId], most: usize) {
        let open = self.changes.iter_mut().find(|one| *one.key == *key && one.until == u64::MAX);
        match open {
            Some(change) => (change.until, change.up_to) = (next, told.to_vec()),
            None => {
                self.changes.push(Change::new(key, (0, next), Vec::new(), told.to_vec()));
            }
        }
        if self.changes.len() > most
            && let Some(oldest) = self.changes.iter().position(|one| one.until < u64::MAX)
        {
            self.changes.remove(oldest);
        }
    }
}

impl Client {
    /// From now on it is given what it missed.
    pub fn begin_replay(&mut self, replay: Replay) {
        self.flight().replay = Some(Box::new(replay));
    }

    /// Its place in the history, if it is behind.
    pub fn replay(&mut self) -> Option<&mut Replay> {
        self.flight.as_mut()?.replay.as_deref_mut()
    }

    /// Whether it is given what it missed.
    pub fn is_replaying(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.replay.is_some())
    }

    /// Takes its place away: to be given back, unless it has come to the end.
    pub fn take_replay(&mut self) -> Option<Box<Replay>> {
        self.flight.as_mut()?.replay.take()
    }

    /// Gives its place back.
    pub fn put_replay(&mut self, replay: Box<Replay>) {
        self.flight().replay = Some(replay);
    }

    /// Whether it has been given about so much that was not written yet.
    pub fn holds(&self, bytes: usize, frames: usize) -> bool {
        self.flight.as_ref().is_some_and(|flight| {
            flight.outbox.bytes() >= bytes || flight.outbox.frames_len() >= frames
        })
    }

    /// Hibernates if its replay was all that was in flight, and brought nothing.
    pub fn settle_replayed(&mut self) {
        self.settle();
    }

    /// Whether it can be given more: all that it was given is written, and its socket takes bytes.
    pub fn wants_replay(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| {
            let is_ready = flight.replay.as_ref().is_some_and(|replay| replay.is_ready());
            is_ready && flight.outbox.is_empty() && !flight.blocked
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_changes_are_counted_until_the_replay_is_over() {
        let before = noted_bytes();
        let told = [EntryId::ZERO; 2];
        let mut replay = Replay::new(1, 0, told.to_vec());
        replay.subscribe("room.1", 2, &told);
        replay.unsubscribe("room.1", 3, &told, 2);
        replay.unsubscribe("room.2", 3, &told, 2);
        assert_eq!(noted_bytes() - before, replay.noted_bytes());
        replay.unsubscribe("room.3", 3, &told, 2);
        assert_eq!(replay.changes.len(), 2);
        assert_eq!(noted_bytes() - before, replay.noted_bytes());
        drop(replay);
        assert_eq!(noted_bytes(), before);
    }
}
