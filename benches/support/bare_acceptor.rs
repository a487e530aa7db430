//! The bare loop that a server's accepting is compared with, in a process of its own.
//!
//! It keeps no state beyond the sockets, waits for no event, and does only what it is told: accept and check a token, or all
//! that a welcomed client cannot do without: accept, read the head, check the token in it, answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use oneloop::push::token::Keys;

use super::bare_sender::listen;
use super::connections_max;
use super::process::{Helper, orders};
use super::signer::{Signer, unix};
use super::usage::{CpuTime, cpu_time};

/// The name of this part.
pub const ROLE: &str = "accept";

/// The loop, as the bench sees it.
pub struct BareAcceptor {
    helper: Helper,
    /// Its address.
    pub address: SocketAddr,
}

impl BareAcceptor {
    /// A loop that checks tokens of this algorithm and answers with so many bytes.
    pub fn start(algorithm: &str, clients: usize, answer_bytes: usize) -> BareAcceptor {
        let (clients, bytes) = (clients.to_string(), answer_bytes.to_string());
        let helper = Helper::start(ROLE, &[algorithm, &clients, &bytes]);
        let address = helper.hear().parse().expect("an address");
        BareAcceptor { helper, address }
    }

    /// Accepts so many connections, which wait already, and checks a token for each.
    pub fn check(&mut self, clients: usize) {
        self.helper.tell(&format!("check {clients}"));
    }

    /// Accepts so many connections, which wait already, each with its head, checks the token in it and answers.
    pub fn answer(&mut self, clients: usize) {
        self.helper.tell(&format!("answer {clients}"));
    }

    /// Reads the end of each connection and closes it.
    pub fn close(&mut self) {
        self.helper.tell("close");
    }

    /// Waits until what it was told is done.
    pub fn wait(&mut self) {
        assert_eq!(self.helper.hear(), "done");
    }

    /// The loop's CPU time so far.
    pub fn cpu_time(&self) -> CpuTime {
        cpu_time(self.helper.pid())
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [algorithm, clients, answer_bytes] = arguments else {
        panic!("the acceptor is told an algorithm, a number of clients and the bytes of an answer");
    };
    connections_max();
    let signer = Signer::of(algorithm);
    let mut acceptor = Loop {
        keys: signer.keys(),
        tokens: signer.tokens(clients.parse().expect("a number")),
        answer: vec![b'x'; answer_bytes.parse().expect("a number")],
        buffer: vec![0; 64 * 1024],
        listener: listen(true),
        streams: Vec::new(),
    };
    println!("{}", acceptor.listener.local_addr().expect("it is bound"));
    for order in orders() {
        match order.split_once(' ') {
            Some(("check", clients)) => acceptor.check(clients.parse().expect("a number")),
            Some(("answer", clients)) => acceptor.answer(clients.parse().expect("a number")),
            _ => acceptor.close(),
        }
        println!("done");
    }
}

struct Loop {
    keys: Keys,
    tokens: Vec<String>,
    answer: Vec<u8>,
    buffer: Vec<u8>,
    listener: TcpListener,
    streams: Vec<TcpStream>,
}

impl Loop {
    fn check(&mut self, clients: usize) {
        for token in self.tokens.iter().take(clients) {
            let (stream, _) = self.listener.accept().expect("a client waits");
            self.keys.check(token, unix()).expect("the token is good");
            self.streams.push(stream);
        }
    }

    fn answer(&mut self, clients: usize) {
        for _ in 0..clients {
            let (mut stream, _) = self.listener.accept().expect("a client waits");
            let length = stream.read(&mut self.buffer).expect("a head waits");
            let head = std::str::from_utf8(&self.buffer[..length]).expect("a head is ASCII");
            let (_, rest) = head.split_once("Bearer ").expect("a token is in it");
            self.keys.check(rest.trim_end(), unix()).expect("the token is good");
            let written = stream.write(&self.answer).expect("a client takes an answer");
            assert_eq!(written, self.answer.len(), "the socket was full");
            self.streams.push(stream);
        }
    }

    fn close(&mut self) {
        for mut stream in self.streams.drain(..) {
            let length = stream.read(&mut self.buffer).expect("a client has closed");
            assert_eq!(length, 0, "nobody says anything");
        }
    }
}
