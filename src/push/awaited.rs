//! The first frame and answers to tokens, at once or when Redis has acknowledged the topics that they name.

use super::Push;
use super::command::RawJson;
use super::subscribe::{answer, topics_of};
use super::wire;
use super::withheld::{Authed, Change, Withheld, kept};
use crate::config::Format;
use crate::engine::client::frame::Frame;
use crate::engine::server::{Resumed, Scope};
use crate::engine::slots::ConnId;
use crate::json;

/// Sends the first frame. A client that came with `since` learns whether the messages that it missed follow.
fn welcome(
    push: &Push,
    server: &mut Scope<'_>,
    id: ConnId,
    sub: Option<&str>,
    since: Option<&str>,
) {
    if push.format != Format::Json {
        return;
    }
    let (cursor, is_resumed, from) = match since.map(|since| server.resume(id, since)) {
        Some(Resumed::From(cursor)) => (cursor, true, None),
        Some(Resumed::No(oldest)) => (server.cursor(), false, Some(oldest)),
        None => (server.cursor(), false, None),
    };
    let text = json::encode(&wire::Welcome {
        conn: &server.name_of(id),
        sub,
        topics: &topics_of(server, id),
        ping: u64::from(server.bounds().ping_seconds),
        id: &cursor,
        resumed: is_resumed,
        from: from.as_deref(),
    });
    let place = text.find(&cursor).map_or(0..0, |at| at..at + cursor.len());
    server.send(id, &Frame::text(&text).with_cursor_at(place));
}

/// Sends errors about topics that a client was granted or asked for, and may not have.
fn send_errors(push: &Push, server: &mut Scope<'_>, id: ConnId, errors: &[String]) {
    if push.format == Format::Json {
        errors.iter().for_each(|text| server.send(id, &Frame::text(text)));
    }
}

/// Sends the first frame, and the `errors` and the answer to a token behind it: at once, or when Redis has acknowledged the
/// client's topics. Until then nothing is read from the client.
pub(super) fn welcome_or_wait(
    push: &mut Push,
    server: &mut Scope<'_>,
    id: ConnId,
    (sub, since): (Option<&str>, Option<&str>),
    errors: Vec<String>,
    authed: Option<Authed>,
) {
    let number = match push.format {
        Format::Json => server.await_subscription(id, None),
        Format::Raw => None,
    };
    let Some(number) = number else {
        welcome(push, server, id, sub, since);
        send_errors(push, server, id, &errors);
        return authed.into_iter().for_each(|authed| answer_or_wait(push, server, id, authed));
    };
    server.hold(id);
    let (sub, since) = (sub.map(str::to_owned), since.map(kept));
    push.withheld.push(id, number, Withheld::Welcome { sub, since, errors, authed });
}

/// Answers a token, at once or when Redis has acknowledged the topics.
pub(super) fn answer_or_wait(push: &mut Push, server: &mut Scope<'_>, id: ConnId, authed: Authed) {
    match server.await_subscription(id, None) {
        Some(number) => push.withheld.push(id, number, Withheld::Authed(authed)),
        None => answer_token(push, server, id, &authed),
    }
}

fn answer_token(push: &Push, server: &mut Scope<'_>, id: ConnId, authed: &Authed) {
    let reference = authed.reference.as_deref().and_then(RawJson::parse);
    let text = wire::authed(&authed.sub, &topics_of(server, id), reference);
    server.send(id, &Frame::text(&text));
    send_errors(push, server, id, &authed.errors);
}

/// Gives the withheld answers that must come before that of a command: at once, with a gap once Redis has acknowledged their topics.
/// In another order, a client would not learn of a topic that it lost for a while.
pub(super) fn answer_before(
    push: &mut Push,
    server: &mut Scope<'_>,
    id: ConnId,
    change: &Change<'_>,
) {
    while let Some((number, withheld)) = push.withheld.take_before(id, change) {
        answer_withheld(push, server, id, &withheld);
        server.end_wait(number);
    }
}

/// Gives an answer that was withheld.
pub(super) fn answer_withheld(
    push: &mut Push,
    server: &mut Scope<'_>,
    id: ConnId,
    withheld: &Withheld,
) {
    match withheld {
        Withheld::Welcome { sub, since, errors, authed } => {
            server.release(id);
            welcome(push, server, id, sub.as_deref(), since.as_deref());
            send_errors(push, server, id, errors);
            authed.iter().for_each(|authed| answer_token(push, server, id, authed));
        }
        Withheld::Authed(authed) => answer_token(push, server, id, authed),
        Withheld::Subscribed { topic, start, reference } => {
            let reference = reference.as_deref().and_then(RawJson::parse);
            answer(&push.rights, (server, id), (topic, start), reference);
        }
    }
}
