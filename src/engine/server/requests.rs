//! Requests of handlers to Redis or to the publishers' port, until the loop sends them.

use std::collections::VecDeque;

use super::Server;
use crate::engine::redis::request::{
    REQUEST_BYTES_MAX, REQUESTS_MAX, RedisRequest, ReplyForm, Ticket,
};

/// The requests of one turn: emptied at the end of each dispatch phase. Above the bounds, which are those of the connection, it
/// holds the owner of a request without its command.
#[derive(Default)]
pub struct Requests {
    queue: VecDeque<RedisRequest>,
    /// Bytes of the commands.
    bytes: usize,
    publications: Vec<Publication>,
}

/// A message of a handler for the publishers' port, and the owner of the answer.
pub(crate) struct Publication {
    pub channel: String,
    pub payload: String,
    pub ticket: Ticket,
}

impl Server {
    /// Asks something of Redis. The owner of the ticket always gets an answer: without a Redis, with a full queue or a
    /// connection that breaks it is [`crate::engine::redis::request::Answer::Unavailable`].
    pub fn ask(&mut self, command: Vec<u8>, ticket: Ticket) {
        self.ask_for(command, ticket, ReplyForm::Value);
    }

    /// Asks for an answer of this form.
    pub(crate) fn ask_for(&mut self, command: Vec<u8>, ticket: Ticket, form: ReplyForm) {
        self.metrics.requests += 1;
        let Requests { queue, bytes, .. } = &mut self.requests;
        let has_room =
            queue.len() < REQUESTS_MAX && bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let command = if has_room { command } else { Vec::new() };
        *bytes += command.len();
        queue.push_back(RedisRequest { command, ticket, form });
    }

    /// Publishes on a channel as a back end does at the publishers' port: for all routes, and for subscribers at the port. The
    /// answer comes at the end of this dispatch phase.
    pub fn publish_as_back_end(&mut self, channel: &str, payload: &str, ticket: Ticket) {
        let (channel, payload) = (channel.to_owned(), payload.to_owned());
        self.requests.publications.push(Publication { channel, payload, ticket });
    }

    /// Takes all publications.
    pub(crate) fn take_publications(&mut self) -> Vec<Publication> {
        std::mem::take(&mut self.requests.publications)
    }

    /// The number of requests that wait.
    pub(crate) fn requests_len(&self) -> usize {
        self.requests.queue.len()
    }

    /// Takes the oldest request.
    pub(crate) fn next_request(&mut self) -> Option<RedisRequest> {
        let Requests { queue, bytes, .. } = &mut self.requests;
        let request = queue.pop_front()?;
        *bytes -= request.command.len();
        if queue.is_empty() {
            *queue = VecDeque::new();
        }
        Some(request)
    }
}
