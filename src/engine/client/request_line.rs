//! The first line of a request: methods and versions beyond those that tungstenite reads.

use std::borrow::Cow;

/// A supported method (RFC 9110 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,

    Head,

    Options,
}

impl Method {
    /// The supported methods, as the value of `Allow`.
    pub const ALLOWED: &'static str = "GET, HEAD, OPTIONS";

    /// The method at the start of `bytes`. An unsupported one counts as GET: the head parser rejects it.
    fn of(bytes: &[u8]) -> Method {
        [Method::Head, Method::Options]
            .into_iter()
            .find(|method| {
                let rest = bytes.strip_prefix(method.name());
                rest.is_some_and(|rest| rest.starts_with(b" "))
            })
            .unwrap_or(Method::Get)
    }

    fn name(self) -> &'static [u8] {
        match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Options => b"OPTIONS",
        }
    }
}

/// A head rewritten to begin like a handshake, the only form that tungstenite reads, and the original method and version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AsHandshake<'a> {
    pub(super) method: Method,
    /// HTTP/1.0, the default of nginx for upstreams.
    pub(super) is_old: bool,
    /// Copied only if the first line was rewritten, which no WebSocket client needs.
    pub(super) bytes: Cow<'a, [u8]>,
    /// By how many bytes the copy is shorter than the head.
    pub(super) cut: usize,
}

impl AsHandshake<'_> {
    /// Reads the first line of a head that may be partial.
    pub(super) fn new(bytes: &[u8]) -> AsHandshake<'_> {
        // Empty lines before it are skipped (RFC 9112 section 2.2).
        let mut rest = bytes;
        while let [b'\r', b'\n', behind @ ..] | [b'\n', behind @ ..] = rest {
            rest = behind;
        }
        let start = bytes.len() - rest.len();
        let method = Method::of(&bytes[start..]);
        let end = bytes[start..].iter().position(|byte| *byte == b'\n');
        let line = &bytes[..end.map_or(start, |end| start + end)];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_old = line.ends_with(b" HTTP/1.0");
        if method == Method::Get && !is_old {
            return AsHandshake { method, is_old, bytes: Cow::Borrowed(bytes), cut: 0 };
        }
        let mut copy = bytes.to_vec();
        if is_old {
            copy[line.len() - 1] = b'1';
        }
        if method != Method::Get {
            copy.splice(start..start + method.name().len(), *b"GET");
        }
        let cut = bytes.len() - copy.len();
        AsHandshake { method, is_old, bytes: Cow::Owned(copy), cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_line_that_is_served_becomes_one_of_a_handshake() {
        for (bytes, method, is_old, expected) in [
            ("GET / HTTP/1.1\r\nA: b", Method::Get, false, "GET / HTTP/1.1\r\nA: b"),
            ("HEAD / HTTP/1.1\r\nA: b", Method::Head, false, "GET / HTTP/1.1\r\nA: b"),
            ("\r\n\nOPTIONS * HTTP/1.1\n", Method::Options, false, "\r\n\nGET * HTTP/1.1\n"),
            ("GET / HTTP/1.0\r\n", Method::Get, true, "GET / HTTP/1.1\r\n"),
            ("HEAD / HTTP/1.0\n\n", Method::Head, true, "GET / HTTP/1.1\n\n"),
            ("HEAD /par", Method::Head, false, "GET /par"),
            // A partial line may continue.
            ("GET / HTTP/1.0", Method::Get, false, "GET / HTTP/1.0"),
            (
                "GET / HTTP/1.1\r\nA: b HTTP/1.0\r\n",
                Method::Get,
                false,
                "GET / HTTP/1.1\r\nA: b HTTP/1.0\r\n",
            ),
            ("HEADS / HTTP/1.1\r\n", Method::Get, false, "HEADS / HTTP/1.1\r\n"),
            ("head / HTTP/1.1\r\n", Method::Get, false, "head / HTTP/1.1\r\n"),
            ("POST / HTTP/1.0\r\n", Method::Get, true, "POST / HTTP/1.1\r\n"),
            // A CR alone is no empty line.
            ("\rHEAD / HTTP/1.1\r\n", Method::Get, false, "\rHEAD / HTTP/1.1\r\n"),
            ("HEAD", Method::Get, false, "HEAD"),
            ("\r\n", Method::Get, false, "\r\n"),
            ("", Method::Get, false, ""),
        ] {
            let read = AsHandshake::new(bytes.as_bytes());
            assert_eq!((read.method, read.is_old), (method, is_old), "{bytes:?}");
            assert_eq!(String::from_utf8_lossy(&read.bytes), expected, "{bytes:?}");
            assert_eq!(read.bytes.len() + read.cut, bytes.len(), "{bytes:?}");
        }
    }
}
