//! How many descriptors the process may hold, and what that leaves for clients.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors that are no client's: poll, waker, signals, listeners, the link, standard streams, the spare one, a look-up,
/// and those who are let in only to be told that the server is full.
pub const RESERVE: usize = 64;

/// How many the process may hold, if the soft limit is raised as far as that goes; `None`: no limit but the kernel's.
pub fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}

/// Raises the soft limit to the hard one and returns how many clients there can be: `wanted`, or as many as fit if that is 0.
///
/// # Errors
/// A limit that leaves no room for any client.
pub fn clients_max(wanted: usize, publishers_max: usize) -> io::Result<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let soft = limit.current;
        limit.current = limit.maximum;
        if setrlimit(Resource::Nofile, limit).is_err() {
            limit.current = soft;
        }
    }
    // No limit at all: the kernel's own bound for one process (fs.nr_open) by default.
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
