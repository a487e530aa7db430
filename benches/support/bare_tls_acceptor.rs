//! The bare loop that a server's TLS handshakes are compared with, in a process of its own.
//!
//! It accepts, has rustls shake hands, says nothing else, and keeps the connection until the client leaves it.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};

use super::bare_sender::listen;
use super::connections_max;
use super::process::Helper;
use super::tls::Certificate;

/// The name of this part.
pub const ROLE: &str = "accept-tls";

const LISTENER: Token = Token(0);

/// The loop, as the bench sees it. It waits for events as a server does, and ends with the value.
pub struct BareTlsAcceptor {
    helper: Helper,
    /// Its address.
    pub address: SocketAddr,
}

impl BareTlsAcceptor {
    /// A loop that shows this certificate.
    pub fn start(certificate: Certificate) -> BareTlsAcceptor {
        let helper = Helper::start(ROLE, &[certificate.name()]);
        let address = helper.hear().parse().expect("an address");
        BareTlsAcceptor { helper, address }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.helper.pid()
    }
}

/// Plays this part, until the bench ends the process.
pub fn run(arguments: &[String]) {
    let [certificate] = arguments else { panic!("the acceptor is told a certificate") };
    connections_max();
    let listener = listen(true);
    println!("{}", listener.local_addr().expect("it is bound"));
    listener.set_nonblocking(true).expect("a socket takes its options");
    let mut listener = TcpListener::from_std(listener);
    let poll = Poll::new().expect("an epoll descriptor can be had");
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .expect("a socket can be registered");
    Loop {
        poll,
        listener,
        config: Arc::new(Certificate::of(certificate).server()),
        connections: HashMap::new(),
        next: LISTENER.0 + 1,
    }
    .run();
}

struct Loop {
    poll: Poll,
    listener: TcpListener,
    config: Arc<ServerConfig>,
    connections: HashMap<usize, Connection>,
    next: usize,
}

impl Loop {
    fn run(&mut self) -> ! {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.expect("epoll_wait works"),
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(number) => self.read(number),
                }
            }
        }
    }

    fn accept(&mut self) {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("accept: {error}"),
            };
            let tls = ServerConnection::new(self.config.clone()).expect("no size is set");
            self.poll
                .registry()
                .register(&mut stream, Token(self.next), Interest::READABLE)
                .expect("a socket can be registered");
            self.connections.insert(self.next, Connection { stream, tls });
            self.next += 1;
        }
    }

    fn read(&mut self, number: usize) {
        let connection = self.connections.get_mut(&number);
        if connection.is_some_and(|connection| !connection.read()) {
            self.connections.remove(&number);
        }
    }
}

struct Connection {
    stream: TcpStream,
    tls: ServerConnection,
}

impl Connection {
    /// Reads and answers until nothing is left; `false` once the client has left.
    fn read(&mut self) -> bool {
        loop {
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!("a handshake broke: {error}"),
            }
            self.tls.process_new_packets().expect("the client shakes hands");
            while self.tls.wants_write() {
                self.tls.write_tls(&mut self.stream).expect("the socket has room");
            }
        }
    }
}
