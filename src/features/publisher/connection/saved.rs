//! A publisher's connection as a state that is handed over. One between MULTI and EXEC, in a request of HTTP or in a command that is too
//! large is not: it ends with its process.

use std::rc::Rc;

use super::Publisher;
use crate::features::publisher::exchange::Exchange;
use crate::features::publisher::session::Peer;
use crate::features::publisher::settings::Terms;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

impl Publisher {
    /// Returns the state, if it can be handed over.
    pub fn portable(&self, exchange: &Exchange) -> Option<Vec<u8>> {
        let is_between = self.session.is_authenticated
            && self.http.is_none()
            && self.queue.is_none()
            && !self.is_executing()
            && !self.is_ending;
        let (held, has_begun) = self.input.held();
        let held = held.filter(|_| is_between)?;
        let mut state = Vec::new();
        let mut writer = StateWriter::new(&mut state);
        self.session.save(exchange, &mut writer);
        writer.bool(has_begun);
        writer.bool(self.has_commanded);
        writer.parts([held, &self.waiting]);
        writer.bytes(&self.output.parts().collect::<Vec<_>>().concat());
        writer.finish().ok()?;
        Some(state)
    }

    /// Its `CLIENT ID`.
    pub fn id(&self) -> u64 {
        self.session.peer.id
    }

    /// The connection that was handed over.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        terms: Rc<Terms>,
        peer: Peer,
        exchange: &mut Exchange,
        reader: &mut StateReader<'_>,
    ) -> Result<Publisher, StateError> {
        let mut publisher = Publisher::new(terms, peer);
        publisher.session.restore(exchange, reader)?;
        if reader.bool()? {
            publisher.input.begin();
        }
        publisher.has_commanded = reader.bool()?;
        publisher.waiting = reader.bytes(BYTES_MAX)?;
        publisher.output.tail = reader.bytes(BYTES_MAX)?;
        Ok(publisher)
    }
}
