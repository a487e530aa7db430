//! HTTP at the publishers' port, without I/O: each `POST /publish/<channel>` publishes its content.

use std::borrow::Cow;

use crate::features::publisher::http_head::{HttpRefusal, PublishHead};
use crate::features::publisher::input::is_request;
use crate::features::publisher::settings::Terms;

/// The longest head, with all its lines.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The longest content that is read only to be dropped, so that the connection can go on. Behind a longer one it ends.
const DROPPED_BYTES_MAX: u64 = 64 << 20;
/// Leave to send the content (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An outcome of reading.
pub enum HttpEvent<'input> {
    /// The peer waits for [`CONTINUE`].
    Expected,
    /// A request to publish.
    Publish { channel: String, payload: Cow<'input, [u8]>, is_last: bool },
    /// A request that publishes nothing.
    Refused { refusal: HttpRefusal, is_last: bool },
    /// A request that a browser sends for some page: close without a reply.
    Page,
}

/// The part of a request that has come. Between two requests it holds no buffer.
pub struct HttpReader {
    head: Vec<u8>,
    body: Option<HttpBody>,
}

/// The content of a request whose head was read.
struct HttpBody {
    /// The channel, or the refusal if the content is dropped.
    outcome: Result<String, HttpRefusal>,
    is_last: bool,
    /// Bytes that are still to come.
    left: usize,
    /// The part of the payload that has come.
    payload: Vec<u8>,
}

impl HttpReader {
    /// Begins with the first line of the first request.
    pub fn new(line: Vec<u8>) -> HttpReader {
        HttpReader { head: line, body: None }
    }

    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        self.head.capacity() == 0 && self.body.is_none()
    }

    /// Takes one event; `None`: the input is used up.
    pub fn next<'input>(
        &mut self,
        input: &mut &'input [u8],
        terms: &Terms,
    ) -> Option<HttpEvent<'input>> {
        if self.body.is_none()
            && let Some(event) = self.read_head(input, terms)
        {
            return Some(event);
        }
        self.read_body(input)
    }

    /// Reads a head, of which the content follows unless there is an event.
    fn read_head(&mut self, input: &mut &[u8], terms: &Terms) -> Option<HttpEvent<'static>> {
        let refuse = |refusal| Some(HttpEvent::Refused { refusal, is_last: true });
        while !self.head.ends_with(b"\r\n\r\n") {
            if input.is_empty() {
                return None;
            }
            let end = input.iter().position(|byte| *byte == b'\n').map_or(input.len(), |at| at + 1);
            let (line, rest) = input.split_at(end);
            if self.head.len() + line.len() > HEAD_BYTES_MAX {
                return refuse(HttpRefusal::new(431, "the request's head is too large"));
            }
            let is_first = !self.head.contains(&b'\n');
            self.head.extend_from_slice(line);
            *input = rest;
            // An empty line before a request is skipped (RFC 9112 section 2.2).
            if self.head == b"\r\n" {
                self.head.clear();
            } else if self.head.ends_with(b"\n")
                && !(self.head.ends_with(b"\r\n") && (!is_first || is_request(&self.head)))
            {
                return refuse(malformed());
            }
        }
        let bytes = std::mem::take(&mut self.head);
        let Some(head) = PublishHead::parse(&bytes) else { return refuse(malformed()) };
        if head.is_from_page() {
            return Some(HttpEvent::Page);
        }
        let length = match head.length() {
            Ok(length) => length,
            Err(refusal) => return refuse(refusal),
        };
        let waits = head.expects_leave() && length > 0;
        match head.channel(length, terms) {
            Err(refusal) if waits || length > DROPPED_BYTES_MAX => refuse(refusal),
            outcome => {
                let (is_last, left) = (head.is_last(), length as usize);
                self.body = Some(HttpBody { outcome, is_last, left, payload: Vec::new() });
                waits.then_some(HttpEvent::Expected)
            }
        }
    }

    /// Reads the content, or drops it.
    fn read_body<'input>(&mut self, input: &mut &'input [u8]) -> Option<HttpEvent<'input>> {
        let body = self.body.as_mut()?;
        let (taken, rest) = input.split_at(body.left.min(input.len()));
        *input = rest;
        body.left -= taken.len();
        let is_whole = body.left == 0 && body.payload.is_empty();
        if body.outcome.is_ok() && !is_whole {
            body.payload.extend_from_slice(taken);
        }
        if body.left > 0 {
            return None;
        }
        let HttpBody { outcome, is_last, payload, .. } = self.body.take()?;
        Some(match outcome {
            Err(refusal) => HttpEvent::Refused { refusal, is_last },
            Ok(channel) => {
                let payload = if is_whole { Cow::Borrowed(taken) } else { Cow::Owned(payload) };
                HttpEvent::Publish { channel, payload, is_last }
            }
        })
    }
}

fn malformed() -> HttpRefusal {
    HttpRefusal::new(400, "this is not a request of HTTP/1.1")
}

/// Encodes an answer behind `output`. It lets no page of another origin read it.
pub fn write_answer(output: &mut Vec<u8>, status: u16, text: &str, is_last: bool) {
    let (reason, header) = match status {
        200 => ("OK", ""),
        400 => ("Bad Request", ""),
        401 => ("Unauthorized", "WWW-Authenticate: Bearer\r\n"),
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: POST\r\n"),
        411 => ("Length Required", ""),
        413 => ("Content Too Large", ""),
        415 => ("Unsupported Media Type", ""),
        431 => ("Request Header Fields Too Large", ""),
        _ => ("Status", ""),
    };
    let content_type = if status == 200 { "application/json" } else { "text/plain; charset=utf-8" };
    let connection = if is_last { "Connection: close\r\n" } else { "" };
    let length = text.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\n{header}{connection}Content-Type: {content_type}\r\n\
         Content-Length: {length}\r\nX-Content-Type-Options: nosniff\r\n\r\n{text}\n"
    );
    output.extend_from_slice(answer.as_bytes());
}
