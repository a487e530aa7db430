//! The bare loop that the server is compared with, in a process of its own: it does nothing but send the same bytes to the
//! same number of sockets, or seal them for each client and send the records.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneloop::engine::tls::{
    Acceptor, HandshakeProgress, RECORD_PLAIN_MAX, TlsHandshake, TlsSession, prepared,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::unmasked;
use super::process::{Helper, orders};
use super::tls::{Certificate, Security};
use super::usage::{CpuTime, cpu_time};
use super::{DEADLINE, connections_max};

/// The name of this part.
pub const ROLE: &str = "send";

/// The loop, as the bench sees it.
pub struct BareSender {
    helper: Helper,
    /// The address at which it accepts its receivers.
    pub address: SocketAddr,
}

impl BareSender {
    /// A loop that is to send frames of this text, once `clients` receivers have connected, on sockets with TCP_NODELAY as the
    /// server's are, or without.
    pub fn start(clients: usize, text: &str, nodelay: bool) -> BareSender {
        BareSender::start_as(if nodelay { "nodelay" } else { "delay" }, clients, text)
    }

    /// The same with TCP_NODELAY, to receivers that come plainly or over TLS.
    pub fn start_for(security: Security, clients: usize, text: &str) -> BareSender {
        let kind = if security == Security::Plain { "nodelay" } else { "tls" };
        BareSender::start_as(kind, clients, text)
    }

    fn start_as(kind: &str, clients: usize, text: &str) -> BareSender {
        let helper = Helper::start(ROLE, &[&clients.to_string(), text, kind]);
        let address = helper.hear().parse().expect("an address");
        BareSender { helper, address }
    }

    /// Waits until everybody is connected.
    pub fn wait_for_all(&self) {
        assert_eq!(self.helper.hear(), "open");
    }

    /// Sends to everybody: `frames` of them in one call each.
    pub fn send(&mut self, frames: usize) {
        self.helper.tell(&format!("send {frames}"));
    }

    /// Sends one frame to everybody, spread over so many seconds: a lot of them after each sleep of 100 ms.
    pub fn send_spread(&mut self, seconds: usize) {
        self.helper.tell(&format!("spread {seconds}"));
    }

    /// Waits until the loop has come to its end.
    pub fn wait(&mut self) {
        assert_eq!(self.helper.hear(), "sent");
    }

    /// The loop's CPU time so far.
    pub fn cpu_time(&self) -> CpuTime {
        cpu_time(self.helper.pid())
    }
}

/// Plays this part.
pub fn run(arguments: &[String]) {
    let [clients, text, kind] = arguments else {
        panic!("the sender is told a number of clients, a text and a kind of socket");
    };
    let clients: usize = clients.parse().expect("a number");
    connections_max();
    let listener = listen(kind != "delay");
    println!("{}", listener.local_addr().expect("it is bound"));
    let prepared = |certificate: Certificate| Arc::new(prepared(certificate.server()));
    let config = (kind == "tls").then(|| prepared(Certificate::P256));
    let acceptor = config.map(|config| Acceptor { config, cost: 0 });
    let mut receivers: Vec<Receiver> =
        (0..clients).map(|_| Receiver::accept(&listener, acceptor.as_ref())).collect();
    println!("open");
    let frame = unmasked(text.as_bytes());
    for order in orders() {
        let (kind, number) = order.split_once(' ').expect("an order and a number");
        let number: usize = number.parse().expect("a number");
        match kind {
            "send" => send(&mut receivers, &frame.repeat(number)),
            _ => send_spread(&mut receivers, &frame, number),
        }
        println!("sent");
    }
}

struct Receiver {
    stream: TcpStream,
    session: Option<TlsSession>,
}

impl Receiver {
    fn accept(listener: &TcpListener, acceptor: Option<&Acceptor>) -> Receiver {
        let (mut stream, _) = listener.accept().expect("a receiver connects");
        stream.set_write_timeout(Some(DEADLINE)).expect("a socket takes its options");
        let session = acceptor.map(|acceptor| shake_hands(&mut stream, acceptor));
        Receiver { stream, session }
    }
}

fn shake_hands(stream: &mut TcpStream, acceptor: &Acceptor) -> TlsSession {
    let mut handshake = TlsHandshake::new(acceptor);
    let (mut input, mut output) = ([0; 4096], Vec::new());
    loop {
        let length = stream.read(&mut input).expect("a receiver shakes hands");
        assert!(length > 0, "a receiver has left in the handshake");
        let progress = handshake.advance(&input[..length], &mut output);
        stream.write_all(&output).expect("a receiver takes what comes");
        output.clear();
        match progress {
            HandshakeProgress::More => {}
            HandshakeProgress::Done(session, _, rest) => {
                assert!(rest.is_empty(), "receivers say nothing");
                return session;
            }
            HandshakeProgress::Failed(failure) => panic!("a handshake failed: {failure:?}"),
        }
    }
}

fn send(receivers: &mut [Receiver], bytes: &[u8]) {
    let mut records = Vec::with_capacity(2 * bytes.len() + 1024);
    for Receiver { stream, session } in receivers {
        let bytes = match session {
            None => bytes,
            Some(session) => {
                records.clear();
                for plain in bytes.chunks(RECORD_PLAIN_MAX) {
                    session.seal(plain, &mut records);
                }
                &records
            }
        };
        // A single `send`, without SIGPIPE: the socket has room for all of it.
        let length = stream.write(bytes).expect("a receiver takes what comes");
        assert_eq!(length, bytes.len(), "a socket was full");
    }
}

fn send_spread(receivers: &mut [Receiver], bytes: &[u8], seconds: usize) {
    const TICK: Duration = Duration::from_millis(100);
    let start = Instant::now();
    let lot = receivers.len().div_ceil(seconds * 10);
    for (number, lot) in receivers.chunks_mut(lot).enumerate() {
        std::thread::sleep((TICK * number as u32).saturating_sub(start.elapsed()));
        send(lot, bytes);
    }
}

/// With a queue as long as the server's own: thousands connect at once.
pub fn listen(nodelay: bool) -> TcpListener {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).and_then(|it| {
        it.set_tcp_nodelay(nodelay)?;
        it.bind(&address.into())?;
        it.listen(4096)?;
        Ok(it)
    });
    socket.expect("a port can be had").into()
}
