//! The connections of a loop, found by their ids, and their deadlines.

use std::ops::{Index, IndexMut};

use crate::clock::Millis;
use crate::engine::client::tls::Tls;
use crate::engine::client::transport::Transport;
use crate::engine::client::{Client, Timing};
use crate::engine::slots::{Beside, ConnId, GENERATIONS, Slots};
use crate::engine::timers::{NEVER, Tick, Timers, tick};

/// Every connection in its slot. A stale id finds nothing.
pub(crate) struct Clients {
    slots: Slots<Client>,
    /// The TLS of clients at a listener that speaks it.
    tls: Beside<Tls>,
    /// Of the latest connection.
    generation: u32,
    /// Connections that are gone and wait for the end of the turn.
    pub gone: Vec<ConnId>,
    /// Bytes of what clients have left unfinished: see [`Client::recount`].
    pub unfinished_bytes: usize,
    pub timers: Timers,
    pub timing: Timing,
}

impl Clients {
    pub fn new(timing: Timing) -> Clients {
        Clients {
            slots: Slots::default(),
            tls: Beside::default(),
            generation: 0,
            gone: Vec::new(),
            unfinished_bytes: 0,
            timers: Timers::default(),
            timing,
        }
    }

    /// Takes a slot for a connection that has until `ends` to send a request.
    pub fn insert(&mut self, transport: Transport, now: Tick, ends: Tick) -> ConnId {
        self.generation = (self.generation + 1) % GENERATIONS;
        let generation = self.generation;
        let index = self.slots.insert_with(|_| Client::new(transport, generation, now, ends));
        ConnId { index, generation }
    }

    /// The connections as they are to be handed over, with their TLS.
    pub fn with_tls(&self) -> impl Iterator<Item = (ConnId, &Client, Option<&Tls>)> {
        self.iter().map(|(id, client)| (id, client, self.tls.get(id.index)))
    }

    /// The generation of the latest connection.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes over connections in the order of their slots, and the latest generation.
    pub fn restore(&mut self, generation: u32, clients: Vec<(u32, Client, Option<Tls>)>) {
        self.generation = generation % GENERATIONS;
        self.slots = Slots::of(clients.into_iter().map(|(index, client, tls)| {
            tls.into_iter().for_each(|tls| self.tls.set(index, tls));
            (index, client)
        }));
    }

    /// Frees a slot and its deadline.
    pub fn remove(&mut self, id: ConnId) -> Option<Client> {
        self.unfinished_bytes -= self.get(id)?.unfinished().0;
        self.timers.set(id.index, NEVER);
        self.tls.remove(id.index);
        self.slots.remove(id.index)
    }

    /// Expects a TLS handshake from a connection that was just accepted.
    pub fn expect_tls(&mut self, id: ConnId) {
        self.tls.set(id.index, Tls::Handshake);
    }

    /// The connection that `id` names, and its TLS if it has any: what a read or a write needs.
    pub fn wire(&mut self, id: ConnId) -> Option<(&mut Client, Option<&mut Tls>)> {
        let client = self.slots.get_mut(id.index)?;
        let tls = self.tls.get_mut(id.index);
        (client.generation == id.generation).then_some((client, tls))
    }

    /// Returns whether the TLS keys of a connection come near their end.
    pub fn is_worn(&self, id: ConnId) -> bool {
        self.tls.get(id.index).is_some_and(Tls::is_worn)
    }

    /// Returns whether a connection has no keys yet that a response could be sealed with.
    pub fn is_shaking_hands(&self, id: ConnId) -> bool {
        self.tls.get(id.index).is_some_and(Tls::is_handshake)
    }

    /// The connection that `id` names, if it is still there.
    pub fn get(&self, id: ConnId) -> Option<&Client> {
        self.slots.get(id.index).filter(|client| client.generation == id.generation)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Client> {
        self.slots.get_mut(id.index).filter(|client| client.generation == id.generation)
    }

    /// The connection in a slot, if it is taken.
    pub fn at(&self, index: u32) -> Option<(ConnId, &Client)> {
        self.slots.get(index).map(|client| (id(index, client), client))
    }

    /// The id of the connection in a slot that is taken.
    pub fn id(&self, index: u32) -> ConnId {
        id(index, &self.slots[index])
    }

    /// Every connection, in the order of the slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Client)> {
        self.slots.iter().map(|(index, client)| (id(index, client), client))
    }

    /// Every connection, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.slots.iter_mut()
    }

    /// Brings the sum of unfinished bytes up to date with one client. Returns how many bytes it copied to a larger place.
    pub fn recount(&mut self, id: ConnId, now: Tick, progressed: bool) -> usize {
        let mut sum = self.unfinished_bytes;
        let Some(client) = self.get_mut(id) else { return 0 };
        let (before, _) = client.unfinished();
        client.recount(&mut sum, now, progressed);
        let (held, _) = client.unfinished();
        self.unfinished_bytes = sum;
        if held > before { before } else { 0 }
    }

    /// Sets the timer of a connection to its next deadline.
    pub fn set_timer(&mut self, index: u32, now: Millis) {
        let deadline = self.slots[index].deadline(index, tick(now), &self.timing);
        self.timers.set(index, deadline);
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot after the last one that may be taken.
    pub fn end(&self) -> u32 {
        self.slots.end()
    }

    /// Bytes of the slots and of the places beside them, vacant ones too.
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.tls.bytes()
    }
}

fn id(index: u32, client: &Client) -> ConnId {
    ConnId { index, generation: client.generation }
}

impl Index<u32> for Clients {
    type Output = Client;

    /// For slots that are known to be taken: those of subscribers, of timers that expire.
    fn index(&self, index: u32) -> &Client {
        &self.slots[index]
    }
}

impl IndexMut<u32> for Clients {
    fn index_mut(&mut self, index: u32) -> &mut Client {
        &mut self.slots[index]
    }
}
