//! The binary, a publisher and a client, for tests from outside.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use oneloop::push::token::Keys;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// For reads that a healthy server answers at once.
const DEADLINE: Duration = Duration::from_secs(20);

pub const SECRET: &str = "a secret for tests alone, long enough";

/// A running server; it is ended with the value.
pub struct Server {
    child: Child,
    pub clients: String,
    pub publishers: String,
    /// Kept open: a closed pipe would be an error for whoever writes into it.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    pub fn start(flags: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oneloop"));
        // Variables for the tests are no settings, and a setting of the caller's own would change what is tested.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ONELOOP_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--publishers", "127.0.0.1:0"])
            .args(flags)
            .env("ONELOOP_JWT_SECRET", SECRET)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let (mut clients, mut publishers) = (None, None);
        while clients.is_none() || publishers.is_none() {
            let mut line = String::new();
            let length = stdout.read_line(&mut line).expect("stdout is readable");
            assert!(length > 0, "the start-up lines end too early");
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["clients", address] => clients = Some(address.to_owned()),
                ["publishers", address] => publishers = Some(address.to_owned()),
                _ => {}
            }
        }
        let (clients, publishers) = (clients.unwrap(), publishers.unwrap());
        Server { child, clients, publishers, _stdout: stdout }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn token(sub: &str, topics: &[String], may: &[String], admin: bool) -> String {
    let keys = Keys::from_secret(SECRET.as_bytes()).expect("the secret is good");
    let unix = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs();
    keys.issue(sub, topics, may, admin, unix, 3600).expect("the claims are good")
}

/// A connection to the publishers' port.
pub struct Publisher(BufReader<TcpStream>);

impl Publisher {
    pub fn connect(server: &Server) -> Publisher {
        let stream = TcpStream::connect(&server.publishers).expect("the port is open");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
        Publisher(BufReader::new(stream))
    }

    /// Returns the number of clients that the server says it went to.
    pub fn publish(&mut self, channel: &str, payload: &str) -> usize {
        let answer = self.ask(channel, payload);
        let number = answer.strip_prefix(':').unwrap_or_else(|| panic!("{answer}"));
        number.parse().expect("the answer is an integer")
    }

    /// Returns the line that answers a PUBLISH, an error's too.
    pub fn ask(&mut self, channel: &str, payload: &str) -> String {
        let command = format!(
            "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{payload}\r\n",
            channel.len(),
            payload.len()
        );
        self.0.get_mut().write_all(command.as_bytes()).expect("the port takes a command");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a command is answered");
        line.truncate(line.trim_end().len());
        line
    }
}

/// A WebSocket client that reads when it is asked to.
pub struct Client(WebSocket<TcpStream>);

impl Client {
    pub fn connect(server: &Server, token: &str) -> Client {
        let mut request = server.clients.as_str().into_client_request().expect("a valid URL");
        let bearer = format!("Bearer {token}").parse().expect("a header value");
        request.headers_mut().insert("Authorization", bearer);
        let host = request.uri().authority().expect("an authority").as_str();
        let stream = TcpStream::connect(host).expect("the listener is open");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline can be set");
        let (socket, _) = tungstenite::client(request, stream).expect("the handshake succeeds");
        Client(socket)
    }

    pub fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).expect("the server takes a frame");
    }

    /// The next text frame.
    pub fn read(&mut self) -> String {
        loop {
            match self.0.read().expect("the server sends a frame in time") {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    /// Closes, and waits until the server has closed too: it counts this client no more.
    pub fn close(mut self) {
        self.0.close(None).expect("the server takes a close frame");
        while self.0.read().is_ok() {}
    }
}
