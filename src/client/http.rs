//! Request heads and the answer to a handshake: the HTTP/1.1 that surrounds a WebSocket (RFC 9112, RFC 6455 section 4.2).

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use data_encoding::BASE64;
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::{derive_accept_key, server};
use tungstenite::http::header::HOST;

pub use super::response::{Response, upgrade_required};

/// The start of the answer to a handshake (RFC 6455 section 4.2.2), up to the key that proves that it was read.
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: ";

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    head: server::Request,
    address: Option<IpAddr>,
}

/// Reads a head from the start of `bytes`: the request and the length of its head, or nothing yet.
///
/// # Errors
/// The answer to one that is malformed (400), not a GET (405), or larger than `bytes_max` or 124 lines (431).
pub fn parse(bytes: &[u8], bytes_max: usize) -> Result<Option<(Request, usize)>, Response> {
    let parsed = server::Request::try_parse(bytes).map_err(|error| refusal(&error))?;
    match parsed {
        Some((length, _)) if length > bytes_max => Err(too_large()),
        None if bytes.len() >= bytes_max => Err(too_large()),
        None => Ok(None),
        Some((length, request)) => {
            if request.headers().get_all(HOST).iter().count() != 1 {
                // RFC 9112 section 3.2.
                return Err(Response::text(400, "one Host header is expected"));
            }
            Ok(Some((Request { head: request, address: None }, length)))
        }
    }
}

fn too_large() -> Response {
    Response::text(431, "the request's head is too large")
}

fn refusal(error: &Error) -> Response {
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            Response::text(405, "only GET is served here").with("Allow", "GET")
        }
        Error::Protocol(ProtocolError::WrongHttpVersion) => {
            Response::text(400, "HTTP/1.1 is expected")
        }
        Error::Capacity(CapacityError::TooManyHeaders) => too_large(),
        _ => Response::text(400, "this is not a request of HTTP/1.1"),
    }
}

impl Request {
    /// The client's address, as far as the proxies in front that are believed can tell; `0.0.0.0` where there is none, as of a
    /// connection without a socket.
    pub fn address(&self) -> IpAddr {
        self.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical()
    }

    /// The same, if it is known yet.
    pub fn known_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// One that comes from this address.
    pub fn from_address(self, address: Option<IpAddr>) -> Request {
        Request { address, ..self }
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.head.uri().path()
    }

    /// The first value of a header that is visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// The token in the header `Authorization` (RFC 6750 section 2.1). No page can make a browser send one in a handshake.
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Every value of a header, split at commas: the entries of a list (RFC 9110 section 5.6.1).
    pub fn list<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let values = self.head.headers().get_all(name).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
    }

    /// The same from its end, and each entry as it is: one that is no text is an entry all the same.
    pub fn list_from_end<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let values = self.head.headers().get_all(name).iter().rev();
        values
            .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|entry| !entry.is_empty())
    }

    /// How often a header occurs.
    pub fn count(&self, name: &str) -> usize {
        self.head.headers().get_all(name).iter().count()
    }

    /// A parameter of the query, as it stands there: what is asked for here (tokens, cursors) needs no percent-encoding.
    /// An empty one counts as absent.
    pub fn query(&self, name: &str) -> Option<&str> {
        let pairs = self.head.uri().query()?.split('&');
        pairs
            .filter_map(|pair| pair.split_once('='))
            .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
    }

    /// Whether a parameter of the query stands there without a value.
    pub fn parameter_is_empty(&self, name: &str) -> bool {
        let mut pairs = self.head.uri().query().unwrap_or_default().split('&');
        pairs.any(|pair| pair.strip_prefix(name).is_some_and(|rest| matches!(rest, "" | "=")))
    }

    /// All parameters of the query with this name, percent-decoded. One that is no UTF-8 then is passed over.
    pub fn query_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        let pairs = self.head.uri().query().unwrap_or_default().split('&');
        let values =
            pairs.filter_map(|pair| pair.split_once('=')).filter(move |pair| pair.0 == name);
        values.filter_map(|(_, value)| percent_decoded(value))
    }

    /// Whether the client asks for a WebSocket at all.
    pub fn is_upgrade(&self) -> bool {
        self.list("upgrade").any(|entry| entry.eq_ignore_ascii_case("websocket"))
    }

    /// The answer that makes the connection a WebSocket (RFC 6455 section 4.2.2), with the subprotocol if one is chosen.
    ///
    /// # Errors
    /// The refusal: 426 for another version, 400 for what is malformed.
    pub fn accept(&self, protocol: Option<&str>) -> Result<Vec<u8>, Response> {
        if let Some(why) = self.ambiguity() {
            return Err(Response::text(400, why));
        }
        if self.header("sec-websocket-version") != Some("13") {
            return Err(upgrade_required());
        }
        // A proxy may send two Connection lines, or more tokens than one: tungstenite's own check would look at the first
        // line alone.
        let asked = self.list("connection").any(|entry| entry.eq_ignore_ascii_case("upgrade"));
        if !asked {
            return Err(Response::text(400, "Connection: Upgrade is expected"));
        }
        let key = self.header("sec-websocket-key").filter(|key| is_key(key)).ok_or_else(|| {
            Response::text(400, "Sec-WebSocket-Key: 16 bytes in base64 are expected")
        })?;
        let accept = derive_accept_key(key.as_bytes());
        let mut lines = [SWITCHING, &accept, "\r\n"].concat();
        if let Some(protocol) = protocol {
            lines.extend(["Sec-WebSocket-Protocol: ", protocol, "\r\n"]);
        }
        lines.push_str("\r\n");
        Ok(lines.into_bytes())
    }

    /// What another reader of this head, such as a proxy in front, may read otherwise.
    fn ambiguity(&self) -> Option<&'static str> {
        // RFC 6455 sections 11.3.1 and 11.3.5.
        if ["sec-websocket-key", "sec-websocket-version"].iter().any(|name| self.count(name) > 1) {
            return Some("one Sec-WebSocket-Key and one Sec-WebSocket-Version are expected");
        }
        // RFC 9110 section 9.3.1: what would be content there is taken for frames here.
        let is_empty = self.list("content-length").all(|length| length == "0");
        let is_chunked = self.count("transfer-encoding") > 0;
        (is_chunked || !is_empty).then_some("a handshake without content is expected")
    }
}

/// Whether it is 16 bytes in base64 (RFC 6455 section 4.2.1).
fn is_key(key: &str) -> bool {
    key.len() == 24 && BASE64.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16)
}

/// RFC 3986 section 2.1; a `%` that no two hexadecimal digits follow stands for itself.
fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
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
        let accepted = request(GOOD).accept(Some("oneloop.v1")).unwrap();
        assert!(
            request(&GOOD.replace("Host: h", "Host: h\nContent-Length: 0")).accept(None).is_ok()
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
            ("GET / HTTP/1.0\nHost: h", 400),
            ("GET / HTTP/1.1", 400),
            ("GET / HTTP/1.1\nHost: h\nHost: i", 400),
            ("GET / HTTP/1.1\nHost h", 400),
            ("\u{1}\u{2}", 400),
        ] {
            assert_eq!(parse(&head(lines), 8192).unwrap_err().status, status, "{lines}");
        }
        assert_eq!(parse(b"GET / HT", 8192).unwrap().map(|(_, length)| length), None);
        assert_eq!(parse(b"GET /aaaaaaaaaaaaaaaaaaaa", 16).unwrap_err().status, 431);
        assert_eq!(parse(&head(GOOD), 64).unwrap_err().status, 431);
        let many = format!("GET / HTTP/1.1\nHost: h{}", "\nA: b".repeat(200));
        assert_eq!(parse(&head(&many), 8192).unwrap_err().status, 431);
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
            let refused = request(&GOOD.replace(from, to)).accept(None).unwrap_err();
            assert_eq!(refused.status, status, "{to}");
        }
    }
}
