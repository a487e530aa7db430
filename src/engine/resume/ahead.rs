//! Clients that have more of a stream than this process has read: they wait, so that nothing is sent to them twice.

use std::collections::BTreeSet;

use crate::engine::resume::cursor::EntryId;
use crate::engine::slots::ConnId;

/// The clients that are ahead, for each stream by the latest entry that they have. Some may be gone by now.
#[derive(Default)]
pub struct AheadClients(Vec<BTreeSet<(EntryId, ConnId)>>);

impl AheadClients {
    pub fn new(streams: usize) -> AheadClients {
        AheadClients(vec![BTreeSet::new(); streams])
    }

    /// Adds a client with these entries to each stream of which fewer are `read`.
    pub fn insert(&mut self, id: ConnId, entries: &[EntryId], read: &[EntryId]) {
        for ((waiting, has), read) in self.0.iter_mut().zip(entries).zip(read) {
            if has > read {
                waiting.insert((*has, id));
            }
        }
    }

    /// The number of clients, each counted for each stream.
    pub fn len(&self) -> usize {
        self.0.iter().map(BTreeSet::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeSet::is_empty)
    }

    /// Every client, once for each stream.
    pub fn iter(&self) -> impl Iterator<Item = ConnId> {
        self.0.iter().flatten().map(|(_, id)| *id)
    }

    /// Drops clients that are gone.
    pub fn retain(&mut self, is_there: impl Fn(ConnId) -> bool) {
        self.0.iter_mut().for_each(|waiting| waiting.retain(|(_, id)| is_there(*id)));
    }

    /// Takes a client that has no more of the stream than this entry.
    pub fn pop_reached(&mut self, stream: usize, read: EntryId) -> Option<ConnId> {
        let waiting = &mut self.0[stream];
        waiting.first().filter(|(has, _)| *has <= read)?;
        waiting.pop_first().map(|(_, id)| id)
    }

    /// Takes all clients.
    pub fn take(&mut self) -> Vec<ConnId> {
        self.0.iter_mut().flat_map(std::mem::take).map(|(_, id)| id).collect()
    }
}
