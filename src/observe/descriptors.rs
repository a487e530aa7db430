//! The descriptor limit of the process, and the clients that it leaves room for.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of clients: poll, waker, signals, listeners, connections to Redis, standard streams, the spare one, a
/// name lookup, and connections that are accepted only to learn that the server is full.
pub const RESERVE: usize = 64;

/// The hard limit of descriptors; `None` if there is none but the kernel's.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the soft limit to the hard one, and returns the number of clients: `wanted`, or as many as fit if that is 0 or too many.
///
/// # Errors
/// The limit leaves no room for a client.
pub fn clients_max(wanted: usize, publishers_max: usize) -> io::Result<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let soft = limit.current;
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = soft;
        }
    }
    // Without a limit: the kernel's default bound for a process (fs.nr_open).
    let descriptors = limit.current.map_or(1 << 20, |limit| limit as usize);
    let room = descriptors.saturating_sub(RESERVE + publishers_max);
    if room == 0 {
        let text = format!("{descriptors} descriptors leave none for clients: raise `ulimit -n`");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if wanted > room {
        log::warn!(
            "clients_max is {wanted}, but {descriptors} descriptors leave room for {room} clients: raise `ulimit -n`"
        );
    }
    Ok(if wanted == 0 { room } else { wanted.min(room) })
}
