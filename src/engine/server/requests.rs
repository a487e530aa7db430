//! Requests of handlers to Redis or to the publishers' port, until the loop carries them out.

use std::collections::VecDeque;

use super::Server;
use crate::engine::redis::request::{Purpose, REQUEST_BYTES_MAX, REQUESTS_MAX, Request};

/// Emptied at the end of each dispatch phase, so that it is as long as one turn is busy. Above the bounds that the connection
/// has, too, it holds whose a request is, and not its command.
#[derive(Default)]
pub struct Requests {
    queue: VecDeque<Request>,
    /// Of the commands.
    bytes: usize,
    publications: Vec<Publication>,
}

/// A message of a handler for the publishers' port, and whose it is.
pub(crate) struct Publication {
    pub channel: String,
    pub payload: String,
    pub purpose: Purpose,
}

impl Server {
    /// Asks something of Redis. What comes back goes where `purpose` says, always: without a Redis, with a queue that is full
    /// or a connection that breaks it is [`crate::engine::redis::request::Answer::Unavailable`].
    pub fn ask(&mut self, command: Vec<u8>, purpose: Purpose) {
        self.metrics.requests += 1;
        let Requests { queue, bytes, .. } = &mut self.requests;
        let has_room =
            queue.len() < REQUESTS_MAX && bytes.saturating_add(command.len()) <= REQUEST_BYTES_MAX;
        let command = if has_room { command } else { Vec::new() };
        *bytes += command.len();
        queue.push_back(Request { command, purpose });
    }

    /// Publishes on a channel as a back end does at the publishers' port: for all routes, and for those who subscribe there. The
    /// answer goes where `purpose` says, at the end of this dispatch phase.
    pub fn publish_as_back_end(&mut self, channel: &str, payload: &str, purpose: Purpose) {
        let (channel, payload) = (channel.to_owned(), payload.to_owned());
        self.requests.publications.push(Publication { channel, payload, purpose });
    }

    /// Takes all of those.
    pub(crate) fn take_publications(&mut self) -> Vec<Publication> {
        std::mem::take(&mut self.requests.publications)
    }

    /// How many requests wait.
    pub(crate) fn requests_len(&self) -> usize {
        self.requests.queue.len()
    }

    /// Takes the oldest one.
    pub(crate) fn next_request(&mut self) -> Option<Request> {
        let Requests { queue, bytes, .. } = &mut self.requests;
        let request = queue.pop_front()?;
        *bytes -= request.command.len();
        if queue.is_empty() {
            *queue = VecDeque::new();
        }
        Some(request)
    }
}
