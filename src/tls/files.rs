//! Files of certificates and keys, read with a bound.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The largest file. Three certificates are 5 KB; a bundle of all authorities is 200 KB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a whole file. The memory is wiped when it is freed, since it may hold a key.
///
/// # Errors
/// A clause for a message that names the file. A pipe is one: a renewal would wait for its writer for ever.
pub fn read(name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = || -> io::Result<Zeroizing<Vec<u8>>> {
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(name)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // Memory that grows leaves unwiped copies behind.
        let length = file.metadata()?.len().min(FILE_BYTES_MAX);
        let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(format!(
            "cannot read the file: {error}; keys of certbot are root's: oneloop help tls says how the server may read them"
        )),
        Err(error) => Err(format!("cannot read the file: {error}")),
        Ok(bytes) if bytes.len() as u64 > FILE_BYTES_MAX => {
            Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"))
        }
        Ok(bytes) => Ok(bytes),
    }
}
