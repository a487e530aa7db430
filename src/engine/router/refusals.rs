//! The operator's lines about refused handshakes and dropped messages.

use std::net::IpAddr;

use super::addresses::peer;
use super::plain::paths;
use crate::engine::bounds::Bounds;
use crate::engine::client::http::{Request, Response};
use crate::engine::handler::{Route, remedy};
use crate::engine::pubsub::topic;
use crate::engine::server::Server;
use crate::engine::slots::ConnId;
use crate::observe::complaints::{Origin, Weight, shown};

/// Paths that browsers request by themselves.
const UNASKED: [&str; 3] = ["/favicon.ico", "/robots.txt", "/apple-touch-icon.png"];

/// Reports a request that gets this response; `request`: if its head could be read.
pub(super) fn of_answer(
    server: &mut Server,
    routes: &[Route],
    is_draining: bool,
    id: ConnId,
    (request, response): (Option<&Request>, &Response),
) {
    if response.status < 400 {
        return;
    }
    let address = request.and_then(Request::known_address).unwrap_or_else(|| peer(server, id));
    let origin = Origin { path: request.map(Request::path), address: Some(address) };
    let weight = weight(request, response, is_draining);
    let Server { complaints, bounds, now, options, is_refusing, .. } = server;
    let text = || match response.status {
        404 => {
            let path = shown(request.map_or("", Request::path));
            format!("nothing is served at {path}; WebSockets are at {}", paths(routes, options))
        }
        503 if *is_refusing => format!("memory_max ({} bytes) is exceeded", bounds.memory_max),
        _ => advice(response, bounds),
    };
    complaints.note(now.millis, kind(response.status), weight, origin, text);
}

/// Reports a page that may not connect, with the setting that would admit it.
pub(super) fn of_page(server: &mut Server, id: ConnId, request: &Request) {
    let address = request.known_address().unwrap_or_else(|| peer(server, id));
    let from = Origin { path: Some(request.path()), address: Some(address) };
    server.complain("4505", Weight::Curable, from, || {
        let page = shown(request.header("origin").unwrap_or_default());
        let path = shown(request.path());
        format!("a page of {page} wants {path}; {}", remedy(request))
    });
}

/// Reports a connection that is turned away unread.
pub(crate) fn of_admission(server: &mut Server, is_draining: bool, status: u16, address: IpAddr) {
    let origin = Origin { path: None, address: Some(address) };
    let weight = if is_draining { Weight::Usual } else { Weight::Curable };
    let Server { complaints, bounds, now, .. } = server;
    let response = Response::text(status, "too many connections from this address");
    complaints.note(now.millis, kind(status), weight, origin, || advice(&response, bounds));
}

/// Reports that clients wait to be accepted.
pub(crate) fn of_queue(server: &mut Server) {
    let Server { complaints, bounds, now, places, .. } = server;
    complaints.note(now.millis, "accept", Weight::Curable, Origin::default(), || {
        format!(
            "clients wait to be accepted: {} handshakes are under way; handshakes_max is {}, \
             handshakes_per_second_max {}",
            places.handshakes.len(),
            bounds.handshakes_max,
            bounds.handshakes_per_second_max
        )
    });
}

/// Reports a message on a channel that carries no topic.
pub(super) fn of_channel(server: &mut Server, prefix: &str, channel: &[u8]) {
    let text = || fault_of(prefix, channel).unwrap_or_default();
    server.complain("message dropped", Weight::Curable, Origin::default(), text);
}

/// Reports a stream entry that is not a message.
pub(super) fn of_entry(server: &mut Server) {
    server.complain("entry dropped", Weight::Curable, Origin::default(), || {
        "an entry of a stream lacks the field topic or data, or its topic or key is malformed: \
         XADD KEY * topic user.42 data '...'"
            .to_owned()
    });
}

/// Reports a topic in a stream that begins with the channels' prefix, which is not removed there.
pub(super) fn of_prefix(server: &mut Server, prefix: &str, topic: &str) {
    if prefix.is_empty() || !topic.starts_with(prefix) {
        return;
    }
    server.complain("entry with a prefix", Weight::Curable, Origin::default(), || {
        let (topic, prefix) = (shown(topic), shown(prefix));
        format!(
            "an entry of a stream has the topic {topic}: topics of streams are whole, without the {prefix} of \
             channels; it is told to those who hear {topic}"
        )
    });
}

fn weight(request: Option<&Request>, response: &Response, draining: bool) -> Weight {
    let is_unasked = request.is_some_and(|request| UNASKED.contains(&request.path()));
    match response.status {
        404 if is_unasked => Weight::Usual,
        503 if draining => Weight::Usual,
        _ => Weight::Curable,
    }
}

/// The cause, and the setting that would change it.
fn advice(response: &Response, bounds: &Bounds) -> String {
    let reason = first_line(response);
    match response.status {
        401 => format!("a token was refused: {reason}"),
        408 => format!("{reason}; head_seconds is {}", bounds.head_seconds),
        426 => "a plain request where a WebSocket handshake is expected: does a proxy in front speak HTTP/1.1 and \
                pass the headers Upgrade and Connection on?"
            .to_owned(),
        429 => format!("{reason}; clients_per_address_max is {}", bounds.clients_per_address_max),
        431 => format!("{reason}; head_bytes_max is {}", bounds.head_bytes_max),
        503 => format!("all places are taken; clients_max is {}", bounds.clients_max),
        _ => reason,
    }
}

/// The reason why a channel carries no topic; `None` if it carries one.
pub(crate) fn fault_of(prefix: &str, channel: &[u8]) -> Option<String> {
    let topic = channel.strip_prefix(prefix.as_bytes());
    if topic.and_then(topic::Subject::of_channel).is_some() {
        return None;
    }
    let (name, prefix) = (shown(&String::from_utf8_lossy(channel)), shown(prefix));
    if topic.is_some() {
        return Some(format!(
            "the channel {name} names no topic: 1 to 260 bytes of A-Z a-z 0-9 _ - . : @ / behind {prefix}, \
             perhaps with # and a key"
        ));
    }
    let added = name.find(&prefix).map(|at| {
        format!("; {} is before it: a prefix that the publisher's library adds?", &name[..at])
    });
    Some(format!(
        "the channel {name} does not begin with {prefix}: publish on {prefix}<topic>, or set prefix{}",
        added.unwrap_or_default()
    ))
}

/// The first line of a body made by this program.
fn first_line(response: &Response) -> String {
    shown(String::from_utf8_lossy(&response.body).lines().next().unwrap_or_default())
}

fn kind(status: u16) -> &'static str {
    match status {
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        426 => "426",
        429 => "429",
        431 => "431",
        503 => "503",
        _ => "refused",
    }
}
