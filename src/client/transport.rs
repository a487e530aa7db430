//! The byte pipe under a client: a TCP socket as a rule; the one place where TLS would join.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::client::memory::MemoryEnd;

/// A non-blocking stream of bytes.
#[derive(Debug)]
pub enum Transport {
    /// A socket.
    Tcp(TcpStream),
    /// What a bench or a simulation has in its place.
    Memory(MemoryEnd),
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
            Transport::Memory(_) => Ok(()),
        }
    }

    /// One read; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read now; any other is the end of the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Memory(end) => end.read(buffer),
        })
    }

    /// One write.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes nothing now; any other is the end of the connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.write(bytes),
            Transport::Memory(end) => end.write(bytes),
        })
    }

    /// Says that nothing more will be written. A socket that is gone already is no error here.
    pub fn shutdown_write(&mut self) {
        match self {
            Transport::Tcp(stream) => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Transport::Memory(end) => end.shutdown_write(),
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
