//! The byte stream to a Redis: TCP, a Unix socket, or TLS over TCP, none of which ever blocks.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;

pub(super) enum RedisStream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RedisRead {
    /// Bytes in the buffer.
    Data(usize),
    /// Bytes off the socket that held no data: part of a record, or of the handshake.
    Overhead(usize),
    /// The peer has closed the connection in good order.
    End,
}

impl RedisStream {
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            RedisStream::Tcp(socket) => registry.register(socket, token, both),
            RedisStream::Unix(socket) => registry.register(socket, token, both),
            RedisStream::Tls(stream) => registry.register(&mut stream.socket, token, both),
        }
    }

    /// Checks a socket that is writable: it is connected, or the attempt has failed.
    ///
    /// # Errors
    /// The reason; `NotConnected`: the attempt goes on.
    pub fn check_connected(&self) -> io::Result<()> {
        let check = |socket: &TcpStream| match socket.take_error()? {
            None => socket.peer_addr().map(|_| ()),
            Some(error) => Err(error),
        };
        match self {
            RedisStream::Tcp(socket) => check(socket),
            RedisStream::Tls(stream) => check(&stream.socket),
            RedisStream::Unix(socket) => socket.take_error()?.map_or(Ok(()), Err),
        }
    }

    /// Returns whether data can be sent: with TLS not before the end of the handshake.
    pub fn is_open(&self) -> bool {
        match self {
            RedisStream::Tcp(_) | RedisStream::Unix(_) => true,
            RedisStream::Tls(stream) => !stream.connection.is_handshaking(),
        }
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<RedisRead> {
        let length = match self {
            RedisStream::Tcp(socket) => socket.read(buffer)?,
            RedisStream::Unix(socket) => socket.read(buffer)?,
            RedisStream::Tls(stream) => return stream.read(buffer),
        };
        Ok(if length == 0 { RedisRead::End } else { RedisRead::Data(length) })
    }

    /// Returns whether more may be there after a read of `length` bytes into a buffer with this room. A short read empties a
    /// socket. Of TLS it says nothing: the rest of a record may have been decrypted, and the next one lie in the socket.
    pub fn may_hold_more(&self, length: usize, room: usize) -> bool {
        length == room || matches!(self, RedisStream::Tls(_))
    }

    /// Writes data. With TLS, what is taken may lie in memory until [`RedisStream::flush`] has sent it.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            RedisStream::Tcp(socket) => socket.write(data),
            RedisStream::Unix(socket) => socket.write(data),
            RedisStream::Tls(stream) => stream.write(data),
        }
    }

    /// Sends records that wait, and messages of the handshake.
    ///
    /// # Errors
    /// `WouldBlock`: the rest waits for the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            RedisStream::Tcp(_) | RedisStream::Unix(_) => Ok(()),
            RedisStream::Tls(stream) => stream.flush(),
        }
    }
}

/// TLS over a socket that does not block. rustls keeps at most 16 KB of decrypted data and 64 KB of records to be sent, so a peer
/// that does not read, and a loop that does not, cost no more.
pub(super) struct TlsStream<Socket> {
    socket: Socket,
    connection: ClientConnection,
}

impl<Socket: Read + Write> TlsStream<Socket> {
    pub fn new(socket: Socket, connection: ClientConnection) -> TlsStream<Socket> {
        TlsStream { socket, connection }
    }

    /// Takes data that is decrypted, else reads the socket once: the caller bounds the work of a turn.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<RedisRead> {
        if let Some(found) = self.decrypted(buffer)? {
            return Ok(found);
        }
        let length = self.connection.read_tls(&mut self.socket)?;
        if let Err(error) = self.process() {
            // The peer's log is to name the reason, too.
            let _ = self.connection.write_tls(&mut self.socket);
            return Err(error);
        }
        Ok(self.decrypted(buffer)?.unwrap_or(RedisRead::Overhead(length)))
    }

    fn decrypted(&mut self, buffer: &mut [u8]) -> io::Result<Option<RedisRead>> {
        match self.connection.reader().read(buffer) {
            Ok(0) => Ok(Some(RedisRead::End)),
            Ok(length) => Ok(Some(RedisRead::Data(length))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // `UnexpectedEof`: the end came without close_notify.
            Err(error) => Err(error),
        }
    }

    fn process(&mut self) -> io::Result<()> {
        let processed = self.connection.process_new_packets();
        processed.map(|_| ()).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let length = self.connection.writer().write(data)?;
        match self.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(length),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) => return Err(self.cause().unwrap_or(error)),
            }
        }
        Ok(())
    }

    /// Looks for an alert when the socket takes nothing more: a peer that refuses us sends one before it closes.
    fn cause(&mut self) -> Option<io::Error> {
        while matches!(self.connection.read_tls(&mut self.socket), Ok(1..)) {
            if let Err(error) = self.process() {
                return Some(error);
            }
        }
        None
    }
}
