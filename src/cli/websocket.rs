//! One WebSocket connection to a server: the handshake, then the events.

use std::time::Duration;

use crate::cli::dial::{self, ServerConnection, TIMEOUT, is_silence};
use crate::cli::tls;
use crate::cli::url::Url;
use crate::cli::websocket_client::{self, ServerFrame};
use crate::push::PROTOCOL;

/// The longest head or message that is read.
const INPUT_BYTES_MAX: usize = 2 << 20;

/// A connection whose handshake was answered, not necessarily by an upgrade.
pub(super) struct WebSocket {
    connection: ServerConnection,
    input: Vec<u8>,
    pub(super) status: u16,
    /// The peer upgraded, and proved that it speaks WebSocket.
    pub(super) is_proven: bool,
    /// The peer chose our subprotocol.
    pub(super) has_protocol: bool,
    /// The answer is that of a oneloop.
    pub(super) is_ours: bool,
    /// The address that it redirects to, without the query.
    pub(super) location: String,
}

/// An event after the handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WebSocketEvent {
    Message(Vec<u8>),
    /// A ping, which was answered.
    Ping,
    /// A close with its code and reason.
    Closed(u16, Vec<u8>),
    /// The end of the connection, without a close.
    Cut,
    /// Nothing within the time given.
    Silence,
}

impl WebSocket {
    /// Connects to the host of a URL, by TLS if it says so, and sends a handshake for `path`.
    ///
    /// # Errors
    /// A sentence if there is no connection or no answer.
    pub(super) fn open(
        url: &Url,
        path: &str,
        origin: &str,
        protocols: &str,
    ) -> Result<WebSocket, String> {
        WebSocket::begin(reach(url)?, &url.host, path, origin, protocols)
    }

    /// The same with another line in the head: `X-User: 42`.
    ///
    /// # Errors
    /// A sentence if there is no connection or no answer.
    pub(super) fn open_with(url: &Url, origin: &str, line: &str) -> Result<WebSocket, String> {
        let handshake = websocket_client::handshake(&url.host, &url.path, origin, PROTOCOL);
        let handshake = handshake.replacen("\r\n", &["\r\n", line, "\r\n"].concat(), 1);
        WebSocket::shake_hands(reach(url)?, &handshake)
    }

    /// Sends a handshake over an open connection, and waits for the answer.
    ///
    /// # Errors
    /// A sentence if there is no answer.
    pub(super) fn begin(
        connection: ServerConnection,
        host: &str,
        path: &str,
        origin: &str,
        protocols: &str,
    ) -> Result<WebSocket, String> {
        let handshake = websocket_client::handshake(host, path, origin, protocols);
        WebSocket::shake_hands(connection, &handshake)
    }

    fn shake_hands(mut connection: ServerConnection, handshake: &str) -> Result<WebSocket, String> {
        // A failure shows in the next read.
        let _ = connection.write(handshake.as_bytes());
        let mut input = Vec::new();
        loop {
            if let Some((head, length)) = websocket_client::head(&input) {
                let status = head.status;
                let is_proven = status == 101 && head.is_proven();
                let has_protocol = head.header("sec-websocket-protocol") == Some(PROTOCOL);
                // A full oneloop answers with no more than this.
                let is_ours = (is_proven && has_protocol)
                    || head.header("x-content-type-options") == Some("nosniff")
                    || (matches!(status, 429 | 503) && head.header("retry-after") == Some("5"));
                // The query may repeat the token that was in ours.
                let location = head.header("location").unwrap_or_default();
                let location = location.split('?').next().unwrap_or_default().to_owned();
                input.drain(..length);
                return Ok(WebSocket {
                    connection,
                    input,
                    status,
                    is_proven,
                    has_protocol,
                    is_ours,
                    location,
                });
            }
            match connection.read(&mut input, TIMEOUT) {
                Ok(0) => return Err("it closed the connection without an answer".to_owned()),
                Ok(_) if input.len() > INPUT_BYTES_MAX => {
                    return Err("it speaks no HTTP".to_owned());
                }
                Ok(_) => {}
                Err(error) if is_silence(&error) => {
                    return Err(format!("it did not answer within {} s", TIMEOUT.as_secs()));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Waits at most `wait` for the next event.
    pub(super) fn next(&mut self, wait: Duration) -> WebSocketEvent {
        loop {
            match websocket_client::frame(&self.input) {
                Err(_) => return WebSocketEvent::Cut,
                Ok(None) => {}
                Ok(Some((frame, length))) => {
                    let event = match frame {
                        ServerFrame::Message(text) => WebSocketEvent::Message(text.to_vec()),
                        ServerFrame::Ping(payload) => {
                            let _ = self.connection.write(&websocket_client::pong(payload));
                            WebSocketEvent::Ping
                        }
                        ServerFrame::Close(code, reason) => {
                            WebSocketEvent::Closed(code, reason.to_vec())
                        }
                        ServerFrame::Pong => WebSocketEvent::Message(Vec::new()),
                    };
                    self.input.drain(..length);
                    return event;
                }
            }
            match self.connection.read(&mut self.input, wait) {
                Ok(0) => return WebSocketEvent::Cut,
                Ok(_) if self.input.len() > INPUT_BYTES_MAX => return WebSocketEvent::Cut,
                Ok(_) => {}
                Err(error) if is_silence(&error) => return WebSocketEvent::Silence,
                Err(_) => return WebSocketEvent::Cut,
            }
        }
    }

    /// Sends a text message.
    pub(super) fn send(&mut self, text: &str) {
        // A failure shows in the next event.
        let _ = self.connection.write(&websocket_client::text(text));
    }

    /// The body of an answer other than an upgrade, as far as it has arrived.
    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }
}

/// Connects to the host of a URL, by TLS if it says so.
fn reach(url: &Url) -> Result<ServerConnection, String> {
    let connected = dial::connect(&url.address);
    let connection = connected.map_err(|error| format!("{}: {error}", url.address))?;
    if url.has_tls { tls::secure(connection, url) } else { Ok(connection) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Connects to a peer that sends `answer` and closes. Returns the bytes that were sent to it.
    fn visited(answer: &[u8], look: impl Fn(Result<WebSocket, String>)) -> Vec<u8> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        look(WebSocket::begin(ServerConnection::new(ours), "h", "/ws", "http://h", PROTOCOL));
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).unwrap();
        sent
    }

    #[test]
    fn a_connection_receives_frames_and_answers_pings() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Sec-WebSocket-Protocol: oneloop.v1\r\n\r\n\x81\x02hi\x89\x01p\x88\x02\x11\x94";
        let sent = visited(answer, |visit| {
            let mut visit = visit.unwrap();
            assert!(visit.status == 101 && visit.is_proven && visit.has_protocol && visit.is_ours);
            let events = [0; 4].map(|_| visit.next(TIMEOUT));
            let message = WebSocketEvent::Message(b"hi".to_vec());
            assert_eq!(
                events,
                [
                    message,
                    WebSocketEvent::Ping,
                    WebSocketEvent::Closed(4500, Vec::new()),
                    WebSocketEvent::Cut
                ]
            );
        });
        assert!(sent.starts_with(b"GET /ws HTTP/1.1\r\nHost: h\r\n"));
        assert!(sent.ends_with(b"\r\n\r\n\x8a\x81\0\0\0\0p"));
    }

    #[test]
    fn strangers_are_told_from_a_server_of_ours() {
        for (answer, is_ours) in [
            ("HTTP/1.1 403 x\r\nX-Content-Type-Options: nosniff\r\n\r\n", true),
            ("HTTP/1.1 503 x\r\nRetry-After: 5\r\n\r\n", true),
            ("HTTP/1.1 429 x\r\nRetry-After: 5\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n", false),
            ("HTTP/1.1 101 x\r\nSec-WebSocket-Protocol: oneloop.v1\r\n\r\n", false),
        ] {
            visited(answer.as_bytes(), |visit| {
                assert_eq!(visit.unwrap().is_ours, is_ours, "{answer}");
            });
        }
        visited(b"-ERR unknown command\r\n", |visit| {
            assert_eq!(visit.err().as_deref(), Some("it closed the connection without an answer"));
        });
    }
}
