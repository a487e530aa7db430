//! What became of what was asked of Redis.

use super::Router;
use crate::engine::handler::RouteEvent;
use crate::engine::pubsub::topic;
use crate::engine::redis::request::{Answer, Extent, PageEnd, ReplyForm, Ticket, TicketOwner};
use crate::engine::resume::cursor::EntryId;
use crate::engine::slots::ConnId;

impl Router {
    /// There is no connection for commands: whatever waits is unavailable. What is asked because of that waits for the next turn.
    pub fn refuse_requests(&mut self) {
        for _ in 0..self.server.requests_len() {
            let Some(request) = self.server.next_request() else { return };
            self.on_unavailable(request.ticket, request.form);
        }
    }

    /// A request has no answer: there is no connection for commands, or it broke.
    pub fn on_unavailable(&mut self, ticket: Ticket, form: ReplyForm) {
        match form {
            ReplyForm::Value => return self.on_answer(ticket, Answer::Unavailable),
            ReplyForm::Page { stream } => {
                let id = ConnId::of_number(ticket.number);
                self.on_page_end(id, stream, PageEnd::UNAVAILABLE);
            }
            ReplyForm::Extent { stream } => self.on_extent(stream, None),
        }
        self.server.metrics.requests_unavailable += 1;
    }

    /// Gives an answer to its owner. Called in the dispatch phase alone.
    pub fn on_answer(&mut self, ticket: Ticket, answer: Answer) {
        self.server.metrics.requests_unavailable += u64::from(answer == Answer::Unavailable);
        match ticket.owner {
            TicketOwner::Route(route) => {
                let handler = &mut self.routes[route as usize].handler;
                let event = RouteEvent::Answer { number: ticket.number, answer };
                handler.on_event(&mut self.server.scope(route), event);
            }
            TicketOwner::Feature("reports") => {
                if let Answer::Refused(why) = answer
                    && self.refused_logged.allow(self.server.now.millis)
                {
                    let code = why.split_whitespace().next().unwrap_or_default();
                    log::warn!(
                        "Redis refuses receipts or answers to a count ({code}): the user in the URL needs +publish, and \
                         &NAME for each of their channels"
                    );
                }
            }
            TicketOwner::Feature("presence") => {
                self.server.on_presence_answer(ticket.number, answer)
            }
            // A test may ask on nobody's behalf; pages and extents come by calls of their own.
            TicketOwner::Feature(_) | TicketOwner::Resume => {}
        }
    }

    /// An entry of a page that a client asked for.
    pub fn on_page_entry(
        &mut self,
        id: ConnId,
        _stream: usize,
        entry: EntryId,
        topic: &[u8],
        data: &[u8],
    ) {
        let Some(client) = self.server.client(id) else { return };
        let Some(topic) = topic::published(topic) else { return };
        let route = client.route as usize;
        let encode = self.server.options[route].encode;
        self.server.on_page_entry(id, entry, topic, |item| encode(&item), data);
    }

    /// The page has ended, or did not come.
    pub fn on_page_end(&mut self, id: ConnId, stream: usize, end: PageEnd) {
        let route = self.server.client(id).map_or(0, |client| client.route);
        let encode = self.server.options[route as usize].encode;
        self.server.on_page_end(id, stream, end, |item| encode(&item));
    }

    /// What a stream holds, for all clients that waited for that; `None`: Redis did not say.
    pub fn on_extent(&mut self, stream: usize, extent: Option<Extent>) {
        for id in self.server.end_look(stream) {
            let route = self.server.client(id).map_or(0, |client| client.route);
            let encode = self.server.options[route as usize].encode;
            self.server.on_looked_at(id, extent, |item| encode(&item));
        }
        self.server.call_waiting();
    }

    /// Redis refused what was asked: logged once a second at most, since clients can cause it.
    pub fn log_refusal(&mut self, why: &str) {
        if self.refused_logged.allow(self.server.now.millis) {
            log::warn!("Redis refused a command: {why}");
        }
    }
}
