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
    /// Bytes read from the socket that held no data: part of a record, or of the handshake.
    Overhead(usize),
    /// The peer has closed the connection properly.
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
    /// socket. With TLS it proves nothing: the rest of a record may be decrypted already, and the next one may lie in the socket.
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
            // The alert lets the peer's log name the reason.
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use rustls::ServerConnection;

    use super::*;
    use crate::engine::tls::tests::peers;

    /// A socket in memory to a rustls server: it takes `room` bytes until the server reads them, and says `WouldBlock` when it is empty.
    struct Memory {
        server: ServerConnection,
        to_server: Vec<u8>,
        to_client: VecDeque<u8>,
        room: usize,
        is_cut: bool,
    }

    impl Memory {
        /// The server reads all that was sent, and answers.
        fn turn(&mut self) -> Vec<u8> {
            let mut sent = &std::mem::take(&mut self.to_server)[..];
            let mut data = Vec::new();
            while !sent.is_empty() {
                self.server.read_tls(&mut sent).expect("the server has room");
                self.server.process_new_packets().expect("the client speaks TLS");
                let _ = self.server.reader().read_to_end(&mut data);
            }
            while self.server.wants_write() {
                self.server.write_tls(&mut self.to_client).expect("memory");
            }
            data
        }
    }

    impl Read for Memory {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.to_client.read(buffer)? {
                0 if !self.is_cut => Err(ErrorKind::WouldBlock.into()),
                length => Ok(length),
            }
        }
    }

    impl Write for Memory {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let length = data.len().min(self.room - self.to_server.len());
            self.to_server.extend_from_slice(&data[..length]);
            if length == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(length) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connected() -> TlsStream<Memory> {
        let client = peers::client(&peers::client_config(None));
        let server = ServerConnection::new(Arc::new(peers::server_config(false))).unwrap();
        let (to_server, to_client) = (Vec::new(), VecDeque::new());
        let memory = Memory { server, to_server, to_client, room: 20_000, is_cut: false };
        let mut stream = TlsStream::new(memory, client);
        while stream.connection.is_handshaking() {
            stream.flush().unwrap();
            stream.socket.turn();
            while !matches!(stream.read(&mut [0; 100]), Err(error) if error.kind() == ErrorKind::WouldBlock)
            {
            }
        }
        stream.flush().unwrap();
        stream.socket.turn();
        stream
    }

    #[test]
    fn data_comes_whole_through_small_buffers_and_the_end_is_told_from_a_cut() {
        for is_cut in [false, true] {
            let mut stream = connected();
            let data: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
            stream.socket.server.writer().write_all(&data).unwrap();
            if !is_cut {
                stream.socket.server.send_close_notify();
            }
            stream.socket.turn();
            stream.socket.is_cut = is_cut;
            let mut found = Vec::new();
            let mut buffer = [0; 1000];
            let end = loop {
                match stream.read(&mut buffer) {
                    Ok(RedisRead::Data(length)) => found.extend_from_slice(&buffer[..length]),
                    Ok(RedisRead::Overhead(_)) => {}
                    end => break end,
                }
            };
            assert!(found == data);
            match is_cut {
                false => assert_eq!(end.unwrap(), RedisRead::End),
                true => assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof),
            }
        }
    }

    #[test]
    fn a_server_that_reads_slowly_gets_all_of_it_and_bounds_what_waits() {
        let mut stream = connected();
        let data: Vec<u8> = (0..500_000_u32).map(|number| (number / 7) as u8).collect();
        let (mut taken, mut arrived) = (0, Vec::new());
        while arrived.len() < data.len() {
            match stream.write(&data[taken..]) {
                Ok(length) => taken += length,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            // Of the bytes on their way, up to a record is not whole.
            assert!(taken - arrived.len() <= 64 * 1024 + 2 * 20_000, "rustls keeps 64 KB");
            arrived.extend(stream.socket.turn());
            let _ = stream.flush();
        }
        assert!(arrived == data);
    }

    #[test]
    fn bytes_that_are_not_tls_are_an_error_with_its_cause() {
        let mut stream = connected();
        stream.socket.to_client.extend(b"-ERR not TLS at all\r\n");
        let error = stream.read(&mut [0; 100]).unwrap_err();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        assert!(matches!(cause, Some(rustls::Error::InvalidMessage(_))), "{error}");
    }
}
