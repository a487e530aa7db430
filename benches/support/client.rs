//! Clients that cost the bench little: a blocking socket each, and frames or events read by hand.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

use super::DEADLINE;
use super::client_stream::ClientStream;
use super::receivers::Kind;
use super::server::Tokens;
use super::tls::Security;

/// Clients of one source address: the next ones come from the next address, so that no count runs out of ports.
const CLIENTS_PER_ADDRESS: usize = 1000;

/// Handshakes under way at one time.
const HANDSHAKES: usize = 200;

/// The offer of browsers.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// A client whose handshake is done and whose welcome is read.
pub struct Client {
    stream: ClientStream,
    /// Bytes behind the welcome that came with it.
    held: Vec<u8>,
    /// It asked for an event stream.
    is_stream: bool,
}

impl Client {
    /// Opens the clients with these numbers, each with a token of its own, some handshakes at a time.
    pub fn open(server: SocketAddr, numbers: Range<usize>) -> Vec<Client> {
        Client::open_by(Security::Plain, server, numbers)
    }

    /// The same over TLS, or not. TLS handshakes are done one by one.
    pub fn open_by(security: Security, server: SocketAddr, numbers: Range<usize>) -> Vec<Client> {
        Client::open_as(Kind::WebSocket, security, server, numbers)
    }

    /// The same, which ask for compression or do not.
    pub fn open_as(
        kind: Kind,
        security: Security,
        server: SocketAddr,
        numbers: Range<usize>,
    ) -> Vec<Client> {
        let offer = if kind == Kind::Deflated { OFFER } else { "" };
        let config = security.clients();
        let tokens = Tokens::new();
        let mut clients = Vec::with_capacity(numbers.len());
        let mut numbers = numbers.peekable();
        while numbers.peek().is_some() {
            let start = clients.len();
            for number in numbers.by_ref().take(HANDSHAKES) {
                let stream = ClientStream::connect(server, number, config.as_ref());
                let head = head(server, &tokens.token(number));
                let head = head.replace("\r\n\r\n", &format!("\r\n{offer}\r\n"));
                clients.push(Client::ask_over(stream, &head));
            }
            for client in &mut clients[start..] {
                client.read_welcome();
            }
        }
        clients
    }

    /// Opens one client with a token of the caller's.
    pub fn open_with(
        tls: Option<&Arc<ClientConfig>>,
        server: SocketAddr,
        number: usize,
        token: &str,
    ) -> Client {
        let stream = ClientStream::connect(server, number, tls);
        let mut client = Client::ask_over(stream, &head(server, token));
        client.read_welcome();
        client
    }

    /// Opens event streams with these numbers.
    pub fn open_streams(server: SocketAddr, numbers: Range<usize>) -> Vec<Client> {
        let tokens = Tokens::new();
        let open = |number| {
            let stream = ClientStream::connect(server, number, None);
            let token = tokens.token(number);
            let head = format!(
                "GET /ws HTTP/1.1\r\nHost: {server}\r\nAccept: text/event-stream\r\n\
                 Authorization: Bearer {token}\r\n\r\n"
            );
            let mut client = Client::ask_over(stream, &head);
            client.is_stream = true;
            client.read_opening();
            client
        };
        numbers.map(open).collect()
    }

    /// Reads the response up to the first event.
    fn read_opening(&mut self) {
        let (mut held, mut buffer) = (Vec::new(), [0; 1024]);
        while !held.ends_with(b"}\n\n\r\n") {
            let length = self.stream.read(&mut buffer).expect("a request is answered in time");
            assert!(length > 0, "refused: {}", String::from_utf8_lossy(&held));
            held.extend_from_slice(&buffer[..length]);
        }
        let text = String::from_utf8_lossy(&held);
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains(r#"{"op":"welcome""#), "{text}");
    }

    /// The data of the next event, which is a chunk and has one line of it.
    fn read_event(&mut self) -> String {
        let mut event = Vec::new();
        while !event.ends_with(b"\n\n\r\n") {
            let mut byte = [0];
            self.read_exact(&mut byte);
            event.push(byte[0]);
        }
        let event = String::from_utf8(event).expect("an event is UTF-8");
        let data = event.lines().find_map(|line| line.strip_prefix("data: "));
        data.expect("a message").to_owned()
    }

    /// Connects and asks for a WebSocket; the answer is still to be read.
    pub fn ask(server: SocketAddr, number: usize, token: &str) -> Client {
        Client::ask_with(server, number, &head(server, token))
    }

    /// The same with a head of the caller's.
    pub fn ask_with(server: SocketAddr, number: usize, head: &str) -> Client {
        Client::ask_over(ClientStream::connect(server, number, None), head)
    }

    /// The same over a stream that is connected already.
    pub fn ask_over(stream: ClientStream, head: &str) -> Client {
        let mut client = Client { stream, held: Vec::new(), is_stream: false };
        client.stream.write_all(head.as_bytes()).expect("the server takes a head");
        client
    }

    /// Reads the answer to the handshake and the first frame. Returns the number of their bytes.
    pub fn read_welcome(&mut self) -> usize {
        let mut held = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let length = self.stream.read(&mut buffer).expect("a handshake is answered in time");
            let text = String::from_utf8_lossy(&held);
            assert!(length > 0, "the handshake was refused: {text}");
            held.extend_from_slice(&buffer[..length]);
            let end = held.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(frame) = end.map(|end| &held[end + 4..]) else {
                continue;
            };
            if !held.starts_with(b"HTTP/1.1 101 ") {
                continue;
            }
            let header = if frame.get(1) == Some(&126) { 4 } else { 2 };
            let Some(length) = payload_length(&frame[..frame.len().min(header)]) else {
                continue;
            };
            if frame.len() >= header + length as usize {
                let (welcome, behind) = frame.split_at(header + length as usize);
                let text = String::from_utf8_lossy(&welcome[header..]);
                assert!(text.starts_with(r#"{"op":"welcome""#), "{text}");
                self.held = behind.to_vec();
                return held.len() - behind.len();
            }
        }
    }

    /// Sends a text message.
    pub fn send(&mut self, text: &str) {
        self.stream.write_all(&masked(text.as_bytes())).expect("the server takes a frame");
    }

    /// Sends several text messages in one write, to a server that may have closed the connection.
    pub fn try_send(&mut self, texts: impl Iterator<Item = String>) -> io::Result<()> {
        let frames: Vec<u8> = texts.flat_map(|text| masked(text.as_bytes())).collect();
        self.stream.write_all(&frames)
    }

    /// The next text message.
    pub fn read(&mut self) -> String {
        if self.is_stream {
            return self.read_event();
        }
        let mut header = [0; 10];
        let mut held = 0;
        let length = loop {
            self.read_exact(&mut header[held..held + 1]);
            held += 1;
            if let Some(length) = payload_length(&header[..held]) {
                break length;
            }
        };
        assert_eq!(header[0], 0x81, "a text message in one frame");
        let mut payload = vec![0; length as usize];
        self.read_exact(&mut payload);
        String::from_utf8(payload).expect("text is UTF-8")
    }

    /// Asks, waits for the answer, and asks again after a pause until it is to stop. Returns how long each answer took, in
    /// milliseconds.
    pub fn ask_on(&mut self, pause: Duration, stopped: &AtomicBool) -> Vec<f64> {
        let mut waits = Vec::new();
        while waits.is_empty() || !stopped.load(Ordering::Relaxed) {
            let answer = format!(r#"{{"op":"pong","ref":{}}}"#, waits.len());
            let start = Instant::now();
            self.send(&format!(r#"{{"op":"ping","ref":{}}}"#, waits.len()));
            // Broadcasts come in between.
            while self.read() != answer {}
            waits.push(start.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(pause);
        }
        waits
    }

    /// The socket of a plain client, for those who read it themselves.
    pub fn into_stream(self) -> TcpStream {
        let (stream, tls) = self.into_parts();
        assert!(tls.is_none(), "a plain client");
        stream
    }

    /// The socket, and the TLS above it.
    pub fn into_parts(self) -> (TcpStream, Option<ClientConnection>) {
        assert!(self.held.is_empty(), "nothing comes behind the welcome");
        self.stream.into_parts()
    }

    fn read_exact(&mut self, buffer: &mut [u8]) {
        let held = self.held.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.held.drain(..held)) {
            *to = from;
        }
        self.stream.read_exact(&mut buffer[held..]).expect("the server sends a frame in time");
    }
}

/// Has another client ask until it is to stop: see [`Client::ask_on`].
pub fn ask_until(
    server: SocketAddr,
    number: usize,
    pause: Duration,
    stopped: &AtomicBool,
) -> Vec<f64> {
    let mut client = Client::open(server, number..number + 1).remove(0);
    client.ask_on(pause, stopped)
}

/// The request head of a client with this token.
pub fn head(host: SocketAddr, token: &str) -> String {
    head_for("/ws", host, token)
}

/// The same for a path with whatever stands behind it.
pub fn head_for(path: &str, host: SocketAddr, token: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
}

/// A connection from the source address that is due for this number.
pub fn connect(to: SocketAddr, number: usize) -> TcpStream {
    let connected = socket(number).and_then(|it| {
        it.connect_timeout(&to.into(), DEADLINE)?;
        it.set_read_timeout(Some(DEADLINE))?;
        it.set_write_timeout(Some(DEADLINE))?;
        Ok(it)
    });
    connected
        .unwrap_or_else(|error| panic!("client {number} cannot connect to {to}: {error}"))
        .into()
}

/// The same for those who do not wait: it is connected once it can be written to, or has failed by then.
pub fn begin_to_connect(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let socket = socket(number)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        result => result?,
    }
    Ok(socket.into())
}

fn socket(number: usize) -> io::Result<Socket> {
    let source = Ipv4Addr::from_bits(
        Ipv4Addr::new(127, 0, 0, 2).to_bits() + (number / CLIENTS_PER_ADDRESS) as u32,
    );
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket)
}

/// A text frame as servers send it.
pub fn unmasked(payload: &[u8]) -> Vec<u8> {
    let mut frame = header(payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

/// A text frame as clients send it. A mask of zeros is a valid one (RFC 6455 section 5.3) and leaves the payload as it is.
pub fn masked(payload: &[u8]) -> Vec<u8> {
    let mut frame = header(payload.len(), 0x80);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The same without its last byte.
pub fn begun(payload: &[u8]) -> Vec<u8> {
    let mut frame = masked(payload);
    frame.pop();
    frame
}

fn header(length: usize, mask: u8) -> Vec<u8> {
    let short = u16::try_from(length).expect("a bench sends no more than 64 KB");
    match short {
        0..126 => vec![0x81, mask | short as u8],
        _ => [&[0x81, mask | 126][..], &short.to_be_bytes()].concat(),
    }
}

/// The length that a server's frame announces (RFC 6455 section 5.2), given the start of the frame one byte longer at each
/// call; `None` before its header is whole.
pub fn payload_length(header: &[u8]) -> Option<u64> {
    let (short, long) = (header.get(1)?, header.get(2..)?);
    assert!(*short < 128, "a server masks nothing");
    match short {
        127 => Some(u64::from_be_bytes(long.try_into().ok()?)),
        126 => Some(u64::from(u16::from_be_bytes(long.try_into().ok()?))),
        short => Some(u64::from(*short)),
    }
}

/// The first frame, if all of it is there: its first byte, its payload, and how long it is in all.
pub fn whole_frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let most = bytes.len().min(10);
    let header = match bytes.get(1)? {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let length = payload_length(&bytes[..most.min(header)])? as usize;
    Some((bytes[0], bytes.get(header..header + length)?, header + length))
}
