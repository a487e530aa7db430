//! The blocking stream of a client: a socket, or TLS over it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::client::connect;
use super::tls;

/// A stream that reads and writes plaintext.
pub enum ClientStream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl ClientStream {
    /// Connects from the source address that is due for this number. The handshake is still to be done: the first write does it.
    pub fn connect(
        to: SocketAddr,
        number: usize,
        config: Option<&Arc<ClientConfig>>,
    ) -> ClientStream {
        let stream = connect(to, number);
        match config {
            None => ClientStream::Plain(stream),
            Some(config) => ClientStream::over(tls::connection(config), stream),
        }
    }

    /// TLS over a socket, whose handshake may have been done.
    pub fn over(tls: ClientConnection, stream: TcpStream) -> ClientStream {
        ClientStream::Tls(Box::new(StreamOwned::new(tls, stream)))
    }

    /// Does the handshake, if there is one to be done.
    pub fn shake_hands(&mut self) {
        if let ClientStream::Tls(tls) = self {
            while tls.conn.is_handshaking() {
                tls.conn.complete_io(&mut tls.sock).expect("the server completes the handshake");
            }
        }
    }

    /// The socket and what is above it, for those who read it themselves.
    pub fn into_parts(self) -> (TcpStream, Option<ClientConnection>) {
        match self {
            ClientStream::Plain(stream) => (stream, None),
            ClientStream::Tls(tls) => {
                let (tls, stream) = tls.into_parts();
                (stream, Some(tls))
            }
        }
    }
}

impl Read for ClientStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            ClientStream::Plain(stream) => stream.read(buffer),
            ClientStream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for ClientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ClientStream::Plain(stream) => stream.write(bytes),
            ClientStream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ClientStream::Plain(stream) => stream.flush(),
            ClientStream::Tls(tls) => tls.flush(),
        }
    }
}
