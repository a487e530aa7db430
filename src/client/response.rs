//! Plain responses (RFC 9110).

/// An answer that ends the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code (RFC 9110 section 15).
    pub status: u16,
    /// More header lines, names and values; no line breaks.
    pub headers: Vec<(&'static str, String)>,
    /// `Content-Type` of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A line of text for people.
    pub fn text(status: u16, text: &str) -> Response {
        let body = format!("{text}\n").into_bytes();
        Response { status, headers: Vec::new(), content_type: "text/plain; charset=utf-8", body }
    }

    /// A JSON text.
    pub fn json(status: u16, json: String) -> Response {
        let content_type = "application/json";
        Response { status, headers: Vec::new(), content_type, body: json.into_bytes() }
    }

    /// A page that loads nothing from elsewhere and cannot be framed.
    pub fn html(page: Vec<u8>) -> Response {
        let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
            connect-src 'self' ws: wss:; frame-ancestors 'none'; base-uri 'none'";
        let content_type = "text/html; charset=utf-8";
        Response { status: 200, headers: Vec::new(), content_type, body: page }
            .with("Content-Security-Policy", policy)
            .with("Referrer-Policy", "no-referrer")
    }

    /// With one more header line.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// What goes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
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
        if self.status != 304 {
            // Of a file that is not sent there is no type, and its length would be that of the file (RFC 9110 section 8.6).
            let (content_type, length) = (self.content_type, self.body.len());
            head.push_str(&format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"));
        }
        if self.headers.iter().all(|(name, _)| *name != "Cache-Control") {
            head.push_str("Cache-Control: no-store\r\n");
        }
        for (name, value) in &self.headers {
            debug_assert!(!value.contains(['\r', '\n']), "a header value is one line");
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The answer to a request that is not an upgrade, where one is expected (RFC 9110 section 15.5.22).
pub fn upgrade_required() -> Response {
    Response::text(426, "this is a WebSocket endpoint: connect with a WebSocket client, version 13")
        .with("Upgrade", "websocket")
        .with("Sec-WebSocket-Version", "13")
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
        let text = String::from_utf8(upgrade_required().encode()).unwrap();
        assert!(text.contains("\r\nContent-Length: ") && text.contains("no-store"));
        assert!(text.starts_with("HTTP/1.1 426 Upgrade Required\r\n"));
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(text.contains("\r\nConnection: close\r\n"));
    }
}
