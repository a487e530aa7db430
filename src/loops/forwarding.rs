//! The input of the parent's sources, on its way to all workers.

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
    /// The number of the latest one.
    latest: u64,
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
}
