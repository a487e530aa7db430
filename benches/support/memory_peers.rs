//! The far ends of clients without sockets: they shake hands, answer pings, and check each frame that comes.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::rc::Rc;

use oneloop::engine::client::in_memory::FarEnds;
use oneloop::engine::slots::ConnId;

use super::server::Tokens;

/// The state of a client.
#[derive(Clone, Copy, PartialEq)]
pub enum PeerState {
    New,
    Asked,
    Open,
    OwesPong,
    Leaving,
    Gone,
}

/// The far ends: a byte and a bit for each client.
pub struct MemoryPeers {
    pub tokens: Tokens,
    pub all: Vec<PeerState>,
    /// A bit for each client that has got the current message.
    pub got: Vec<u64>,
    pub received: usize,
    /// Clients that have something to send.
    pub ready: Vec<ConnId>,
    /// The numbers of clients that were welcomed, and that have gone.
    pub opened: usize,
    pub gone: usize,
    /// Pings that came.
    pub pings: usize,
}

/// Held by the loop and by the bench.
#[derive(Clone)]
pub struct SharedPeers(pub Rc<RefCell<MemoryPeers>>);

impl FarEnds for SharedPeers {
    fn read(&mut self, id: ConnId, mut buffer: &mut [u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        let number = id.index();
        match peers.all[number] {
            PeerState::New => {
                let room = buffer.len();
                let token = peers.tokens.token(number);
                write!(
                    buffer,
                    "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     Authorization: Bearer {token}\r\n\r\n"
                )?;
                peers.all[number] = PeerState::Asked;
                Ok(room - buffer.len())
            }
            PeerState::OwesPong => {
                peers.all[number] = PeerState::Open;
                buffer.write(&[0x8a, 0x80, 0, 0, 0, 0])
            }
            PeerState::Leaving => Ok(0),
            PeerState::Asked | PeerState::Open | PeerState::Gone => {
                Err(ErrorKind::WouldBlock.into())
            }
        }
    }

    fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        let mut peers = self.0.borrow_mut();
        let number = id.index();
        match (peers.all[number], bytes) {
            (PeerState::Asked, _) => {
                let text = String::from_utf8_lossy(bytes);
                assert!(text.starts_with("HTTP/1.1 101 ") && text.contains(r#"{"op":"welcome""#));
                peers.all[number] = PeerState::Open;
                peers.opened += 1;
            }
            (PeerState::Open, [0x89, 0]) => {
                peers.all[number] = PeerState::OwesPong;
                peers.pings += 1;
                peers.ready.push(id);
            }
            (PeerState::Open | PeerState::OwesPong, [0x81, length, payload @ ..]) => {
                assert_eq!(usize::from(*length), payload.len(), "one message at a time");
                let (word, bit) = (number / 64, 1 << (number % 64));
                assert!(peers.got[word] & bit == 0, "client {number} got a message twice");
                peers.got[word] |= bit;
                peers.received += 1;
            }
            (_, other) => panic!("client {number} did not expect {other:?}"),
        }
        Ok(bytes.len())
    }

    fn shutdown_write(&mut self, _: ConnId) {}

    fn close(&mut self, id: ConnId) {
        let mut peers = self.0.borrow_mut();
        assert!(peers.all[id.index()] == PeerState::Leaving, "nobody is closed who does not leave");
        peers.all[id.index()] = PeerState::Gone;
        peers.gone += 1;
    }
}

impl MemoryPeers {
    /// Makes `clients` peers, in memory that is all touched already, so that it is not counted as the server's later.
    pub fn new(clients: usize) -> MemoryPeers {
        let mut peers = MemoryPeers {
            tokens: Tokens::new(),
            all: vec![PeerState::Gone; clients],
            got: vec![0; clients.div_ceil(64)],
            received: 0,
            ready: Vec::with_capacity(4096),
            opened: 0,
            gone: 0,
            pings: 0,
        };
        peers.all.fill(PeerState::New);
        peers.got.fill(1);
        peers
    }

    /// Returns whether this client has got the current message.
    pub fn has_got(&self, number: usize) -> bool {
        self.got[number / 64] & 1 << (number % 64) != 0
    }

    /// Another message is on its way.
    pub fn expect_next(&mut self) {
        self.received = 0;
        self.got.fill(0);
    }
}
