//! Lists on their way to the clients that asked for them.

use std::collections::VecDeque;

use super::{MembersFeature, frames};
use crate::engine::client::frame::Frame;
use crate::engine::server::members::is_watching;
use crate::engine::server::{MembersRequest, Server};

/// Bytes of lists that clients who asked for them are sent in a turn.
const ANSWER_BYTES_MAX: usize = 256 << 10;

impl MembersFeature {
    /// Sends lists to clients that asked for them, as many as a turn has.
    pub(super) fn answer_some(&mut self, server: &mut Server) {
        let (mut bytes, mut encoded) = (0, None);
        while bytes < ANSWER_BYTES_MAX
            && let Some(request) = self.answered.pop_front()
        {
            bytes += self.answer(server, request, &mut encoded);
        }
    }

    /// Sends a list to all clients that asked for it. Changes of that list come behind it.
    pub(super) fn answer_all(&mut self, server: &mut Server, topic: &str) {
        if self.answered.iter().any(|request| &*request.topic == topic) {
            let all = std::mem::take(&mut self.answered).into_iter();
            let (asked, others): (VecDeque<_>, _) = all.partition(|one| &*one.topic == topic);
            self.answered = others;
            let mut encoded = None;
            for request in asked {
                self.answer(server, request, &mut encoded);
            }
        }
    }

    /// Answers a request, unless the client watches that topic no more. `encoded`: the last list that was, which is encoded once for
    /// all that ask for it in a row. Returns the bytes of the answer.
    fn answer(
        &mut self,
        server: &mut Server,
        request: MembersRequest,
        encoded: &mut Option<EncodedList>,
    ) -> usize {
        if !is_watching(server, request.id, &request.topic) {
            return 0;
        }
        let MembersRequest { id, topic, reference } = request;
        if encoded.as_ref().is_none_or(|last| last.topic != topic) {
            // A watch ends if nobody watches the topic; then this client asked twice, and the later request waits.
            let Some(list) = self.watches.list(&topic) else { return 0 };
            let text = frames::list(&topic, list);
            *encoded = Some(EncodedList { topic, frame: Frame::text(&text), text });
        }
        let EncodedList { text, frame, .. } = encoded.as_ref().expect("it was just put there");
        match reference {
            None => server.send(id, frame),
            Some(reference) => server.send(id, &Frame::text(&frames::referring(text, &reference))),
        }
        text.len()
    }
}

/// A list as it is sent.
struct EncodedList {
    topic: Box<str>,
    text: String,
    /// The text as a frame, for all who gave no `ref`.
    frame: Frame,
}
