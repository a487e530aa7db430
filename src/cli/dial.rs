//! Connections of a command to a server: whoever types it can wait, but not for ever.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How long a server may take to connect or to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a whole answer may take, however it comes.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// More than any server says.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// A connection.
pub(super) enum ServerConnection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ServerConnection {
    /// Waits for bytes, for so long; 0 of them: the other side has ended it.
    pub(super) fn read_within(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        // To the system, zero is for ever.
        let wait = Some(wait.max(Duration::from_millis(1)));
        match self {
            ServerConnection::Tcp(stream) => {
                stream.set_read_timeout(wait).and_then(|()| stream.read(buffer))
            }
            ServerConnection::Unix(stream) => {
                stream.set_read_timeout(wait).and_then(|()| stream.read(buffer))
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let wait = Some(TIMEOUT);
        match self {
            ServerConnection::Tcp(stream) => {
                stream.set_write_timeout(wait).and_then(|()| stream.write_all(bytes))
            }
            ServerConnection::Unix(stream) => {
                stream.set_write_timeout(wait).and_then(|()| stream.write_all(bytes))
            }
        }
    }
}

/// The end of a connection after so long in all, while this lives: a server that drips a byte now and then would use up the
/// patience of each single read, and never that of all.
pub(super) struct Deadline {
    /// Its end tells the thread that there is nothing to end.
    _alive: Sender<()>,
}

impl Deadline {
    /// # Errors
    /// There is no descriptor or no thread to be had.
    pub(super) fn new(line: &ServerConnection, longest: Duration) -> io::Result<Deadline> {
        let line = match line {
            ServerConnection::Tcp(stream) => ServerConnection::Tcp(stream.try_clone()?),
            ServerConnection::Unix(stream) => ServerConnection::Unix(stream.try_clone()?),
        };
        let (alive, over) = channel();
        let watch = move || {
            if over.recv_timeout(longest) == Err(RecvTimeoutError::Timeout) {
                // One that is gone already needs no end.
                let _ = match &line {
                    ServerConnection::Tcp(stream) => stream.shutdown(Shutdown::Both),
                    ServerConnection::Unix(stream) => stream.shutdown(Shutdown::Both),
                };
            }
        };
        std::thread::Builder::new().name("limit".into()).spawn(watch)?;
        Ok(Deadline { _alive: alive })
    }
}

/// Whether a read ended because nothing came.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Connects to `HOST:PORT`, by whichever of its addresses answers first in their order.
///
/// # Errors
/// Those of the last address, or of the look-up.
pub(super) fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failure = io::Error::other("there is no such address");
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// All that a server at `HOST:PORT` answers to a request for a path, its head included.
///
/// # Errors
/// Those of the socket.
pub(super) fn fetch(address: &str, path: &str) -> io::Result<String> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // A name is none that the server knows.
    let host = stream.peer_addr()?.to_string();
    let request = ["GET ", path, " HTTP/1.1\r\nHost: ", &host, "\r\nConnection: close\r\n\r\n"];
    stream.write_all(request.concat().as_bytes())?;
    let _limit = Deadline::new(&ServerConnection::Tcp(stream.try_clone()?), ANSWER_MAX)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
