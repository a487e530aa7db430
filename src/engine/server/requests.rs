//! Requests of handlers to Redis or to the publishers' port, until the loop sends them.

use std::collections::VecDeque;

use crate::engine::redis::request::{
    REQUEST_BYTES_MAX, REQUESTS_MAX, RedisRequest, ReplyForm, Ticket, TicketOwner,
};

/// The requests of one turn: emptied at the end of each dispatch phase. Above the bounds, which are those of the connection, it
/// holds the owner of a request without its command.
#[derive(Default)]
pub(crate) struct Requests {
    queue: VecDeque<RedisRequest>,
    /// Bytes of the commands.
    bytes: usize,
    pub publications: Vec<Publication>,
    /// Requests of features, while the loop rests.
    held: Option<Vec<RedisRequest>>,
}

/// A message of a handler for the publishers' port, and the owner of the answer.
pub struct Publication {
    pub channel: String,
    pub payload: String,
    pub ticket: Ticket,
}

impl Requests {
    pub fn push(&mut self, command: Vec<u8>, ticket: Ticket, form: ReplyForm) {
        let has_room = self.queue.len() < REQUESTS_MAX
            && self.bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let command = if has_room { command } else { Vec::new() };
        self.bytes += command.len();
        let request = RedisRequest { command, ticket, form };
        match &mut self.held {
            Some(held) if matches!(ticket.owner, TicketOwner::Feature(_)) => held.push(request),
            _ => self.queue.push_back(request),
        }
    }

    /// Lets the requests that features make from now on wait: the loop comes to rest.
    pub fn hold(&mut self) {
        self.held.get_or_insert_default();
    }

    /// Returns whether requests of features wait.
    pub fn are_held(&self) -> bool {
        self.held.is_some()
    }

    /// Queues the requests that waited.
    pub fn release(&mut self) {
        self.queue.extend(self.held.take().into_iter().flatten());
    }

    /// The number of requests that wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes the oldest one.
    pub fn pop(&mut self) -> Option<RedisRequest> {
        let request = self.queue.pop_front()?;
        self.bytes -= request.command.len();
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(request)
    }
}
