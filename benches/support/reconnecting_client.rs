//! A client that connects, subscribes, is cut off, and comes back with its last cursor.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::client::{begin_to_connect, head_for, whole_frame};
use super::delivery_check::{DeliveryCheck, DeliveryCounts};

/// Neighbours in number come from different addresses: none runs out of ports that wait for the last segments of their last
/// connection.
const NUMBERS_EACH: usize = 10;

/// A close frame with the code 1000, and the answer to a ping.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8];
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// The ways to cut off a client.
#[derive(Clone, Copy)]
pub enum Cut {
    /// It says that it leaves.
    Close,
    /// Its end of the connection is gone at once, with all that is under way.
    Reset,
    /// It ends as a process does that is killed.
    Drop,
}

/// A client that reconnects.
pub struct ReconnectingClient {
    number: usize,
    token: String,
    pub delivery: DeliveryCheck,
    connection: Option<Connection>,
    /// The last time that a server ended its connection, and the wait that it asked for.
    pub asked: Option<(Instant, Duration)>,
    /// The number of its connections so far.
    visits: usize,
    /// The process that has welcomed it last.
    pub process: String,
}

struct Connection {
    stream: TcpStream,
    has_asked: bool,
    is_upgraded: bool,
    welcomed: Option<Instant>,
    retry: Option<Duration>,
    incoming: Vec<u8>,
}

impl ReconnectingClient {
    /// It has not come yet.
    pub fn new(number: usize, token: String, delivery: DeliveryCheck) -> ReconnectingClient {
        ReconnectingClient {
            number,
            token,
            delivery,
            connection: None,
            asked: None,
            visits: 0,
            process: String::new(),
        }
    }

    /// Returns whether it has no connection.
    pub fn is_away(&self) -> bool {
        self.connection.is_none()
    }

    /// Returns whether it has been welcomed.
    pub fn is_welcomed(&self) -> bool {
        self.welcomed().is_some()
    }

    /// The time of its welcome.
    pub fn welcomed(&self) -> Option<Instant> {
        self.connection.as_ref()?.welcomed
    }

    /// Comes to the next of these servers.
    pub fn come(&mut self, servers: &[SocketAddr], registry: &Registry) -> io::Result<()> {
        let server = servers[(self.number + self.visits) % servers.len()];
        self.visits += 1;
        let stream = begin_to_connect(server, self.number * NUMBERS_EACH)?;
        let mut stream = TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(self.number), interest)?;
        self.connection = Some(Connection {
            stream,
            has_asked: false,
            is_upgraded: false,
            welcomed: None,
            retry: None,
            incoming: Vec::new(),
        });
        Ok(())
    }

    /// Its connection ends, whatever is under way.
    pub fn leave(&mut self, cut: Cut) {
        let Some(mut connection) = self.connection.take() else { return };
        // The server may have gone before.
        match cut {
            Cut::Close => _ = connection.stream.write(&CLOSE),
            Cut::Reset => {
                _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
            }
            Cut::Drop => {}
        }
    }

    /// Something happened to its connection: does all that can be done. Tells of each fault.
    ///
    /// # Errors
    /// If the connection has ended; the client has none then.
    pub fn on_ready(
        &mut self,
        buffer: &mut [u8],
        seen: &mut DeliveryCounts,
        mut tell: impl FnMut(String),
    ) -> io::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let server = connection.stream.peer_addr();
        let result = match server {
            // Not connected yet, or not any more.
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                connection.stream.take_error().and_then(|error| error.map_or(Ok(()), Err))
            }
            Err(error) => Err(error),
            Ok(server) => {
                let (token, delivery, process) =
                    (&self.token, &mut self.delivery, &mut self.process);
                let asked = connection.ask(server, token, &delivery.since);
                asked.and_then(|()| {
                    connection.read(buffer, |connection, text| {
                        // The first one is the welcome.
                        if connection.welcomed.is_none() {
                            connection.welcomed = Some(Instant::now());
                            process_of(text).clone_into(process);
                        }
                        delivery.on_text(text, seen).into_iter().for_each(&mut tell);
                    })
                })
            }
        };
        if result.is_err() {
            let connection = self.connection.take();
            self.asked = connection.and_then(|it| it.retry).map(|retry| (Instant::now(), retry));
        }
        result
    }
}

impl Connection {
    fn ask(&mut self, server: SocketAddr, token: &str, since: &str) -> io::Result<()> {
        if self.has_asked {
            return Ok(());
        }
        let path = if since.is_empty() { "/ws".to_owned() } else { format!("/ws?since={since}") };
        let head = head_for(&path, server, token);
        self.stream.write_all(head.as_bytes())?;
        self.has_asked = true;
        Ok(())
    }

    /// Reads until nothing is left: events come for edges alone.
    fn read(
        &mut self,
        buffer: &mut [u8],
        mut on_text: impl FnMut(&mut Connection, &str),
    ) -> io::Result<()> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    self.incoming.extend_from_slice(&buffer[..length]);
                    self.take_in(&mut on_text)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_in(&mut self, on_text: &mut impl FnMut(&mut Connection, &str)) -> io::Result<()> {
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        if !self.is_upgraded
            && let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n")
        {
            if !rest.starts_with(b"HTTP/1.1 101 ") {
                return Err(ErrorKind::ConnectionRefused.into());
            }
            self.is_upgraded = true;
            rest = &rest[end + 4..];
        }
        while self.is_upgraded
            && let Some((first, payload, length)) = whole_frame(rest)
        {
            match first {
                0x81 => on_text(self, &String::from_utf8_lossy(payload)),
                0x89 => self.stream.write_all(&PONG)?,
                // A close frame: the connection ends with its answer.
                _ => {
                    _ = self.stream.write(&CLOSE);
                    self.retry = retry_of(payload);
                    return Err(ErrorKind::ConnectionAborted.into());
                }
            }
            rest = &rest[length..];
        }
        self.incoming = rest.to_vec();
        Ok(())
    }
}

/// The name of a process of several loops in a welcome: `1`, and `1x2` for the second one that takes the place of loop 1.
pub fn process_of(welcome: &str) -> &str {
    let (_, rest) = welcome.split_once(r#""conn":""#).unwrap_or_default();
    rest.split('-').nth(1).unwrap_or_default()
}

/// The wait that a server asks for when it goes away (1001).
fn retry_of(close: &[u8]) -> Option<Duration> {
    let (code, reason) = close.split_first_chunk()?;
    let reason: serde_json::Value = serde_json::from_slice(reason).ok()?;
    (u16::from_be_bytes(*code) == 1001).then_some(Duration::from_millis(reason["retry"].as_u64()?))
}
