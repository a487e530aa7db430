//! Subscriptions on demand: what connections to Redis say about topics, and clients that wait for that.

use super::Router;
use crate::engine::demand::waits::WaitEnd;
use crate::engine::handler::RouteEvent;
use crate::engine::redis::subscriber::share::ShareChange;
use crate::engine::server::{ReplayItem, demand};

/// Clients and commands whose wait ends in one turn: each may write to a client.
const WAITS_PER_TURN: usize = 1024;

/// Returns whether a message from a connection that subscribes on demand is to be published.
pub fn hears(router: &mut Router, share: usize, channel: &[u8], by_everything: bool) -> bool {
    let mut features = router.features.iter();
    let is_own = features.any(|one| one.channel().map(str::as_bytes) == Some(channel));
    let demand = router.server.demand.as_ref();
    (is_own && !by_everything)
        || demand.is_some_and(|demand| demand.hears(share, channel, by_everything))
}

/// Redis acknowledged a command of a share. Returns `false` if it ended a subscription that is needed.
pub fn on_share_change(router: &mut Router, share: Option<usize>, change: &ShareChange) -> bool {
    let (Some(share), Some(demand)) = (share, &mut router.server.demand) else { return true };
    match (&change.channel, change.is_added) {
        (Some(channel), true) => {
            demand.on_subscribed(share, channel);
            tell_whole(router);
        }
        (Some(channel), false) => return demand.on_unsubscribed(share, channel),
        (None, is_added) => return demand.on_everything(share, is_added),
    }
    true
}

/// A connection that subscribes on demand came up or is gone. What was missed is reported once all topics are subscribed to.
pub fn on_share(router: &mut Router, share: usize, is_up: bool) {
    let Some(demand) = &mut router.server.demand else { return };
    match is_up {
        true => demand.on_up(share),
        false => demand.on_down(share),
    }
    if is_up {
        return;
    }
    if std::mem::take(&mut demand.is_whole) {
        return router.on_source(false);
    }
    let resume = &router.server.resume;
    router.lost_at.get_or_insert_with(|| (resume.history.next() - 1, resume.cursor()));
}

/// Brings the topics at Redis up to date with the hubs, and ends waits. Called in each turn.
pub fn settle(router: &mut Router) {
    if router.server.demand.is_none() {
        return;
    }
    tell_whole(router);
    demand::settle(&mut router.server);
    let mut left = WAITS_PER_TURN;
    while left > 0 && end_wait(router, false) {
        left -= 1;
    }
    let gaps = router.server.demand.as_ref().map_or(0, |demand| demand.waits.gaps.len());
    let mut looks = gaps.min(left);
    let is_cut = left == 0 || looks < gaps;
    let mut is_any_over = left < WAITS_PER_TURN;
    while let Some(wait) = demand::next_gap(&mut router.server, &mut looks) {
        is_any_over = true;
        let encode = router.server.options[wait.route as usize].encode;
        if let WaitEnd::Gap { from } = &wait.then
            && let Some(frame) = encode(&ReplayItem::Gap { from })
        {
            router.server.send(wait.id, &frame);
        }
    }
    if let Some(demand) = &mut router.server.demand {
        demand.waits.are_cut = is_cut && is_any_over;
    }
}

/// Reports what was missed on connections whose topics are all subscribed to now: before the messages that they bring.
fn tell_whole(router: &mut Router) {
    while let Some(demand) = &mut router.server.demand
        && demand.take_whole().is_some()
    {
        if demand.are_shares_whole() {
            demand.is_whole = true;
            log::info!("subscribed to Redis, to {} topics", demand.topics_len());
            router.on_source(true);
        } else {
            let resume = &router.server.resume;
            let now = || (resume.history.next() - 1, resume.cursor());
            let (number, from) = router.lost_at.clone().unwrap_or_else(now);
            router.tell_gap(number, &from);
        }
    }
}

/// Ends all waits for answers, acknowledged or not: another process is about to take this one's place.
pub fn end_waits(router: &mut Router) {
    while end_wait(router, true) {}
}

/// Ends the next wait for an answer that may end, or the next one at all if it `is_over` for all. Returns whether there was one.
fn end_wait(router: &mut Router, is_over: bool) -> bool {
    let Some(wait) = demand::next_answer(&mut router.server, is_over) else { return false };
    if let WaitEnd::Answer { number, .. } = wait.then {
        let event = RouteEvent::Subscribed { id: wait.id, number };
        let handler = &mut router.routes[wait.route as usize].handler;
        handler.on_event(&mut router.server.scope(wait.route), event);
    }
    true
}
