//! Request heads and the response to a handshake: the HTTP/1.1 around a WebSocket (RFC 9112, RFC 6455 section 4.2).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use data_encoding::BASE64;
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::{derive_accept_key, server};
use tungstenite::http::header::HOST;

use crate::engine::client::request_line::AsHandshake;
pub use crate::engine::client::request_line::Method;
pub use crate::engine::client::response::Response;

/// The response to a handshake (RFC 6455 section 4.2.2), up to the key.
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// The response to a plain request at a WebSocket's path.
const ENDPOINT: &str = "this is a WebSocket endpoint: connect with a WebSocket client, version 13";

/// The same for HTTP/1.0, which a WebSocket client never sends by itself.
const OLD: &str = "this is a WebSocket endpoint, and this request came by HTTP/1.0: tell the proxy in front to use HTTP/1.1 \
    (nginx: proxy_http_version 1.1; and pass the headers Upgrade and Connection on)";

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    head: server::Request,
    method: Method,
    is_old: bool,
    address: Option<IpAddr>,
    is_from_proxy: bool,
}

/// Parses a head at the start of `bytes`. Returns the request and the length of its head, or `None` if it is partial.
///
/// # Errors
/// The response to a malformed head (400), an unsupported method (405), or a head above `bytes_max` or 124 lines (431).
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Option<(Request, usize)>, Response> {
    let read = AsHandshake::new(bytes);
    let parsed = parse_handshake(&read, bytes_max).map_err(|answer| answer.answering(read.method));
    Ok(parsed?.map(|(head, length)| {
        let AsHandshake { method, is_old, .. } = read;
        (Request { head, method, is_old, address: None, is_from_proxy: false }, length)
    }))
}

fn parse_handshake(
    read: &AsHandshake<'_>,
    bytes_max: usize,
) -> Result<Option<(server::Request, usize)>, Response> {
    let parsed = server::Request::try_parse(&read.bytes).map_err(|error| refusal(&error))?;
    match parsed.map(|(length, head)| (length + read.cut, head)) {
        Some((length, _)) if length > bytes_max => Err(too_large()),
        None if read.bytes.len() + read.cut >= bytes_max => Err(too_large()),
        None => Ok(None),
        Some((length, head)) => match head.headers().get_all(HOST).iter().count() {
            1 => Ok(Some((head, length))),
            // RFC 9112 section 3.2: HTTP/1.0 has no Host.
            0 if read.is_old => Ok(Some((head, length))),
            _ => Err(Response::text(400, "one Host header is expected")),
        },
    }
}

fn too_large() -> Response {
    Response::text(431, "the request's head is too large")
}

fn refusal(error: &Error) -> Response {
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            Response::text(405, "only GET, HEAD and OPTIONS are served here")
                .with("Allow", Method::ALLOWED)
        }
        Error::Capacity(CapacityError::TooManyHeaders) => too_large(),
        _ => Response::text(400, "this is not a request of HTTP/1.1"),
    }
}

impl Request {
    /// The client's address as reported by trusted proxies; `0.0.0.0` if there is none, as for a connection without a socket.
    pub fn address(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
    }

    /// The same, if it is known yet.
    pub fn known_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Sets the client's address.
    pub fn from_address(self, address: Option<IpAddr>) -> Request {
        Request { address, ..self }
    }

    /// Sets that the request was sent by a trusted proxy, on behalf of the client.
    pub fn from_proxy(self, is_from_proxy: bool) -> Request {
        Request { is_from_proxy, ..self }
    }

    /// Returns whether a trusted proxy sent the request: its own headers are believed, as far as it does not pass on a client's.
    pub fn is_from_proxy(&self) -> bool {
        self.is_from_proxy
    }

    pub fn method(&self) -> Method {
        self.method
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// The first value of a header, if it is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// The token in the `Authorization` header (RFC 6750 section 2.1). No page can make a browser send one in a handshake.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// All values of a header, split at commas: the entries of a list (RFC 9110 section 5.6.1).
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let values = self.head.headers().get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
    }

    /// The same in reverse and as bytes: an entry that is not text still counts.
    pub fn list_from_end<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let values = self.head.headers().get_all(name).iter().rev();
        values
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|entry| !entry.is_empty())
    }

    /// All values of a header, unchanged.
    pub fn lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.head.headers().get_all(name).iter().map(|value| value.as_bytes())
    }

    /// The number of lines with this header.
    pub fn count(&self, name: &str) -> usize {
        self.head.headers().get_all(name).iter().count()
    }

    /// A parameter of the query, not decoded: tokens and cursors need no percent-encoding. An empty one counts as absent.
    pub fn query(&self, name: &str) -> Option<&str> {
        let pairs = self.head.uri().query()?.split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
    }

    /// Returns whether a parameter of the query has no value.
    pub fn parameter_is_empty(&self, name: &str) -> bool {
        let mut pairs = self.head.uri().query().unwrap_or_default().split('&');
        pairs.any(|pair| pair.strip_prefix(name).is_some_and(|rest| matches!(rest, "" | "=")))
    }

    /// All parameters of the query with this name, percent-decoded. Those that are not UTF-8 are skipped.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.head.uri().query().unwrap_or_default().split('&');
        let values =
            pairs.filter_map(|pair| pair.split_once('=')).filter(move |pair| pair.0 == name);
        values.filter_map(|(_, value)| percent_decoded(value))
    }

    /// Returns whether the request used HTTP/1.0, which no browser speaks.
    pub fn is_old(&self) -> bool {
        self.is_old
    }

    /// Returns whether the client asks for a WebSocket. The header has no meaning in HTTP/1.0 (RFC 9110 section 7.8).
    pub fn is_upgrade(&self) -> bool {
        let is_asked = || self.list("upgrade").any(|entry| entry.eq_ignore_ascii_case("websocket"));
        self.method == Method::Get && !self.is_old && is_asked()
    }

    /// The response that makes the connection a WebSocket (RFC 6455 section 4.2.2), with the selected subprotocol and the accepted
    /// extension, if any.
    ///
    /// # Errors
    /// The refusal: 426 for another version or no upgrade, 400 for a malformed request.
    pub fn accept(
        &self,
        protocol: Option<&str>,
        extension: Option<&str>,
    ) -> Result<Vec<u8>, Response> {
        if !self.is_upgrade() {
            return Err(Response::upgrade_required(if self.is_old { OLD } else { ENDPOINT }));
        }
        if let Some(why) = self.ambiguity() {
            return Err(Response::text(400, why));
        }
        if self.header("sec-websocket-version") != Some("13") {
            return Err(Response::upgrade_required(ENDPOINT));
        }
        // A proxy may send two Connection lines, or several tokens in one: tungstenite's own check reads the first line only.
        let asked = self.list("connection").any(|entry| entry.eq_ignore_ascii_case("upgrade"));
        if !asked {
            return Err(Response::text(400, "Connection: Upgrade is expected"));
        }
        let key = self.header("sec-websocket-key").filter(|key| is_key(key)).ok_or_else(|| {
            Response::text(400, "Sec-WebSocket-Key: 16 bytes in base64 are expected")
        })?;
        let accept = derive_accept_key(key.as_bytes());
        let mut lines = [SWITCHING, &accept, "\r\n"].concat();
        let selected =
            [("Sec-WebSocket-Protocol: ", protocol), ("Sec-WebSocket-Extensions: ", extension)];
        for (name, value) in selected {
            value.into_iter().for_each(|value| lines.extend([name, value, "\r\n"]));
        }
        lines.push_str("\r\n");
        Ok(lines.into_bytes())
    }

    /// An ambiguity in this head that a proxy in front may resolve in another way.
    fn ambiguity(&self) -> Option<&'static str> {
        if ["sec-websocket-key", "sec-websocket-version"].iter().any(|name| self.count(name) > 1) {
            return Some("one Sec-WebSocket-Key and one Sec-WebSocket-Version are expected");
        }
        // RFC 9110 section 9.3.1: a body would be taken for frames.
        self.has_content().then_some("a handshake without content is expected")
    }

    /// Returns whether the head announces a body.
    pub fn has_content(&self) -> bool {
        let is_empty = self.list("content-length").all(|length| length == "0");
        self.count("transfer-encoding") > 0 || !is_empty
    }

    /// The cursor of the latest message that the client has: in the header by which an event stream resumes, or in the query.
    pub fn since(&self) -> Option<&str> {
        let header = self.header("last-event-id").filter(|since| !since.is_empty());
        header.or_else(|| self.query("since"))
    }
}

/// Returns whether `key` is 16 bytes in base64 (RFC 6455 section 4.2.1).
fn is_key(key: &str) -> bool {
    key.len() == 24 && BASE64.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

/// Decodes RFC 3986 section 2.1; a `%` without two hexadecimal digits is kept.
pub fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let value = digits.and_then(|two| Some(digit(two[0])? * 16 + digit(two[1])?));
        decoded.push(value.map_or(*byte, |value| value as u8));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_query_are_decoded() {
        let all = "/ws?topic=a&topic=b%2e%2A&since=1&topic=c%3A%C3%BC%2&topic=%ff&topic";
        let head = format!("GET {all} HTTP/1.1\r\nHost: h\r\n\r\n");
        let request = parse(head.as_bytes(), 8192).unwrap().unwrap().0;
        let topics: Vec<_> = request.query_all("topic").collect();
        assert_eq!(topics, ["a", "b.*", "c:ü%2"]);
        assert_eq!(request.query("since"), Some("1"));
    }

    fn head(lines: &str) -> Vec<u8> {
        format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).into_bytes()
    }

    fn request(lines: &str) -> Request {
        parse(&head(lines), 8192).unwrap().unwrap().0
    }

    const GOOD: &str = "GET /ws?a=&token=T HTTP/1.1\nHost: h\nConnection: keep-alive\n\
        Connection: foo, upgrade\nUpgrade: WebSocket\nSec-WebSocket-Version: 13\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Protocol: a, oneloop.v1";

    #[test]
    fn a_second_connection_line_counts() {
        let accepted = request(GOOD).accept(Some("oneloop.v1"), None).unwrap();
        assert!(
            request(&GOOD.replace("Host: h", "Host: h\nContent-Length: 0"))
                .accept(None, None)
                .is_ok()
        );
        let text = String::from_utf8(accepted).unwrap().to_lowercase();
        assert!(text.starts_with("http/1.1 101 "));
        assert!(text.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
        assert!(text.contains("sec-websocket-protocol: oneloop.v1\r\n"));
    }

    #[test]
    fn reads_path_query_and_lists() {
        let request = request(GOOD);
        assert_eq!(request.path(), "/ws");
        assert_eq!(
            (request.query("token"), request.query("a"), request.query("b")),
            (Some("T"), None, None)
        );
        assert_eq!(request.list("sec-websocket-protocol").collect::<Vec<_>>(), ["a", "oneloop.v1"]);
        assert!(request.is_upgrade());
    }

    #[test]
    fn each_malformed_head_has_its_answer() {
        for (lines, status) in [
            ("POST / HTTP/1.1\nHost: h", 405),
            ("CONNECT h:1 HTTP/1.1\nHost: h", 405),
            ("POST / HTTP/1.0", 405),
            ("GET / HTTP/1.0\nHost: h\nHost: i", 400),
            ("GET / HTTP/2.0\nHost: h", 400),
            ("GET / HTTP/1.1", 400),
            ("HEAD / HTTP/1.1", 400),
            ("GET / HTTP/1.1\nHost: h\nHost: i", 400),
            ("GET / HTTP/1.1\nHost h", 400),
            ("\u{1}\u{2}", 400),
        ] {
            let refused = parse(&head(lines), 8192).unwrap_err();
            assert_eq!(refused.status, status, "{lines}");
            assert_eq!(refused.is_for_head, lines.starts_with("HEAD"), "{lines}");
        }
        assert_eq!(parse(b"GET / HT", 8192).unwrap().map(|(_, length)| length), None);
        assert_eq!(parse(b"GET /aaaaaaaaaaaaaaaaaaaa", 16).unwrap_err().status, 431);
        assert_eq!(parse(&head(GOOD), 64).unwrap_err().status, 431);
        let many = format!("GET / HTTP/1.1\nHost: h{}", "\nA: b".repeat(200));
        assert_eq!(parse(&head(&many), 8192).unwrap_err().status, 431);
    }

    #[test]
    fn each_method_and_version_is_read_with_its_own_length() {
        for (line, method) in [
            ("GET /a?b=c HTTP/1.1", Method::Get),
            ("HEAD /a?b=c HTTP/1.1", Method::Head),
            ("OPTIONS /a?b=c HTTP/1.1", Method::Options),
            ("GET /a?b=c HTTP/1.0", Method::Get),
            ("HEAD /a?b=c HTTP/1.0", Method::Head),
        ] {
            let mut bytes = head(&format!("{line}\nHost: h\nA: b"));
            let length = bytes.len();
            for end in 0..length {
                assert!(parse(&bytes[..end], 8192).unwrap().is_none(), "{line} {end}");
            }
            bytes.extend_from_slice(b"behind it");
            let (request, read) = parse(&bytes, length).unwrap().unwrap();
            assert_eq!((read, request.method()), (length, method), "{line}");
            assert_eq!((request.path(), request.query("b")), ("/a", Some("c")));
            assert_eq!(request.header("a"), Some("b"));
            assert_eq!(parse(&bytes, length - 1).unwrap_err().status, 431, "{line}");
        }
        assert_eq!(request("GET / HTTP/1.0").header("host"), None);
        assert_eq!(request("OPTIONS * HTTP/1.1\nHost: h").path(), "*");
    }

    #[test]
    fn nothing_but_a_get_of_http_1_1_becomes_a_websocket() {
        for (from, to, text) in [
            ("Upgrade: WebSocket", "A: b", ENDPOINT),
            ("GET", "HEAD", ENDPOINT),
            ("GET", "OPTIONS", ENDPOINT),
            ("HTTP/1.1", "HTTP/1.0", "proxy_http_version 1.1"),
        ] {
            let refused = request(&GOOD.replacen(from, to, 1)).accept(None, None).unwrap_err();
            assert_eq!(refused.status, 426, "{to}");
            assert!(String::from_utf8(refused.body).unwrap().contains(text), "{to}");
        }
    }

    #[test]
    fn an_upgrade_that_is_wrong_is_refused() {
        for (from, to, status) in [
            ("Version: 13", "Version: 8", 426),
            ("foo, upgrade", "foo", 400),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", 400),
            ("Host: h", "Host: h\nSec-WebSocket-Version: 13", 400),
            ("Host: h", "Host: h\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
            ("Host: h", "Host: h\nContent-Length: 1", 400),
            ("Host: h", "Host: h\nTransfer-Encoding: chunked", 400),
        ] {
            let refused = request(&GOOD.replace(from, to)).accept(None, None).unwrap_err();
            assert_eq!(refused.status, status, "{to}");
        }
    }
}
