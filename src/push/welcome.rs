//! The frames that tell a client what it got: `welcome`, and an error for each topic that it may not have.

use super::rights::TopicRefusal;
use super::wire;
use crate::engine::client::frame::Frame;
use crate::engine::pubsub::topic::text_of_key;
use crate::engine::server::{Resumed, Scope};
use crate::engine::slots::ConnId;

/// Sends the first frame. A client that came with `since` learns whether the messages that it missed follow.
pub(super) fn welcome(server: &mut Scope<'_>, id: ConnId, sub: Option<&str>, since: Option<&str>) {
    let resumed = since.map(|since| server.resume(id, since));
    let (cursor, from) = match &resumed {
        Some(Resumed::From(cursor)) => (cursor.clone(), None),
        Some(Resumed::No(oldest)) => (server.cursor(), Some(oldest.as_str())),
        None => (server.cursor(), None),
    };
    let text = wire::welcome(&wire::Welcome {
        conn: &server.name_of(id),
        sub,
        topics: &topics_of(server, id),
        ping: u64::from(server.bounds().ping_seconds),
        id: &cursor,
        resumed: matches!(resumed, Some(Resumed::From(_))),
        from,
    });
    server.send(id, &Frame::text(&text));
}

/// Sends an error for each topic that a client was granted or asked for, and may not have.
pub(super) fn send_refusals(server: &mut Scope<'_>, id: ConnId, refused: &[TopicRefusal]) {
    for TopicRefusal { code, topic } in refused {
        server.send(id, &Frame::text(&wire::error(code, topic.as_deref(), None)));
    }
}

/// The topics that a connection has subscribed to, as people write them, sorted.
pub(super) fn topics_of(server: &mut Scope<'_>, id: ConnId) -> Vec<String> {
    let topics = server.topics(id);
    let mut texts: Vec<String> =
        topics.iter().map(|(key, _)| text_of_key(key).into_owned()).collect();
    texts.sort_unstable();
    texts
}
