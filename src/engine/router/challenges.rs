//! Answers to an ACME server's challenges, from the directory where certbot or lego put them (RFC 8555 section 8.3).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

use crate::engine::client::http::{Request, Response};
use crate::engine::server::Server;
use crate::observe::complaints::{Origin, Weight};

/// The path of a challenge in a request, and below the web root.
const PATH: &str = "/.well-known/acme-challenge/";
const FOLDERS: [&str; 2] = [".well-known", "acme-challenge"];

/// Characters of a token; those of Let's Encrypt have 43. The longest name that file systems take.
const TOKEN_BYTES_MAX: usize = 255;

/// Bytes of an answer: a token, a dot and the thumbprint of a key have 87.
const ANSWER_BYTES_MAX: u64 = 4096;

/// The error of a link, a pipe, a directory or a long file.
const NOT_REGULAR: &str = "it is no regular file of at most 4096 bytes";

/// The time to look for a file and read it, roughly: three calls that find everything in memory.
const READ_MICROSECONDS: u32 = 20;

/// The directory of challenges; without one nothing is answered.
///
/// A file is read when it is asked for, on the loop. It is short, an ACME client wrote it a moment ago, and it is opened only if it
/// is a regular file, so a local disk does not keep the loop waiting. A thread for it would be more code than the read.
#[derive(Default)]
pub struct Challenges {
    pub webroot: Option<PathBuf>,
}

impl Challenges {
    /// Returns the answer to a challenge; `None` if the request is for something else, or there is no such challenge.
    pub fn answer(&self, server: &mut Server, request: &Request) -> Option<Response> {
        let webroot = self.webroot.as_ref()?;
        let token = token(request.path())?;
        server.count_costly(READ_MICROSECONDS);
        match read(webroot, token) {
            Ok(answer) => Some(Response::new(200, "application/octet-stream", answer)),
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    let origin = Origin { path: Some(request.path()), address: None };
                    let text = || format!("acme_webroot: a challenge cannot be read: {error}");
                    server.complain("acme", Weight::Curable, origin, text);
                }
                None
            }
        }
    }
}

/// Returns the token in the path of a challenge. Its characters (RFC 8555 section 8.3) cannot lead out of the directory.
fn token(path: &str) -> Option<&str> {
    let token = path.strip_prefix(PATH)?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let fits = (1..=TOKEN_BYTES_MAX).contains(&token.len());
    (fits && token.bytes().all(is_good)).then_some(token)
}

/// Reads the file of a token.
///
/// # Errors
/// There is none, or it is no regular file of at most 4 KB. Below the web root no link is followed: the ACME client has fewer rights
/// than the server, and could publish what only the server may read. A pipe is opened without waiting.
fn read(webroot: &Path, token: &str) -> io::Result<Vec<u8>> {
    let file = match open_below(webroot, token) {
        Err(Errno::LOOP | Errno::NOTDIR) => return Err(io::Error::other(NOT_REGULAR)),
        result => result?,
    };
    let found = file.metadata()?;
    if !found.is_file() || found.len() > ANSWER_BYTES_MAX {
        return Err(io::Error::other(NOT_REGULAR));
    }
    let mut answer = Vec::with_capacity(found.len() as usize);
    file.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

fn open_below(webroot: &Path, token: &str) -> Result<File, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut below = open(webroot, folder, Mode::empty())?;
    for name in FOLDERS {
        below = openat(&below, name, folder | OFlags::NOFOLLOW, Mode::empty())?;
    }
    let file = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(&below, token, file, Mode::empty()).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_elsewhere_names_no_challenge() {
        let long = "a".repeat(256);
        for (name, expected) in [
            ("aZ09-_", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            (".", false),
            ("..", false),
            ("a.b", false),
            ("a/b", false),
            ("../a", false),
            ("%2e%2e", false),
            ("a\\b", false),
            ("a\0", false),
            ("é", false),
        ] {
            let path = format!("{PATH}{name}");
            assert_eq!(token(&path), expected.then_some(name), "{name}");
        }
        for path in ["/", "/aZ09", "/.well-known/acme-challenge", "/x/.well-known/acme-challenge/a"]
        {
            assert_eq!(token(path), None, "{path}");
        }
    }
}
