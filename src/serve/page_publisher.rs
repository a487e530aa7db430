//! Publishes the messages typed into the page of this machine, to Redis if there is one, or as the publishers' port does.

use crate::engine::client::frame::{Close, Frame};
use crate::engine::client::http::{Request, Response};
use crate::engine::handler::{Handler, Message, Reject, RouteEvent};
use crate::engine::redis::request::{Answer, Ticket, command};
use crate::engine::router::fault_of;
use crate::engine::router::files::is_from_this_machine;
use crate::engine::server::{RouteOptions, Scope};
use crate::engine::slots::ConnId;

/// The path to which the page connects.
pub const PATH: &str = "/page/publish";

/// The handler for the page of this process, and for no other client. A message is `<channel>\n<payload>`, its answer a sentence.
pub struct PagePublisher {
    /// A subprotocol that only the page knows.
    protocol: String,
    /// The prefix of channels.
    prefix: String,
    /// The patterns of the subscription in Redis; `None` without Redis.
    patterns: Option<String>,
}

impl PagePublisher {
    /// Builds the handler for the page with this nonce.
    pub fn new(nonce: &str, prefix: String, patterns: Option<String>) -> PagePublisher {
        PagePublisher { protocol: format!("oneloop.publish.{nonce}"), prefix, patterns }
    }

    /// Returns whether a handshake comes from the page: from this machine, by a name that cannot be rebound (DNS rebinding), with the
    /// origin of that very name, and with the nonce that pages of other sites cannot read.
    fn is_from_page(&self, request: &Request) -> bool {
        let host = request.header("host");
        let origin = host.map(|host| format!("http://{}", host.to_ascii_lowercase()));
        is_from_this_machine(request)
            && request.count("origin") == 1
            && request.header("origin") == origin.as_deref()
            && request.list("sec-websocket-protocol").any(|one| one == self.protocol)
    }

    fn sentence(&self, answer: Answer) -> String {
        match (answer, &self.patterns) {
            (Answer::Integer(0), None) => "Nobody listens to this topic.".to_owned(),
            (Answer::Integer(1), None) => "It went to 1 client or subscriber.".to_owned(),
            (Answer::Integer(count), None) => {
                format!("It went to {count} clients and subscribers.")
            }
            (Answer::Integer(0), Some(patterns)) => {
                format!(
                    "Nobody in Redis subscribes to this channel; oneloop subscribes to {patterns}."
                )
            }
            (Answer::Integer(_), Some(_)) => "Redis passed it on.".to_owned(),
            (Answer::Refused(why), _) => why,
            _ => "Not now: there is no link to Redis, or clients have yet to read much. Try again."
                .to_owned(),
        }
    }
}

impl Handler for PagePublisher {
    fn options(&self) -> RouteOptions {
        let protocols = vec![self.protocol.clone()];
        RouteOptions { protocols, is_listed: false, ..RouteOptions::default() }
    }

    fn on_open(&mut self, _: &mut Scope<'_>, _: ConnId, request: &Request) -> Result<(), Reject> {
        match self.is_from_page(request) {
            true => Ok(()),
            false => Err(Reject::Http(Response::text(403, "only the page at / publishes here"))),
        }
    }

    fn on_message(&mut self, server: &mut Scope<'_>, id: ConnId, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        let Some((channel, payload)) = text.split_once('\n') else {
            return server.close(id, Close::UNSUPPORTED);
        };
        let max = server.bounds().payload_bytes_max;
        if payload.len() > max {
            let why = format!("It is longer than payload_bytes_max ({max} bytes).");
            return server.send(id, &Frame::text(&why));
        }
        let ticket = Ticket::of_route(server.route(), id.number());
        if self.patterns.is_some() {
            // Redis' password serves for messages only: not for channels of other programs, nor for control commands.
            if let Some(fault) = fault_of(&self.prefix, channel.as_bytes()) {
                return server.send(id, &Frame::text(&format!("Nobody hears this: {fault}")));
            }
            let words = ["PUBLISH", channel, payload].map(str::as_bytes);
            server.ask(command(&words), ticket);
        } else {
            server.publish_as_back_end(channel, payload, ticket);
        }
    }

    fn on_event(&mut self, server: &mut Scope<'_>, event: RouteEvent) {
        if let RouteEvent::Answer { number, answer } = event {
            server.send(ConnId::of_number(number), &Frame::text(&self.sentence(answer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::client::http;

    #[test]
    fn only_its_own_page_publishes() {
        let publisher = PagePublisher::new("n", "pub.".into(), None);
        let nonce = "oneloop.publish.n";
        for (peer, host, origins, protocol, is_own) in [
            ("127.0.0.1", "127.0.0.1:8099", &["http://127.0.0.1:8099"][..], nonce, true),
            ("::1", "[::1]:8099", &["http://[::1]:8099"], nonce, true),
            ("127.0.0.1", "LOCALHOST", &["http://localhost"], nonce, true),
            ("10.0.0.1", "127.0.0.1:8099", &["http://127.0.0.1:8099"], nonce, false),
            ("127.0.0.1", "evil.example:8099", &["http://evil.example:8099"], nonce, false),
            ("127.0.0.1", "127.0.0.1:8099", &["http://localhost:8099"], nonce, false),
            ("127.0.0.1", "127.0.0.1:8099", &["http://127.0.0.1:8098"], nonce, false),
            ("127.0.0.1", "127.0.0.1:8099", &["null"], nonce, false),
            ("127.0.0.1", "127.0.0.1:8099", &[], nonce, false),
            ("127.0.0.1", "127.0.0.1", &["http://127.0.0.1", "http://127.0.0.1"], nonce, false),
            ("127.0.0.1", "127.0.0.1:8099", &["http://127.0.0.1:8099"], "oneloop.publish.", false),
            ("127.0.0.1", "127.0.0.1:8099", &["http://127.0.0.1:8099"], "oneloop.v1", false),
        ] {
            let origins: String = origins.iter().map(|one| format!("Origin: {one}\r\n")).collect();
            let head = format!(
                "GET {PATH} HTTP/1.1\r\nHost: {host}\r\n{origins}Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
            );
            let request = http::parse(head.as_bytes(), 8192).unwrap().unwrap().0;
            let request = request.from_address(Some(peer.parse().unwrap()));
            assert_eq!(publisher.is_from_page(&request), is_own, "{peer} {head}");
        }
    }
}
