//! The addresses at which clients connect.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An address for clients. It is shown as the setting `listen` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    /// TCP, with TLS from the first byte.
    Tls(SocketAddr),
    /// The path of a Unix socket. Its peers have no address and count as 127.0.0.1.
    Unix(PathBuf),
}

impl Listen {
    /// The longest path of a Unix socket, in bytes: `sun_path` without its zero byte (unix(7)).
    pub const PATH_BYTES_MAX: usize = 107;

    /// Returns whether connections begin with a TLS handshake.
    pub fn has_tls(&self) -> bool {
        matches!(self, Listen::Tls(_))
    }

    /// The URL of a route; on a Unix socket as nginx writes it, with the path of the route behind a second colon.
    pub fn client_url(&self, route: &str) -> String {
        match self {
            Listen::Tcp(address) => format!("ws://{address}{route}"),
            Listen::Tls(address) => format!("wss://{address}{route}"),
            Listen::Unix(_) => format!("{self}:{route}"),
        }
    }

    /// The address and port; `None` for a Unix socket.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Listen::Tcp(address) | Listen::Tls(address) => Some(*address),
            Listen::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Listen {
        Listen::Tcp(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Tls(address) => write!(f, "tls://{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
