//! A blocking client of HTTP/1.1 that posts JSON to one URL, on a connection that it keeps (RFC 9112).

use std::io::{self, ErrorKind};
use std::time::Duration;

use crate::cli::dial::{self, Deadline, ServerConnection, is_silence};
use crate::cli::tls;
use crate::cli::url::Url;

/// The time that a whole answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The longest content that is read, only to keep the connection.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// The connection to the back end.
pub(super) struct HttpClient {
    url: Url,
    /// The lines that all requests have.
    head: String,
    /// The connection, if the last answer left it usable.
    kept: Option<ServerConnection>,
}

impl HttpClient {
    /// Builds a client; `lines` are further header lines of each request.
    pub(super) fn new(url: Url, lines: &str) -> HttpClient {
        let (path, host) = (&url.path, &url.host);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{lines}"
        );
        HttpClient { url, head, kept: None }
    }

    /// The address of the back end, for a sentence: without the path, which may hold a secret.
    pub(super) fn address(&self) -> &str {
        &self.url.address
    }

    /// Posts a body, with further header lines, and returns the status of the answer.
    ///
    /// # Errors
    /// A sentence if there is no answer.
    pub(super) fn post(&mut self, lines: &str, body: &[u8]) -> Result<u16, String> {
        let length = body.len();
        let head = format!("{}{lines}Content-Length: {length}\r\n\r\n", self.head);
        let request = [head.as_bytes(), body].concat();
        let said = |error: io::Error| format!("{}: {error}", self.url.address);
        if let Some(kept) = self.kept.take() {
            match exchange(kept, &request) {
                // Servers close idle connections: another one gets the same request.
                Err(error) if !is_silence(&error) => {}
                answered => {
                    let (status, kept) = answered.map_err(said)?;
                    self.kept = kept;
                    return Ok(status);
                }
            }
        }
        let mut connection = dial::connect(&self.url.address).map_err(said)?;
        if self.url.has_tls {
            connection = tls::secure(connection, &self.url)?;
        }
        let (status, kept) = exchange(connection, &request).map_err(said)?;
        self.kept = kept;
        Ok(status)
    }
}

/// Sends a request and reads its answer. Returns the status, and the connection if it can be kept.
fn exchange(
    mut connection: ServerConnection,
    request: &[u8],
) -> io::Result<(u16, Option<ServerConnection>)> {
    let limit = Deadline::new(&connection, ANSWER_MAX)?;
    connection.write(request)?;
    let mut input = Vec::new();
    let answer = loop {
        if let Some(answer) = AnswerHead::parse(&input)? {
            break answer;
        }
        if connection.read(&mut input, ANSWER_MAX)? == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "it closed without an answer"));
        }
    };
    let end = answer.content.map(|length| answer.bytes + length);
    // The answer counts even if its content does not come.
    while end.is_some_and(|end| input.len() < end)
        && connection.read(&mut input, ANSWER_MAX).is_ok_and(|length| length > 0)
    {}
    drop(limit);
    Ok((answer.status, (end == Some(input.len())).then_some(connection)))
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct AnswerHead {
    status: u16,
    /// The length of the head, with interim answers before it.
    bytes: usize,
    /// The length of the content; `None` if the connection ends behind it, or it is too long or in chunks, which are not read.
    content: Option<usize>,
}

impl AnswerHead {
    /// Parses the head at the start of `input`; `None` if it is partial.
    ///
    /// # Errors
    /// It is too long, or not HTTP/1.1 or HTTP/1.0.
    fn parse(input: &[u8]) -> io::Result<Option<AnswerHead>> {
        let invalid = |why| io::Error::new(ErrorKind::InvalidData, why);
        let (mut rest, mut bytes) = (input, 0);
        loop {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                let is_long = rest.len() > HEAD_BYTES_MAX;
                return if is_long {
                    Err(invalid("its answer's head is too long"))
                } else {
                    Ok(None)
                };
            };
            let head = String::from_utf8_lossy(&rest[..end]);
            let (version, behind) = head.split_at_checked(9).unwrap_or_default();
            let status = behind.get(..3).and_then(|digits| digits.parse::<u16>().ok());
            let Some(status) = status.filter(|_| version.starts_with("HTTP/1.")) else {
                return Err(invalid("its answer is not HTTP/1.1"));
            };
            (rest, bytes) = (&rest[end + 4..], bytes + end + 4);
            // Interim answers come before the one that counts.
            if status >= 200 {
                let content = content_length(status, version == "HTTP/1.1 ", head.lines().skip(1));
                return Ok(Some(AnswerHead { status, bytes, content }));
            }
        }
    }
}

/// Returns the length of the content if the connection can be kept behind it.
fn content_length<'a>(
    status: u16,
    is_kept: bool,
    lines: impl Iterator<Item = &'a str>,
) -> Option<usize> {
    let (mut length, mut is_kept) = ((status == 204).then_some(0), is_kept);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" if status != 204 => length = value.trim().parse().ok(),
            "transfer-encoding" => is_kept = false,
            "connection" => is_kept &= !value.to_ascii_lowercase().contains("close"),
            _ => {}
        }
    }
    length.filter(|length| is_kept && *length <= CONTENT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_its_status_and_whether_the_connection_is_kept() {
        for (head, status, content) in [
            ("HTTP/1.1 204 No Content", 204, Some(0)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5", 200, Some(5)),
            ("HTTP/1.1 200\r\nContent-Length: 5", 200, Some(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive", 200, Some(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: Close", 200, None),
            ("HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked", 500, None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", 200, None),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5", 200, None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 65537", 200, None),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1", 200, None),
            ("HTTP/1.1 200 OK", 200, None),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 204 OK",
                204,
                Some(0),
            ),
        ] {
            let bytes = format!("{head}\r\n\r\n");
            let expected = AnswerHead { status, bytes: bytes.len(), content };
            let input = format!("{bytes}hello");
            assert_eq!(AnswerHead::parse(input.as_bytes()).unwrap(), Some(expected), "{head}");
            for end in 0..bytes.len() {
                assert_eq!(
                    AnswerHead::parse(&bytes.as_bytes()[..end]).unwrap(),
                    None,
                    "{head} {end}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for input in
            ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "\r\n\r\n"]
        {
            assert!(AnswerHead::parse(input.as_bytes()).is_err(), "{input}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(HEAD_BYTES_MAX));
        assert!(AnswerHead::parse(long.as_bytes()).is_err());
    }
}
