//! Pages of stream entries that are older than the history, for clients that missed them.
//!
//! A client is sent pages until it has everything up to the entries that the history covers; from there on it reads the history. The
//! next page is requested when all of the last one is written; entries without room in the backlog are requested once more.
//!
//! Redis trims and deletes without notice. Before a client's first page the stream is checked ([`StreamChecks`]), so that the client
//! learns of a gap before it has a cursor from behind it. Each page begins with the client's last entry, and so proves that nothing
//! was trimmed since. (An entry that is deleted between two pages of a client is not reported as a gap.)

use crate::clock::Millis;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::feature::{Feature, FeatureEvent, StreamReply};
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Reason;
use crate::engine::pubsub::topic::Subject;
use crate::engine::redis::request::{PAGE_ENTRIES, PageEnd, ReplyForm, StreamInfo, Ticket};
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::replay::{
    CheckReason, PageRequest, Proof, Replay, ReplayItem, ReplayStage, StreamCheck,
};
use crate::engine::resume::{MissingEntries, is_entry_for};
use crate::engine::server::Server;
use crate::engine::server::replay::slice_max;
use crate::engine::slots::ConnId;
use crate::features::streams::commands;
use crate::features::streams::page_queue::{PageOwner, PageQueue};
use crate::features::streams::stream_checks::StreamChecks;

const OWNER: &str = "streams";

/// Milliseconds after which a client whose page did not come may come back.
const RETRY: u64 = 1000;

/// Clients that are gone are dropped from the queue when it is longer than twice the number of clients, and by this many.
const GONE_MAX: usize = 64;

/// The clients that are sent pages.
pub struct StreamPages {
    queue: PageQueue,
    checks: StreamChecks,
    /// Pages wait for the budget: counted once.
    are_put_off: bool,
}

impl Feature for StreamPages {
    fn name(&self) -> &'static str {
        OWNER
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::Tick => {
                if self.deadline(server).is_none_or(|due| due > server.now.millis) {
                    return;
                }
            }
            FeatureEvent::Lacking(id) => {
                with_replay(server, id, |server, replay| self.decide(server, id, replay));
            }
            FeatureEvent::Stream(StreamReply::Entry { number, id, topic, key, payload }) => {
                let subject = Subject::of_entry(topic, key);
                return on_entry(server, ConnId::of_number(number), id, subject, payload);
            }
            FeatureEvent::Stream(StreamReply::PageEnd { number, stream, end }) => {
                self.on_page_end(server, ConnId::of_number(number), stream, end);
            }
            FeatureEvent::Stream(StreamReply::Info { stream, info }) => {
                for client in self.checks.end(stream) {
                    on_checked(server, client, info);
                }
            }
            _ => return,
        }
        self.ask_next(server);
    }

    /// The time at which a client that waits may be served.
    fn deadline(&self, server: &Server) -> Option<Millis> {
        let per_second = server.bounds.replay_bytes_per_second_max as u64;
        let deadlines = [self.queue.deadline(per_second), self.checks.deadline()];
        deadlines.into_iter().flatten().min().filter(|_| server.resume.are_streams_known)
    }
}

impl StreamPages {
    /// The number of pages on their way, and of clients that wait for one.
    #[cfg(test)]
    pub fn len(&self) -> (usize, usize) {
        (self.queue.asked_len(), self.queue.waiting_len())
    }

    /// Pages of so many streams.
    pub fn new(streams: usize) -> StreamPages {
        StreamPages {
            queue: PageQueue::default(),
            checks: StreamChecks::new(streams),
            are_put_off: false,
        }
    }

    /// Queues a client for the next page that it needs, or for a check.
    fn decide(&mut self, server: &mut Server, id: ConnId, replay: &mut Replay) {
        let (stream, after, reason) = match server.resume.lacking(replay) {
            Some(missing) if replay.proof_of(missing.stream).is_some() => {
                replay.stage = ReplayStage::Queued;
                let clients = &server.clients;
                if self.queue.waiting_len() >= 2 * clients.len() + GONE_MAX {
                    self.queue.forget(|id| clients.get(id).is_some());
                }
                let owner = PageOwner::new(server.key_for(id, Reason::Own));
                return self.queue.push(owner, id, server.now.millis);
            }
            Some(missing) => (missing.stream, missing.after, CheckReason::BeforePage),
            None => match server.resume.uncertain(replay) {
                Some((stream, after)) => (stream, after, CheckReason::Ahead),
                None => return,
            },
        };
        self.check(id, replay, StreamCheck { stream, after, reason });
    }

    fn check(&mut self, id: ConnId, replay: &mut Replay, check: StreamCheck) {
        replay.stage = ReplayStage::Checking(check);
        self.checks.wait(check.stream, id);
    }

    /// Asks for as many pages as may be on their way, and checks streams. A client that needs no page any more, or is gone, gives
    /// its turn back: nothing else would call the next one.
    fn ask_next(&mut self, server: &mut Server) {
        if !server.resume.are_streams_known {
            return;
        }
        let now = server.now.millis;
        let per_second = server.bounds.replay_bytes_per_second_max as u64;
        while let Some((owner, id)) = self.queue.next(now, per_second) {
            let asks = with_replay(server, id, |server, replay| {
                if replay.stage != ReplayStage::Queued {
                    return false;
                }
                let missing = server.resume.lacking(replay);
                let missing = missing.filter(|missing| replay.proof_of(missing.stream).is_some());
                match missing {
                    Some(missing) => self.ask_page(server, id, &owner, replay, missing),
                    None => replay.stage = ReplayStage::Undecided,
                }
                missing.is_some()
            });
            if asks.is_some() {
                server.schedule_flush(id, Lane::Bulk);
            }
            if asks != Some(true) {
                self.queue.give_turn(owner, now);
            }
        }
        let were_put_off = std::mem::replace(&mut self.are_put_off, self.queue.is_over_budget());
        server.metrics.pages_put_off += u64::from(self.are_put_off && !were_put_off);
        while let Some(stream) = self.checks.begin(now) {
            let command = commands::info(&server.resume.streams[stream]);
            let ticket = Ticket::of_feature(OWNER, stream as u64);
            server.ask_for(command, ticket, ReplyForm::StreamInfo { stream });
        }
    }

    /// Asks for the missing entries, from the client's last entry on. The end of the page always comes, even if the client is gone
    /// by then.
    fn ask_page(
        &mut self,
        server: &mut Server,
        id: ConnId,
        owner: &PageOwner,
        replay: &mut Replay,
        MissingEntries { stream, after, up_to }: MissingEntries,
    ) {
        let sizes = server.resume.sizes[stream];
        let count = replay.page_entries.min(sizes.entries_max(PAGE_ENTRIES)) + 1;
        let page = PageRequest {
            stream,
            after,
            up_to,
            count,
            is_full: false,
            is_vain: true,
            is_void: false,
        };
        replay.stage = ReplayStage::Paging(page);
        self.queue.ask(owner, id, sizes.expected(count), server.now.millis);
        let command = commands::page(&server.resume.streams[stream], after, up_to, count);
        let ticket = Ticket::of_feature(OWNER, id.number());
        server.ask_for(command, ticket, ReplyForm::Page { stream });
    }

    /// A page has ended, or did not come.
    fn on_page_end(&mut self, server: &mut Server, id: ConnId, stream: usize, end: PageEnd) {
        server.metrics.pages += u64::from(end.is_available);
        server.metrics.page_bytes += end.bytes;
        server.resume.sizes[stream].add_page(end.entries, end.bytes, end.largest);
        let page = match stage(server, id) {
            Some(ReplayStage::Paging(page)) => Some(page),
            _ => None,
        };
        let is_vain = page.is_none_or(|page| page.is_vain);
        let rests = self.queue.end(id, end.bytes, is_vain, server.now.millis);
        server.metrics.pages_put_off += u64::from(rests);
        match page {
            Some(page) if end.is_available => {
                go_on(server, id, |server, replay| self.end_page(server, id, replay, page, end));
            }
            Some(_) => send_away(server, id),
            None => {}
        }
    }

    /// Draws the conclusions from a page for its client. Returns the gap that the page showed.
    fn end_page(
        &mut self,
        server: &Server,
        id: ConnId,
        replay: &mut Replay,
        page: PageRequest,
        end: PageEnd,
    ) -> Option<Frame> {
        let PageRequest { stream, after, up_to, count, is_full, .. } = page;
        replay.stage = ReplayStage::Undecided;
        if page.is_void {
            return None;
        }
        replay.fit_page(is_full, end.entries >= count, end.bytes, PAGE_ENTRIES);
        let is_last = !is_full && end.entries < count;
        if !is_full {
            let has = if is_last { up_to } else { end.last.unwrap_or(up_to) };
            replay.entries[stream] = replay.entries[stream].max(has);
        }
        let mut gap = None;
        match replay.proof_of(stream).filter(|_| end.first != Some(after)) {
            Some(Proof::Checked) => {
                let reason = CheckReason::AfterPage;
                self.check(id, replay, StreamCheck { stream, after, reason });
            }
            Some(Proof::Paged) => gap = gap_after(server, id, replay, stream, after),
            Some(Proof::Reported) | None => {}
        }
        // Behind the last page the client's place need be no entry that is held.
        replay.proof = (!is_last).then_some((stream, Proof::Paged));
        gap
    }
}

/// Queues an entry of a page for the client that asked, if the entry is for it and there is room. One that the history has a newer
/// message for is superseded.
fn on_entry(
    server: &mut Server,
    id: ConnId,
    entry: EntryId,
    subject: Option<Subject<'_>>,
    payload: &[u8],
) {
    let Some(subject) = subject else { return };
    let is_superseded = server.resume.history.has_newer(subject);
    let queued = with_replay(server, id, |server, replay| {
        let ReplayStage::Paging(mut page) = replay.stage else { return None };
        if page.is_full || page.is_void || entry <= replay.entries[page.stream] {
            return None;
        }
        replay.entries[page.stream] = entry;
        let client = &mut server.clients[id.index];
        let options = &server.options[client.route as usize];
        let hub = &server.hubs[client.route as usize];
        let of = (hub, &client.subscriptions, &*replay);
        let mut frame = None;
        let is_for_client = is_entry_for(of, (page.stream, entry), subject.topic);
        server.metrics.superseded += u64::from(is_superseded && is_for_client);
        if is_for_client && !is_superseded {
            let mut cursor = String::new();
            server.resume.write_cursor(&mut cursor, replay.next - 1, replay);
            frame = (options.encode)(&ReplayItem::Message { cursor: &cursor, subject, payload });
        }
        let is_queued = frame
            .as_ref()
            .is_none_or(|frame| client.queue(frame, &server.backlog, options.slow).is_some());
        let (bytes, frames) = slice_max(&server.backlog);
        page.is_full = client.holds(bytes, frames);
        page.is_vain &= frame.is_none();
        replay.stage = ReplayStage::Paging(page);
        Some(is_queued)
    });
    match queued.flatten() {
        Some(true) => {
            server.metrics.page_entries += 1;
            server.schedule_flush(id, Lane::Bulk);
        }
        Some(false) => server.close(id, Close::SLOW),
        None => {}
    }
}

/// A stream was checked for a client, or could not be. Entries may be gone that the client never had, or the stream was recreated.
fn on_checked(server: &mut Server, id: ConnId, info: Option<StreamInfo>) {
    let Some(ReplayStage::Checking(StreamCheck { stream, after, reason })) = stage(server, id)
    else {
        return;
    };
    let Some(info) = info else { return send_away(server, id) };
    go_on(server, id, |server, replay| {
        // A gap is reported once, and again only if more is missing.
        let missing = Some((stream, info.deleted));
        let was_reported =
            replay.reported_gap == missing && info.first.is_some_and(|first| first <= after);
        let is_complete = info.is_complete_after(after);
        let mut gap = None;
        if !is_complete && !was_reported {
            replay.reported_gap = missing;
            gap = gap_after(server, id, replay, stream, after);
        }
        match reason {
            CheckReason::BeforePage => {
                let proof = if is_complete { Proof::Checked } else { Proof::Reported };
                replay.proof = Some((stream, proof));
            }
            CheckReason::AfterPage => {}
            CheckReason::Ahead => {
                replay.checked_ahead |= 1 << stream;
                if info.last < after {
                    server.resume.forget_place(replay, stream);
                }
            }
        }
        replay.stage = ReplayStage::Undecided;
        gap
    });
}

/// Encodes a gap after an entry of a stream, as the client's route does.
fn gap_after(
    server: &Server,
    id: ConnId,
    replay: &mut Replay,
    stream: usize,
    after: EntryId,
) -> Option<Frame> {
    let route = server.clients[id.index].route as usize;
    let from = server.resume.cursor_before(replay, stream, after);
    (server.options[route].encode)(&ReplayItem::Gap { from: &from })
}

/// The stage of a client's replay.
fn stage(server: &mut Server, id: ConnId) -> Option<ReplayStage> {
    Some(server.open_client(id)?.replay()?.stage)
}

/// Calls `act` with a client's replay; `None` if the client has none, or is gone.
fn with_replay<R>(
    server: &mut Server,
    id: ConnId,
    act: impl FnOnce(&mut Server, &mut Replay) -> R,
) -> Option<R> {
    let mut replay = server.open_client(id)?.take_replay()?;
    let result = act(server, &mut replay);
    server.clients[id.index].begin_replay(replay);
    Some(result)
}

/// Calls `act` with a client's replay, which goes on when the gap that `act` returns is written.
fn go_on(
    server: &mut Server,
    id: ConnId,
    act: impl FnOnce(&mut Server, &mut Replay) -> Option<Frame>,
) {
    let Some(gap) = with_replay(server, id, act) else { return };
    if let Some(gap) = gap {
        server.send(id, &gap);
    }
    server.schedule_flush(id, Lane::Bulk);
}

/// Closes a client whose entries Redis does not give. It has its cursor, and comes back with it.
fn send_away(server: &mut Server, id: ConnId) {
    server.close(id, Close::busy(RETRY, "Redis does not answer: come back with since"));
}
