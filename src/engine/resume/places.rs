//! The places of a process in its sequence, for another one that goes on from there.

use crate::engine::resume::Resume;
use crate::engine::resume::cursor::{EntryId, Node};
use crate::engine::slots::ConnId;

/// The place of a process in its sequence and in each stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResumePlaces {
    /// The number of the first record held.
    pub first: u64,
    pub entries: Vec<EntryId>,
    pub begins: Vec<EntryId>,
    pub covered: Vec<EntryId>,
    pub whole_from: Vec<u64>,
    pub are_streams_known: bool,
    pub has_channels: bool,
}

impl Resume {
    /// Takes over the name of a process whose sequence is recorded here, and expects clients that it, or another one like this, has
    /// sent up to `ahead_max` more messages.
    pub fn follow(&mut self, node: Node, ahead_max: u64) {
        (self.node, self.ahead_max) = (node, ahead_max);
    }

    /// Returns whether it takes the numbers of another process.
    pub fn is_follower(&self) -> bool {
        self.ahead_max > 0
    }

    /// The name of this process in cursors.
    pub fn node(&self) -> Node {
        self.node
    }

    /// The places in the streams, and the first number, for a process that follows.
    pub fn places(&self) -> ResumePlaces {
        ResumePlaces {
            first: self.history.first(),
            entries: self.entries.clone(),
            begins: self.begins.clone(),
            covered: self.history.covered().to_vec(),
            whole_from: self.history.whole_from().to_vec(),
            are_streams_known: self.are_streams_known,
            has_channels: self.has_channels,
        }
    }

    /// Takes over places from another process, after its records. Returns whether they are of as many streams.
    pub fn take_places(&mut self, places: ResumePlaces) -> bool {
        let ResumePlaces { entries, begins, covered, whole_from, .. } = places;
        let streams = self.streams.len();
        let lengths = [entries.len(), begins.len(), covered.len(), whole_from.len()];
        if lengths.iter().any(|length| *length != streams) {
            return false;
        }
        (self.entries, self.begins) = (entries, begins);
        self.history.set_places(covered, whole_from);
        (self.are_streams_known, self.has_channels) =
            (places.are_streams_known, places.has_channels);
        true
    }

    /// Takes a client that was ahead of this process by numbers, and is not any more.
    pub fn pop_reached_number(&mut self) -> Option<ConnId> {
        let first = *self.ahead_by_number.first()?;
        (first.0 <= self.history.next()).then(|| self.ahead_by_number.pop_first())?;
        Some(first.1)
    }
}
