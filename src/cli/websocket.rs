//! A visit to a server, as one client: the handshake, and then whatever comes.

use std::time::Duration;

use crate::cli::dial::{ServerConnection, TIMEOUT, is_silence};
use crate::cli::websocket_client::{self, ServerFrame};
use crate::push::PROTOCOL;

/// A larger head, or a larger message, is not waited for.
const INPUT_BYTES_MAX: usize = 2 << 20;

/// The answer to a handshake came.
pub(super) struct WebSocket {
    line: ServerConnection,
    input: Vec<u8>,
    pub(super) status: u16,
    /// Whoever answered speaks WebSocket.
    pub(super) is_proven: bool,
    /// The subprotocol that was offered is spoken.
    pub(super) has_protocol: bool,
    /// It answered as our server does.
    pub(super) is_ours: bool,
    /// Where it sends us instead.
    pub(super) location: String,
}

/// What came after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WebSocketEvent {
    Message(Vec<u8>),
    /// It was answered.
    Ping,
    /// With this code and this reason.
    Closed(u16, Vec<u8>),
    /// Without a word.
    Cut,
    /// Nothing came.
    Silence,
}

impl WebSocket {
    /// # Errors
    /// A sentence: there was no answer.
    pub(super) fn begin(
        line: ServerConnection,
        host: &str,
        path: &str,
        origin: &str,
        protocols: &str,
    ) -> Result<WebSocket, String> {
        let mut visit = WebSocket {
            line,
            input: Vec::new(),
            status: 0,
            is_proven: false,
            has_protocol: false,
            is_ours: false,
            location: String::new(),
        };
        let handshake = websocket_client::handshake(host, path, origin, protocols);
        let _ = visit.line.write(handshake.as_bytes());
        loop {
            if let Some((head, length)) = websocket_client::head(&visit.input) {
                visit.status = head.status;
                visit.is_proven = head.status == 101 && head.is_proven();
                visit.has_protocol = head.header("sec-websocket-protocol") == Some(PROTOCOL);
                // A server without room, for anyone or for this address, has no more to say than that.
                let is_ours = head.header("x-content-type-options") == Some("nosniff")
                    || (matches!(head.status, 429 | 503)
                        && head.header("retry-after") == Some("5"));
                visit.is_ours = (visit.is_proven && visit.has_protocol) || is_ours;
                // What it makes of the query may hold the token that was in ours.
                let location = head.header("location").unwrap_or_default();
                visit.location = location.split('?').next().unwrap_or_default().to_owned();
                visit.input.drain(..length);
                return Ok(visit);
            }
            match visit.hear(TIMEOUT) {
                Ok(0) => return Err("it ended the connection without an answer".to_owned()),
                Ok(_) if visit.input.len() > INPUT_BYTES_MAX => {
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

    /// What comes next, within so long.
    pub(super) fn next(&mut self, wait: Duration) -> WebSocketEvent {
        loop {
            match websocket_client::frame(&self.input) {
                Err(_) => return WebSocketEvent::Cut,
                Ok(None) => {}
                Ok(Some((heard, length))) => {
                    let event = match heard {
                        ServerFrame::Message(text) => WebSocketEvent::Message(text.to_vec()),
                        ServerFrame::Ping(payload) => {
                            let _ = self.line.write(&websocket_client::pong(payload));
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
            match self.hear(wait) {
                Ok(0) => return WebSocketEvent::Cut,
                Ok(_) if self.input.len() > INPUT_BYTES_MAX => return WebSocketEvent::Cut,
                Ok(_) => {}
                Err(error) if is_silence(&error) => return WebSocketEvent::Silence,
                Err(_) => return WebSocketEvent::Cut,
            }
        }
    }

    /// Sends a text message.
    pub(super) fn say(&mut self, text: &str) {
        // That the connection has ended is told by the next event.
        let _ = self.line.write(&websocket_client::text(text));
    }

    /// The start of the body of an answer that is no WebSocket: so much of it as has come.
    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.input).into_owned()
    }

    fn hear(&mut self, wait: Duration) -> std::io::Result<usize> {
        let mut buffer = [0; 4096];
        let length = self.line.read_within(&mut buffer, wait)?;
        self.input.extend_from_slice(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// A visit to somebody who has said `answer` already and goes, and what was sent there.
    fn visited(answer: &[u8], look: impl Fn(Result<WebSocket, String>)) -> Vec<u8> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        look(WebSocket::begin(ServerConnection::Unix(ours), "h", "/ws", "http://h", PROTOCOL));
        let mut sent = Vec::new();
        theirs.read_to_end(&mut sent).unwrap();
        sent
    }

    #[test]
    fn a_visit_hears_what_comes_and_answers_pings() {
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
            assert_eq!(visit.err().as_deref(), Some("it ended the connection without an answer"));
        });
    }
}
