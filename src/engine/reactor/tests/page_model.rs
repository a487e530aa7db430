//! The naive model of clients that resume: the streams, and the entries that each client may and must receive.

use crate::engine::redis::request::StreamInfo;
use crate::engine::resume::cursor::EntryId;

pub(super) const TOPICS: [&str; 4] = ["a", "a.b", "c", "user.7"];
pub(super) const KEYS: [&str; 5] = ["a", "a.\0", "c", "\0", "user.7"];

pub(super) fn covers(key: &str, topic: &str) -> bool {
    match key.strip_suffix('\0') {
        Some(prefix) => topic.starts_with(prefix) && !topic.starts_with("user."),
        None => key == topic,
    }
}

/// A stream in Redis.
#[derive(Default)]
pub(super) struct Stream {
    pub entries: Vec<(EntryId, &'static str, String)>,
    /// The number of entries that this process has read.
    pub read: usize,
}

impl Stream {
    pub fn extent(&self) -> StreamInfo {
        StreamInfo {
            first: self.entries.first().map(|entry| entry.0),
            last: self.entries.last().map_or(EntryId::ZERO, |entry| entry.0),
            deleted: Some(EntryId::ZERO),
            added: Some(self.entries.len() as u64),
            length: self.entries.len() as u64,
        }
    }
}

/// A period during which a client subscribed to a key, by the number of entries read of each stream.
pub(super) struct Held {
    pub key: &'static str,
    /// The entries that the client had when it subscribed from a cursor on.
    pub had: Option<[EntryId; 2]>,
    /// `None`: since it connected, including missed messages from before.
    pub from: Option<[usize; 2]>,
    /// `None`: still subscribed.
    pub until: Option<[usize; 2]>,
}

/// A client's subscriptions, and the entries that it had.
pub(super) struct Subscriber {
    pub held: Vec<Held>,
    pub had: [EntryId; 2],
}

impl Subscriber {
    /// Returns whether it may receive that entry, and whether it must.
    pub fn receives(
        &self,
        stream: usize,
        at: usize,
        entry: &(EntryId, &str, String),
    ) -> (bool, bool) {
        let covering = self.held.iter().filter(|held| {
            // Messages before an entry that it had from elsewhere were published before it connected here.
            if entry.0 <= held.had.unwrap_or(self.had)[stream] {
                return false;
            }
            let since = held.from.is_none_or(|from| at >= from[stream]);
            since && held.until.is_none_or(|until| at < until[stream]) && covers(held.key, entry.1)
        });
        covering.fold((false, false), |(_, must), held| (true, must || held.until.is_none()))
    }
}
