//! Clients that do nothing but wait, in a process of their own: they read pings, count them, and answer them or not.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::client::Client;
use super::process::Helper;
use super::{DEADLINE, connections_max};

/// The name of this part.
pub const ROLE: &str = "idle";

/// A ping without a payload, as servers send it (RFC 6455 section 5.5.2).
pub const PING: [u8; 2] = [0x89, 0];

/// The answer, as clients send it, under a mask of zeros.
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// The clients, as the bench sees them.
pub struct IdleClients(Helper);

impl IdleClients {
    /// Opens `clients` authenticated WebSockets.
    pub fn start(server: SocketAddr, clients: usize, answer: bool) -> IdleClients {
        let (server, clients) = (server.to_string(), clients.to_string());
        let answer = if answer { "answer" } else { "ignore" };
        let helper = Helper::start(ROLE, &[&server, &clients, answer]);
        assert_eq!(helper.hear(), "open");
        IdleClients(helper)
    }

    /// Waits until each has got one ping more.
    pub fn wait_for_round(&self) {
        assert_eq!(self.0.hear(), "round");
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [server, clients, answer] = arguments else {
        panic!("the idle clients are told a server, a number of clients and whether they answer");
    };
    let server: SocketAddr = server.parse().expect("an address");
    let clients: usize = clients.parse().expect("a number");
    connections_max();
    let poll = Poll::new().expect("an epoll descriptor can be had");
    let mut all = Vec::with_capacity(clients);
    for (number, client) in Client::open(server, 0..clients).into_iter().enumerate() {
        let stream = client.into_stream();
        stream.set_nonblocking(true).expect("a socket takes its options");
        let mut stream = TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(number), Interest::READABLE)
            .expect("a socket can be registered");
        all.push(IdleClient { stream, pings: 0 });
    }
    println!("open");
    wait(poll, &mut all, answer == "answer");
}

struct IdleClient {
    stream: TcpStream,
    pings: usize,
}

/// Until the bench ends this process, or no ping comes for too long.
fn wait(mut poll: Poll, all: &mut [IdleClient], answer: bool) {
    let mut events = Events::with_capacity(1024);
    let (mut round, mut complete) = (1, 0);
    let mut last = Instant::now();
    while last.elapsed() < DEADLINE {
        match poll.poll(&mut events, Some(DEADLINE)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.expect("epoll_wait works"),
        }
        for event in &events {
            let client = &mut all[event.token().0];
            let before = client.pings;
            client.read(answer);
            last = Instant::now();
            complete += usize::from(before < round && client.pings >= round);
        }
        if complete == all.len() {
            println!("round");
            round += 1;
            complete = all.iter().filter(|client| client.pings >= round).count();
        }
    }
}

impl IdleClient {
    fn read(&mut self, answer: bool) {
        let mut buffer = [0; 64];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the server closed an idle connection"),
                Ok(length) => {
                    let pings = buffer[..length].chunks(PING.len());
                    for ping in pings {
                        assert_eq!(ping, PING, "nothing but pings comes");
                        self.pings += 1;
                        if answer {
                            self.stream.write_all(&PONG).expect("the server takes a pong");
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("an idle connection broke: {error}"),
            }
        }
    }
}
