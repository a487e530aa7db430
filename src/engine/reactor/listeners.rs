//! The listeners: accepting connections, limits on them, and behaviour without room.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use mio::Registry;
use mio::net::TcpStream;

use crate::clock::Millis;
use crate::engine::bounds::Bounds;
use crate::engine::reactor::listen::Listen;
use crate::engine::reactor::listening_socket::{Inherited, ListeningSocket};
use crate::engine::reactor::token::Source;
use crate::engine::reactor::unix_socket::UnixAccess;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// The pause in accepting after descriptors ran out, unless one is freed before.
const EXHAUSTED_PAUSE: Millis = 1000;

/// The purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Clients, after a TLS handshake if `has_tls`.
    Clients { has_tls: bool },
    /// `/metrics`, `/clients`, `/healthz`, `/readyz`.
    Admin,
    /// The connections of the port with this number, and its answer to those for which there is no room.
    Port { number: usize, refusal: &'static [u8] },
}

struct Listener {
    /// The setting and the address in it, by which another process finds the socket again.
    key: String,
    socket: ListeningSocket,
    purpose: Purpose,
    /// Connections may wait: accept has not returned `WouldBlock` since the last event.
    pending: bool,
}

pub struct Listeners {
    inherited: Inherited,
    /// Sockets of the process whose place this one takes, until each is opened.
    handed_over: Vec<HandedListener>,
    /// The files of Unix sockets, with the listeners' numbers, that are the other process' until it has gone.
    files: Vec<(usize, PathBuf)>,
    /// By the number in their token; a closed one leaves a vacant place.
    listeners: Vec<Option<Listener>>,
    /// The listener that was last tried.
    turn: usize,
    /// Closed for a moment if descriptors run out, so that a waiting client gets an answer.
    spare: Option<File>,
    /// Descriptors ran out: nothing is accepted before this.
    exhausted_until: Option<Millis>,
    /// The current second, and clients accepted in it, for `handshakes_per_second_max`.
    second: Millis,
    accepted: u32,
}

/// A listener of the process whose place this one takes.
pub struct HandedListener {
    key: String,
    /// The file of a Unix socket is removed when it is closed.
    owns_file: bool,
    socket: OwnedFd,
}

impl HandedListener {
    pub fn restored(reader: &mut StateReader<'_>) -> Result<HandedListener, StateError> {
        let (key, owns_file) = (reader.text(BYTES_MAX)?, reader.bool()?);
        Ok(HandedListener { key, owns_file, socket: reader.descriptor()? })
    }

    /// Returns the socket, and the file that is this process' once the other one has gone.
    fn open(
        self,
        address: &Listen,
        inherited: Inherited,
    ) -> io::Result<(ListeningSocket, Option<PathBuf>)> {
        let socket = ListeningSocket::adopt(self.socket, address, inherited)?;
        let path = match address {
            Listen::Unix(path) if self.owns_file => Some(path.clone()),
            _ => None,
        };
        Ok((socket, path))
    }
}

/// The outcome of an accept.
pub enum Accepted {
    Stream(TcpStream, SocketAddr, Purpose),
    /// No connection waits.
    Nothing,
    /// Clients wait, held back by a bound on handshakes.
    HeldBack,
    /// No descriptor was left.
    Exhausted,
}

impl Listeners {
    pub fn new(bounds: &Bounds, handed_over: Vec<HandedListener>) -> Listeners {
        Listeners {
            inherited: Inherited::of(bounds),
            handed_over,
            files: Vec::new(),
            listeners: Vec::new(),
            turn: 0,
            spare: File::open("/dev/null").ok(),
            exhausted_until: None,
            second: 0,
            accepted: 0,
        }
    }

    /// Opens the listeners of clients. A socket that was passed to the process takes the place of the address at its position in
    /// the list. Returns their addresses, with the ports that the system chose.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text; passed sockets that do not fit the list (`InvalidInput`).
    pub fn open_clients(
        &mut self,
        registry: &Registry,
        listen: &[Listen],
        passed: Vec<OwnedFd>,
        access: &UnixAccess,
    ) -> io::Result<Vec<Listen>> {
        check_passed_len(passed.len(), listen.len())?;
        let mut passed = passed.into_iter();
        let mut open = |address: &Listen| {
            let key = format!("listen {address}");
            let socket = match (self.take_handed(&key), passed.next()) {
                (Some(handed), _) => {
                    let (socket, file) = handed.open(address, self.inherited)?;
                    self.files.extend(file.map(|path| (self.listeners.len(), path)));
                    socket
                }
                (None, Some(passed)) => ListeningSocket::adopt(passed, address, self.inherited)?,
                (None, None) => ListeningSocket::open(address, access, self.inherited)?,
            };
            let opened = socket.address(address.has_tls())?;
            self.add(registry, key, socket, Purpose::Clients { has_tls: address.has_tls() })?;
            Ok(opened)
        };
        listen.iter().map(&mut open).collect()
    }

    /// Opens a listener and returns its address, with the port that the system chose if it was 0.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text.
    pub fn open(
        &mut self,
        registry: &Registry,
        (name, address): (&str, SocketAddr),
        purpose: Purpose,
    ) -> io::Result<SocketAddr> {
        let key = format!("{name} {address}");
        let socket = match self.take_handed(&key) {
            Some(handed) => handed.open(&Listen::Tcp(address), self.inherited)?.0,
            None => ListeningSocket::open_tcp(address, self.inherited)?.0,
        };
        let opened = socket.address(false)?.socket_addr().unwrap_or(address);
        self.add(registry, key, socket, purpose)?;
        Ok(opened)
    }

    /// The process whose place this one takes has gone, so the files of its Unix sockets are removed at the end of this one.
    pub fn own_files(&mut self) {
        for (number, path) in std::mem::take(&mut self.files) {
            if let Some(Some(listener)) = self.listeners.get_mut(number) {
                // Nothing is to be removed if there is no such file any more.
                let _ = listener.socket.own_file(&path);
            }
        }
    }

    fn take_handed(&mut self, key: &str) -> Option<HandedListener> {
        let place = self.handed_over.iter().position(|one| one.key == key)?;
        Some(self.handed_over.remove(place))
    }

    /// Writes the listeners.
    pub fn save<'a>(&'a self, writer: &mut StateWriter<'a>) {
        writer.len(self.listeners.iter().flatten().count());
        for listener in self.listeners.iter().flatten() {
            let (descriptor, owns_file) = listener.socket.descriptor();
            writer.text(&listener.key);
            writer.bool(owns_file);
            writer.descriptor(descriptor);
        }
    }

    fn add(
        &mut self,
        registry: &Registry,
        key: String,
        mut socket: ListeningSocket,
        purpose: Purpose,
    ) -> io::Result<()> {
        socket.register(registry, Source::Listener(self.listeners.len()).token())?;
        self.listeners.push(Some(Listener { key, socket, purpose, pending: false }));
        Ok(())
    }

    /// Records that connections wait at a listener.
    pub fn note(&mut self, number: usize) {
        if let Some(Some(listener)) = self.listeners.get_mut(number) {
            listener.pending = true;
        }
    }

    /// Closes the listeners but for the operator's.
    pub fn close(&mut self) {
        for listener in &mut self.listeners {
            *listener = listener.take().filter(|listener| listener.purpose == Purpose::Admin);
        }
    }

    /// Records that a descriptor was freed.
    pub fn on_freed(&mut self) {
        self.exhausted_until = None;
    }

    /// Returns when waiting connections can be accepted: now, later, or never (none waits). `room_at`: when a listener has room.
    pub fn next(
        &self,
        now: Millis,
        room_at: impl Fn(Purpose) -> Millis,
        per_second_max: u32,
    ) -> Option<Millis> {
        let waiting = self.listeners.iter().flatten().filter(|listener| listener.pending);
        let at = waiting.map(|listener| {
            let at = room_at(listener.purpose);
            let is_paced = listener.purpose.is_clients() && self.is_paced(now, per_second_max);
            if is_paced { at.max((now / 1000 + 1) * 1000) } else { at }
        });
        at.min().map(|at| at.max(self.exhausted_until.unwrap_or(now)).max(now))
    }

    fn is_paced(&self, now: Millis, per_second_max: u32) -> bool {
        per_second_max > 0 && self.second == now / 1000 && self.accepted >= per_second_max
    }

    /// Accepts a connection at any listener where some wait and there is room.
    pub fn accept(
        &mut self,
        now: Millis,
        has_room: impl Fn(Purpose) -> bool,
        per_second_max: u32,
    ) -> Accepted {
        if self.exhausted_until.is_some_and(|until| until > now) {
            return Accepted::Nothing;
        }
        self.exhausted_until = None;
        let is_paced = self.is_paced(now, per_second_max);
        let mut held_back = false;
        for _ in 0..self.listeners.len() {
            // In turns: a storm of clients must not shut out back ends and the operator.
            self.turn = (self.turn + 1) % self.listeners.len();
            let number = self.turn;
            let Some(listener) = &mut self.listeners[number] else { continue };
            if !listener.pending {
                continue;
            }
            let is_clients = listener.purpose.is_clients();
            if !has_room(listener.purpose) || (is_clients && is_paced) {
                held_back |= is_clients;
                continue;
            }
            match listener.socket.accept() {
                Ok((stream, address)) => {
                    if is_clients {
                        self.accepted =
                            if self.second == now / 1000 { self.accepted + 1 } else { 1 };
                        self.second = now / 1000;
                    }
                    return Accepted::Stream(stream, address, listener.purpose);
                }
                Err(error) if is_exhausted(&error) => {
                    self.exhausted_until = Some(now + EXHAUSTED_PAUSE);
                    self.answer_with_spare(number);
                    return Accepted::Exhausted;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => listener.pending = false,
                // The connection is gone already (ECONNABORTED and the like): the next is accepted in this turn or the next.
                Err(_) => {}
            }
        }
        if held_back { Accepted::HeldBack } else { Accepted::Nothing }
    }

    /// Accepts a client on the spare descriptor, responds that there is no room, and takes the descriptor back.
    fn answer_with_spare(&mut self, number: usize) {
        let Some(Some(listener)) = self.listeners.get_mut(number) else { return };
        if self.spare.take().is_some()
            && let Ok((stream, _)) = listener.socket.accept()
        {
            turn_away(stream, listener.purpose.refusal(503));
        }
        self.spare = File::open("/dev/null").ok();
    }
}

/// Returns an error if more sockets were passed than there are addresses.
pub(super) fn check_passed_len(passed: usize, listen: usize) -> io::Result<()> {
    if passed <= listen {
        return Ok(());
    }
    let text = format!("{passed} sockets were passed (LISTEN_FDS), but listen names {listen}");
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: the system has no room for another socket.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Purpose {
    pub fn is_clients(self) -> bool {
        matches!(self, Purpose::Clients { .. })
    }

    /// Returns the answer to a connection for which there is no slot. `status`: 503 or 429.
    pub fn refusal(self, status: u16) -> &'static [u8] {
        match self {
            Purpose::Port { refusal, .. } => refusal,
            // Before the handshake there is no key to send more under than an alert: internal_error (RFC 8446 section 6).
            Purpose::Clients { has_tls: true } => b"\x15\x03\x03\x00\x02\x02\x50",
            Purpose::Clients { has_tls: false } | Purpose::Admin if status == 429 => {
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n"
            }
            Purpose::Clients { has_tls: false } | Purpose::Admin => {
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n"
            }
        }
    }
}

/// Writes `answer`, as far as one write goes, and closes the connection.
pub fn turn_away(mut stream: TcpStream, answer: &[u8]) {
    // Read pending input first: a close with unread bytes is a reset, which destroys the response.
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write(answer);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
