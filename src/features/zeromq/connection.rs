//! The socket of one peer: the messages read from it, and the answers written to it.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::clock::Millis;
use crate::engine::reactor::{InputState, PeerState, PortConnection, PortSocket};
use crate::features::zeromq::delivery::ZeromqDelivery;
use crate::features::zeromq::peer::PushPeer;
use crate::features::zeromq::settings::ZeromqTerms;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// A connection: its protocol and its socket.
pub struct ZeromqConnection {
    pub socket: PortSocket,
    pub peer: PushPeer,
    address: SocketAddr,
    /// Input that was not taken yet: a client has too much pending.
    waiting: Vec<u8>,
    /// The time at which the peer must have ended its handshake.
    handshake_until: Millis,
    /// The time of the last input.
    heard: Millis,
}

impl ZeromqConnection {
    pub fn new(
        socket: PortSocket,
        terms: &Rc<ZeromqTerms>,
        address: SocketAddr,
        now: Millis,
    ) -> ZeromqConnection {
        ZeromqConnection {
            socket,
            peer: PushPeer::new(Rc::clone(terms)),
            address,
            waiting: Vec::new(),
            handshake_until: now + terms.handshake_millis,
            heard: now,
        }
    }

    /// The state of a connection that can be handed over.
    pub fn portable(&self) -> Option<Vec<u8>> {
        let mut state = Vec::new();
        let mut writer = StateWriter::new(&mut state);
        writer.bytes(&self.waiting);
        writer.u64(self.heard);
        let is_open = self.peer.save(&mut writer);
        writer.finish().ok().filter(|()| is_open)?;
        Some(state)
    }

    /// The connection that was handed over.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        socket: PortSocket,
        terms: &Rc<ZeromqTerms>,
        address: SocketAddr,
        reader: &mut StateReader<'_>,
    ) -> Result<ZeromqConnection, StateError> {
        let (waiting, heard) = (reader.bytes(BYTES_MAX)?, reader.u64()?);
        let peer = PushPeer::restored(Rc::clone(terms), reader)?;
        Ok(ZeromqConnection { socket, peer, address, waiting, handshake_until: 0, heard })
    }

    /// Reads at most `limit` bytes and delivers the messages in them, until a client has too much pending. Returns whether the limit
    /// was reached.
    pub fn read(
        &mut self,
        delivery: &mut ZeromqDelivery<'_, '_>,
        buffer: &mut [u8],
        limit: usize,
        now: Millis,
    ) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        self.take(&waiting, delivery);
        let mut total = 0;
        while self.socket.peer < PeerState::Ended && !self.peer.is_over() {
            let is_over = total >= limit;
            if is_over || delivery.is_pressed() {
                self.socket.input = InputState::Queued;
                return is_over;
            }
            let room = buffer.len().min(limit - total);
            let Some(length) = self.socket.read(&mut buffer[..room]) else { break };
            total += length;
            self.heard = now;
            self.take(&buffer[..length], delivery);
        }
        let is_left = !self.waiting.is_empty();
        if self.socket.peer >= PeerState::Ended
            && !is_left
            && let Some(event) = self.peer.on_end()
        {
            delivery.on_event(event, self.address);
        }
        self.socket.input = if is_left { InputState::Queued } else { InputState::Idle };
        false
    }

    fn take(&mut self, mut input: &[u8], delivery: &mut ZeromqDelivery<'_, '_>) {
        while !delivery.is_pressed()
            && let Some(event) = self.peer.next(&mut input)
        {
            delivery.on_event(event, self.address);
        }
        self.waiting = input.to_vec();
    }

    pub fn write(&mut self, now: Millis) {
        while !self.peer.output.is_empty() && self.socket.is_writable() {
            let length = self.socket.write(&[IoSlice::new(&self.peer.output)], now);
            self.peer.output.drain(..length);
        }
        if self.peer.output.is_empty() {
            self.peer.output = Vec::new();
        }
    }
}

impl PortConnection for ZeromqConnection {
    fn socket(&mut self) -> &mut PortSocket {
        &mut self.socket
    }

    /// Returns when the peer's time is over: its handshake is not complete, it leaves answers unread, or it is silent for longer than
    /// it said it would be.
    fn deadline(&self) -> Option<Millis> {
        let handshake = self.peer.is_stranger().then_some(self.handshake_until);
        let is_read = self.socket.input == InputState::Idle;
        let silence = self.peer.silence.filter(|_| is_read).map(|silence| self.heard + silence);
        [handshake, silence, self.socket.unread_deadline()].into_iter().flatten().min()
    }

    /// Returns whether nothing is left to write, or nobody to write to.
    fn is_done(&self) -> bool {
        let is_read = self.socket.peer >= PeerState::Ended && self.socket.input == InputState::Idle;
        is_read || (self.peer.is_over() && self.peer.output.is_empty())
    }
}
