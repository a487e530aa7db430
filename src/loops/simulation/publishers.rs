//! The parent's port of a simulation: it takes note of the numbers of receivers, and passes orders on.

use std::cell::RefCell;
use std::rc::Rc;

use mio::event::Event;

use crate::clock::Millis;
use crate::engine::reactor::{LoopOrder, OtherPorts, Port};
use crate::engine::router::Router;
use crate::engine::server::Server;

/// Everything that the port was told, and is to pass on.
#[derive(Default)]
pub struct PublisherNotes {
    /// Counted messages, and their receivers.
    pub counts: Vec<(u64, usize)>,
    pub orders: Vec<LoopOrder>,
}

pub struct NotingPort(pub Rc<RefCell<PublisherNotes>>);

impl Port for NotingPort {
    fn name(&self) -> &'static str {
        "notes"
    }

    fn connections(&self) -> usize {
        0
    }

    fn on_ready(&mut self, _: usize, _: &Event) {}

    fn read(&mut self, _: &mut Router, _: OtherPorts<'_>, _: &mut [u8], _: usize) -> bool {
        false
    }

    fn deliver(&mut self, _: &mut Server, _: &[u8], _: &[u8]) -> usize {
        0
    }

    fn on_counted(&mut self, number: u64, receivers: usize) {
        self.0.borrow_mut().counts.push((number, receivers));
    }

    fn take_order(&mut self) -> Option<LoopOrder> {
        self.0.borrow_mut().orders.pop()
    }

    fn flush(&mut self, _: &mut Server) {}

    fn reap(&mut self) -> bool {
        false
    }

    fn deadline(&self, _: Millis) -> Option<Millis> {
        None
    }

    fn close(&mut self, _: Millis) {}
}
