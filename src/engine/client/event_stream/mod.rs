//! Event streams: messages by plain HTTP, for clients whose WebSockets do not get through (WHATWG HTML, section 9.2).
//!
//! A client whose request asks for `text/event-stream` is a client like any other, with an [`Encoding`] of its own: the same slot,
//! subscriptions, history and bounds. It receives only, so nothing that it fails to answer ends it; the kernel does, once the
//! heartbeats are not acknowledged.
//!
//! [`Encoding`]: crate::engine::client::encoding::Encoding

pub mod events;

use crate::engine::client::http::{Method, Request};

/// The type of the response.
const MEDIA_TYPE: &str = "text/event-stream";

/// The shortest pause before a client comes back by itself, in milliseconds, and the time over which such pauses are spread: after
/// the end of a process all its clients come back.
const RETRY_MILLIS: u64 = 1000;
const RETRY_SPREAD_MILLIS: u64 = 4000;

/// Spreads neighbouring slots evenly (Knuth's multiplicative hashing): 2^32 divided by the golden ratio.
const SPREAD: u32 = 2_654_435_769;

/// Returns whether a request asks for an event stream.
pub fn is_wanted(request: &Request) -> bool {
    let is_it = |entry: &str| {
        let media_type = entry.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE)
    };
    request.method() == Method::Get && !request.is_upgrade() && request.list("accept").any(is_it)
}

/// The start of the response to a client in the slot `index`: its head, with further header lines, and the pause after which the
/// client comes back unless it is told another one.
pub fn opening(index: u32, is_chunked: bool, headers: &[(&'static str, String)]) -> Vec<u8> {
    // Proxies must pass each event on at once: nginx reads the header of its own, others see that nothing may be changed.
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {MEDIA_TYPE}\r\nCache-Control: no-store, no-transform\r\n\
         X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
    );
    if is_chunked {
        head.push_str("Transfer-Encoding: chunked\r\n");
    }
    for (name, value) in headers {
        debug_assert!(!value.contains(['\r', '\n']), "a header value has no line breaks");
        head.extend([*name, ": ", value, "\r\n"]);
    }
    head.push_str("\r\n");
    let spread = (u64::from(index.wrapping_mul(SPREAD)) * RETRY_SPREAD_MILLIS) >> u32::BITS;
    let retry = format!("retry: {}\n\n", RETRY_MILLIS + spread);
    let mut bytes = head.into_bytes();
    bytes.extend(events::framed(retry.into_bytes(), is_chunked));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;

    fn request(line: &str, headers: &str) -> Request {
        let head = format!("{line}\r\nHost: h\r\n{headers}\r\n");
        http::parse(head.as_bytes(), 8192).unwrap().unwrap().0
    }

    #[test]
    fn a_get_that_accepts_events_and_no_other_request_asks_for_them() {
        let get = "GET /ws HTTP/1.1";
        for (line, headers, expected) in [
            (get, "Accept: text/event-stream\r\n", true),
            (get, "Accept: application/json, Text/Event-Stream;q=0.9\r\n", true),
            (get, "Accept: a/b\r\nAccept: text/event-stream ; charset=utf-8\r\n", true),
            ("GET /ws HTTP/1.0", "Accept: text/event-stream\r\n", true),
            // As nginx passes every request on by the documented lines.
            (get, "Connection: upgrade\r\nAccept: text/event-stream\r\n", true),
            (get, "", false),
            (get, "Accept: */*\r\n", false),
            (get, "Accept: text/event-streams\r\n", false),
            ("HEAD /ws HTTP/1.1", "Accept: text/event-stream\r\n", false),
            ("OPTIONS /ws HTTP/1.1", "Accept: text/event-stream\r\n", false),
            (get, "Upgrade: websocket\r\nAccept: text/event-stream\r\n", false),
        ] {
            assert_eq!(is_wanted(&request(line, headers)), expected, "{line} {headers}");
        }
    }

    #[test]
    fn the_response_begins_with_its_head_and_a_pause_of_its_own() {
        let text = |is_chunked| {
            let headers = [("Vary", "Origin".to_owned())];
            String::from_utf8(opening(3, is_chunked, &headers)).unwrap()
        };
        let (head, body) = text(true).split_once("\r\n\r\n").map(own).unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"),
            "{head}"
        );
        for line in ["X-Accel-Buffering: no", "Transfer-Encoding: chunked", "Vary: Origin"] {
            assert!(head.lines().any(|one| one == line), "{head}");
        }
        assert!(head.contains("\r\nCache-Control: no-store") && !head.contains("Content-Length"));
        assert_eq!(body, "d\r\nretry: 4416\n\n\r\n");
        let (head, body) = text(false).split_once("\r\n\r\n").map(own).unwrap();
        assert!(!head.contains("Transfer-Encoding") && head.contains("\r\nConnection: close\r\n"));
        assert_eq!(body, "retry: 4416\n\n");
    }

    fn own((head, body): (&str, &str)) -> (String, String) {
        (head.to_owned(), body.to_owned())
    }

    #[test]
    fn clients_of_one_process_come_back_spread_over_some_seconds() {
        let mut tenths = [0; 50];
        for index in 0..4000 {
            let bytes = opening(index, false, &[]);
            let text = String::from_utf8(bytes).unwrap();
            let retry: usize = text.rsplit_once("retry: ").unwrap().1.trim().parse().unwrap();
            tenths[retry / 100] += 1;
        }
        assert_eq!(tenths[..10], [0; 10], "none within a second");
        assert!(tenths[10..].iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
    }
}
