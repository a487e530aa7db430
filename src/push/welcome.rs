//! What a client is told when it comes, and given if it came back.

use std::borrow::Cow;

use super::Push;
use super::subscriptions::{echo, heard};
use super::wire;
use crate::config::Format;
use crate::engine::client::frame::Frame;
use crate::engine::client::http::Request;
use crate::engine::pubsub::topic::text_of_key;
use crate::engine::server::{Resumed, Scope};
use crate::engine::slots::ConnId;

/// Why a client that asked for a topic in its handshake does not hear it.
pub(super) struct TopicRefusal {
    code: &'static str,
    topic: Option<String>,
}

impl Push {
    /// A client has come with all that it needs in its handshake: `topic`, as often as there are topics, asks for more than its
    /// token gave it; `since` asks for what it missed of all of them.
    pub(super) fn arrive(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        sub: Option<&str>,
        request: &Request,
        excess: &[String],
    ) {
        let refused = self.ask_for(server, id, request.query_all("topic"));
        self.welcome(server, id, sub, request.query("since"));
        self.tell_refused(server, id, &refused);
        self.tell_excess(server, id, excess);
    }

    /// Listens to what was asked for together with the connection. Returns what is refused.
    pub(super) fn ask_for<'a>(
        &mut self,
        server: &mut Scope<'_>,
        id: ConnId,
        topics: impl Iterator<Item = Cow<'a, str>>,
    ) -> Vec<TopicRefusal> {
        let mut refused = Vec::new();
        for (number, topic) in topics.enumerate() {
            if number >= server.bounds().topics_per_client_max {
                server.metrics().topics_refused += 1;
                refused.push(TopicRefusal { code: "too_many_topics", topic: None });
                break;
            }
            if let Err(code) = self.listen(server, id, &topic) {
                refused.push(TopicRefusal { code, topic: echo(&topic).map(str::to_owned) });
            }
        }
        refused
    }

    /// The first frame. Whoever came with `since` is told whether what it missed follows.
    pub(super) fn welcome(
        &self,
        server: &mut Scope<'_>,
        id: ConnId,
        sub: Option<&str>,
        since: Option<&str>,
    ) {
        if self.format != Format::Json {
            return;
        }
        let resumed = since.map(|since| server.resume(id, since));
        let (cursor, from) = match &resumed {
            Some(Resumed::From(cursor)) => (cursor.clone(), None),
            Some(Resumed::No(oldest)) => (server.cursor(), Some(oldest.as_str())),
            None => (server.cursor(), None),
        };
        let text = wire::welcome(&wire::Welcome {
            conn: &server.name_of(id),
            sub,
            topics: &heard(server, id),
            ping: u64::from(server.bounds().ping_seconds),
            id: &cursor,
            resumed: matches!(resumed, Some(Resumed::From(_))),
            from,
        });
        server.send(id, &Frame::text(&text));
    }

    /// Tells a client what it asked for with the connection and does not hear.
    pub(super) fn tell_refused(
        &self,
        server: &mut Scope<'_>,
        id: ConnId,
        refused: &[TopicRefusal],
    ) {
        for TopicRefusal { code, topic } in refused.iter().filter(|_| self.format == Format::Json) {
            let error = wire::error(code, topic.as_deref(), None);
            server.send(id, &Frame::text(&error));
        }
    }

    /// Tells a client what it was granted and does not hear.
    pub(super) fn tell_excess(&self, server: &mut Scope<'_>, id: ConnId, excess: &[String]) {
        for key in excess.iter().filter(|_| self.format == Format::Json) {
            let error = wire::error("too_many_topics", Some(&text_of_key(key)), None);
            server.send(id, &Frame::text(&error));
        }
    }
}
