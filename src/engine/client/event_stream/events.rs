//! WebSocket frames, encoded as server-sent events (WHATWG HTML, section 9.2.5).

use std::io::Cursor;

use data_encoding::BASE64;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::engine::client::frame::{Close, Frame};
use crate::json;

/// Bytes around a payload of one line: the names of its fields, a cursor, the length of the chunk.
const AROUND_BYTES: usize = 80;

/// A comment, which clients skip: a heartbeat.
const COMMENT: &[u8] = b":\n\n";

/// The pause, in milliseconds, before a page that does not listen to `close` comes back after a code that asks it to stay away.
const AWAY_MILLIS: u64 = 60_000;

/// The code of a close frame without one (RFC 6455 section 7.4.1).
const NO_CODE: u16 = 1005;

/// Encodes a frame, or several: a text as an event without a name, anything else as base64 in an event named `data64`, a ping as a
/// comment, a close frame as the event `close`, the last one. The message's cursor is the event's `id`, from which a client resumes.
pub fn encode(frame: &Frame, is_chunked: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(frame.as_bytes().len() + AROUND_BYTES);
    let mut rest = frame.as_bytes();
    let mut is_last = false;
    if let Some(cursor) = frame.cursor() {
        body.extend_from_slice(b"id: ");
        body.extend_from_slice(cursor);
        body.push(b'\n');
    }
    while let Some((opcode, payload)) = take_frame(&mut rest) {
        match opcode {
            OpCode::Data(Data::Text) => append_lines(payload, &mut body),
            OpCode::Data(_) => {
                body.extend_from_slice(b"event: data64\n");
                append_lines(BASE64.encode(payload).as_bytes(), &mut body);
            }
            OpCode::Control(Control::Close) => {
                append_close(payload, &mut body);
                is_last = true;
            }
            OpCode::Control(_) => body.extend_from_slice(COMMENT),
        }
    }
    if body.is_empty() {
        body.extend_from_slice(COMMENT);
    }
    let mut bytes = framed(body, is_chunked);
    if is_last && is_chunked {
        bytes.extend_from_slice(b"0\r\n\r\n");
    }
    bytes
}

/// Makes a chunk of a body, which is not empty: an empty chunk would be the last one (RFC 9112 section 7.1).
pub(super) fn framed(body: Vec<u8>, is_chunked: bool) -> Vec<u8> {
    debug_assert!(!body.is_empty(), "an empty chunk would end the response");
    if !is_chunked {
        return body;
    }
    let size = format!("{:x}\r\n", body.len());
    [size.as_bytes(), &body, b"\r\n"].concat()
}

/// Takes the first frame off `bytes`, which the server has made. Returns its kind and its payload.
fn take_frame<'a>(bytes: &mut &'a [u8]) -> Option<(OpCode, &'a [u8])> {
    let mut cursor = Cursor::new(*bytes);
    let (header, length) = FrameHeader::parse(&mut cursor).ok().flatten()?;
    let payload = &bytes[cursor.position() as usize..];
    let (payload, rest) = payload.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some((header.opcode, payload))
}

/// Appends a payload and the end of its event. A receiver joins the lines by LF, so each kind of line break comes out as one.
fn append_lines(mut payload: &[u8], out: &mut Vec<u8>) {
    loop {
        let end = payload.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&payload[..end.unwrap_or(payload.len())]);
        out.push(b'\n');
        let Some(end) = end else { break };
        let width = if payload[end..].starts_with(b"\r\n") { 2 } else { 1 };
        payload = &payload[end + width..];
    }
    out.push(b'\n');
}

/// Appends the event of a close frame: its code and reason, and the pause that a client keeps by itself.
fn append_close(payload: &[u8], out: &mut Vec<u8>) {
    let (code, reason) = payload
        .split_first_chunk()
        .map_or((NO_CODE, &[][..]), |(code, reason)| (u16::from_be_bytes(*code), reason));
    let reason = std::str::from_utf8(reason).unwrap_or_default();
    let close = Close::plain(code).because(reason.to_owned());
    let away = (4500..5000).contains(&code).then_some(AWAY_MILLIS);
    let retry = close.retry_millis().or(away);
    let retry = retry.map(|retry| format!("retry: {retry}\n")).unwrap_or_default();
    let data = close_data(code, reason);
    out.extend_from_slice(format!("event: close\n{retry}data: {data}\n\n").as_bytes());
}

/// The data of the event `close`, which is also the body of a refusal.
pub fn close_data(code: u16, reason: &str) -> String {
    format!("{{\"code\":{code},\"reason\":{}}}", json::encode(&reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;

    /// An event as a client's parser finds it (WHATWG HTML, section 9.2.6).
    #[derive(Debug, Default, PartialEq)]
    struct Event {
        name: String,
        data: String,
        id: String,
        retry: Option<u64>,
    }

    /// A parser after the standard's words, written without a look at the encoder.
    fn parse(stream: &str) -> (Vec<Event>, usize) {
        let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut event, mut comments) = (Vec::new(), Event::default(), 0);
        let (mut data, mut id): (Option<String>, String) = (None, String::new());
        for line in stream.split_terminator('\n') {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    let id = id.clone();
                    events.push(Event { data, id, ..std::mem::take(&mut event) });
                }
                event = Event::default();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => comments += 1,
                "event" => event.name = value.to_owned(),
                "id" => id = value.to_owned(),
                "retry" => event.retry = value.parse().ok(),
                "data" => match &mut data {
                    Some(data) => data.extend(["\n", value]),
                    None => data = Some(value.to_owned()),
                },
                other => panic!("an unknown field {other}"),
            }
        }
        (events, comments)
    }

    /// The body of a chunked response, and whether its last chunk has come.
    fn unchunked(mut bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.windows(2).position(|two| two == b"\r\n").expect("a size");
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16);
            let size = size.expect("a hexadecimal size");
            bytes = &bytes[end + 2..];
            body.extend_from_slice(&bytes[..size]);
            bytes = bytes[size..].strip_prefix(b"\r\n").expect("the end of a chunk");
            if size == 0 {
                assert!(bytes.is_empty(), "nothing stands behind the last chunk");
                return (body, true);
            }
        }
        (body, false)
    }

    fn text_of(frame: &Frame) -> String {
        let bare = encode(frame, false);
        assert_eq!(unchunked(&encode(frame, true)).0, bare, "the same in chunks");
        String::from_utf8(bare).expect("events are UTF-8")
    }

    #[test]
    fn each_kind_of_frame_has_its_event() {
        let message = Frame::text(r#"{"id":"abc"}"#).with_cursor_at(7..10);
        for (frame, expected) in [
            (message, "id: abc\ndata: {\"id\":\"abc\"}\n\n"),
            (Frame::text(""), "data: \n\n"),
            (Frame::text(" a\r\nb\rc\n"), "data:  a\ndata: b\ndata: c\ndata: \n\n"),
            (Frame::binary(b"\xff\x00"), "event: data64\ndata: /wA=\n\n"),
            (Frame::ping(), ":\n\n"),
            (Frame::heartbeat("abc"), "id: abc\n:\n\n"),
            (Frame::ready(b"no frame".to_vec()), ":\n\n"),
            (Frame::ready(b"\x81\x01a\x81\x01b".to_vec()), "data: a\n\ndata: b\n\n"),
            (
                Frame::close(&Close::plain(4000)),
                "event: close\ndata: {\"code\":4000,\"reason\":\"\"}\n\n",
            ),
            (
                Frame::close(&Close::GOING_AWAY.retry_after(250)),
                "event: close\nretry: 250\ndata: {\"code\":1001,\"reason\":\"{\\\"retry\\\":250}\"}\n\n",
            ),
            (
                Frame::close(&Close::KICKED.because("a\nb")),
                "event: close\nretry: 60000\ndata: {\"code\":4504,\"reason\":\"a\\nb\"}\n\n",
            ),
        ] {
            assert_eq!(text_of(&frame), expected);
        }
    }

    #[test]
    fn only_a_close_is_the_last_chunk() {
        assert!(unchunked(&encode(&Frame::close(&Close::SLOW), true)).1);
        for frame in [Frame::text("a"), Frame::ping(), Frame::ready(Vec::new())] {
            assert!(!unchunked(&encode(&frame, true)).1);
        }
    }

    #[test]
    fn whatever_is_sent_comes_out_of_a_parser_of_the_standard() {
        let pieces: [&[u8]; 14] = [
            b"\n",
            b"\r",
            b"\r\n",
            b":",
            b" ",
            b"data: x",
            b"event: close",
            b"id",
            b"{\"a\":1}",
            "é".as_bytes(),
            b"\xc3",
            b"\0",
            b"0\r\n\r\n",
            "\u{feff}".as_bytes(),
        ];
        let seed = 0x7373_6501;
        let mut random = Random::new(seed);
        for round in 0..20_000 {
            let (mut stream, mut expected, mut pings) = (Vec::new(), Vec::new(), 0);
            for _ in 0..random.below(4) {
                let payload = random.bytes(&pieces);
                let frame = Frame::message(&payload);
                let is_ping = random.below(4) == 0;
                let sent = if is_ping { Frame::ping() } else { frame };
                stream.extend(encode(&sent, true));
                pings += usize::from(is_ping);
                if is_ping {
                    continue;
                }
                let (name, data) = match std::str::from_utf8(&payload) {
                    Ok(text) => ("", text.replace("\r\n", "\n").replace('\r', "\n")),
                    Err(_) => ("data64", BASE64.encode(&payload)),
                };
                expected.push(Event { name: name.to_owned(), data, ..Event::default() });
            }
            let (body, is_over) = unchunked(&stream);
            let found = parse(std::str::from_utf8(&body).expect("events are UTF-8"));
            assert_eq!((found, is_over), ((expected, pings), false), "seed {seed} round {round}");
        }
    }
}
