//! The file of a Unix socket: its mode and group, a stale file that is replaced, and its removal at the end.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::process::umask;
use socket2::{Domain, SockAddr, Socket, Type};

/// The groups of this machine (group(5)).
const GROUPS: &str = "/etc/group";

/// The largest part of that file that is read.
const GROUPS_BYTES_MAX: u64 = 1 << 20;

/// The mode and group of the files of Unix sockets. To connect, a process needs the right to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAccess {
    /// The mode as for chmod, whatever the umask is.
    pub mode: u32,
    /// The group; `None`: that of the process.
    pub group: Option<UnixGroup>,
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixGroup {
    /// A name in `/etc/group`. A group of a directory service is given by its number.
    Name(String),
    Number(u32),
}

impl Default for UnixAccess {
    /// The user and the group of the process.
    fn default() -> UnixAccess {
        UnixAccess { mode: 0o660, group: None }
    }
}

impl fmt::Display for UnixGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixGroup::Name(name) => f.write_str(name),
            UnixGroup::Number(number) => write!(f, "{number}"),
        }
    }
}

impl UnixGroup {
    fn number(&self) -> io::Result<u32> {
        let name = match self {
            UnixGroup::Number(number) => return Ok(*number),
            UnixGroup::Name(name) => name,
        };
        let mut bytes = Vec::new();
        File::open(GROUPS)?.take(GROUPS_BYTES_MAX).read_to_end(&mut bytes)?;
        group_number(&String::from_utf8_lossy(&bytes), name).ok_or_else(|| {
            let text = format!("{GROUPS} has no group {name:?}; unix.group takes a number as well");
            io::Error::new(ErrorKind::InvalidInput, text)
        })
    }
}

/// Finds the number of a group in lines of the form `name:password:number:users`.
fn group_number(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The file of a socket of this process, removed on drop if it is still the same file. The socket must be open until then: it
/// keeps the number of the file from being given to another one, and other servers from replacing the file.
pub(super) struct SocketFile {
    path: PathBuf,
    /// The device and the number of the file.
    identity: (u64, u64),
}

impl SocketFile {
    pub fn new(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Binds a Unix socket, which does not listen yet: nobody connects before the file has its mode and group. A stale file, which an
/// earlier server left, is replaced.
///
/// # Errors
/// A live server or another file at the path (`AddrInUse`), an unknown group (`InvalidInput`), and the errors of the system.
pub(super) fn bind(path: &Path, access: &UnixAccess) -> io::Result<(Socket, SocketFile)> {
    let group = access.group.as_ref().map(UnixGroup::number).transpose()?;
    let address = SockAddr::unix(path)?;
    let socket = new_socket()?;
    // The file gets the mode of the socket (unix(7)). A change by its path could meet a link that another user has put there.
    fchmod(&socket, Mode::from_raw_mode(access.mode))?;
    let bind = || {
        let before = umask(Mode::empty());
        let bound = socket.bind(&address);
        umask(before);
        bound
    };
    match bind() {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            bind()?;
        }
        result => result?,
    }
    let file = SocketFile::new(path)?;
    if group.is_some() {
        lchown(path, None, group).map_err(|error| {
            let text = format!("the socket cannot be given to unix.group: {error}");
            io::Error::new(error.kind(), text)
        })?;
    }
    Ok((socket, file))
}

fn new_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Removes the file of a socket at which nobody listens. Two servers that start at the same path at the same moment may both find
/// it stale; the later one then has the path.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let in_use = |text: &str| Err(io::Error::new(ErrorKind::AddrInUse, text));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("there is a file at this path that is no socket");
    }
    match new_socket()?.connect(address) {
        Ok(()) => in_use("another server listens there"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Its queue may be full, or closed to this user.
        Err(error) => in_use(&format!("another server may listen there: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// A folder of this test's own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let name = format!("oneloop-unix-socket-{}-{name}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("socket")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_file_has_its_mode_and_leaves_with_its_server() {
        let folder = Folder::new("mode");
        let path = folder.socket();
        for wanted in [0o660, 0o600, 0o777] {
            let access = UnixAccess { mode: wanted, ..UnixAccess::default() };
            let (socket, file) = bind(&path, &access).unwrap();
            assert_eq!(mode(&path), wanted);
            UnixStream::connect(&path).expect_err("it does not listen yet");
            socket.listen(1).unwrap();
            UnixStream::connect(&path).expect("it listens");
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let folder = Folder::new("stale");
        let path = folder.socket();
        drop(UnixListener::bind(&path).unwrap());
        let (socket, file) = bind(&path, &UnixAccess::default()).expect("nobody listens there");
        socket.listen(1).unwrap();
        let refused = bind(&path, &UnixAccess::default()).err().expect("somebody does");
        assert_eq!(refused.to_string(), "another server listens there");
        // Another file has taken the place: it is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        drop((file, socket));
        assert!(path.exists());
        let refused = bind(&path, &UnixAccess::default()).err().expect("that is no socket");
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn groups_are_found_by_name_in_the_lines_of_the_machine() {
        let groups = "root:x:0:\nwww:x:33:a,b\nwww-data:x:34:\nbroken\nodd:x:many:\n";
        for (name, number) in [
            ("root", Some(0)),
            ("www-data", Some(34)),
            ("www", Some(33)),
            ("broken", None),
            ("odd", None),
            ("", None),
        ] {
            assert_eq!(group_number(groups, name), number, "{name}");
        }
        let folder = Folder::new("group");
        let group = Some(UnixGroup::Name("no-such-group".to_owned()));
        let access = UnixAccess { group, ..UnixAccess::default() };
        let refused = bind(&folder.socket(), &access).err().expect("there is none");
        assert!(refused.to_string().contains("no group \"no-such-group\""), "{refused}");
        assert!(!folder.socket().exists());
    }
}
