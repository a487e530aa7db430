//! Listeners that several processes serve together.
//!
//! By TCP each process has a socket of its own on the same address (`SO_REUSEPORT`, socket(7)), among which the kernel spreads
//! connections. A queue is lost with the last descriptor of its socket, so whoever opened the listeners keeps a copy of each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::sockopt::set_socket_reuseport;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::engine::reactor::listen::Listen;
use crate::engine::reactor::listeners::check_passed_len;
use crate::engine::reactor::listening_socket::{BACKLOG, Inherited, ListeningSocket, explain};
use crate::engine::reactor::unix_socket::{self, SocketFile, UnixAccess};
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

/// Listeners of clients for several processes.
pub struct SharedListeners {
    /// Their addresses, with the ports that the system chose.
    pub addresses: Vec<Listen>,
    /// For each process, its listeners in the order of the addresses.
    pub of_each: Vec<Vec<OwnedFd>>,
    /// For each address, the setting by which another process finds its listeners again, and whether the file of a Unix socket is
    /// removed at the end.
    keys: Vec<(String, bool)>,
    /// The files of Unix sockets, removed when the last process is to end.
    files: Vec<SocketFile>,
    /// The files that are the other parent's until it has gone.
    files_to_own: Vec<PathBuf>,
}

/// The listeners of one address that another parent has handed over.
pub struct HandedListeners {
    key: String,
    owns_file: bool,
    sockets: Vec<OwnedFd>,
}

impl HandedListeners {
    /// Reads them, for this number of processes.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        reader: &mut StateReader<'_>,
        processes: usize,
    ) -> Result<HandedListeners, StateError> {
        let (key, owns_file) = (reader.text(BYTES_MAX)?, reader.bool()?);
        let sockets = (0..processes).map(|_| reader.descriptor()).collect::<Result<_, _>>()?;
        Ok(HandedListeners { key, owns_file, sockets })
    }
}

impl SharedListeners {
    /// Opens the listeners. Those of another parent are found by their addresses in the settings; sockets that were passed to this
    /// process take the places of the first addresses. `inherited`: also by connections that wait until a process accepts them.
    ///
    /// # Errors
    /// The errors of `bind`, with the address in the text; passed sockets that do not fit the list (`InvalidInput`).
    pub fn open(
        listen: &[Listen],
        passed: Vec<OwnedFd>,
        (access, inherited): (&UnixAccess, Inherited),
        processes: usize,
        mut handed_over: Vec<HandedListeners>,
    ) -> io::Result<SharedListeners> {
        check_passed_len(passed.len(), listen.len())?;
        let mut of_each: Vec<Vec<OwnedFd>> = (0..processes).map(|_| Vec::new()).collect();
        let (mut addresses, mut keys) = (Vec::new(), Vec::new());
        let (mut files, mut files_to_own) = (Vec::new(), Vec::new());
        let mut passed = passed.into_iter();
        for address in listen {
            let key = format!("listen {address}");
            let handed = handed_over.iter().position(|one| one.key == key);
            let handed = handed.map(|place| handed_over.swap_remove(place));
            let mut owns_file = handed.as_ref().is_some_and(|handed| handed.owns_file);
            let sockets = match (handed, passed.next(), address) {
                (Some(handed), _, _) => {
                    if let Listen::Unix(path) = address
                        && owns_file
                    {
                        files_to_own.push(path.clone());
                    }
                    handed.sockets
                }
                (None, Some(passed), _) => copies(passed, processes)?,
                (None, None, Listen::Tcp(at) | Listen::Tls(at)) => {
                    bind_all(*at, processes, inherited).map_err(|error| explain(address, &error))?
                }
                (None, None, Listen::Unix(path)) => {
                    owns_file = true;
                    let explain = |error| explain(address, &error);
                    let (socket, file) = unix_socket::bind(path, access).map_err(explain)?;
                    socket.listen(BACKLOG).map_err(explain)?;
                    files.push(file);
                    copies(socket.into(), processes)?
                }
            };
            let first = sockets.first().expect("there is a process").try_clone()?;
            let opened = ListeningSocket::adopt(first, address, inherited)?;
            addresses.push(opened.address(address.has_tls())?);
            keys.push((key, owns_file));
            of_each.iter_mut().zip(sockets).for_each(|(own, socket)| own.push(socket));
        }
        Ok(SharedListeners { addresses, of_each, keys, files, files_to_own })
    }

    /// The other parent has gone, so the files of its Unix sockets are removed at the end of this one.
    pub fn own_files(&mut self) {
        // Nothing is to be removed if there is no such file any more.
        let paths = std::mem::take(&mut self.files_to_own);
        self.files.extend(paths.iter().filter_map(|path| SocketFile::new(path).ok()));
    }

    /// Writes the listeners, for another parent.
    pub fn save<'a>(&'a self, writer: &mut StateWriter<'a>) {
        writer.len(self.keys.len());
        for (place, (key, owns_file)) in self.keys.iter().enumerate() {
            writer.text(key);
            writer.bool(*owns_file);
            self.of_each.iter().for_each(|own| writer.descriptor(own[place].as_fd()));
        }
    }
}

fn copies(socket: OwnedFd, count: usize) -> io::Result<Vec<OwnedFd>> {
    (0..count).map(|_| socket.try_clone()).collect()
}

/// Binds so many sockets to one address, which no other process may have.
fn bind_all(address: SocketAddr, count: usize, inherited: Inherited) -> io::Result<Vec<OwnedFd>> {
    // With SO_REUSEPORT alone, a second server of the same user would share the address without a word.
    drop(bind(address, false)?);
    let first = bind(address, true)?;
    let at = first.local_addr()?.as_socket().unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind(at, true)?);
    }
    let listening = sockets.into_iter().map(|socket| {
        inherited.set(&SockRef::from(&socket))?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    });
    listening.collect()
}

fn bind(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if is_shared {
        set_socket_reuseport(&socket, true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn open(address: SocketAddr) -> io::Result<SharedListeners> {
        let (listen, access) = ([Listen::Tcp(address)], UnixAccess::default());
        let inherited = Inherited { send_buffer_bytes: 16 << 10, silence_seconds: 60 };
        SharedListeners::open(&listen, Vec::new(), (&access, inherited), 2, Vec::new())
    }

    #[test]
    fn connections_have_their_bounds_before_a_process_accepts() {
        let shared = open(([127, 0, 0, 1], 0).into()).unwrap();
        let address = shared.addresses[0].socket_addr().unwrap();
        let _clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        for own in &shared.of_each {
            let (connection, _) = Socket::from(own[0].try_clone().unwrap()).accept().unwrap();
            // Linux reserves twice as much.
            assert_eq!(connection.send_buffer_size().unwrap(), 2 * (16 << 10));
            assert_eq!(connection.tcp_user_timeout().unwrap().map(|time| time.as_secs()), Some(60));
            assert!(connection.tcp_nodelay().unwrap());
        }
    }

    #[test]
    fn processes_share_an_address_that_is_nobody_elses() {
        let shared = open(([127, 0, 0, 1], 0).into()).unwrap();
        let address = shared.addresses[0].socket_addr().unwrap();
        assert!(address.port() > 0);
        let listeners: Vec<TcpListener> =
            shared.of_each.iter().map(|own| own[0].try_clone().unwrap().into()).collect();
        let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
        let accepted = |one: &TcpListener| one.incoming().take_while(Result::is_ok).count();
        let counts: Vec<usize> = listeners.iter().map(accepted).collect();
        assert_eq!(counts.iter().sum::<usize>(), clients.len());
        assert!(counts.iter().all(|count| *count > 0), "the kernel spreads them: {counts:?}");
        let second = open(address).err().expect("the address is taken");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(second.to_string().contains(&address.to_string()), "{second}");
    }
}
