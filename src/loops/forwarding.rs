//! The input of the parent's sources, on its way to all workers.

use std::any::Any;
use std::rc::Rc;

use crate::engine::client::delivery_count::DeliveryCount;
use crate::engine::router::Router;
use crate::engine::router::sources::{SourceInput, SourceObserver};
use crate::loops::inputs::write_input;

/// The input of one turn, encoded once for all workers.
#[derive(Default)]
pub struct Forwarding {
    /// Workers receive the input.
    pub has_workers: bool,
    pub batch: Vec<u8>,
    /// The numbers of counted messages in it.
    pub counted: Vec<u64>,
    /// Messages whose deliveries workers count, by their numbers in the history.
    pub deliveries: Vec<(u64, Rc<DeliveryCount>)>,
    /// The number of the latest counted message.
    latest: u64,
}

impl Forwarding {
    pub fn new(has_workers: bool) -> Forwarding {
        Forwarding { has_workers, ..Forwarding::default() }
    }

    /// The observer of the parent's sources.
    pub fn of(router: &mut Router) -> Option<&mut Forwarding> {
        let observer: &mut dyn Any = router.observer.as_deref_mut()?;
        observer.downcast_mut()
    }

    /// The same, to be looked at.
    pub fn seen(router: &Router) -> Option<&Forwarding> {
        let observer: &dyn Any = router.observer.as_deref()?;
        observer.downcast_ref()
    }
}

impl SourceObserver for Forwarding {
    fn on_input(&mut self, input: SourceInput<'_>) -> Option<u64> {
        if !self.has_workers {
            return None;
        }
        let is_counted = matches!(input, SourceInput::Message { is_counted: true, .. });
        let number = is_counted.then(|| {
            self.latest += 1;
            self.counted.push(self.latest);
            self.latest
        });
        write_input(&mut self.batch, input, number.unwrap_or(0));
        number
    }

    fn on_count(&mut self, number: u64, count: &Rc<DeliveryCount>) {
        if self.has_workers {
            self.deliveries.push((number, Rc::clone(count)));
        }
    }
}
