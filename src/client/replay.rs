//! How far a client that came back has been given what it missed.

use super::Client;
use crate::cursor::EntryId;

/// Its place in the history. While there is one, the client is given nothing live: it reads that in the history too, until it has
/// come to its end. So nothing is lost or told twice between the two, and what it missed takes no room in its backlog.
#[derive(Debug)]
pub struct Replay {
    /// The number of the next message.
    pub next: u64,
    /// Messages of channels and gaps with lower numbers are not for it: it was connected to another process then.
    pub live: u64,
    /// The latest entry of each stream that it was given, or that was not for it.
    pub entries: Vec<EntryId>,
    /// What it began to listen to meanwhile, by its key, and the number of the first message for which that counts.
    pub late: Vec<(Box<str>, u64)>,
}

impl Client {
    /// From now on it is given what it missed.
    pub fn begin_replay(&mut self, replay: Replay) {
        self.flight().replay = Some(Box::new(replay));
    }

    /// Its place in the history, if it is behind.
    pub fn replay(&mut self) -> Option<&mut Replay> {
        self.flight.as_mut()?.replay.as_deref_mut()
    }

    /// Whether it is given what it missed.
    pub fn is_replaying(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.replay.is_some())
    }

    /// Takes its place away: to be given back, unless it has come to the end.
    pub fn take_replay(&mut self) -> Option<Box<Replay>> {
        self.flight.as_mut()?.replay.take()
    }

    /// Gives its place back.
    pub fn put_replay(&mut self, replay: Box<Replay>) {
        self.flight().replay = Some(replay);
    }

    /// Hibernates if its replay was all that was in flight, and brought nothing.
    pub fn settle_replayed(&mut self) {
        self.settle();
    }

    /// Whether it can be given more: all that it was given is written, and its socket takes bytes.
    pub fn wants_replay(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| {
            flight.replay.is_some() && flight.outbox.is_empty() && !flight.blocked
        })
    }
}
