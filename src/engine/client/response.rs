//! Plain responses (RFC 9110).

use crate::engine::client::request_line::Method;

/// A response that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code (RFC 9110 section 15).
    pub status: u16,
    /// Further header lines, as names and values without line breaks.
    pub headers: Vec<(&'static str, String)>,

    pub content_type: &'static str,

    pub body: Vec<u8>,
    /// Answers HEAD: only the type and length of the body are sent (RFC 9110 section 9.3.2).
    pub is_for_head: bool,
}

impl Response {
    /// A response with a body of this type.
    pub fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Response {
        Response { status, headers: Vec::new(), content_type, body, is_for_head: false }
    }

    /// A line of plain text.
    pub fn text(status: u16, text: &str) -> Response {
        Response::new(status, "text/plain; charset=utf-8", format!("{text}\n").into_bytes())
    }

    pub fn json(status: u16, json: String) -> Response {
        Response::new(status, "application/json", json.into_bytes())
    }

    /// A page that loads nothing from elsewhere and cannot be framed.
    pub fn html(page: Vec<u8>) -> Response {
        let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
            connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'";
        Response::new(200, "text/html; charset=utf-8", page)
            .with("Content-Security-Policy", policy)
            .with("Referrer-Policy", "no-referrer")
    }

    /// The response to OPTIONS at every path: the supported methods. It grants no access to other origins.
    pub fn options() -> Response {
        Response::new(204, "", Vec::new()).with("Allow", Method::ALLOWED)
    }

    /// The response to a plain request that must be an upgrade (RFC 9110 section 15.5.22).
    pub fn upgrade_required(text: &str) -> Response {
        Response::text(426, text).with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13")
    }

    /// The response to a request of this method.
    pub fn answering(self, method: Method) -> Response {
        Response { is_for_head: method == Method::Head, ..self }
    }

    /// Adds a header line.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Encodes the response for the wire.
    pub fn encode(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            204 => "No Content",
            304 => "Not Modified",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            426 => "Upgrade Required",
            429 => "Too Many Requests",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Status",
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
            self.status,
        );
        if !matches!(self.status, 204 | 304) {
            // The type of a file that is not sent is unknown, and a length would be the file's (RFC 9110 section 8.6).
            let (content_type, length) = (self.content_type, self.body.len());
            head.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
        }
        if self.headers.iter().all(|(name, _)| *name != "Cache-Control") {
            head.push_str("Cache-Control: no-store\r\n");
        }
        for (name, value) in &self.headers {
            debug_assert!(!value.contains(['\r', '\n']), "a header value has no line breaks");
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !self.is_for_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_says_its_length_and_ends_the_connection() {
        let kept = Response { status: 304, ..Response::text(200, "") };
        let kept = kept.with("Cache-Control", "no-cache").encode();
        let kept = String::from_utf8(kept).unwrap();
        assert!(kept.contains("\r\nCache-Control: no-cache\r\n") && !kept.contains("no-store"));
        assert!(!kept.contains("Content-Length") && !kept.contains("Content-Type:"), "{kept}");
        let text = String::from_utf8(Response::upgrade_required("no").encode()).unwrap();
        assert!(text.contains("\r\nContent-Length: ") && text.contains("no-store"));
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn an_answer_to_head_is_that_to_get_without_its_body() {
        for response in [
            Response::text(200, "ok"),
            Response::text(404, "no such path"),
            Response::json(200, "{}".to_owned()),
            Response::html(b"<p>".to_vec()),
            Response::upgrade_required("no"),
        ] {
            let get = response.clone().answering(Method::Get).encode();
            let head = response.clone().answering(Method::Head).encode();
            assert_eq!(get.strip_suffix(&response.body[..]), Some(&head[..]));
        }
    }

    #[test]
    fn an_answer_to_options_has_no_content() {
        let text = String::from_utf8(Response::options().encode()).unwrap();
        assert!(text.starts_with("HTTP/1.1 204 No Content\r\n") && text.ends_with("\r\n\r\n"));
        assert!(text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), "{text}");
        assert!(!text.contains("Content-Length") && !text.contains("Access-Control"), "{text}");
    }
}
