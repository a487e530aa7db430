//! The byte pipe under a client: today a TCP socket, the one place where TLS would join.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A non-blocking stream of bytes.
#[derive(Debug)]
pub struct Transport(TcpStream);

impl Transport {
    /// Takes over an accepted socket.
    pub fn new(stream: TcpStream) -> Transport {
        Transport(stream)
    }

    /// Registers both interests, once for the connection's whole life (mio is edge-triggered).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// One read; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing to read now; any other is the end of the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// One write.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes nothing now; any other is the end of the connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Says that nothing more will be written. A socket that is gone already is no error here.
    pub fn shutdown_write(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Where the client is, unless it is gone.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.0.peer_addr().ok()
    }
}
