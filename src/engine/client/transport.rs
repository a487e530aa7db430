//! The byte pipe under a client: a TCP socket as a rule; the one place where TLS would join.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::engine::client::in_memory;
use crate::engine::slots::ConnId;

/// How long the kernel goes on sending what it took from us after we closed a socket. By itself it tries for minutes, with up
/// to `send_buffer_bytes` in its memory that nobody counts any more.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(5);

/// A non-blocking stream of bytes. It is told whose it is: that is all that one without a socket knows itself by.
#[derive(Debug)]
pub enum Transport {
    /// A socket.
    Tcp(TcpStream),
    /// What a bench or a simulation has in its place.
    Memory,
}

impl Transport {
    /// Registers both interests, once for the connection's whole life (mio is edge-triggered).
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => {
                stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
            }
            Transport::Memory => Ok(()),
        }
    }

    /// One read; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read now; any other is the end of the connection.
    pub fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Memory => in_memory::read(id, buffer),
        })
    }

    /// One write.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes nothing now; any other is the end of the connection.
    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.write(bytes),
            Transport::Memory => in_memory::write(id, bytes),
        })
    }

    /// Who is at its other end. Of a socket that is gone already nobody can say, and of one's own making the far end does.
    pub fn peer(&self, id: ConnId) -> Option<IpAddr> {
        match self {
            Transport::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Transport::Memory => in_memory::peer(id),
        }
    }

    /// Says that nothing more will be written. A socket that is gone already is no error here.
    pub fn shutdown_write(&mut self, id: ConnId) {
        match self {
            Transport::Tcp(stream) => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Transport::Memory => in_memory::shutdown_write(id),
        }
    }

    /// Gives up what the kernel has not sent yet: the close becomes a reset, and the memory is free at once.
    pub fn discard(&self) {
        if let Transport::Tcp(stream) = self {
            // A socket that is gone already has nothing to give up.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Closes it. The kernel sends what it took, for five seconds at most.
    pub fn close(self, id: ConnId) {
        match self {
            Transport::Tcp(stream) => {
                let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(ORPHAN_TIMEOUT));
            }
            Transport::Memory => in_memory::close(id),
        }
    }
}

/// Again and again while a signal interrupts it.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
