//! Unfinished input of a client: the start of a head or of a frame, a message of which some fragments have come, or one that
//! its handler takes up later.

use std::net::IpAddr;

use crate::engine::client::{Client, State};
use crate::engine::timers::Tick;

impl Client {
    /// The beginning of what it sends, kept from before: usually nothing.
    pub fn take_input(&mut self) -> Vec<u8> {
        self.flight.as_mut().map_or(Vec::new(), |flight| std::mem::take(&mut flight.input))
    }

    /// Whether some of what it sent is kept.
    pub fn has_input(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.input.is_empty())
    }

    /// Keeps a message for its handler. To be followed by [`Client::recount`].
    pub fn defer(&mut self, text: &str) {
        self.flight().deferred = Some(text.into());
    }

    /// Whether a message waits for its handler.
    pub fn has_deferred(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.deferred.is_some())
    }

    /// The message that waits for its handler, if anybody still waits for an answer.
    pub fn take_deferred(&mut self) -> Option<Box<str>> {
        let is_open = self.state == State::Open;
        self.flight.as_mut().and_then(|flight| flight.deferred.take()).filter(|_| is_open)
    }

    /// Of whom the proxy's header speaks that is kept, if that is whole and the request behind it is not.
    pub fn announced(&self) -> Option<IpAddr> {
        crate::engine::client::head::announced(&self.flight.as_ref()?.input)
    }

    /// Whether a proxy has said that it comes for itself, and nothing else: a health check that connects and goes.
    pub fn is_probe(&self) -> bool {
        self.flight
            .as_ref()
            .is_some_and(|flight| crate::engine::client::head::is_probe(&flight.input))
    }

    /// Keeps what is not whole yet. To be followed by [`Client::recount`].
    pub fn keep_input(&mut self, input: Vec<u8>) {
        if !input.is_empty() {
            self.flight().input = input;
        }
    }

    /// Brings `sum`, what all clients have left unfinished in bytes, up to date with this one, and hibernates if nothing is in
    /// flight. `progressed`: since it was asked last, something of it became whole.
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

    /// Bytes of its unfinished input, and since when there is any: a head, a frame, a message of which some fragments have come, or
    /// that waits for its handler.
    pub fn unfinished(&self) -> (usize, Tick) {
        self.flight.as_ref().map_or((0, 0), |flight| (flight.unfinished, flight.since))
    }
}
