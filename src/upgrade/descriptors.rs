//! Descriptors that are passed to another process over a Unix socket (`SCM_RIGHTS`, unix(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors of one message: what the kernel takes (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

const SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// Sends bytes, at least one, and descriptors with the first of them. Returns how many bytes were taken.
///
/// # Errors
/// The errors of `sendmsg`: `WouldBlock`, or too many descriptors under way (`ETOOMANYREFS`).
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(!bytes.is_empty() && descriptors.len() <= DESCRIPTORS_MAX, "one message is enough");
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
        assert!(fits, "the space is for the most of them");
    }
    let parts = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes, and adds the descriptors that came with them to `into`; they are closed when another program is started. Returns
/// the number of bytes: 0 at the end.
///
/// # Errors
/// The errors of `recvmsg`. `OutOfMemory`: the kernel dropped descriptors, since this process may have no more.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    into: &mut impl Extend<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            into.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        let text = "descriptors were lost on the way: this process may have no more";
        return Err(io::Error::new(ErrorKind::OutOfMemory, text));
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use rustix::io::{FdFlags, fcntl_getfd};

    #[test]
    fn a_listener_is_the_same_one_on_the_other_side_and_keeps_its_queue() {
        let (here, there) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let bystander = TcpListener::bind("127.0.0.1:0").unwrap();
        bystander.set_nonblocking(true).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(send(&here, b"x!", &[listener.as_fd()]).unwrap(), 2);
        drop(listener);
        let (mut passed, mut buffer) = (Vec::new(), [0; 16]);
        assert_eq!(receive(&there, &mut buffer, &mut passed).unwrap(), 2);
        assert_eq!(&buffer[..2], b"x!");
        let passed = passed.pop().expect("one was passed");
        assert!(fcntl_getfd(&passed).unwrap().contains(FdFlags::CLOEXEC));
        let (mut accepted, _) = TcpListener::from(passed).accept().unwrap();
        accepted.read_exact(&mut buffer[..5]).unwrap();
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(bystander.accept().err().map(|error| error.kind()), Some(ErrorKind::WouldBlock));
    }

    #[test]
    fn bytes_come_without_descriptors_as_well_and_then_the_end() {
        let (here, there) = UnixStream::pair().unwrap();
        let descriptors: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| here.as_fd()).collect();
        assert_eq!(send(&here, b"all", &descriptors).unwrap(), 3);
        assert_eq!(send(&here, b"none", &[]).unwrap(), 4);
        let (mut passed, mut buffer) = (Vec::new(), [0; 16]);
        assert_eq!(receive(&there, &mut buffer, &mut passed).unwrap(), 3, "no merging");
        assert_eq!(passed.len(), DESCRIPTORS_MAX);
        assert_eq!(receive(&there, &mut buffer, &mut passed).unwrap(), 4);
        assert_eq!(passed.len(), DESCRIPTORS_MAX);
        drop((here, passed));
        assert_eq!(receive(&there, &mut buffer, &mut Vec::new()).unwrap(), 0);
    }
}
