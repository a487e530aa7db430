//! TLS handshakes of many clients step by step, so that a server meets all of a step at once: it stands still meanwhile.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup};

use super::client::connect;
use super::client_stream::ClientStream;
use super::tls;

/// A client in its handshake.
pub struct HandshakeClient {
    stream: TcpStream,
    tls: ClientConnection,
}

impl HandshakeClient {
    /// Connects and sends the ClientHello.
    pub fn begin(to: SocketAddr, number: usize, config: &Arc<ClientConfig>) -> HandshakeClient {
        let mut client =
            HandshakeClient { stream: connect(to, number), tls: tls::connection(config) };
        client.write();
        client
    }

    /// Reads the server's flight and answers it.
    pub fn answer(&mut self) {
        while self.tls.is_handshaking() && !self.tls.wants_write() {
            self.read();
        }
        self.write();
    }

    /// Reads what the server has said by now, and asserts that the handshake was of this kind.
    pub fn conclude(&mut self, is_resumed: bool) {
        while self.tls.is_handshaking() {
            self.read();
        }
        // Tickets, if any.
        self.stream.set_nonblocking(true).expect("a socket takes its options");
        while self.read() {}
        self.stream.set_nonblocking(false).expect("a socket takes its options");
        let kind = self.tls.handshake_kind().expect("the handshake is done");
        assert_eq!(kind == HandshakeKind::Resumed, is_resumed, "{kind:?}");
        assert_ne!(kind, HandshakeKind::FullWithHelloRetryRequest);
    }

    /// The stream, for what comes next.
    pub fn into_stream(self) -> ClientStream {
        ClientStream::over(self.tls, self.stream)
    }

    /// Returns `false` if nothing has come.
    fn read(&mut self) -> bool {
        match self.tls.read_tls(&mut self.stream) {
            Ok(0) => panic!("the server has left in the handshake"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("a handshake broke: {error}"),
        }
        self.tls.process_new_packets().expect("the server shakes hands");
        true
    }

    fn write(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream).expect("the server takes a handshake");
        }
    }
}

/// The tickets of all clients: one of TLS 1.2, which serves again and again, and those of TLS 1.3, which serve once each.
#[derive(Debug, Default)]
pub struct Tickets {
    tls12: Mutex<Option<Tls12ClientSessionValue>>,
    tls13: Mutex<Vec<Tls13ClientSessionValue>>,
}

const HELD: &str = "nobody panics who holds it";

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.tls12.lock().expect(HELD) = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.tls12.lock().expect(HELD).clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.tls12.lock().expect(HELD) = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.tls13.lock().expect(HELD).push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.tls13.lock().expect(HELD).pop()
    }
}
