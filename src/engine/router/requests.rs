//! Answers from Redis, on their way to the owners of the requests.

use super::Router;
use crate::engine::feature::{FeatureEvent, StreamReply};
use crate::engine::handler::RouteEvent;
use crate::engine::redis::request::{Answer, PageEnd, ReplyForm, Ticket, TicketOwner};

impl Router {
    /// Answers every request as unavailable: there is no connection for commands. Requests made because of that wait for the next
    /// turn.
    pub fn refuse_requests(&mut self) {
        for _ in 0..self.server.requests_len() {
            let Some(request) = self.server.next_request() else { return };
            self.on_unavailable(request.ticket, request.form);
        }
    }

    /// Answers a request as unavailable: there is no connection for commands, or it broke.
    pub fn on_unavailable(&mut self, ticket: Ticket, form: ReplyForm) {
        match form {
            ReplyForm::Value => return self.on_answer(ticket, Answer::Unavailable),
            ReplyForm::Page { stream } => {
                let (number, end) = (ticket.number, PageEnd::UNAVAILABLE);
                self.on_stream_reply(StreamReply::PageEnd { number, stream, end });
            }
            ReplyForm::StreamInfo { stream } => {
                self.on_stream_reply(StreamReply::Info { stream, info: None });
            }
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
            TicketOwner::Feature(name) => {
                if let Some(feature) = self.features.iter_mut().find(|one| one.name() == name) {
                    let event = FeatureEvent::Answer { number: ticket.number, answer: &answer };
                    feature.on_event(&mut self.server, event);
                }
            }
        }
    }

    /// Gives a part of a reply about a stream to the features.
    pub fn on_stream_reply(&mut self, reply: StreamReply<'_>) {
        self.notify_features(FeatureEvent::Stream(reply));
    }

    /// Logs that Redis refused a request, once a second at most: clients can cause it.
    pub fn log_refusal(&mut self, why: &str) {
        if self.refused_logged.allow(self.server.now.millis) {
            log::warn!("Redis refused a command: {why}");
        }
    }
}
