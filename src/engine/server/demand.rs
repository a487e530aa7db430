//! Subscriptions on demand, as clients see them: waits for Redis, and from which message on all of their topics are held.

use crate::engine::client::frame::Close;
use crate::engine::client::{Client, State};
use crate::engine::demand::waits::{Wait, WaitEnd};
use crate::engine::demand::{Demand, DemandSettings};
use crate::engine::pubsub::hub::{Hub, KeyName};
use crate::engine::resume::history::notes;
use crate::engine::resume::replay::{Replay, ReplayStage};
use crate::engine::server::Server;
use crate::engine::slots::ConnId;

/// Subscribes at Redis to what clients want, and to nothing else. There are no clients yet.
pub(crate) fn begin(server: &mut Server, settings: DemandSettings) {
    server.hubs.iter_mut().for_each(|hub| *hub = Hub::watched());
    server.resume.has_channels = true;
    server.demand = Some(Box::new(Demand::new(settings)));
}

/// Has the handler wait until Redis has acknowledged one of the client's keys, or all of them. Returns the number under which
/// [`RouteEvent::Subscribed`](crate::RouteEvent::Subscribed) comes; `None`: there is nothing to wait for.
pub(super) fn await_subscription(
    server: &mut Server,
    id: ConnId,
    key: Option<&str>,
) -> Option<u64> {
    let key = key.map(KeyName::new);
    if server.demand.is_none() || is_settled(server, id, key.as_ref()) {
        return None;
    }
    let (route, now) = (server.client(id)?.route, server.now.millis);
    let demand = server.demand.as_mut()?;
    demand.waits.number += 1;
    let number = demand.waits.number;
    let by = now.saturating_add(demand.settings.timeout);
    let wait = Wait { route, id, key, then: WaitEnd::Answer { number, by } };
    push(server, wait);
    Some(number)
}

/// Reports a gap to a client once Redis has acknowledged this key, if it has not.
pub(super) fn await_gap(server: &mut Server, id: ConnId, key: &str) {
    let key = Some(KeyName::new(key));
    if server.demand.is_none() || is_settled(server, id, key.as_ref()) {
        return;
    }
    let Some(route) = server.client(id).map(|client| client.route) else { return };
    let then = WaitEnd::Gap { from: server.cursor() };
    push(server, Wait { route, id, key, then });
}

/// Ends the wait for an answer that goes out now. If Redis has not acknowledged its topics, a gap follows once it has.
pub(super) fn end_wait(server: &mut Server, number: u64) {
    let wait = server.demand.as_mut().and_then(|demand| demand.waits.take_answer(number));
    wait.into_iter().for_each(|wait| await_gap_of(server, wait));
}

fn await_gap_of(server: &mut Server, wait: Wait) {
    if !is_settled(server, wait.id, wait.key.as_ref()) {
        server.metrics.demand_late += 1;
        let then = WaitEnd::Gap { from: server.cursor() };
        push(server, Wait { then, ..wait });
    }
}

/// Sends nothing live to a client, and reads nothing from it, until it is released.
pub(super) fn hold(server: &mut Server, id: ConnId) {
    if server.caught_up(id) {
        let replay = Replay { stage: ReplayStage::Held, ..server.resume.replay_of_nothing() };
        if let Some(client) = server.open_client(id) {
            client.begin_replay(Box::new(replay));
        }
    }
}

/// Returns whether nothing is read from a client, and nothing live is sent to it.
pub(crate) fn is_held(client: &mut Client) -> bool {
    client.replay().is_some_and(|replay| replay.stage == ReplayStage::Held)
}

/// Ends a hold. The client is given what is published from now on.
pub(super) fn release(server: &mut Server, id: ConnId) {
    if !server.caught_up(id) {
        return;
    }
    let latest = server.fanout.latest();
    let Some(client) = server.open_client(id) else { return };
    if !is_held(client) {
        return;
    }
    client.take_replay();
    client.mark_delivered(latest);
    client.settle();
    note_released(server, Some(id));
}

/// Has a client read whose hold has ended.
pub(super) fn note_released(server: &mut Server, id: Option<ConnId>) {
    server.demand.iter_mut().for_each(|demand| demand.waits.released.extend(id));
}

/// Takes the clients whose hold has ended since the last call.
pub(crate) fn take_released(server: &mut Server) -> Vec<ConnId> {
    let demand = server.demand.as_mut();
    demand.map(|demand| std::mem::take(&mut demand.waits.released)).unwrap_or_default()
}

/// Returns whether every message since this number is held for a key of the client, or for all of them.
pub(super) fn holds_since(server: &mut Server, id: ConnId, key: Option<&str>, number: u64) -> bool {
    server.demand.is_none()
        || held_from(server, id, key).is_some_and(|from| from.is_none_or(|from| number >= from))
}

/// The cursor after which everything of a key of the client's is held, or of all of them.
pub(super) fn oldest(server: &mut Server, id: ConnId, key: Option<&str>) -> String {
    if server.demand.is_none() {
        return server.resume.oldest(0);
    }
    let latest = server.resume.history.next() - 1;
    let from = held_from(server, id, key).map_or(latest, |from| from.unwrap_or(0));
    server.resume.oldest(from)
}

/// The number after which every message is held; `None`: none is. `Some(None)`: the client has no key.
fn held_from(server: &mut Server, id: ConnId, key: Option<&str>) -> Option<Option<u64>> {
    note_changes(server);
    let Server { demand, hubs, clients, .. } = server;
    let demand = demand.as_ref()?;
    if let Some(key) = key {
        return demand.held_from(key).map(Some);
    }
    let client = clients.get(id)?;
    let mut keys = hubs[client.route as usize].topics(&client.subscriptions);
    keys.try_fold(None, |most, (key, _)| Some(most.max(Some(demand.held_from(key)?))))
}

/// Takes the number away if a newer message of the topic may not be held.
pub(super) fn newest_held(server: &Server, topic: &str, number: Option<u64>) -> Option<u64> {
    let Some(demand) = &server.demand else { return number };
    number.filter(|number| demand.held_from(topic).is_some_and(|from| *number >= from))
}

fn push(server: &mut Server, wait: Wait) {
    let id = wait.id;
    let has_room = server.demand.as_mut().is_some_and(|demand| demand.waits.push(wait));
    if !has_room {
        server.close(id, Close::busy(1000, "Redis is slow to subscribe: come back later"));
    }
}

/// Tells the table of topics what the hubs saw.
fn note_changes(server: &mut Server) {
    let now = server.now.millis;
    let Some(demand) = &mut server.demand else { return };
    for change in server.hubs.iter_mut().flat_map(Hub::take_changes) {
        demand.on_change(change, now);
    }
}

/// Returns whether there is nothing to wait for, for one key of a client or for all.
fn is_settled(server: &mut Server, id: ConnId, key: Option<&KeyName>) -> bool {
    note_changes(server);
    let Server { demand, hubs, clients, .. } = server;
    let Some(demand) = demand else { return true };
    let client = clients.get(id).filter(|client| client.state() == State::Open);
    let Some(client) = client else { return true };
    match key {
        Some(key) => demand.is_settled(key),
        None => {
            let mut keys = hubs[client.route as usize].topics(&client.subscriptions);
            keys.all(|(key, _)| demand.is_settled(key))
        }
    }
}

/// Brings the topics at Redis up to date, and marks in the history what was acknowledged.
pub(crate) fn settle(server: &mut Server) {
    note_changes(server);
    let now = server.now.millis;
    let Some(demand) = &mut server.demand else { return };
    demand.expire(now);
    let counts = demand.counts;
    server.metrics.demand_commands = counts.commands;
    server.metrics.demand_subscribed = counts.subscribed;
    server.metrics.demand_unsubscribed = counts.unsubscribed;
    if demand.is_mark_due(now) {
        notes::push_mark(&mut server.resume.history);
        demand.mark(server.resume.history.next() - 1, now);
        super::replay::reach_number(server);
    }
}

/// Takes the next answer that waits no longer, or the next one at all if the wait `is_over` for all. If it goes out before Redis has
/// acknowledged its topics, a gap follows once that comes.
pub(crate) fn next_answer(server: &mut Server, is_over: bool) -> Option<Wait> {
    let wait = server.demand.as_ref()?.waits.answers.front()?.clone();
    let is_settled = is_settled(server, wait.id, wait.key.as_ref());
    let is_late =
        is_over || matches!(wait.then, WaitEnd::Answer { by, .. } if by <= server.now.millis);
    if !is_settled && !is_late {
        return None;
    }
    let ended = server.demand.as_mut()?.waits.answers.pop_front();
    await_gap_of(server, wait);
    ended
}

/// Takes the next gap that is to be reported to one client, out of so many that are looked at. The others wait behind the rest: a
/// client that goes on subscribing delays nobody else.
pub(crate) fn next_gap(server: &mut Server, looks: &mut usize) -> Option<Wait> {
    while *looks > 0 {
        *looks -= 1;
        let wait = server.demand.as_mut()?.waits.gaps.pop_front()?;
        if is_settled(server, wait.id, wait.key.as_ref()) {
            return Some(wait);
        }
        server.demand.as_mut()?.waits.gaps.push_back(wait);
    }
    None
}
