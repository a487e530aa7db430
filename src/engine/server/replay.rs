//! Replays on their way to clients: a slice at a time, between live messages.
//!
//! A slice is taken when everything queued before is written, so a replay obeys the backlog's bound whatever its length, and a
//! client that reads slowly holds a place in the history and no frames.

use crate::engine::client::frame::Frame;
use crate::engine::client::outbox::Backlog;
use crate::engine::pending_writes::Lane;
use crate::engine::resume::cursor::EntryId;
use crate::engine::resume::replay::{Replay, ReplayStage, Resumed};
use crate::engine::resume::{Slice, WRITE_PRICE};
use crate::engine::server::{Server, demand};
use crate::engine::slots::ConnId;

/// Bytes of frames that are queued for a client at a time.
const SLICE_BYTES: usize = 32 * 1024;

/// Clients that are gone are dropped from a list that is longer than twice the number of clients, and by this many.
const GONE_MAX: usize = 64;

/// The most that is queued for a client at a time, in bytes and in frames.
pub(crate) fn slice_max(backlog: &Backlog) -> (usize, usize) {
    (SLICE_BYTES.min(backlog.bytes_max / 4), backlog.frames_max.div_ceil(4))
}

/// Begins the replay of the messages after this cursor, as soon as the running handler is done with the client: the subscriptions
/// that the client has by then count.
pub(super) fn resume(server: &mut Server, id: ConnId, since: &str) -> Resumed {
    let replay = server.resume.replay_from(since);
    let replay = replay.filter(|replay| demand::holds_since(server, id, None, replay.next - 1));
    let is_caught_up = server.caught_up(id);
    let Some(replay) = replay.filter(|_| is_caught_up) else {
        server.metrics.resumes_refused += 1;
        return Resumed::No(demand::oldest(server, id, None));
    };
    server.metrics.resumes += 1;
    let mut cursor = String::new();
    server.resume.write_cursor(&mut cursor, replay.next - 1, &replay);
    let next = server.resume.history.next();
    if replay.next > next {
        await_number(server, id, replay);
    } else if (replay.next < next || replay.stage == ReplayStage::Undecided)
        && let Some(client) = server.open_client(id)
    {
        client.begin_replay(Box::new(replay));
        server.schedule_flush(id, Lane::Bulk);
    }
    Resumed::From(cursor)
}

/// Has a client wait until this process has recorded as much as the client was sent by another one.
fn await_number(server: &mut Server, id: ConnId, mut replay: Replay) {
    replay.stage = ReplayStage::Ahead;
    let next = replay.next;
    let Some(client) = server.open_client(id) else { return };
    client.begin_replay(Box::new(replay));
    let Server { resume, clients, .. } = server;
    if resume.ahead_by_number.len() >= 2 * clients.len() + GONE_MAX {
        resume.ahead_by_number.retain(|(_, id)| clients.get(*id).is_some());
    }
    resume.ahead_by_number.insert((next, id));
}

/// Continues the clients that waited for as many records as there are now.
pub(crate) fn reach_number(server: &mut Server) {
    while let Some(id) = server.resume.pop_reached_number() {
        wake(server, id);
    }
}

/// Begins the replay of a single topic, or has the running one go back for it. A client that is ahead of this process is not given
/// one: what it has already cannot be told from what it misses.
pub(super) fn resume_topic(server: &mut Server, id: ConnId, key: &str, since: &str) -> Resumed {
    let is_caught_up = server.caught_up(id);
    let running = server.open_client(id).and_then(|client| client.take_replay());
    let is_ahead = running.as_ref().is_some_and(|replay| server.resume.is_ahead(replay));
    let earlier = server.resume.topic_replay_from(since).filter(|_| is_caught_up && !is_ahead);
    let earlier =
        earlier.filter(|replay| demand::holds_since(server, id, Some(key), replay.next - 1));
    let was_running = running.is_some();
    let mut replay = running.unwrap_or_else(|| Box::new(server.resume.replay_of_nothing()));
    if let Some(earlier) = &earlier {
        replay.go_back(earlier, key);
    }
    let is_behind = replay.next < server.resume.history.next();
    if (was_running || is_behind || replay.stage == ReplayStage::Undecided)
        && let Some(client) = server.open_client(id)
    {
        client.begin_replay(replay);
        server.schedule_flush(id, Lane::Bulk);
    }
    match earlier {
        Some(_) => {
            server.metrics.topic_resumes += 1;
            Resumed::From(server.resume.cursor())
        }
        None => {
            server.metrics.topic_resumes_refused += 1;
            Resumed::No(demand::oldest(server, id, Some(key)))
        }
    }
}

/// The cursor that includes everything a client was sent so far, in a replay as well.
pub(super) fn place_of(server: &mut Server, id: ConnId) -> Option<String> {
    if !server.caught_up(id) {
        return None;
    }
    let Server { clients, resume, .. } = server;
    let Some(replay) = clients.get_mut(id)?.replay() else { return Some(resume.cursor()) };
    let mut cursor = String::new();
    resume.write_cursor(&mut cursor, replay.next - 1, replay);
    Some(cursor)
}

/// Queues the next slice for a client whose replay waits for it, within about the time of so many `writes`. Returns how many writes
/// it took the time of; `None` if the history lacks messages, or cannot tell: the source of older messages continues.
pub(crate) fn step(server: &mut Server, id: ConnId, writes: usize) -> Option<usize> {
    let waiting = server.open_client(id).filter(|client| client.wants_replay());
    let Some(mut replay) = waiting.and_then(|client| client.take_replay()) else {
        return Some(0);
    };
    if !server.resume.decide(&mut replay) {
        server.clients[id.index].begin_replay(replay);
        return None;
    }
    let (bytes, frames) = slice_max(&server.backlog);
    let client = &server.clients[id.index];
    let route = client.route as usize;
    let mut queued: Vec<Frame> = Vec::new();
    let (encode, slow) = (server.options[route].encode, server.options[route].slow);
    let encoding = client.encoding();
    let subscriptions = (&server.hubs[route], &client.subscriptions);
    let slice = Slice { writes, bytes, frames };
    let (price, superseded) = server.resume.read_on(&mut replay, subscriptions, slice, |item| {
        queued.push(encode(&item)?);
        queued.last().map(|frame| encoding.of(frame).as_bytes().len())
    });
    let is_at_end =
        replay.stage == ReplayStage::History && replay.next == server.resume.history.next();
    let is_ahead = is_at_end && server.resume.is_ahead(&replay);
    if is_ahead && server.resume.uncertain(&replay).is_some() {
        replay.stage = ReplayStage::Undecided;
    } else if is_ahead {
        replay.stage = ReplayStage::Ahead;
        let Server { resume, clients, .. } = &mut *server;
        if resume.ahead.len() >= 2 * clients.len() + GONE_MAX {
            resume.ahead.retain(|(_, _, id)| clients.get(*id).is_some());
        }
        resume.wait_ahead(id, &replay.entries);
    }
    let client = &mut server.clients[id.index];
    if is_at_end && !is_ahead {
        // Messages that the fan-out delivered meanwhile stood in the history.
        client.mark_delivered(server.fanout.latest());
    } else {
        client.begin_replay(replay);
    }
    for frame in &queued {
        let dropped = client.queue(frame, &server.backlog, slow);
        debug_assert_eq!(dropped, Some(0), "its socket is not full");
    }
    client.settle();
    server.metrics.replayed += queued.len() as u64;
    server.metrics.superseded += superseded;
    Some(price.div_ceil(WRITE_PRICE))
}

/// Continues the clients that waited until this process has read a stream up to this entry, which stands in the history if it is a
/// message. An entry that is no message counts as well: another process that starts behind it names it in its cursors, and clients
/// from there would be ahead of this process for ever.
pub(crate) fn reach(server: &mut Server, stream: usize, entry: EntryId) {
    server.resume.entries[stream] = entry;
    while let Some(id) = server.resume.pop_reached(stream) {
        wake(server, id);
    }
}

/// Continues all clients that are ahead with the latest record of the history.
pub(crate) fn wake_all(server: &mut Server) {
    let ahead = std::mem::take(&mut server.resume.ahead);
    ahead.into_iter().for_each(|(_, _, id)| wake(server, id));
}

/// Continues subscribers that are ahead: a message on these topics of their route stands in the history. Few are found by their
/// topics, however many clients are ahead. For a large topic all of these continue, so that the next message finds none.
pub(super) fn wake_subscribers(server: &mut Server, route: u8, topics: &[u32]) {
    if server.resume.ahead.is_empty() {
        return;
    }
    let hub = &server.hubs[route as usize];
    if topics.iter().any(|topic| hub.is_large(*topic)) {
        return wake_all(server);
    }
    let few: Vec<u32> = topics.iter().flat_map(|topic| hub.subscribers(*topic)).collect();
    for index in few {
        let id = server.clients.id(index);
        wake(server, id);
    }
}

/// Continues a client that is ahead. Of the messages published while it waited only the latest one may be for it.
fn wake(server: &mut Server, id: ConnId) {
    let latest = server.resume.history.next() - 1;
    let replay = server.client(id).and_then(|client| client.replay());
    if let Some(replay) = replay.filter(|replay| replay.stage == ReplayStage::Ahead) {
        replay.stage = ReplayStage::History;
        replay.next = replay.next.max(latest);
        server.schedule_flush(id, Lane::Bulk);
    }
}
