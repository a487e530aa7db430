//! The listeners: accepting connections, limits on them, and behaviour without room.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::clock::Millis;
use crate::engine::reactor::token::Source;

/// Connections that may wait in the kernel's queue, which `net.core.somaxconn` limits as well.
pub const BACKLOG: i32 = 4096;

/// The pause in accepting after descriptors ran out, unless one is freed before.
const EXHAUSTED_PAUSE: Millis = 1000;

/// The purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Clients,
    /// `/metrics`, `/clients`, `/healthz`, `/readyz`.
    Admin,
    /// The connections of the port, with its answer to those for which there is no room.
    Port(&'static [u8]),
}

struct Listener {
    socket: TcpListener,
    purpose: Purpose,
    /// Connections may wait: accept has not returned `WouldBlock` since the last event.
    pending: bool,
}

/// Bounds that accepted connections inherit from their listener in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// `send_buffer_bytes`: without it the kernel buffers up to `tcp_wmem`, 4 MB, for each peer that does not read.
    pub send_buffer_bytes: usize,
    /// `silence_seconds`: how long a peer may acknowledge nothing; 0: as long as the kernel tries.
    pub silence_seconds: u32,
}

impl Inherited {
    fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_send_buffer_size(self.send_buffer_bytes)?;
        let seconds = Some(self.silence_seconds).filter(|seconds| *seconds > 0);
        socket.set_tcp_user_timeout(seconds.map(|seconds| Duration::from_secs(seconds.into())))
    }
}

pub struct Listeners {
    inherited: Inherited,
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
    pub fn new(inherited: Inherited) -> Listeners {
        Listeners {
            inherited,
            listeners: Vec::new(),
            turn: 0,
            spare: File::open("/dev/null").ok(),
            exhausted_until: None,
            second: 0,
            accepted: 0,
        }
    }

    /// Opens a listener and returns its address, with the port that the system chose if it was 0.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text.
    pub fn open(
        &mut self,
        registry: &Registry,
        address: SocketAddr,
        purpose: Purpose,
    ) -> io::Result<SocketAddr> {
        let bound = bind(address).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        self.add(registry, bound, purpose)
    }

    /// Takes over a listener opened by another process, and returns its address.
    ///
    /// # Errors
    /// A socket that is not a TCP listener (`InvalidInput`).
    pub fn adopt(
        &mut self,
        registry: &Registry,
        listener: StdTcpListener,
        purpose: Purpose,
    ) -> io::Result<SocketAddr> {
        let socket = SockRef::from(&listener);
        if listener.local_addr().is_err() || !socket.is_listener().unwrap_or(false) {
            let text = "the socket that was passed is no TCP listener";
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        self.add(registry, listener, purpose)
    }

    fn add(
        &mut self,
        registry: &Registry,
        bound: StdTcpListener,
        purpose: Purpose,
    ) -> io::Result<SocketAddr> {
        self.inherited.set(&SockRef::from(&bound))?;
        let mut socket = TcpListener::from_std(bound);
        let token = Source::Listener(self.listeners.len()).token();
        registry.register(&mut socket, token, Interest::READABLE)?;
        let address = socket.local_addr()?;
        self.listeners.push(Some(Listener { socket, purpose, pending: false }));
        Ok(address)
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
            let is_paced =
                listener.purpose == Purpose::Clients && self.is_paced(now, per_second_max);
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
            let is_clients = listener.purpose == Purpose::Clients;
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

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: the system has no room for another socket.
fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

impl Purpose {
    /// Returns the answer to a connection for which there is no slot. `status`: 503 or 429.
    pub fn refusal(self, status: u16) -> &'static [u8] {
        match self {
            Purpose::Port(refusal) => refusal,
            Purpose::Clients | Purpose::Admin if status == 429 => {
                b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nContent-Length: 0\r\n\
                  Connection: close\r\n\r\n"
            }
            Purpose::Clients | Purpose::Admin => {
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

fn bind(address: SocketAddr) -> io::Result<StdTcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Linux lets accepted sockets inherit TCP_NODELAY: one call instead of one per connection. A client's pending writes leave in
    // one write per turn, so Nagle's algorithm has nothing to gather.
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
