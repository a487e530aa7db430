//! A socket that accepts connections, by TCP or in the file system.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::engine::bounds::Bounds;
use crate::engine::reactor::listen::Listen;
use crate::engine::reactor::unix_socket::{self, SocketFile, UnixAccess};

/// Connections that may wait in the kernel's queue, which `net.core.somaxconn` limits as well.
pub const BACKLOG: i32 = 4096;

/// The address of a peer on a Unix socket, which has none: such a peer is on this machine.
const LOCAL_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Bounds of the kernel on accepted connections.
#[derive(Clone, Copy, Debug)]
pub struct Inherited {
    /// `send_buffer_bytes`: without it the kernel buffers up to `tcp_wmem`, 4 MB, for each peer that does not read.
    pub send_buffer_bytes: usize,
    /// `silence_seconds`: how long a peer may acknowledge nothing; 0: as long as the kernel tries.
    pub silence_seconds: u32,
}

impl Inherited {
    pub fn of(bounds: &Bounds) -> Inherited {
        let Bounds { send_buffer_bytes, silence_seconds, .. } = *bounds;
        Inherited { send_buffer_bytes, silence_seconds }
    }

    /// Sets them on a TCP listener, from which connections inherit them in the kernel.
    pub fn set(self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_send_buffer_size(self.send_buffer_bytes)?;
        let seconds = Some(self.silence_seconds).filter(|seconds| *seconds > 0);
        socket.set_tcp_user_timeout(seconds.map(|seconds| Duration::from_secs(seconds.into())))?;
        // Linux lets accepted sockets inherit TCP_NODELAY: one call instead of one per connection. A client's pending writes leave
        // in one write per turn, so Nagle's algorithm has nothing to gather.
        socket.set_tcp_nodelay(true)
    }
}

/// A listening socket.
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix {
        /// Removed before the socket is closed; `None` if another process made the file.
        file: Option<SocketFile>,
        socket: UnixListener,
        /// Set on each accepted connection: on Unix sockets the kernel lets it inherit nothing.
        send_buffer_bytes: usize,
    },
}

impl ListeningSocket {
    /// Listens for clients.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text.
    pub fn open(
        address: &Listen,
        access: &UnixAccess,
        inherited: Inherited,
    ) -> io::Result<ListeningSocket> {
        match address {
            Listen::Tcp(address) | Listen::Tls(address) => {
                ListeningSocket::open_tcp(*address, inherited).map(|(socket, _)| socket)
            }
            Listen::Unix(path) => {
                let explain = |error| explain(address, &error);
                let (socket, file) = unix_socket::bind(path, access).map_err(explain)?;
                socket.listen(BACKLOG).map_err(explain)?;
                Ok(ListeningSocket::unix(socket, Some(file), inherited))
            }
        }
    }

    /// Listens by TCP, and returns the address with the port that the system chose if it was 0.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text.
    pub fn open_tcp(
        address: SocketAddr,
        inherited: Inherited,
    ) -> io::Result<(ListeningSocket, SocketAddr)> {
        let explain = |error| explain(&address, &error);
        let socket = bind(address).map_err(explain)?;
        inherited.set(&SockRef::from(&socket))?;
        let socket = TcpListener::from_std(socket.into());
        let address = socket.local_addr()?;
        Ok((ListeningSocket::Tcp(socket), address))
    }

    /// Takes over a listener opened by another process, in place of `address`.
    ///
    /// # Errors
    /// A socket that is not a listener by TCP or in the file system, or a Unix socket in place of a listener with TLS
    /// (`InvalidInput`).
    pub fn adopt(
        passed: OwnedFd,
        address: &Listen,
        inherited: Inherited,
    ) -> io::Result<ListeningSocket> {
        let invalid = |text: String| io::Error::new(ErrorKind::InvalidInput, text);
        let socket = Socket::from(passed);
        let is_stream = socket.r#type().is_ok_and(|found| found == Type::STREAM);
        let domain = socket.domain().ok();
        let domain = domain.filter(|_| is_stream && socket.is_listener().unwrap_or(false));
        match domain {
            Some(Domain::IPV4 | Domain::IPV6) => {
                socket.set_nonblocking(true)?;
                inherited.set(&SockRef::from(&socket))?;
                Ok(ListeningSocket::Tcp(TcpListener::from_std(socket.into())))
            }
            Some(Domain::UNIX) if address.has_tls() => Err(invalid(format!(
                "a Unix socket was passed in place of {address}: name the addresses of listen in the order of the sockets"
            ))),
            Some(Domain::UNIX) => {
                socket.set_nonblocking(true)?;
                Ok(ListeningSocket::unix(socket, None, inherited))
            }
            _ => Err(invalid("the socket that was passed is no TCP or Unix listener".to_owned())),
        }
    }

    fn unix(socket: Socket, file: Option<SocketFile>, inherited: Inherited) -> ListeningSocket {
        ListeningSocket::Unix {
            file,
            socket: UnixListener::from_std(OwnedFd::from(socket).into()),
            send_buffer_bytes: inherited.send_buffer_bytes,
        }
    }

    /// The socket, and whether its file is to be removed.
    pub fn descriptor(&self) -> (BorrowedFd<'_>, bool) {
        match self {
            ListeningSocket::Tcp(socket) => (socket.as_fd(), false),
            ListeningSocket::Unix { socket, file, .. } => (socket.as_fd(), file.is_some()),
        }
    }

    /// Removes the file at the end: the process that made it has gone without that.
    ///
    /// # Errors
    /// There is none.
    pub fn own_file(&mut self, path: &Path) -> io::Result<()> {
        if let ListeningSocket::Unix { file, .. } = self {
            *file = Some(SocketFile::new(path)?);
        }
        Ok(())
    }

    /// The address at which clients connect.
    ///
    /// # Errors
    /// The errors of `getsockname`.
    pub fn address(&self, has_tls: bool) -> io::Result<Listen> {
        match self {
            ListeningSocket::Tcp(socket) if has_tls => socket.local_addr().map(Listen::Tls),
            ListeningSocket::Tcp(socket) => socket.local_addr().map(Listen::Tcp),
            ListeningSocket::Unix { socket, .. } => {
                let address = SockRef::from(socket).local_addr()?;
                let path = address.as_pathname().map(|path| path.to_owned());
                // An abstract name of the service manager, as it writes it (systemd.socket(5)).
                let name = || {
                    let name = address.as_abstract_namespace().unwrap_or_default();
                    std::ffi::OsStr::from_bytes(&[b"@", name].concat()).into()
                };
                Ok(Listen::Unix(path.unwrap_or_else(name)))
            }
        }
    }

    /// # Errors
    /// The errors of `epoll_ctl`.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            ListeningSocket::Tcp(socket) => registry.register(socket, token, Interest::READABLE),
            ListeningSocket::Unix { socket, .. } => {
                registry.register(socket, token, Interest::READABLE)
            }
        }
    }

    /// Accepts a connection. On a Unix socket it reads, writes and shuts down by the same system calls as one of TCP, so it is
    /// held by the same type; its options of TCP cannot be set.
    ///
    /// # Errors
    /// `WouldBlock` if none waits, and the errors of `accept4`.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            ListeningSocket::Tcp(socket) => socket.accept(),
            ListeningSocket::Unix { socket, send_buffer_bytes, .. } => {
                let (stream, _) = socket.accept()?;
                let stream = TcpStream::from(OwnedFd::from(stream));
                SockRef::from(&stream).set_send_buffer_size(*send_buffer_bytes)?;
                Ok((stream, LOCAL_PEER))
            }
        }
    }
}

/// An error of `bind` with the address in its text.
pub(super) fn explain(address: &impl std::fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
