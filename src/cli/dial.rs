//! Blocking connections of a command to a server, with time limits and perhaps TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConnection, Stream};
use socket2::{Domain, SockAddr, Socket, Type};

/// The time a server may take to connect, or to send or take some bytes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The time that a whole HTTP answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The longest HTTP answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A connection to a server, by TCP or by a Unix socket, perhaps with TLS.
pub(super) struct ServerConnection {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl ServerConnection {
    pub(super) fn new(stream: impl Into<Socket>) -> ServerConnection {
        ServerConnection { socket: stream.into(), tls: None }
    }

    /// Begins TLS.
    ///
    /// # Errors
    /// An error of the socket or, within it, of the handshake.
    pub(super) fn secure(self, mut tls: ClientConnection) -> io::Result<ServerConnection> {
        let ServerConnection { mut socket, .. } = self;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(ServerConnection { socket, tls: Some(Box::new(tls)) })
    }

    /// The certificates of the server, its own first; none without TLS.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().and_then(|tls| tls.peer_certificates()).unwrap_or_default()
    }

    /// Waits at most `wait` for bytes, and appends them to `input`. Returns 0 if the peer has closed the connection.
    pub(super) fn read(&mut self, input: &mut Vec<u8>, wait: Duration) -> io::Result<usize> {
        // The system takes zero for no limit.
        self.socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 16 * 1024];
        let length = match &mut self.tls {
            None => self.socket.read(&mut buffer)?,
            Some(tls) => Stream::new(&mut **tls, &mut self.socket).read(&mut buffer)?,
        };
        input.extend_from_slice(&buffer[..length]);
        Ok(length)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.set_write_timeout(Some(TIMEOUT))?;
        match &mut self.tls {
            None => self.socket.write_all(bytes),
            Some(tls) => Stream::new(&mut **tls, &mut self.socket).write_all(bytes),
        }
    }
}

/// A limit on the whole life of a connection, in force as long as this value lives: a server that sends a byte now and then would
/// never exceed the limit of a single read.
pub(super) struct Deadline {
    /// Dropped with the deadline, which tells the thread to leave the connection alone.
    _alive: Sender<()>,
}

impl Deadline {
    /// # Errors
    /// No descriptor or no thread is left.
    pub(super) fn new(connection: &ServerConnection, longest: Duration) -> io::Result<Deadline> {
        let socket = connection.socket.try_clone()?;
        let (alive, over) = channel();
        let watch = move || {
            if over.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                // It may be closed already.
                let _ = socket.shutdown(Shutdown::Both);
            }
        };
        std::thread::Builder::new().name("limit".into()).spawn(watch)?;
        Ok(Deadline { _alive: alive })
    }
}

/// Returns whether a read failed for lack of bytes in time.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Connects to the first address of `HOST:PORT` that accepts, or to a Unix socket, `unix:/PATH`.
///
/// # Errors
/// The error of the last address, or of the name lookup.
pub(super) fn connect(address: &str) -> io::Result<ServerConnection> {
    if let Some(path) = address.strip_prefix("unix:") {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect_timeout(&SockAddr::unix(path)?, TIMEOUT)?;
        return Ok(ServerConnection::new(socket));
    }
    let mut failure = io::Error::other("there is no such address");
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, TIMEOUT) {
            Ok(stream) => return Ok(ServerConnection::new(stream)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Requests a path of the HTTP server at an address that [`connect`] takes, and returns the answer with its head.
///
/// # Errors
/// The error of the socket.
pub(super) fn fetch(address: &str, path: &str) -> io::Result<String> {
    let mut connection = connect(address)?;
    // By address: the server does not know every name that leads to it.
    let peer = connection.socket.peer_addr()?.as_socket();
    let host = peer.map_or("localhost".to_owned(), |peer| peer.to_string());
    let request = ["GET ", path, " HTTP/1.1\r\nHost: ", &host, "\r\nConnection: close\r\n\r\n"];
    connection.write(request.concat().as_bytes())?;
    let _limit = Deadline::new(&connection, ANSWER_MAX)?;
    connection.socket.set_read_timeout(Some(TIMEOUT))?;
    let mut answer = Vec::new();
    connection.socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
