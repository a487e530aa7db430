//! The byte pipe under a client: usually a TCP socket, and the place where TLS would go.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::engine::client::in_memory;
use crate::engine::slots::ConnId;

/// The time that the kernel keeps sending after we close a socket. By default it tries for minutes, and holds up to
/// `send_buffer_bytes` that no limit counts.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(5);

/// A non-blocking stream of bytes. Its methods take the client's id: an in-memory transport is looked up by it.
#[derive(Debug)]
pub enum Transport {
    /// A socket of TCP, or a Unix socket, which the same system calls serve: a variant of its own would make the slot larger.
    Tcp(TcpStream),
    /// A far end of [`in_memory`], for benches and simulations.
    Memory,
}

impl Transport {
    /// Registers both interests once, for the connection's whole life (mio is edge-triggered).
    ///
    /// # Errors
    /// The errors of `epoll_ctl`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => {
                stream.register(registry, token, Interest::READABLE | Interest::WRITABLE)
            }
            Transport::Memory => Ok(()),
        }
    }

    /// Reads once; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to read; any other ends the connection.
    pub fn read(&mut self, id: ConnId, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.read(buffer),
            Transport::Memory => in_memory::read(id, buffer),
        })
    }

    /// Writes once.
    ///
    /// # Errors
    /// `WouldBlock` if the kernel's buffer is full; any other ends the connection.
    pub fn write(&mut self, id: ConnId, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| match self {
            Transport::Tcp(stream) => stream.write(bytes),
            Transport::Memory => in_memory::write(id, bytes),
        })
    }

    /// The peer's address; `None` once the socket is closed. A peer on a Unix socket has none and counts as 127.0.0.1.
    pub fn peer(&self, id: ConnId) -> Option<IpAddr> {
        match self {
            Transport::Tcp(stream) => {
                let address = SockRef::from(stream).peer_addr().ok()?;
                let local = || address.is_unix().then(|| Ipv4Addr::LOCALHOST.into());
                address.as_socket().map(|address| address.ip()).or_else(local)
            }
            Transport::Memory => in_memory::peer(id),
        }
    }

    /// Shuts down the sending side. A socket that is closed already is not an error.
    pub fn shutdown_write(&mut self, id: ConnId) {
        match self {
            Transport::Tcp(stream) => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            Transport::Memory => in_memory::shutdown_write(id),
        }
    }

    /// Discards unsent data in the kernel: the close becomes a reset, and the memory is free at once.
    pub fn discard(&self) {
        if let Transport::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Closes the connection. The kernel sends pending data for at most five seconds; on a Unix socket it has arrived, and waits
    /// until the peer reads or closes.
    pub fn close(self, id: ConnId) {
        match self {
            Transport::Tcp(stream) => {
                let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(ORPHAN_TIMEOUT));
            }
            Transport::Memory => in_memory::close(id),
        }
    }
}

/// Repeats a call that a signal interrupts.
fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_unix_socket_is_a_transport_and_its_peer_is_this_machine() {
        let (mut far, own) = UnixStream::pair().expect("a pair can be had");
        own.set_nonblocking(true).expect("a socket takes its options");
        let (mut transport, id) = (Transport::Tcp(OwnedFd::from(own).into()), ConnId::of_number(1));
        assert_eq!(transport.peer(id), Some(Ipv4Addr::LOCALHOST.into()));
        let mut buffer = [0; 8];
        let nothing = transport.read(id, &mut buffer).expect_err("nothing came");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"there").expect("the pair is open");
        assert_eq!(transport.read(id, &mut buffer).unwrap(), 5);
        assert_eq!(transport.write(id, b"back").unwrap(), 4);
        transport.shutdown_write(id);
        transport.discard();
        let mut all = Vec::new();
        far.read_to_end(&mut all).expect("its end came");
        assert_eq!(all, b"back");
        drop(far);
        assert_eq!(transport.read(id, &mut buffer).unwrap(), 0);
        transport.close(id);
    }
}
