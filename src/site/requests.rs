//! What became of what was asked of Redis.

use super::Site;
use crate::cursor::EntryId;
use crate::slots::ConnId;
use crate::source::request::{Answer, PageEnd, Purpose};

impl Site {
    /// There is no connection for commands: whatever waits is unavailable. What is asked because of that waits for the next turn.
    pub fn refuse_requests(&mut self) {
        for _ in 0..self.server.requests_len() {
            let Some(request) = self.server.next_request() else { return };
            self.on_answer(request.purpose, Answer::Unavailable);
        }
    }

    /// What became of a request. Called in the dispatch phase alone.
    pub fn on_answer(&mut self, purpose: Purpose, answer: Answer) {
        self.server.metrics.requests_unavailable += u64::from(answer == Answer::Unavailable);
        match purpose {
            Purpose::Send { route, .. } => {
                self.server.route = route;
                let handler = &mut self.routes[route as usize].handler;
                handler.on_answer(&mut self.server, purpose, answer);
            }
            Purpose::Report => {
                if let Answer::Refused(why) = answer
                    && self.refused_logged.is_time(self.server.now.millis)
                {
                    let code = why.split_whitespace().next().unwrap_or_default();
                    log::warn!(
                        "Redis refuses receipts or answers to a count ({code}): the user in the URL needs +publish, and \
                         &NAME for each of their channels"
                    );
                }
            }
            Purpose::Notice => {
                if let Answer::Refused(why) = answer {
                    self.log_refusal(&why);
                }
            }
            Purpose::Presence(attempt) => self.server.on_presence_answer(attempt, answer),
            // The entries of a page, and its end, come by themselves.
            Purpose::Page { id, stream } => self.on_page_end(id, stream, PageEnd::UNAVAILABLE),
        }
    }

    /// An entry of a page that a client asked for.
    pub fn on_page_entry(&mut self, _: ConnId, _stream: usize, _: EntryId, _: &[u8], _: &[u8]) {
        self.server.metrics.page_entries += 1;
    }

    /// The page has ended.
    pub fn on_page_end(&mut self, _id: ConnId, _stream: usize, end: PageEnd) {
        self.server.metrics.pages += u64::from(end.is_available);
    }

    /// Redis refused what was asked: logged once a second at most, since clients can cause it.
    pub fn log_refusal(&mut self, why: &str) {
        if self.refused_logged.is_time(self.server.now.millis) {
            log::warn!("Redis refused a command: {why}");
        }
    }
}
