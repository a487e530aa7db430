//! The memory of the kernel for a socket: it stands in no process.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use mio::{Interest, Poll, Token};

use super::bare_sender::listen;
use super::client::connect;
use super::report::median;

/// Returns the bytes of a connected TCP socket that epoll watches and that has nothing to send or to be read: the growth of the
/// kernel's slabs (`Slab` in `/proc/meminfo`) while this process connects so many pairs to itself, for each of both ends, in the
/// median round. Others use kernel memory meanwhile.
pub fn bytes_per_socket(pairs: usize, rounds: usize) -> f64 {
    let listener = listen(true);
    let each: Vec<f64> = (0..rounds)
        .map(|round| {
            // A socket that has ended is freed a moment later.
            std::thread::sleep(Duration::from_secs(1));
            let before = slab_bytes();
            let (_poll, sockets) = open(&listener, pairs, round);
            (slab_bytes() - before) as f64 / sockets.len() as f64
        })
        .collect();
    median(&each)
}

fn open(listener: &TcpListener, pairs: usize, round: usize) -> (Poll, Vec<mio::net::TcpStream>) {
    let to = listener.local_addr().expect("it is bound");
    let poll = Poll::new().expect("an epoll descriptor can be had");
    let mut sockets = Vec::with_capacity(2 * pairs);
    for pair in 0..pairs {
        let near = connect(to, round * pairs + pair);
        let (far, _) = listener.accept().expect("it has just connected");
        for socket in [near, far] {
            sockets.push(watch(&poll, socket, sockets.len()));
        }
    }
    (poll, sockets)
}

fn watch(poll: &Poll, socket: TcpStream, number: usize) -> mio::net::TcpStream {
    socket.set_nonblocking(true).expect("a socket takes its options");
    let mut socket = mio::net::TcpStream::from_std(socket);
    poll.registry()
        .register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)
        .expect("a socket can be registered");
    socket
}

fn slab_bytes() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kilobytes.expect("no Slab in meminfo") * 1024
}
