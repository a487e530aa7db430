//! The life of a connection as its slot sees it: admitted, opened, finished, lingering, terminated, freed.

use std::net::IpAddr;

use crate::engine::client::encoding::Encoding;
use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::Response;
use crate::engine::client::transport::Transport;
use crate::engine::client::{AtEnd, Client, State, Unwritten};
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::Reason;
use crate::engine::server::places::{Places, longest_unanswered};
use crate::engine::server::{ADMIN_ROUTE, Server, close_reports, demand};
use crate::engine::slots::ConnId;
use crate::engine::timers::{Tick, after, tick};
use crate::engine::tls::TlsFailure;
use crate::observe::complaints::{Origin, Weight};

/// The time that a peer may take to end its side after we ended ours.
const LINGER_SECONDS: u32 = 5;

/// The time that a client may take to accept the last frame, at least.
const LAST_WRITE_SECONDS: u32 = 5;

/// The time that a client may take to answer our close frame.
const ANSWER_SECONDS: u32 = 3;

impl Server {
    /// Takes a slot for a connection accepted from `address`; `route` is [`ADMIN_ROUTE`], or 0 until its request names one.
    pub(crate) fn admit(&mut self, transport: Transport, address: IpAddr, route: u8) -> ConnId {
        let now = tick(self.now.millis);
        let ends = after(self.now.millis, self.bounds.head_seconds);
        let id = self.clients.insert(transport, now, ends);
        self.clients[id.index].route = route;
        self.set_timer(id.index);
        let Places { admins, handshakes, .. } = &mut self.places;
        let strangers = if route == ADMIN_ROUTE { admins } else { handshakes };
        strangers.enter(id, address, self.now.millis);
        self.metrics.accepted += 1;
        id
    }

    /// Turns a handshake into a WebSocket or an event stream of a route.
    pub(crate) fn open(&mut self, id: ConnId, route: u8, encoding: Encoding) {
        let latest = self.fanout.latest();
        let client = self.client(id).expect("its request was just read");
        debug_assert_ne!(client.route, ADMIN_ROUTE, "the operator's requests are answered plainly");
        client.route = route;
        client.open(latest, encoding);
        self.places.handshakes.leave(id);
        self.set_timer(id.index);
    }

    pub(crate) fn respond(&mut self, id: ConnId, response: &Response) {
        if self.clients.is_shaking_hands(id) {
            // Nothing can be said before there are keys.
            return self.terminate(id);
        }
        let frame = Frame::ready(response.encode());
        if self.client(id).is_some_and(|client| client.state() == State::Head) {
            self.metrics.responses.count(response.status);
            self.finish(id, Some(&frame), Unwritten::Dropped);
        }
    }

    /// Responds to a handshake, read or not, as far as one write goes, and frees its slot.
    pub(crate) fn turn_away(&mut self, id: ConnId, response: &Response) {
        let Some(client) = self.client(id).filter(|client| client.state() == State::Head) else {
            return;
        };
        let is_client = client.route != ADMIN_ROUTE;
        self.metrics.responses.count(response.status);
        self.metrics.handshakes_refused += u64::from(is_client);
        self.write_and_terminate(id, &response.encode());
    }

    /// Writes a last message as far as one write goes, and frees the slot.
    fn write_and_terminate(&mut self, id: ConnId, bytes: &[u8]) {
        let is_shaking_hands = self.clients.is_shaking_hands(id);
        let Some((client, tls)) = self.clients.wire(id) else { return };
        if client.backlog_bytes() == 0 && !is_shaking_hands {
            let _ = match tls {
                None => client.transport.write(id, bytes),
                Some(tls) => {
                    let mut record = Vec::new();
                    tls.seal(bytes, &mut record);
                    client.transport.write(id, &record)
                }
            };
        }
        self.end_output(id);
        self.remove(id);
    }

    /// Tells the peer that nothing follows, if all is written.
    fn end_output(&mut self, id: ConnId) {
        let Some((client, tls)) = self.clients.wire(id) else { return };
        if client.backlog_bytes() == 0 {
            client.end_output(id, tls);
        }
    }

    /// Ends a connection whose peer has ended its side.
    pub(crate) fn end(&mut self, id: ConnId) {
        self.end_output(id);
        self.terminate(id);
    }

    /// Closes a client whose keys may not seal much more.
    pub(crate) fn close_worn(&mut self, id: ConnId) {
        if self.clients.is_worn(id) {
            self.close(id, Close::GOING_AWAY);
        }
    }

    /// Ends a connection whose TLS has failed, after the alert that is queued. Nothing else can be sent.
    pub(crate) fn on_tls_failure(&mut self, id: ConnId, failure: TlsFailure) {
        self.metrics.tls_failures.count(failure.name());
        let (weight, advice) = close_reports::tls_advice(failure);
        let address = self.client(id).and_then(|client| client.transport.peer(id));
        let origin = Origin { path: None, address };
        self.complain(failure.name(), weight, origin, || advice.to_owned());
        let Some(client) = self.client(id) else { return };
        client.abandon_queued();
        match client.state() {
            State::Head | State::Open => self.finish(id, None, Unwritten::Dropped),
            _ => self.terminate(id),
        }
    }

    /// Responds to a handshake that a handler has refused, discarding the frames it queued, and ends the connection.
    pub(crate) fn refuse(&mut self, id: ConnId, response: &Response) {
        let frame = Frame::ready(response.encode());
        self.metrics.responses.count(response.status);
        self.metrics.handshakes_refused += 1;
        match self.client(id) {
            // The handler closed it before it refused it: a close frame cannot answer a handshake.
            Some(client) if matches!(client.state(), State::Leaving | State::Closing) => {
                client.replace_queued(&frame);
            }
            _ => self.finish(id, Some(&frame), Unwritten::Dropped),
        }
    }

    /// Shuts down our side once pending writes, and then `last`, are written.
    pub(crate) fn finish(&mut self, id: ConnId, last: Option<&Frame>, unwritten: Unwritten) {
        self.finish_in(State::Closing, id, last, unwritten);
    }

    /// Queues a close frame as the last one, and awaits the client's own if it can send one.
    fn finish_with(&mut self, id: ConnId, close: &Close, unwritten: Unwritten) {
        let Some(encoding) = self.client(id).map(|client| client.encoding()) else { return };
        let state = if encoding.is_one_way() { State::Closing } else { State::Leaving };
        self.finish_in(state, id, Some(encoding.of(&Frame::close(close))), unwritten);
    }

    fn finish_in(&mut self, state: State, id: ConnId, last: Option<&Frame>, unwritten: Unwritten) {
        let seconds = match unwritten {
            Unwritten::Sent => {
                // If its backlog has no room for them, the client loses the rest: it ends next.
                let _ = self.catch_up(id);
                // A client that reads has as long as in a drain.
                self.bounds.drain_seconds.max(LAST_WRITE_SECONDS)
            }
            Unwritten::Dropped => LAST_WRITE_SECONDS,
        };
        let ends = after(self.now.millis, seconds);
        let Some(client) = self.client(id) else { return };
        let (was_handshake, was_held) = (is_handshake(client), demand::is_held(client));
        if !matches!(client.state(), State::Head | State::Open) {
            return;
        }
        client.finish(state, last, unwritten, ends);
        self.places.ending += usize::from(client.route != ADMIN_ROUTE);
        demand::note_released(self, was_held.then_some(id));
        self.recount(id, false);
        self.unsubscribe_all(id);
        let Some(client) = self.client(id) else { return };
        let is_written = client.backlog_bytes() == 0;
        self.places.unproven.leave(id);
        if was_handshake {
            self.places.handshakes.leave(id);
            // The last frame of a handshake is its response.
            match last {
                Some(_) => self.metrics.handshakes_refused += 1,
                None => self.metrics.handshakes_abandoned += 1,
            }
        }
        self.set_timer(id.index);
        self.schedule_flush(id, Lane::Urgent);
        if is_written {
            self.linger(id);
        }
    }

    /// Closes a connection for a reason. Pending writes are sent first, except to a slow client. A handshake is refused.
    pub fn close(&mut self, id: ConnId, close: Close) {
        let Some(client) = self.client(id) else { return };
        match client.state() {
            State::Head => {
                let retry = if close.code == Close::GOING_AWAY.code { "5" } else { "1" };
                let response = Response::text(503, "not now").with("Retry-After", retry);
                return self.respond(id, &response);
            }
            State::Open => {}
            _ => return,
        }
        self.metrics.closes.count(close.code);
        self.complain_of_close(id, &close);
        let is_slow = close.code == Close::SLOW.code;
        self.finish_with(id, &close, if is_slow { Unwritten::Dropped } else { Unwritten::Sent });
    }

    /// Reports a closed WebSocket to the operator.
    pub(crate) fn complain_of_close(&mut self, id: ConnId, close: &Close) {
        if close.code == Close::ORIGIN.code {
            // Reported already, with the page's origin.
            return;
        }
        let (kind, weight) = close_reports::kind(close.code);
        let address = self.client(id).and_then(|client| client.transport.peer(id));
        let origin = Origin { path: None, address };
        let Server { complaints, now, bounds, .. } = self;
        complaints.note(now.millis, kind, weight, origin, || close_reports::advice(close, bounds));
    }

    /// Waits for the answer to our close frame, which is written, if a slot can be spared for it.
    pub(crate) fn await_answer(&mut self, id: ConnId) {
        if self.clients_len() >= self.bounds.clients_max {
            return self.answered(id);
        }
        let ends = after(self.now.millis, ANSWER_SECONDS);
        let Some(client) = self.client(id) else { return };
        client.end_at(ends, AtEnd::Drop);
        self.set_timer(id.index);
    }

    /// Records that the client's close frame came or is no longer awaited: our side ends once all is written.
    pub(crate) fn answered(&mut self, id: ConnId) {
        let Some(client) = self.client(id).filter(|client| client.state() == State::Leaving) else {
            return;
        };
        client.end_leaving();
        if client.backlog_bytes() == 0 {
            self.linger(id);
        }
    }

    /// Ends a connection whose time is up and that is to be dropped.
    pub(crate) fn run_out(&mut self, id: ConnId) {
        let Some(client) = self.client(id) else { return };
        if client.state() == State::Leaving && client.backlog_bytes() == 0 {
            self.answered(id);
        } else {
            self.abort(id);
        }
    }

    /// Updates the sum of unfinished input for one client; see [`Client::recount`].
    ///
    /// Input that grew was copied, and the old copy is free but still resident. It therefore counts as read; otherwise a byte
    /// from each client could double the memory of all in one turn.
    pub(crate) fn recount(&mut self, id: ConnId, progressed: bool) {
        let copied = self.clients.recount(id, tick(self.now.millis), progressed);
        self.costs += copied;
    }

    /// Closes a connection for its memory use: everything pending is discarded, except a frame partly on the wire.
    pub(crate) fn shed(&mut self, id: ConnId, close: Close) {
        match self.client(id).map(|client| client.state()) {
            Some(State::Open) => {
                self.metrics.closes.count(close.code);
                self.complain_of_close(id, &close);
                self.finish_with(id, &close, Unwritten::Dropped);
            }
            Some(State::Terminated) | None => {}
            // It was closed already, and does not read.
            Some(_) => self.abort(id),
        }
    }

    /// Shuts down our side of a fully written connection, and waits for the peer's end for a while.
    pub(crate) fn linger(&mut self, id: ConnId) {
        let ends = after(self.now.millis, LINGER_SECONDS);
        let Some((client, tls)) = self.clients.wire(id) else { return };
        client.linger(id, ends, tls);
        if client.route != ADMIN_ROUTE {
            self.places.linger(id);
        }
        self.set_timer(id.index);
    }

    /// Drops a connection and all its pending writes, in the kernel too.
    pub(crate) fn abort(&mut self, id: ConnId) {
        let Some(client) = self.client(id) else { return };
        client.transport.discard();
        self.terminate(id);
    }

    /// Ends a lost connection: its slot is freed at the end of the turn.
    pub(crate) fn terminate(&mut self, id: ConnId) {
        let Some(client) = self.client(id) else { return };
        let was_abandoned = is_handshake(client) && !client.is_probe();
        self.metrics.handshakes_abandoned += u64::from(was_abandoned);
        self.remove(id);
    }

    /// Removes a connection from everything but its handler and its slot.
    fn remove(&mut self, id: ConnId) {
        let Some(client) = self.client(id) else { return };
        if client.backlog_bytes() > 0 {
            // The rest will never follow, and half a frame is useless.
            client.transport.discard();
        }
        let had_ended = !matches!(client.state(), State::Head | State::Open);
        if client.terminate() {
            self.places.ending -= usize::from(had_ended && client.route != ADMIN_ROUTE);
            self.unsubscribe_all(id);
            self.places.leave(id);
            self.clients.gone.push(id);
        }
    }

    /// Ends all subscriptions: only open clients have any.
    fn unsubscribe_all(&mut self, id: ConnId) {
        let Server { clients, hubs, users, members, .. } = self;
        let Some(client) = clients.get_mut(id) else { return };
        let route = client.route;
        let Some(hub) = hubs.get_mut(route as usize) else { return };
        if users.are_watched() {
            let own = hub.topics(&client.subscriptions).find(|one| one.1 == Reason::Own);
            own.into_iter().for_each(|(own, _)| users.note(own, false, (id, route)));
        }
        members.on_leaving(client, hub);
        hub.unsubscribe_all(&mut client.subscriptions);
    }

    pub(crate) fn free(&mut self, id: ConnId) {
        let Some(client) = self.clients.remove(id) else { return };
        client.transport.close(id);
        self.places.forget_lingering(&self.clients);
    }

    /// The number of clients that are not terminated.
    pub(crate) fn clients_len(&self) -> usize {
        self.places.clients_len(&self.clients)
    }

    /// Closes a client with 4501 after `auth_seconds` unless it shows a token: see [`Server::welcome`]. Until then it may be
    /// closed to make room once `clients_max` is reached.
    pub fn await_token(&mut self, id: ConnId, address: IpAddr) {
        self.close_after(id, self.bounds.auth_seconds, Close::NO_TOKEN.code);
        if self.open_client(id).is_some() {
            self.places.unproven.enter(id, address, self.now.millis);
        }
    }

    /// Records that a client has shown a token.
    pub fn welcome(&mut self, id: ConnId) {
        self.places.unproven.leave(id);
    }

    /// Makes room for a connection at the clients' listener. Returns whether there is a slot.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.places.handshakes.len() >= self.bounds.handshakes_max {
            self.vacate_handshake("handshakes_max");
        }
        !self.places.has_no_slot(&self.clients, &self.bounds)
            || self.vacate_lingering()
            || self.vacate_handshake("clients_max")
            || self.vacate_unproven()
    }

    /// Makes room for a connection at the admin listener. Returns whether there is a slot.
    pub(crate) fn make_admin_room(&mut self) -> bool {
        self.places.has_admin_room()
            || self.vacate(self.places.admins.first(self.now.millis), "the admin listener's 16")
    }

    /// Frees a descriptor at the end of the turn if the process has none left.
    pub(crate) fn make_descriptor_room(&mut self) {
        if !self.vacate_lingering() {
            self.vacate_handshake("descriptors");
        }
    }

    /// Closes a client that has shown no token yet. Returns whether there was one.
    pub(crate) fn vacate_unproven(&mut self) -> bool {
        self.vacate(self.places.unproven.first(self.now.millis + 1), "clients_max")
    }

    fn vacate_handshake(&mut self, bound: &'static str) -> bool {
        self.vacate(self.places.silent_handshake(&self.clients, self.now.millis), bound)
    }

    /// Drops the client that has lingered longest. Returns whether there was one.
    fn vacate_lingering(&mut self) -> bool {
        let lingering = self.places.take_lingering(&self.clients);
        lingering.inspect(|id| self.terminate(*id)).is_some()
    }

    fn vacate(&mut self, stranger: Option<ConnId>, bound: &'static str) -> bool {
        let Some(id) = stranger else { return false };
        let Some(client) = self.client(id) else { return false };
        let (state, address) = (client.state(), client.transport.peer(id));
        self.metrics.strangers_vacated += 1;
        self.complain("place", Weight::Curable, Origin { path: None, address }, || {
            format!("all places are taken ({bound}): who has longest said nothing made room")
        });
        match state {
            State::Head => {
                let text = "others need this place: send the request at once";
                self.turn_away(id, &Response::text(503, text).with("Retry-After", "1"));
            }
            // Of event streams none waits for a token.
            State::Open => {
                let close =
                    Close::busy(1000, "others need this place: show the token in the handshake");
                self.metrics.closes.count(close.code);
                self.write_and_terminate(id, Frame::close(&close).as_bytes());
            }
            _ => self.abort(id),
        }
        true
    }

    /// Returns whether a ping to this client is unanswered.
    pub(crate) fn awaits_pong(&self, id: ConnId) -> bool {
        longest_unanswered(&self.clients, std::iter::once(id), self.now.millis, 0).is_some()
    }

    /// Closes the client whose ping is unanswered for longest, and at least for `patience`. Returns it.
    pub(crate) fn vacate_unresponsive(
        &mut self,
        clients: impl Iterator<Item = ConnId>,
        patience: Tick,
    ) -> Option<ConnId> {
        let id = longest_unanswered(&self.clients, clients, self.now.millis, patience)?;
        self.metrics.strangers_vacated += 1;
        self.metrics.closes.count(Close::SILENT.code);
        self.complain_of_close(id, &Close::SILENT);
        self.write_and_terminate(id, Frame::close(&Close::SILENT).as_bytes());
        Some(id)
    }
}

/// Returns whether a client counts as a handshake in progress.
fn is_handshake(client: &Client) -> bool {
    client.state() == State::Head && client.route != ADMIN_ROUTE
}
