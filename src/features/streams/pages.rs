//! Entries of streams that are older than the history: they are asked of Redis, a page at a time, by turns.
//!
//! A client is given pages until what it has reaches what the history covers; from there on it reads that. A page is asked for when
//! all of the one before is written, and what a client has no room for is asked for once more.
//!
//! Redis trims and deletes without telling anybody. Before a client's first page it is asked what the stream holds ([`Looks`]), so
//! that the client knows of a gap before it has a cursor from behind it. Each page begins with the entry that the client had last, and
//! so proves that nothing was trimmed since. (An entry that is deleted between two of its pages is missed by nobody.)

use std::collections::BTreeSet;

use crate::engine::client::frame::{Close, Frame};
use crate::engine::resume::replay::{Look, Page, Proof, Replay};
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Reason;
use crate::engine::redis::request::{
    Extent, PAGE_ENTRIES, PageEnd, ReplyForm, Ticket, TicketOwner,
};
use crate::engine::resume::cursor::EntryId;
use crate::engine::server::Server;
use crate::engine::server::clients::Clients;
use crate::features::streams::stream_checks::Looks;
use crate::features::streams::page_queue::{Owner, PageQueue, Sizes};
use crate::engine::server::replay::{ReplayItem, SLICE_BYTES, is_entry_for};
use crate::engine::slots::ConnId;
use crate::features::streams::commands;

/// When a client whose page did not come may come back, in milliseconds.
const RETRY: u64 = 1000;

/// Those who are gone are looked for when so many more wait than twice as many as are there.
const FORGOTTEN_MAX: usize = 64;

/// Who is given pages.
#[derive(Default)]
pub(crate) struct Pages {
    queue: PageQueue,
    looks: Looks,
    /// Of each stream.
    sizes: Vec<Sizes>,
    /// Those who have more of a stream than this process was told of: for each stream what they have, and who.
    ahead: Vec<BTreeSet<(EntryId, ConnId)>>,
    /// Where the streams begin is known, and the history holds what it can of them.
    are_known: bool,
    /// Pages wait for the budget: counted once.
    are_put_off: bool,
}

impl Pages {
    fn new(streams: usize) -> Pages {
        Pages {
            looks: Looks::new(streams),
            sizes: vec![Sizes::default(); streams],
            ahead: vec![BTreeSet::new(); streams],
            ..Pages::default()
        }
    }

    /// An entry was told, or was there before: pages will be of such ones.
    pub(crate) fn saw(&mut self, stream: usize, bytes: usize) {
        self.sizes[stream].saw(bytes as u64);
    }
}

impl Server {
    #[cfg(test)]
    pub(crate) fn pages_len(&self) -> (usize, usize, usize) {
        let ahead = self.pages.ahead.iter().map(BTreeSet::len).sum();
        (self.pages.queue.asked_len(), self.pages.queue.waiting_len(), ahead)
    }

    /// There are so many streams.
    pub(super) fn give_pages_of(&mut self, streams: usize) {
        self.pages = Pages::new(streams);
    }

    /// The streams are read: whoever waited for that goes on.
    pub(crate) fn streams_are_known(&mut self) {
        self.pages.are_known = true;
        self.call_waiting();
    }

    /// Queues a client for the next page that it needs, or for a look. [`Page::None`]: it needs no more. The caller gives the replay
    /// back, and calls [`Server::call_waiting`].
    pub(super) fn turn_page(&mut self, id: ConnId, replay: &mut Replay) {
        let behind = self.behind(replay);
        if let Some((stream, after, _)) = behind.filter(|one| replay.proof_of(one.0).is_none()) {
            replay.page = Page::Looking { stream, after, why: Look::Before };
            return self.pages.looks.wait(stream, id);
        }
        if behind.is_some() {
            replay.page = Page::Queued;
            if self.pages.queue.waiting_len() >= 2 * self.clients.len() + FORGOTTEN_MAX {
                let clients = &self.clients;
                self.pages.queue.forget(|id| is_there(clients, id));
            }
            let owner = Owner::new(self.key_for(id, Reason::Own));
            return self.pages.queue.push(owner, id, self.now.millis);
        }
        if let Some((stream, after)) = self.unsure(replay) {
            replay.page = Page::Looking { stream, after, why: Look::Ahead };
            return self.pages.looks.wait(stream, id);
        }
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
    }

    /// A stream of which a client needs entries that the history does not hold: after one, up to and with another.
    fn behind(&self, replay: &Replay) -> Option<(usize, EntryId, EntryId)> {
        let mut places = self.history.covered().iter().zip(&replay.entries).enumerate();
        let behind = places.find(|(_, (covered, has))| covered > has);
        behind.map(|(stream, (covered, has))| (stream, *has, *covered))
    }

    /// A stream of which the client has more than this process was told of: that may come still, or be of a stream that was begun
    /// anew since. Redis knows.
    pub(super) fn unsure(&self, replay: &Replay) -> Option<(usize, EntryId)> {
        let mut places = replay.entries.iter().zip(&self.entries).enumerate();
        let unsure = places
            .find(|(stream, (has, told))| has > told && replay.asked_ahead & 1 << stream == 0);
        unsure.map(|(stream, (has, _))| (stream, *has))
    }

    /// Those who wait ask, as many as may; and streams are looked at. Each client is looked at here: one that needs no page any more,
    /// or is gone, takes no place, and would call nobody when its turn is over.
    pub(crate) fn call_waiting(&mut self) {
        if !self.pages.are_known {
            return;
        }
        let (now, per_second) = (self.now.millis, self.bounds.replay_bytes_per_second_max as u64);
        while let Some((owner, id)) = self.pages.queue.next(now, per_second) {
            let replay = self.open_client(id).and_then(|client| client.take_replay());
            let Some(mut replay) = replay else {
                self.pages.queue.skip(owner, now);
                continue;
            };
            let needed = self.behind(&replay).filter(|_| replay.page == Page::Queued);
            match needed.filter(|one| replay.proof_of(one.0).is_some()) {
                Some(needed) => self.ask_page(id, owner, &mut replay, needed),
                None => {
                    self.pages.queue.skip(owner, now);
                    if replay.page == Page::Queued {
                        replay.page = Page::Due;
                    }
                }
            }
            self.clients[id.index].put_replay(replay);
            self.schedule_flush(id, Lane::Bulk);
        }
        let was_put_off = self.pages.are_put_off;
        self.pages.are_put_off = self.pages.queue.is_over_budget();
        self.metrics.pages_put_off += u64::from(self.pages.are_put_off && !was_put_off);
        while let Some(stream) = self.pages.looks.begin(now) {
            let command = commands::info(&self.streams[stream]);
            let ticket = Ticket { owner: TicketOwner::Resume, number: stream as u64 };
            self.ask_for(command, ticket, ReplyForm::Extent { stream });
        }
    }

    /// When [`Server::call_waiting`] is due, whatever else happens.
    pub(crate) fn pages_deadline(&self) -> Option<u64> {
        let per_second = self.bounds.replay_bytes_per_second_max as u64;
        let deadlines = [self.pages.queue.deadline(per_second), self.pages.looks.deadline()];
        deadlines.into_iter().flatten().min().filter(|_| self.pages.are_known)
    }

    /// Asks for the entries of a stream from one on, up to and with another. They come to [`crate::engine::router::Router::on_page_entry`], and
    /// always [`crate::engine::router::Router::on_page_end`] is called, even if the client is gone by then.
    fn ask_page(
        &mut self,
        id: ConnId,
        owner: Owner,
        replay: &mut Replay,
        (stream, after, up_to): (usize, EntryId, EntryId),
    ) {
        let sizes = self.pages.sizes[stream];
        let count = replay.page_entries.min(sizes.entries_max()) + 1;
        let command = commands::page(&self.streams[stream], after, up_to, count);
        replay.page = Page::Asked { stream, after, up_to, count, is_full: false, is_vain: true };
        self.pages.queue.ask(owner, id, sizes.expected(count), self.now.millis);
        let ticket = Ticket { owner: TicketOwner::Resume, number: id.number() };
        self.ask_for(command, ticket, ReplyForm::Page { stream });
    }

    /// An entry of a page: queued for the client that asked, if it is for it and has room.
    pub(crate) fn on_page_entry(
        &mut self,
        id: ConnId,
        entry: EntryId,
        topic: &str,
        make: impl FnOnce(ReplayItem<'_>) -> Option<Frame>,
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
            make(ReplayItem::Message { cursor: &cursor, topic, payload })
        });
        let frame = frame.flatten();
        let (bytes, frames) =
            (SLICE_BYTES.min(self.backlog.bytes_max / 4), self.backlog.frames_max.div_ceil(4));
        let client = &mut self.clients[id.index];
        let is_queued = match &frame {
            Some(frame) => {
                client.queue(frame, &self.backlog, self.options[client.route as usize].slow)
            }
            None => Some(0),
        };
        if let Page::Asked { is_full, is_vain, .. } = &mut replay.page {
            *is_full = client.holds(bytes, frames);
            *is_vain &= frame.is_none();
        }
        client.put_replay(replay);
        if is_queued.is_none() {
            return self.close(id, Close::SLOW);
        }
        self.metrics.page_entries += 1;
        self.schedule_flush(id, Lane::Bulk);
    }

    /// A page has ended, or did not come. The client looks whether it needs another one.
    pub(crate) fn on_page_end(
        &mut self,
        id: ConnId,
        stream: usize,
        end: PageEnd,
        make: impl FnOnce(ReplayItem<'_>) -> Option<Frame>,
    ) {
        self.metrics.pages += u64::from(end.is_available);
        self.metrics.page_bytes += end.bytes;
        self.pages.sizes[stream].saw_page(end.entries, end.bytes, end.largest);
        let replay = self.open_client(id).and_then(|client| client.replay());
        let page = replay.map(|replay| std::mem::replace(&mut replay.page, Page::Due));
        let is_vain = !matches!(page, Some(Page::Asked { is_vain: false, .. }));
        let rests = self.pages.queue.end(id, end.bytes, is_vain, self.now.millis);
        self.metrics.pages_put_off += u64::from(rests);
        match page {
            Some(page @ Page::Asked { .. }) if end.is_available => {
                self.end_page(id, page, end, make);
            }
            // It has its cursor, and comes back with it.
            Some(Page::Asked { .. }) => {
                self.close(id, Close::busy(RETRY, "Redis does not answer: come back with since"))
            }
            Some(other) => {
                let replay = self.open_client(id).and_then(|client| client.replay());
                replay.expect("it was just there").page = other;
            }
            None => {}
        }
        self.call_waiting();
    }

    /// What a page that came means for its client.
    fn end_page(
        &mut self,
        id: ConnId,
        page: Page,
        end: PageEnd,
        make: impl FnOnce(ReplayItem<'_>) -> Option<Frame>,
    ) {
        let Page::Asked { stream, after, up_to, count, is_full, .. } = page else {
            return;
        };
        let Some(mut replay) = self.open_client(id).and_then(|client| client.take_replay()) else {
            return;
        };
        replay.fit_page(is_full, end.entries >= count, end.bytes, PAGE_ENTRIES);
        let is_last = !is_full && end.entries < count;
        if !is_full {
            let has = if is_last { up_to } else { end.last.unwrap_or(up_to) };
            replay.entries[stream] = replay.entries[stream].max(has);
        }
        let mut gap = None;
        match replay.proof_of(stream).filter(|_| end.first != Some(after)) {
            Some(Proof::Looked) => {
                replay.page = Page::Looking { stream, after, why: Look::Behind };
                self.pages.looks.wait(stream, id);
            }
            Some(Proof::Paged) => {
                gap =
                    make(ReplayItem::Gap { from: &self.place_before(&mut replay, stream, after) });
            }
            Some(Proof::Told) | None => {}
        }
        // Behind the last page its place need be no entry that is held.
        replay.proof = (!is_last).then_some((stream, Proof::Paged));
        self.clients[id.index].put_replay(replay);
        if let Some(gap) = gap {
            self.send(id, &gap);
        }
        self.schedule_flush(id, Lane::Bulk);
    }

    /// A stream was looked at, or could not be. Returns for whom: each is told by [`Server::on_looked_at`].
    pub(crate) fn end_look(&mut self, stream: usize) -> Vec<ConnId> {
        self.pages.looks.end(stream)
    }

    /// What a stream holds, for a client that waited for that. Entries may be gone that it never had, or the stream was begun anew.
    pub(crate) fn on_looked_at(
        &mut self,
        id: ConnId,
        extent: Option<Extent>,
        make: impl FnOnce(ReplayItem<'_>) -> Option<Frame>,
    ) {
        let Some(mut replay) = self.open_client(id).and_then(|client| client.take_replay()) else {
            return;
        };
        let Page::Looking { stream, after, why } = replay.page else {
            return self.clients[id.index].put_replay(replay);
        };
        let Some(extent) = extent else {
            self.clients[id.index].put_replay(replay);
            return self
                .close(id, Close::busy(RETRY, "Redis does not answer: come back with since"));
        };
        let mut gap = None;
        // What is missing is told once, and again only if more is.
        let missing = Some((stream, extent.deleted));
        let was_told =
            replay.told_missing == missing && extent.first.is_some_and(|first| first <= after);
        let is_complete = extent.is_complete_after(after);
        if !is_complete && !was_told {
            replay.told_missing = missing;
            gap = make(ReplayItem::Gap { from: &self.place_before(&mut replay, stream, after) });
        }
        match why {
            Look::Before => {
                let proof = if is_complete { Proof::Looked } else { Proof::Told };
                replay.proof = Some((stream, proof));
            }
            Look::Behind => {}
            Look::Ahead => {
                replay.asked_ahead |= 1 << stream;
                if extent.last < after {
                    // Begun anew: nothing of it was heard.
                    let told = self.entries[stream];
                    replay.entries[stream] = self.history.covered()[stream].min(told);
                }
            }
        }
        replay.page = Page::Due;
        self.clients[id.index].put_replay(replay);
        if let Some(gap) = gap {
            self.send(id, &gap);
        }
        self.schedule_flush(id, Lane::Bulk);
    }

    /// The cursor of a client when it had a stream up to this entry.
    fn place_before(&self, replay: &mut Replay, stream: usize, after: EntryId) -> String {
        let mut from = String::new();
        let has = std::mem::replace(&mut replay.entries[stream], after);
        self.write_replays_cursor(&mut from, replay.next - 1, replay);
        replay.entries[stream] = has;
        from
    }

    /// A client that is ahead waits until this process was told as much of the stream, or something for it is said.
    pub(super) fn wait_for_more(&mut self, id: ConnId, replay: &Replay) {
        let waiting: usize = self.pages.ahead.iter().map(BTreeSet::len).sum();
        if waiting >= 2 * self.clients.len() + FORGOTTEN_MAX {
            let clients = &self.clients;
            let ahead = self.pages.ahead.iter_mut();
            ahead.for_each(|all| all.retain(|(_, id)| is_there(clients, *id)));
        }
        let places = replay.entries.iter().zip(&self.entries).enumerate();
        for (stream, (has, told)) in places {
            if has > told {
                self.pages.ahead[stream].insert((*has, id));
            }
        }
    }

    /// This process was told of a stream up to an entry, which stands in the history if it is a message: those who had it before are
    /// ahead no more.
    pub(crate) fn call_those_reached(&mut self, stream: usize) {
        let told = self.entries[stream];
        while let Some((has, id)) = self.pages.ahead[stream].first().copied()
            && has <= told
        {
            self.pages.ahead[stream].pop_first();
            self.call_ahead(id);
        }
    }

    /// All who are ahead look at what stands in the history.
    pub(crate) fn call_those_ahead(&mut self) {
        for stream in 0..self.pages.ahead.len() {
            for (_, id) in std::mem::take(&mut self.pages.ahead[stream]) {
                self.call_ahead(id);
            }
        }
    }

    /// A message to these topics of a route stands in the history: subscribers that are ahead read it there.
    pub(super) fn call_subscribers_ahead(&mut self, route: u8, topics: &[u32]) {
        if self.pages.ahead.iter().all(BTreeSet::is_empty) {
            return;
        }
        let hub = &self.hubs[route as usize];
        let hears = |id: &ConnId| {
            let client = self.clients.get(*id);
            client.is_some_and(|one| {
                one.route == route && hub.is_subscribed(&one.subscriptions, topics)
            })
        };
        let all = self.pages.ahead.iter().flatten().map(|(_, id)| *id);
        let called: Vec<ConnId> = all.filter(hears).collect();
        called.into_iter().for_each(|id| self.call_ahead(id));
    }

    /// What was said while it waited is not for it, but for the latest message perhaps.
    fn call_ahead(&mut self, id: ConnId) {
        let latest = self.history.next() - 1;
        let replay = self.client(id).and_then(|client| client.replay());
        if let Some(replay) = replay.filter(|replay| replay.page == Page::Ahead) {
            replay.page = Page::None;
            replay.next = replay.next.max(latest);
            self.schedule_flush(id, Lane::Bulk);
        }
    }
}

fn is_there(clients: &Clients, id: ConnId) -> bool {
    clients.get(id).is_some()
}
