//! The client's side of WebSocket, without I/O: handshakes and frames to send, answers and frames to read.

use std::io::Cursor;

use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

/// The example of RFC 6455 section 1.3. It proves that a server computes the answer; secrecy is not its purpose.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// A frame from a server.
#[derive(Debug, PartialEq, Eq)]
pub enum ServerFrame<'a> {
    /// Text or binary, whole or a part.
    Message(&'a [u8]),
    /// To be answered by [`pong`].
    Ping(&'a [u8]),
    /// A close, with its code and reason; 1005 if it has neither (RFC 6455 section 7.4.1).
    Close(u16, &'a [u8]),
    Pong,
}

/// The bytes are not a frame of a server.
#[derive(Debug, PartialEq, Eq)]
pub struct MalformedFrame;

/// The head of an HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    pub status: u16,
    lines: &'a str,
}

impl ResponseHead<'_> {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.lines.lines().filter_map(|line| line.split_once(':'));
        pairs
            .filter(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .next()
    }

    /// Returns whether the peer proved that it speaks WebSocket (RFC 6455 section 4.1).
    pub fn is_proven(&self) -> bool {
        self.header("sec-websocket-accept") == Some(&derive_accept_key(KEY.as_bytes()))
    }
}

/// Encodes a handshake. `origin`: that of the page, or empty outside a browser. `protocols`: the subprotocols offered, separated by
/// commas. No argument may contain a line break.
pub fn handshake(host: &str, path: &str, origin: &str, protocols: &str) -> String {
    let page = if origin.is_empty() { "" } else { "\r\nOrigin: " };
    [
        "GET ",
        path,
        " HTTP/1.1\r\nHost: ",
        host,
        "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: ",
        KEY,
        page,
        origin,
        "\r\nSec-WebSocket-Protocol: ",
        protocols,
        "\r\n\r\n",
    ]
    .concat()
}

/// Reads the head of an answer, with its length; `None` if it is incomplete or not HTTP.
pub fn head(input: &[u8]) -> Option<(ResponseHead<'_>, usize)> {
    let length = input.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&input[..length]).ok()?;
    let (first, lines) = text.split_once("\r\n")?;
    let status = first.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((ResponseHead { status, lines }, length))
}

/// Reads the next frame, with its length; `None` if it is incomplete.
///
/// # Errors
/// [`MalformedFrame`].
pub fn frame(input: &[u8]) -> Result<Option<(ServerFrame<'_>, usize)>, MalformedFrame> {
    let mut cursor = Cursor::new(input);
    let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| MalformedFrame)?
    else {
        return Ok(None);
    };
    let start = cursor.position() as usize;
    let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
    let end = end.filter(|_| header.mask.is_none()).ok_or(MalformedFrame)?;
    let Some(payload) = input.get(start..end) else { return Ok(None) };
    let frame = match header.opcode {
        OpCode::Data(_) => ServerFrame::Message(payload),
        OpCode::Control(Control::Ping) => ServerFrame::Ping(payload),
        OpCode::Control(Control::Close) => {
            let parts = payload.split_first_chunk();
            let (code, reason) =
                parts.map_or((1005, payload), |(code, rest)| (u16::from_be_bytes(*code), rest));
            ServerFrame::Close(code, reason)
        }
        OpCode::Control(_) => ServerFrame::Pong,
    };
    Ok(Some((frame, end)))
}

/// Encodes a text message. Its mask is zero, like that of [`pong`].
pub fn text(message: &str) -> Vec<u8> {
    let length = message.len();
    let head = match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => vec![0x81, 0x80 | length],
        (_, Ok(length)) => [&[0x81, 0x80 | 126][..], &length.to_be_bytes()].concat(),
        _ => [&[0x81, 0x80 | 127][..], &(length as u64).to_be_bytes()].concat(),
    };
    [&head, &[0; 4][..], message.as_bytes()].concat()
}

/// Encodes the answer to a ping. Its mask is zero: masking protects intermediate caches from bytes that a page chose, and these are
/// the server's own.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    // A ping has at most 125 bytes (RFC 6455 section 5.5).
    let payload = &payload[..payload.len().min(125)];
    [&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_when_all_of_its_head_is_there() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUPGRADE: websocket\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x00";
        let (found, length) = head(answer).expect("it is whole");
        assert_eq!((found.status, length, found.is_proven()), (101, answer.len() - 2, true));
        assert_eq!((found.header("upgrade"), found.header("none")), (Some("websocket"), None));
        assert_eq!(head(&answer[..length - 1]), None);
        for other in
            ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 x\r\n\r\n", "\r\n\r\n"]
        {
            assert_eq!(head(other.as_bytes()), None, "{other:?}");
        }
        let (canned, _) = head(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: x\r\n\r\n").unwrap();
        assert!(!canned.is_proven());
    }

    #[test]
    fn frames_of_a_server_are_read() {
        for (bytes, expected) in [
            (&b"\x81\x02hi"[..], ServerFrame::Message(b"hi")),
            (b"\x89\x01p", ServerFrame::Ping(b"p")),
            (b"\x8a\x00", ServerFrame::Pong),
            (b"\x88\x04\x11\x94no", ServerFrame::Close(4500, b"no")),
            (b"\x88\x00", ServerFrame::Close(1005, b"")),
        ] {
            assert_eq!(frame(bytes), Ok(Some((expected, bytes.len()))));
            for length in 0..bytes.len() {
                assert_eq!(frame(&bytes[..length]), Ok(None), "{bytes:?}");
            }
        }
        assert_eq!(frame(b"\x81\x80\0\0\0\0"), Err(MalformedFrame), "a server masks nothing");
        assert_eq!(frame(b"\x83\x00"), Err(MalformedFrame), "an opcode of nobody");
        assert_eq!(frame(b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"), Err(MalformedFrame));
        assert_eq!(text("hi"), b"\x81\x82\0\0\0\0hi");
        assert_eq!(text(&"x".repeat(300))[..4], [0x81, 0xfe, 1, 44]);
        assert_eq!(pong(b"p"), b"\x8a\x81\0\0\0\0p");
        assert_eq!(pong(&[0; 300]).len(), 6 + 125);
    }
}
