//! Entries of streams that are older than the history: they are asked of Redis, a page at a time, for a bounded number of clients.
//!
//! A client is given pages until what it has reaches what the history covers; from there on it reads that. A page is asked for when
//! all of the one before is written, and what a client has no room for is asked for once more.

use std::collections::VecDeque;

use crate::client::Client;
use crate::client::frame::{Close, Frame};
use crate::client::replay::{Page, Replay};
use crate::cursor::EntryId;
use crate::flush::Lane;
use crate::server::Server;
use crate::server::replay::{Missed, SLICE_BYTES, is_entry_for};
use crate::slots::{ConnId, Slots};
use crate::source::request::{PAGE_ENTRIES, PageEnd};

/// Pages that are on their way at one time.
const PAGES_MAX: usize = 16;

/// When a client whose page did not come may come back, in milliseconds.
const RETRY: u64 = 1000;

/// Those who are gone are looked for when so many more wait than twice as many as are there.
const FORGOTTEN_MAX: usize = 64;

/// Who is given pages.
#[derive(Default)]
pub(crate) struct Pages {
    asked: usize,
    waiting: VecDeque<ConnId>,
    /// Those who have more than this process was told of.
    ahead: Vec<ConnId>,
    /// Where the streams begin is known, and the history holds what it can of them.
    are_known: bool,
}

impl Pages {
    /// One is asked for: its end will be told.
    pub(super) fn begin(&mut self) {
        self.asked += 1;
    }
}

impl Server {
    #[cfg(test)]
    pub(crate) fn pages_len(&self) -> (usize, usize, usize) {
        (self.pages.asked, self.pages.waiting.len(), self.pages.ahead.len())
    }

    /// The streams are read: whoever waited for that goes on.
    pub(crate) fn streams_are_known(&mut self) {
        self.pages.are_known = true;
        self.call_waiting();
    }

    /// Asks for the next page that a client needs. [`Page::None`]: it needs no more.
    pub(super) fn turn_page(&mut self, id: ConnId, replay: &mut Replay) {
        let places = self.history.covered().iter().zip(&replay.entries);
        let behind = places.enumerate().find(|(_, (covered, has))| covered > has);
        let behind = behind.map(|(stream, (covered, has))| (stream, *covered, *has));
        let Some((stream, up_to, after)) = behind.or_else(|| self.unsure(replay)) else {
            replay.page = Page::None;
            let first = self.history.first();
            // Messages of channels that came meanwhile may have left the history: then it is told so.
            let heard = replay.live.max(replay.next);
            if self.has_channels && heard < first {
                replay.next = heard;
                return;
            }
            // What it has is passed over without being looked at; not so what was said here since it came. (Where there is
            // nothing later, a stream would be looked for in all of the history in vain.)
            let places = replay.entries.iter().zip(&self.entries).enumerate();
            let behind = places.filter(|(_, (has, told))| has < told);
            let next = behind.map(|(stream, (has, _))| self.history.after(stream, *has)).min();
            let next = next.unwrap_or(u64::MAX).min(replay.live).max(first);
            replay.next = next.max(replay.next);
            return;
        };
        if !self.pages.are_known || self.pages.asked >= PAGES_MAX {
            replay.page = Page::Queued;
            if self.pages.waiting.len() >= 2 * self.clients.len() + FORGOTTEN_MAX {
                let clients = &self.clients;
                self.pages.waiting.retain(|id| is_there(clients, *id));
            }
            self.pages.waiting.push_back(id);
            return;
        }
        let count = replay.page_entries;
        replay.page = Page::Asked { stream, after, up_to, count, is_full: false };
        self.ask_page(id, stream, (after, up_to), count);
    }

    /// A stream of which the client has more than this process was told of: that may come still, or be of a stream that was begun
    /// anew since. Redis knows.
    pub(super) fn unsure(&self, replay: &Replay) -> Option<(usize, EntryId, EntryId)> {
        let mut places = replay.entries.iter().zip(&self.entries).enumerate();
        let unsure = places
            .find(|(stream, (has, told))| has > told && replay.asked_ahead & 1 << stream == 0);
        unsure.map(|(stream, (has, _))| (stream, *has, *has))
    }

    /// An entry of a page: queued for the client that asked, if it is for it and has room.
    pub(crate) fn on_page_entry(
        &mut self,
        id: ConnId,
        entry: EntryId,
        topic: &str,
        make: impl FnOnce(Missed<'_>) -> Option<Frame>,
        payload: &[u8],
    ) {
        let Some(mut replay) = self.open_client(id).and_then(|client| client.take_replay()) else {
            return;
        };
        let Page::Asked { stream, is_full, .. } = replay.page else {
            return self.clients[id.index].put_replay(replay);
        };
        if is_full || entry <= replay.entries[stream] {
            return self.clients[id.index].put_replay(replay);
        }
        replay.entries[stream] = entry;
        let client = &self.clients[id.index];
        let of = (&self.hubs[client.route as usize], client, &replay.changes[..]);
        let mut cursor = String::new();
        let frame = is_entry_for(of, (stream, entry), topic).then(|| {
            self.write_replays_cursor(&mut cursor, replay.next - 1, &replay);
            make(Missed::Message { cursor: &cursor, topic, payload })
        });
        let (bytes, frames) =
            (SLICE_BYTES.min(self.backlog.bytes_max / 4), self.backlog.frames_max.div_ceil(4));
        let client = &mut self.clients[id.index];
        let is_queued = match frame.flatten() {
            Some(frame) => client.queue(&frame, &self.backlog, self.slow[client.route as usize]),
            None => Some(0),
        };
        if let Page::Asked { is_full, .. } = &mut replay.page {
            *is_full = client.holds(bytes, frames);
        }
        client.put_replay(replay);
        if is_queued.is_none() {
            return self.close(id, Close::SLOW);
        }
        self.metrics.page_entries += 1;
        self.owe(id, Lane::Bulk);
    }

    /// A page has ended, or did not come. The client looks whether it needs another one.
    pub(crate) fn on_page_end(
        &mut self,
        id: ConnId,
        end: PageEnd,
        make: impl FnOnce(Missed<'_>) -> Option<Frame>,
    ) {
        self.pages.asked -= 1;
        self.metrics.pages += u64::from(end.is_available);
        self.call_waiting();
        let Some(mut replay) = self.open_client(id).and_then(|client| client.take_replay()) else {
            return;
        };
        let Page::Asked { stream, after, up_to, count, is_full } = replay.page else {
            return self.clients[id.index].put_replay(replay);
        };
        if !end.is_available {
            // It has its cursor, and comes back with it.
            return self.close(id, Close::BUSY.retry_after(RETRY));
        }
        let mut gap = None;
        replay.fit_page(is_full, PAGE_ENTRIES);
        // What is missing is told once, and again only if more is.
        let missing = Some((stream, end.extent.deleted));
        let was_told =
            replay.told_missing == missing && end.extent.first.is_some_and(|first| first <= after);
        if !end.extent.is_complete_after(after) && !was_told {
            replay.told_missing = missing;
            let mut from = String::new();
            let has = std::mem::replace(&mut replay.entries[stream], after);
            self.write_replays_cursor(&mut from, replay.next - 1, &replay);
            replay.entries[stream] = has;
            gap = make(Missed::Gap { from: &from });
        }
        if !is_full {
            let is_last = end.entries < count;
            let has = if is_last { Some(up_to) } else { end.last };
            let has = has.unwrap_or(up_to);
            replay.entries[stream] = replay.entries[stream].max(has);
        }
        if after == up_to {
            replay.asked_ahead |= 1 << stream;
            if end.extent.last < after {
                // Begun anew: nothing of it was heard.
                replay.entries[stream] = self.history.covered()[stream].min(self.entries[stream]);
            }
        }
        replay.page = Page::Due;
        self.clients[id.index].put_replay(replay);
        if let Some(gap) = gap {
            self.send(id, &gap);
        }
        self.owe(id, Lane::Bulk);
    }

    /// A client that is ahead waits until more stands in the history.
    pub(super) fn wait_for_more(&mut self, id: ConnId) {
        if self.pages.ahead.len() >= 2 * self.clients.len() + FORGOTTEN_MAX {
            let clients = &self.clients;
            self.pages.ahead.retain(|id| is_there(clients, *id));
        }
        self.pages.ahead.push(id);
    }

    /// More stands there: those who were ahead look at it.
    pub(crate) fn call_those_ahead(&mut self) {
        for id in std::mem::take(&mut self.pages.ahead) {
            let replay = self.client(id).and_then(|client| client.replay());
            if let Some(replay) = replay.filter(|replay| replay.page == Page::Ahead) {
                replay.page = Page::None;
                self.owe(id, Lane::Bulk);
            }
        }
    }

    /// Those who wait ask, as many as may. Each is looked at here: one that needs no page any more, or is gone, takes no place,
    /// and would call nobody when its turn is over.
    fn call_waiting(&mut self) {
        while self.pages.are_known
            && self.pages.asked < PAGES_MAX
            && let Some(id) = self.pages.waiting.pop_front()
        {
            let replay = self.open_client(id).and_then(|client| client.take_replay());
            let Some(mut replay) = replay else { continue };
            if replay.page == Page::Queued {
                self.turn_page(id, &mut replay);
            }
            self.clients[id.index].put_replay(replay);
            self.owe(id, Lane::Bulk);
        }
    }
}

fn is_there(clients: &Slots<Client>, id: ConnId) -> bool {
    clients.get(id.index).is_some_and(|client| client.generation == id.generation)
}
