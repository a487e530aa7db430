//! The seam between the loop and its use: a [`Handler`] decides what happens to a connection.

use std::any::Any;

use crate::engine::client::frame::{CLOSE_REASON_BYTES_MAX, Close};
use crate::engine::client::http::{Request, Response};
use crate::engine::origin::{Origins, listing};
use crate::engine::pubsub::topic::Subject;
use crate::engine::redis::request::Answer;
use crate::engine::server::{RouteOptions, Scope};
use crate::engine::slots::ConnId;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// The program's side of a route.
///
/// A handler acts through the methods of [`Scope`] and [`Server`](crate::Server), which only queue: none of them calls a handler,
/// so no handler is ever re-entered.
pub trait Handler {
    /// A handshake asks for a connection. Frames queued here are sent after the response to the handshake.
    ///
    /// # Errors
    /// [`Reject`] refuses the handshake.
    fn on_open(
        &mut self,
        _server: &mut Scope<'_>,
        _id: ConnId,
        _request: &Request,
    ) -> Result<(), Reject> {
        Ok(())
    }

    /// A client sent a message, at most `message_bytes_max` long.
    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>);

    /// A publisher sent a message on a well-formed topic, perhaps with a key. Returns the number of clients it was queued for.
    fn on_publish(
        &mut self,
        _server: &mut Scope<'_>,
        _subject: Subject<'_>,
        _payload: &[u8],
    ) -> usize {
        0
    }

    /// An opened connection has ended. Its subscriptions ended before, as it began to close.
    fn on_close(&mut self, _server: &mut Scope<'_>, _id: ConnId) {}

    /// Another event on the route.
    fn on_event(&mut self, _server: &mut Scope<'_>, _event: RouteEvent<'_>) {}

    /// Writes the state of connections that the handler keeps, for the process that takes this one's place.
    fn save(&self, _writer: &mut StateWriter<'_>) {}

    /// Takes over the state that was written; the connections are there already.
    ///
    /// # Errors
    /// The state is malformed.
    fn restore(&mut self, _reader: &mut StateReader<'_>) -> Result<(), StateError> {
        Ok(())
    }

    /// The route's constants, read once at start.
    fn options(&self) -> RouteOptions {
        RouteOptions::default()
    }
}

/// A message from a client.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    Text(&'a str),
    /// A text message that the handler put off with [`Server::defer`](crate::Server::defer).
    Deferred(&'a str),
    /// A binary message, on routes that accept them.
    Binary(&'a [u8]),
}

/// An event on a route other than the four of a connection's life.
#[derive(Debug)]
pub enum RouteEvent<'a> {
    /// A client's time is up: it is closed with `code`, set by [`Server::close_after`](crate::Server::close_after) or
    /// [`Server::close_at`](crate::Server::close_at), unless the handler closes it for a reason of its own.
    Timeout { id: ConnId, code: u16 },
    /// The answer to a request of this handler ([`Server::ask`](crate::Server::ask)), with the number of its ticket. Every
    /// request gets one, even if the client that caused it is gone.
    Answer { number: u64, answer: Answer },
    /// Redis has acknowledged what the handler waits for ([`Server::await_subscription`](crate::Scope::await_subscription)), or cannot.
    Subscribed { id: ConnId, number: u64 },
    /// A user came to the same route in another process of this server. `later`: clients here that count as later than that.
    UserElsewhere { own: &'a str, later: &'a [ConnId] },
    /// With this client, a user has more connections to all processes of this server than `clients_per_user_max`.
    UserCrowded { id: ConnId },
    /// The settings were read again and are valid: the handler applies what can change without dropping a client. The program
    /// that builds the routes decides the type.
    Reload(&'a dyn Any),
}

/// The refusal of a handshake.
#[derive(Debug)]
pub enum Reject {
    /// A plain response, for clients that can read one.
    Http(Response),
    /// A close frame after a successful upgrade: a browser cannot read a refused handshake.
    Close(Close),
}

/// A path, the origins that may connect, and the handler.
pub struct Route {
    /// The exact path.
    pub path: String,

    pub origins: Origins,

    pub handler: Box<dyn Handler>,
}

/// Returns whether a handshake's `Origin` header may connect (RFC 6455 section 10.2). A handshake without one may: browsers
/// always send it, mini programs and servers do not. So may one with a token in `Authorization`, which no page can set: libraries
/// that invent an origin are not browsers.
pub fn admits(origins: &Origins, request: &Request) -> bool {
    request.bearer().is_some() || admits_origin(origins, request)
}

/// Returns whether `Origin` alone lets the page connect: for a plain request, in which a page may set `Authorization`, and for proofs
/// that browsers and proxies add to the handshake of any page. A request without an `Origin` comes from no page.
pub fn admits_origin(origins: &Origins, request: &Request) -> bool {
    if request.count("origin") == 0 || *origins == Origins::Any {
        return true;
    }
    let origin = match request.header("origin") {
        Some(origin) if request.count("origin") == 1 => origin.to_ascii_lowercase(),
        _ => return false,
    };
    let (scheme, authority) = origin.split_once("://").unwrap_or_default();
    let authority = without_default_port(scheme, authority);
    match origins {
        Origins::Any => true,
        // A page of another scheme (`capacitor://localhost`) does not come from this host.
        Origins::SameHost => request.header("host").is_some_and(|host| {
            let host = host.to_ascii_lowercase();
            matches!(scheme, "http" | "https") && without_default_port(scheme, &host) == authority
        }),
        Origins::Listed(listed) => {
            let is_null = origin == "null";
            let origin = if is_null { origin } else { [scheme, "://", authority].concat() };
            listed.iter().any(|one| one.has(&origin))
        }
    }
}

/// The setting that would admit a page that [`admits`] refuses.
pub(crate) fn remedy(request: &Request) -> String {
    match request.header("origin").and_then(listing) {
        Some((origin, who)) if origin.len() <= SHOWN_BYTES_MAX => {
            format!("if it is yours: --origins {origin}{who}")
        }
        _ => UNNAMED.to_owned(),
    }
}

/// The longest origin repeated in a message, in bytes: a peer chose it.
const SHOWN_BYTES_MAX: usize = 80;

/// The advice for a page whose origin cannot be repeated.
const UNNAMED: &str = "if it is yours: name it in origins";

/// The close frame for a page that [`admits`] refuses: no browser shows a page the response to a handshake.
pub fn foreign(request: &Request) -> Close {
    let reason_with =
        |remedy: &str| format!(r#"{{"reason":"origin","detail":"not allowed; {remedy}"}}"#);
    let reason = reason_with(&remedy(request));
    let fits = reason.len() <= CLOSE_REASON_BYTES_MAX;
    Close::ORIGIN.because(if fits { reason } else { reason_with(UNNAMED) })
}

fn without_default_port<'a>(scheme: &str, authority: &'a str) -> &'a str {
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return authority,
    };
    authority.strip_suffix(default).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;
    use crate::engine::origin::ListedOrigin;

    fn request(host: &str, origin: &[&str]) -> Request {
        let origins: String = origin.iter().map(|line| format!("Origin: {line}\r\n")).collect();
        let head = format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{origins}\r\n");
        http::parse(head.as_bytes(), 8192).unwrap().unwrap().0
    }

    #[test]
    fn scheme_host_and_port_are_compared() {
        let words = ["https://a.example", "http://b.example:81", "null", "https://*.c.example"];
        let listed = words.iter().filter_map(|word| ListedOrigin::parse(word)).collect();
        let listed = Origins::Listed(listed);
        for (origins, host, origin, admitted) in [
            (&Origins::SameHost, "a.example", &["https://a.example"][..], true),
            (&Origins::SameHost, "A.example:443", &["https://a.EXAMPLE"], true),
            (&Origins::SameHost, "a.example:8099", &["http://a.example:8099"], true),
            (&Origins::SameHost, "a.example:8099", &["http://a.example"], false),
            (&Origins::SameHost, "a.example", &["https://b.example"], false),
            (&Origins::SameHost, "a.example", &["https://a.example.evil"], false),
            (&Origins::SameHost, "a.example", &["null"], false),
            (&Origins::SameHost, "localhost", &["capacitor://localhost"], false),
            (&Origins::SameHost, "a.example", &["https://a.example", "https://b.example"], false),
            (&Origins::SameHost, "a.example", &[], true),
            (&Origins::Any, "a.example", &["null"], true),
            (&listed, "x", &["https://a.example:443"], true),
            (&listed, "x", &["http://a.example"], false),
            (&listed, "x", &["http://b.example:81"], true),
            (&listed, "x", &["http://b.example"], false),
            (&listed, "x", &["http://x"], false),
            (&listed, "x", &[], true),
            (&listed, "x", &["null"], true),
            (&listed, "x", &["null", "null"], false),
            (&listed, "x", &["null", "https://a.example"], false),
            (&listed, "x", &["null, https://a.example"], false),
            (&listed, "x", &["://null"], false),
            (&listed, "x", &["file://"], false),
            (&listed, "x", &[""], false),
            (&listed, "x", &["https://d.C.example:443"], true),
            (&listed, "x", &["https://d.c.example:444"], false),
            (&listed, "x", &["https://d.c.example", "https://d.c.example"], false),
            (&listed, "x", &["https://c.example"], false),
            (&listed, "x", &["https://evilc.example"], false),
            (&Origins::SameHost, "null", &["null"], false),
        ] {
            assert_eq!(
                admits(origins, &request(host, origin)),
                admitted,
                "{origins:?} {host} {origin:?}"
            );
        }
    }

    #[test]
    fn a_token_that_no_page_can_show_is_from_no_page() {
        for (scheme, admitted) in [("Bearer", true), ("bearer", true), ("Basic", false)] {
            let head = format!(
                "GET /ws HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAuthorization: {scheme} x\r\n\r\n"
            );
            let (request, _) = http::parse(head.as_bytes(), 8192).unwrap().unwrap();
            assert_eq!(admits(&Origins::SameHost, &request), admitted, "{scheme}");
        }
    }

    #[test]
    fn a_foreign_page_gets_its_origin_and_the_setting() {
        let long = format!("https://{}.example", "x".repeat(60));
        for (origin, named) in [
            ("http://localhost:5173", "--origins http://localhost:5173"),
            ("https://shop.example", "--origins https://shop.example"),
            ("null", "--origins null (any page from disk or sandboxed frame)"),
            ("file://", "--origins file:// (any page from disk)"),
            ("https://a\"b", "name it in origins"),
            (&long, "name it in origins"),
        ] {
            let close = foreign(&request("a.example", &[origin]));
            assert_eq!(close.code, 4505);
            assert!(close.reason.len() <= CLOSE_REASON_BYTES_MAX, "{}", close.reason);
            let reason: serde_json::Value = serde_json::from_str(&close.reason).unwrap();
            assert_eq!(reason["reason"], "origin");
            assert!(reason["detail"].as_str().unwrap().contains(named), "{reason}");
        }
    }
}
