//! The state of the loop besides its sockets, and the verbs on it.
//!
//! The verbs only queue: while a handler runs, nothing is written to a socket, nothing is freed and no handler is called.

mod clients;
mod close_reports;
pub(crate) mod deflating;
pub(crate) mod demand;
pub(crate) mod direct_write;
mod fanout;
mod lifecycle;
pub(crate) mod members;
mod names;
mod options;
mod places;
pub(crate) mod replay;
pub(crate) mod requests;
mod revocations;
pub(crate) mod saved;
mod scope;
mod subscriptions;
mod users;

use std::rc::Rc;

use crate::clock::{Now, WallOffset};
use crate::engine::bounds::Bounds;
use crate::engine::client::allowance::Allowance;
use crate::engine::client::deflate::deflater::{DEFLATED_BYTES_MAX, Deflater};
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::outbox::{Backlog, Slow};
use crate::engine::client::{AtEnd, Client, State, Timing};
use crate::engine::demand::Demand;
use crate::engine::pending_writes::{Lane, PendingWrites};
use crate::engine::pubsub::hub::{Hub, Reason};
use crate::engine::redis::request::{ReplyForm, Ticket};
use crate::engine::resume::Resume;
use crate::engine::resume::cursor::Signer;
use crate::engine::resume::history::History;
use crate::engine::resume::replay::changes_bytes;
pub use crate::engine::resume::replay::{ReplayItem, Resumed};
use crate::engine::slots::ConnId;
use crate::engine::timers::{TICK, Tick, after, tick};
use crate::observe::complaints::{Complaints, Origin, Weight};
use crate::observe::metrics::Metrics;
use clients::Clients;
use fanout::Fanout;
use members::MemberNotes;
pub use members::{MemberChange, MembersRequest};
use names::Names;
pub use names::follow;
pub use options::RouteOptions;
use places::Places;
use requests::{Publication, Requests};
pub use revocations::Revocations;
pub use scope::Scope;
use users::UserChanges;
pub use users::{UserChange, users_there};

/// The route number of connections to the admin listener; no handler sees them.
pub const ADMIN_ROUTE: u8 = u8::MAX;

/// Clients without a token share this many turns.
const ANONYMOUS_OWNERS: u64 = 64;

/// The price of a microsecond in a handler, in bytes read in a turn: 1 MiB is 12 ms.
const BYTES_PER_MICROSECOND: usize = (1 << 20) / 12_000;

/// The connections of a loop, their subscriptions, and their pending writes.
pub struct Server {
    pub(crate) now: Now,
    wall: WallOffset,
    pub(crate) bounds: Bounds,
    pub(crate) metrics: Metrics,
    pub(crate) complaints: Complaints,
    pub(crate) clients: Clients,
    pub(crate) pending: PendingWrites,
    pub(crate) fanout: Fanout,
    pub(crate) deflater: Rc<Deflater>,
    /// One hub per route: a handler cannot publish to another's clients.
    pub(crate) hubs: Vec<Hub>,
    pub(crate) requests: Requests,
    pub(crate) resume: Resume,
    pub(crate) users: UserChanges,
    pub(crate) members: MemberNotes,
    /// The users whose earlier tokens are refused: a handler that checks tokens asks it, and tells it of each connection's.
    pub revocations: Revocations,
    pub(crate) places: Places,
    /// The topics that are subscribed to at Redis, if only those are that clients want.
    pub(crate) demand: Option<Box<Demand>>,
    /// New connections are refused because memory is short.
    pub(crate) is_refusing: bool,
    pub(crate) backlog: Backlog,
    /// Options by route.
    pub(crate) options: Vec<RouteOptions>,
    /// The cost of the client being read beyond the bytes read, in such bytes: see [`Server::count_costly`].
    pub(crate) costs: usize,
    names: Names,
}

impl Server {
    /// A server with a route for each of `options`.
    pub(crate) fn new(
        bounds: Bounds,
        options: Vec<RouteOptions>,
        signer: Signer,
        now: Now,
    ) -> Server {
        let node = names::node(now.unix);
        let history = History::new(bounds.history_messages_max, bounds.history_bytes_max, 0);
        Server {
            now,
            wall: WallOffset::new(now),
            metrics: Metrics::default(),
            complaints: Complaints::default(),
            clients: Clients::new(Timing::of(&bounds)),
            pending: PendingWrites::default(),
            fanout: Fanout::default(),
            deflater: Rc::default(),
            hubs: options.iter().map(|_| Hub::default()).collect(),
            options,
            requests: Requests::default(),
            resume: Resume::new(node, signer, history),
            users: UserChanges::default(),
            members: MemberNotes::default(),
            revocations: Revocations::default(),
            places: Places::default(),
            demand: None,
            is_refusing: false,
            backlog: Backlog::of(&bounds),
            costs: 0,
            bounds,
            names: Names(node.to_string()),
        }
    }

    /// The time at which this turn began.
    pub fn now(&self) -> Now {
        self.now
    }

    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Applies other bounds. No client is closed for it: a client above a lower bound is refused more, and running deadlines
    /// stay, except those for silence.
    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.backlog = Backlog::of(&bounds);
        let before = self.clients.timing;
        self.clients.timing = Timing::of(&bounds);
        self.bounds = bounds;
        let of = |timing: &Timing| (timing.ping, timing.silence, timing.stall);
        if of(&before) == of(&self.clients.timing) {
            self.clients.timing.floor = before.floor;
            return;
        }
        // Clients may have been silent for longer than is allowed now: they get a ping and time to answer it.
        self.clients.timing.floor = tick(self.now.millis).saturating_sub(self.clients.timing.ping);
        // The only place that visits all clients in one turn, if an operator changes one of these.
        let open = self.clients.iter().filter(|(_, client)| client.state() == State::Open);
        let open: Vec<u32> = open.map(|(id, _)| id.index).collect();
        open.into_iter().for_each(|index| self.set_timer(index));
    }

    pub fn metrics(&mut self) -> &mut Metrics {
        &mut self.metrics
    }

    /// Returns whether no more input may be read before a flush: a client has much pending, or compressing took long.
    pub(crate) fn is_pressed(&self) -> bool {
        self.pending.is_pressed() || self.fanout.is_full(&self.backlog) || self.deflater.is_tired()
    }

    /// Returns whether a client has pending writes.
    pub(crate) fn has_pending_writes(&self) -> bool {
        !self.pending.is_empty() || !self.fanout.is_empty()
    }

    /// The scope of a route's handler.
    pub fn scope(&mut self, route: u8) -> Scope<'_> {
        Scope::new(self, route, false)
    }

    /// The name of this process, unique among all that share a Redis.
    pub fn node(&self) -> &str {
        &self.names.0
    }

    /// The name of a connection, unique over all nodes.
    pub fn name_of(&self, id: ConnId) -> String {
        self.names.of(id)
    }

    /// Asks something of Redis. The owner of the ticket always gets an answer: without a Redis, with a full queue or a
    /// connection that breaks it is [`crate::engine::redis::request::Answer::Unavailable`].
    pub fn ask(&mut self, command: Vec<u8>, ticket: Ticket) {
        self.ask_for(command, ticket, ReplyForm::Value);
    }

    /// Asks for an answer of this form.
    pub(crate) fn ask_for(&mut self, command: Vec<u8>, ticket: Ticket, form: ReplyForm) {
        self.metrics.requests += 1;
        self.requests.push(command, ticket, form);
    }

    /// Publishes on a channel as a back end does at the publishers' port: for all routes, and for those who subscribe there. The
    /// answer comes at the end of this dispatch phase.
    pub fn publish_as_back_end(&mut self, channel: &str, payload: &str, ticket: Ticket) {
        let (channel, payload) = (channel.to_owned(), payload.to_owned());
        self.requests.publications.push(Publication { channel, payload, ticket });
    }

    /// The cursor of the latest message: opaque to clients, and rising as text, across restarts too.
    pub fn cursor(&self) -> String {
        self.resume.cursor()
    }

    /// The cursor that includes everything a client was sent so far; `None` during a replay. A quiet client asks for it so that
    /// it does not come back with a stale one.
    pub fn place_of(&mut self, id: ConnId) -> Option<String> {
        let is_live = self.caught_up(id) && !self.client(id)?.is_replaying();
        is_live.then(|| self.cursor())
    }

    /// Gives a client what it missed since this cursor, as soon as the running handler is done with it: the subscriptions that it
    /// has by then count.
    pub fn resume(&mut self, id: ConnId, since: &str) -> Resumed {
        replay::resume(self, id, since)
    }

    /// The same frame, to be compressed once for all clients that negotiated it (RFC 7692), if it is of `deflate_bytes_min` bytes or
    /// more and not so long that it would hold up the loop. It may not be shared yet.
    pub fn deflatable(&self, frame: Frame) -> Frame {
        let is_worth_it = self.bounds.deflate_bytes_min..=DEFLATED_BYTES_MAX;
        match is_worth_it.contains(&frame.as_bytes().len()) {
            true => frame.deflated_by(&self.deflater),
            false => frame,
        }
    }

    /// Queues a frame for one client, in the lane served first. Has no effect on a client that is closing or gone.
    pub fn send(&mut self, id: ConnId, frame: &Frame) {
        self.queue(id, frame, Lane::Urgent);
    }

    /// Queues a frame for an open client and schedules a write. Returns `false` if it reads too slowly and is closed instead.
    pub(crate) fn queue(&mut self, id: ConnId, frame: &Frame, lane: Lane) -> bool {
        let backlog = self.backlog;
        let has_room = self.catch_up(id).is_some();
        let slow = self.slow_policy(id);
        let Some(client) = self.open_client(id) else { return false };
        let dropped = has_room.then(|| client.queue(frame, &backlog, slow)).flatten();
        self.metrics.messages_dropped += dropped.unwrap_or(0) as u64;
        let queued = dropped.is_some();
        if queued {
            self.schedule_flush(id, lane);
        } else {
            self.close(id, Close::SLOW);
        }
        queued
    }

    /// Queues the messages of the fan-out that a client has yet to get. Returns how many; `None` if its backlog reached a bound.
    pub(crate) fn catch_up(&mut self, id: ConnId) -> Option<usize> {
        let latest = self.fanout.latest();
        let delivered = match self.open_client(id) {
            Some(client) if client.is_behind(latest) => client.mark_delivered(latest),
            _ => return Some(0),
        };
        let frames = self.fanout_for(id, delivered);
        let slow = self.slow_policy(id);
        let client = self.clients.get_mut(id).expect("it was just found");
        let mut queued = 0;
        for frame in &frames {
            let Some(dropped) = client.queue(frame, &self.backlog, slow) else { break };
            self.metrics.messages_dropped += dropped as u64;
            queued += 1;
        }
        let fits = queued == frames.len();
        if queued > 0 {
            self.schedule_flush(id, Lane::Bulk);
        }
        fits.then_some(queued)
    }

    /// The same, but closes the client as slow if its backlog reached a bound. Returns whether it is still open.
    pub(crate) fn caught_up(&mut self, id: ConnId) -> bool {
        let fits = self.catch_up(id).is_some();
        if !fits {
            self.close(id, Close::SLOW);
        }
        fits
    }

    fn fanout_for(&self, id: ConnId, delivered: u32) -> Vec<Frame> {
        let client = &self.clients[id.index];
        self.fanout.pending(client, &self.hubs[client.route as usize], delivered)
    }

    /// Frees the memory of queues that a burst has filled.
    pub(crate) fn shrink(&mut self) {
        self.clients.gone.shrink_to_fit();
        self.places.shrink();
        self.fanout.shrink();
        self.pending.shrink();
        self.deflater.shrink();
    }

    /// Closes a client with `code` at `unix` seconds of the wall clock, or up to a tick before; replaces an earlier call. If the
    /// clock is set meanwhile, or the machine sleeps, the end moves with it.
    pub fn close_at(&mut self, id: ConnId, unix: u64, code: u16) {
        let left = unix.saturating_mul(1000).saturating_sub(self.now.unix_millis);
        let ends = tick(self.now.millis.saturating_add(left));
        self.end_client_at(id, ends, AtEnd::Expire(code));
    }

    /// Closes a client with `code` after this many seconds; replaces an earlier call.
    pub fn close_after(&mut self, id: ConnId, seconds: u32, code: u16) {
        self.end_client_at(id, after(self.now.millis, seconds), AtEnd::Close(code));
    }

    fn end_client_at(&mut self, id: ConnId, ends: Tick, at_end: AtEnd) {
        let Some(client) = self.open_client(id) else { return };
        client.end_at(ends, at_end);
        self.set_timer(id.index);
    }

    /// Moves the ends set by the wall clock, if the clock was set. This looks at all slots once.
    pub(crate) fn follow_wall_clock(&mut self) {
        let by = self.wall.moved(self.now);
        if by == 0 {
            return;
        }
        log::info!(
            "the wall clock has moved by {} s: connections end at the exp of their tokens",
            by / 1000
        );
        let ticks = by.div_euclid(TICK as i64) + 1;
        let expiring = self.clients.iter().filter(|(_, client)| client.expires());
        let expiring: Vec<u32> = expiring.map(|(id, _)| id.index).collect();
        for index in expiring {
            self.clients[index].move_end(ticks);
            self.set_timer(index);
        }
    }

    /// Counts work of the running handler, which took about this long, against the turn's budget for all clients.
    pub fn count_costly(&mut self, microseconds: u32) {
        self.costs += microseconds as usize * BYTES_PER_MICROSECOND;
    }

    /// Puts off a client's message that is expensive to handle (a signature to check): [`Message::Deferred`] brings it after all
    /// other clients were read, maybe in a later turn. The client's next messages wait meanwhile.
    ///
    /// [`Message::Deferred`]: crate::Message::Deferred
    pub fn defer(&mut self, id: ConnId, text: &str) {
        if let Some(client) = self.open_client(id) {
            client.defer(text);
            self.places.unproven.speak(id);
        }
    }

    /// Reports a refusal to the operator: see [`Complaints::note`](crate::observe::complaints::Complaints::note).
    pub fn complain(
        &mut self,
        kind: &'static str,
        weight: Weight,
        origin: Origin<'_>,
        text: impl Fn() -> String,
    ) {
        self.complaints.note(self.now.millis, kind, weight, origin, text);
    }

    /// The connection with this id, if it still exists.
    pub(crate) fn client(&mut self, id: ConnId) -> Option<&mut Client> {
        self.clients.get_mut(id)
    }

    pub(crate) fn set_timer(&mut self, index: u32) {
        self.clients.set_timer(index, self.now.millis);
    }

    /// Puts a client into a lane of the flush queue if it has pending writes.
    pub(crate) fn schedule_flush(&mut self, id: ConnId, lane: Lane) {
        let backlog = self.backlog;
        if let Some(lane) = self.client(id).and_then(|client| client.enter_lane(lane, &backlog)) {
            match lane {
                Lane::Replay => self.pending.push_replay(id, self.owner_of(id)),
                _ => self.pending.push(id, lane),
            }
        }
    }

    /// The user whose turn a client's work takes, the same on every route. Clients without a token share some turns.
    fn owner_of(&self, id: ConnId) -> u64 {
        let client = &self.clients[id.index];
        let hub = &self.hubs[client.route as usize];
        let own = hub.topics(&client.subscriptions).find(|(_, why)| *why == Reason::Own);
        own.map_or(u64::from(id.index) % ANONYMOUS_OWNERS, |(own, _)| self.pending.owner(own))
    }

    /// The policy for a client that reads too slowly.
    fn slow_policy(&self, id: ConnId) -> Slow {
        let route = self.clients.get(id).map_or(0, |client| client.route);
        self.options.get(route as usize).map(|options| options.slow).unwrap_or_default()
    }

    /// The prices of clients' commands.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance::new(self.bounds.commands_per_second_max, self.bounds.topics_per_client_max)
    }

    /// Bytes of all subscriptions, and of messages recorded during replays.
    pub(crate) fn subscriptions_bytes(&self) -> usize {
        let hubs = self.hubs.iter().map(Hub::held_bytes).sum::<usize>();
        hubs + self.members.held_bytes() + changes_bytes()
    }

    /// The part of them that one client costs.
    pub(crate) fn subscriptions_bytes_of(&self, client: &Client) -> usize {
        let hub = self.hubs.get(client.route as usize);
        let held = hub.map_or(0, |hub| hub.held_bytes_of(&client.subscriptions));
        held + members::held_bytes_of(self, client) + client.changes_bytes()
    }

    /// The number of the own topic of a client's user in its route.
    pub(crate) fn user_of(&self, client: &Client) -> Option<u32> {
        self.hubs.get(client.route as usize)?.own_topic(&client.subscriptions)
    }

    pub(super) fn with_hub(&mut self, id: ConnId) -> Option<(&mut Client, &mut Hub)> {
        let client = self.clients.get_mut(id).filter(|client| client.state() == State::Open)?;
        let hub = &mut self.hubs[client.route as usize];
        Some((client, hub))
    }

    /// The first key that a client subscribes to for this reason.
    pub fn key_for(&mut self, id: ConnId, reason: Reason) -> Option<String> {
        let (client, hub) = self.with_hub(id)?;
        let mut topics = hub.topics(&client.subscriptions);
        topics.find(|(_, why)| *why == reason).map(|(key, _)| key.to_owned())
    }

    pub(crate) fn open_client(&mut self, id: ConnId) -> Option<&mut Client> {
        self.client(id).filter(|client| client.state() == State::Open)
    }
}
