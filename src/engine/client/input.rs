//! Unfinished input of a client: a partial head or frame, a fragmented message, or a message that its handler has put off.

use std::net::IpAddr;

use crate::engine::client::{Client, State};
use crate::engine::timers::Tick;

impl Client {
    /// Takes the partial head or frame kept from before: usually nothing.
    pub fn take_input(&mut self) -> Vec<u8> {
        self.flight.as_mut().map_or(Vec::new(), |flight| std::mem::take(&mut flight.input))
    }

    /// Returns whether a partial head or frame is kept.
    pub fn has_input(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.input.is_empty())
    }

    /// Keeps a message for later. Call [`Client::recount`] afterwards.
    pub fn defer(&mut self, text: &str) {
        self.flight().deferred = Some(text.into());
    }

    /// Returns whether a message waits for the handler.
    pub fn has_deferred(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.deferred.is_some())
    }

    /// Takes the message that waits for the handler, if the client still waits for an answer.
    pub fn take_deferred(&mut self) -> Option<Box<str>> {
        let is_open = self.state == State::Open;
        self.flight.as_mut().and_then(|flight| flight.deferred.take()).filter(|_| is_open)
    }

    /// The client address from a complete PROXY header, while the request behind it is partial.
    pub fn announced(&self) -> Option<IpAddr> {
        crate::engine::client::head::announced(&self.flight.as_ref()?.input)
    }

    /// Returns whether only a PROXY header without a client has come: a health check that connects and disconnects.
    pub fn is_probe(&self) -> bool {
        self.flight
            .as_ref()
            .is_some_and(|flight| crate::engine::client::head::is_probe(&flight.input))
    }

    /// Keeps a partial head or frame. Call [`Client::recount`] afterwards.
    pub fn keep_input(&mut self, input: Vec<u8>) {
        if !input.is_empty() {
            self.flight().input = input;
        }
    }

    /// Updates `sum`, the unfinished input of all clients in bytes, and hibernates if nothing is in flight. `progressed`: a head,
    /// frame or message was completed since the last call.
    pub fn recount(&mut self, sum: &mut usize, now: Tick, progressed: bool) {
        let Some(flight) = &mut self.flight else { return };
        let fragments = flight.fragments.as_ref().map_or(0, |fragments| fragments.held_bytes());
        let deferred = flight.deferred.as_ref().map_or(0, |text| size_of_val(text) + text.len());
        let held = flight.input.capacity() + fragments + deferred;
        if progressed || flight.unfinished == 0 {
            flight.since = now;
        }
        *sum = *sum - flight.unfinished + held;
        flight.unfinished = held;
        self.settle();
    }

    /// Bytes of unfinished input, and since when there is any.
    pub fn unfinished(&self) -> (usize, Tick) {
        self.flight.as_ref().map_or((0, 0), |flight| (flight.unfinished, flight.since))
    }
}
