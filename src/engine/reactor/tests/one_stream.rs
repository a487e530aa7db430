//! A loop that reads one stream of a Redis that answers at once.

use crate::engine::bounds::Bounds;
use crate::engine::client::encoding::Encoding;
use crate::engine::feature::{FeatureEvent, StreamReply};
use crate::engine::pubsub::hub::Reason;
use crate::engine::random::Random;
use crate::engine::reactor::tests::page_bounds::bounds_of;
use crate::engine::reactor::tests::replay::{Plain, texts};
use crate::engine::reactor::tests::{Shared, plan, signer};
use crate::engine::reactor::*;
use crate::engine::redis::request::{PageEnd, ReplyForm, StreamInfo};
use crate::engine::resume::cursor::{Cursor, EntryId, Node};
use crate::engine::server::Resumed;

/// A stream, and a Redis that answers at once.
pub(super) struct OneStream {
    pub reactor: Reactor,
    sockets: Shared,
    pub redis: Vec<(EntryId, String, String)>,
    pub deleted: EntryId,
    pub added: u64,
    /// Entries that Redis sent in pages, and bytes of the largest page.
    pub sent: usize,
    pub most_sent: u64,
    /// Requests for the state of the stream.
    pub looks: usize,
}

pub(super) fn entry(millis: u64) -> EntryId {
    EntryId { millis, number: 0 }
}

/// The cursor of a client that has the stream up to here from another process with the same key.
pub(super) fn elsewhere(has: EntryId) -> String {
    let node = Node::new(7, 1 << 40);
    signer().text(&Cursor { node, number: 5, has_channels: false, entries: vec![has] })
}

impl OneStream {
    pub fn new(change: impl FnOnce(&mut Bounds)) -> OneStream {
        let sockets = Shared::install(Random::new(1), 0);
        let mut reactor = Reactor::new(plan(Plain, change)).expect("a port is free");
        reactor.read_streams(&["s"]);
        OneStream {
            reactor,
            sockets,
            redis: Vec::new(),
            deleted: EntryId::ZERO,
            added: 0,
            sent: 0,
            most_sent: 0,
            looks: 0,
        }
    }

    pub fn begin(&mut self, last: u64) {
        self.reactor.router.stream_begins(0, entry(last));
        let earlier: Vec<_> = self.redis.iter().rev().cloned().collect();
        for (id, topic, data) in earlier {
            if !self.reactor.router.prefill_entry(0, id, (topic.as_bytes(), None), data.as_bytes())
            {
                break;
            }
        }
        self.reactor.router.on_reader(true);
    }

    pub fn add(&mut self, millis: u64, topic: &str, data: &str) {
        self.redis.push((entry(millis), topic.to_owned(), data.to_owned()));
        self.added += 1;
    }

    pub fn publish(&mut self, millis: u64, topic: &str, data: &str) {
        self.add(millis, topic, data);
        self.reactor.router.publish_entry(
            0,
            entry(millis),
            (topic.as_bytes(), None),
            data.as_bytes(),
            None,
        );
    }

    pub fn connect(&mut self, keys: &[&str], since: Option<&str>) -> (ConnId, Option<Resumed>) {
        let id = self.reactor.attach();
        let server = &mut self.reactor.router.server;
        server.open(id, 0, Encoding::WebSocket);
        for key in keys {
            server.scope(0).subscribe(id, key, Reason::Granted);
        }
        let resumed = since.map(|since| server.resume(id, since));
        (id, resumed)
    }

    pub fn extent(&self) -> StreamInfo {
        StreamInfo {
            first: self.redis.first().map(|one| one.0),
            last: self.redis.last().map_or(EntryId::ZERO, |one| one.0),
            deleted: Some(self.deleted),
            added: Some(self.added),
            length: self.redis.len() as u64,
        }
    }

    pub fn answer(&mut self) {
        while let Some(request) = self.reactor.router.server.requests.pop() {
            match request.form {
                ReplyForm::Page { stream } => {
                    let id = ConnId::of_number(request.ticket.number);
                    self.send_page(id, stream, &request.command);
                }
                ReplyForm::StreamInfo { stream } => {
                    self.looks += 1;
                    let info = Some(self.extent());
                    self.reactor.router.on_stream_reply(StreamReply::Info { stream, info });
                }
                ReplyForm::Value => panic!("only pages and stream states are asked for"),
            }
        }
    }

    pub fn send_page(&mut self, id: ConnId, stream: usize, command: &[u8]) {
        let bounds = bounds_of(command);
        let page = self.redis.iter().filter(|one| bounds.holds(one.0));
        let page: Vec<_> = page.take(bounds.count).cloned().collect();
        for (at, topic, data) in &page {
            let (topic, payload) = (topic.as_bytes(), data.as_bytes());
            let reply =
                StreamReply::Entry { number: id.number(), id: *at, topic, key: None, payload };
            self.reactor.router.on_stream_reply(reply);
        }
        let sizes = page.iter().map(|(_, topic, data)| (topic.len() + data.len()) as u64);
        let end = PageEnd {
            entries: page.len(),
            first: page.first().map(|one| one.0),
            last: page.last().map(|one| one.0),
            bytes: sizes.clone().sum(),
            largest: sizes.max().unwrap_or(0),
            is_available: true,
        };
        self.sent += page.len();
        self.most_sent = self.most_sent.max(end.bytes);
        self.reactor.router.on_stream_reply(StreamReply::PageEnd {
            number: id.number(),
            stream,
            end,
        });
    }

    pub fn turn(&mut self) {
        self.reactor.flush();
        self.reactor.reap();
    }

    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.turn();
            self.answer();
            let server = &mut self.reactor.router.server;
            server.now.millis += 1;
            self.reactor.router.notify_features(FeatureEvent::Tick);
            let server = &self.reactor.router.server;
            if self.reactor.router.features_deadline().is_none()
                && server.pending.is_empty()
                && server.fanout.is_empty()
                && server.requests.is_empty()
            {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    pub fn got(&self, id: ConnId) -> Vec<String> {
        texts(self.sockets.0.borrow().got.get(&id).map(Vec::as_slice).unwrap_or_default())
    }

    pub fn data(&self, id: ConnId) -> Vec<String> {
        let last = |text: &String| match text.starts_with("gap") {
            true => "gap".to_owned(),
            false => text.rsplit(' ').next().unwrap().to_owned(),
        };
        self.got(id).iter().map(last).collect()
    }
}
