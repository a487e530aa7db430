//! Requests to Redis besides the subscription, and their answers.
//!
//! A request is queued by [`crate::engine::server::Server::ask`]; every one of them is answered, by Redis or by [`Answer::Unavailable`].

pub use crate::engine::redis::stream_info::StreamInfo;
use crate::engine::resume::cursor::EntryId;

/// The most requests that wait for an answer; a further one is unavailable at once.
pub const REQUESTS_MAX: usize = 65_536;
/// The most bytes of their commands.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most entries of a page of a stream; a full page may not be the last.
pub const PAGE_ENTRIES: usize = 128;

/// A command on its way to Redis.
pub struct RedisRequest {
    /// The command in RESP; see [`command`]. Empty if there was no room for it.
    pub command: Vec<u8>,
    /// The owner of the answer.
    pub ticket: Ticket,
    /// The form in which the answer is read.
    pub form: ReplyForm,
}

/// The address of an answer: its owner, and a number that means something to the owner alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub owner: TicketOwner,
    pub number: u64,
}

/// The part of the program that is given an answer; see [`crate::engine::router::Router::on_answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketOwner {
    /// The handler of the route with this number.
    Route(u8),
    /// The feature with this name.
    Feature(&'static str),
}

/// The form of an answer: most are small and held whole, pages of streams are handed on entry by entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyForm {
    /// One value of at most 64 KiB.
    Value,
    /// Entries of the stream with this place in the setting `streams`, as XRANGE answers.
    Page { stream: usize },
    /// The extent of the stream with this place, as `XINFO STREAM` answers.
    StreamInfo { stream: usize },
}

impl Ticket {
    /// A ticket of the handler of a route.
    pub fn of_route(route: u8, number: u64) -> Ticket {
        Ticket { owner: TicketOwner::Route(route), number }
    }

    /// A ticket of the feature with this name.
    pub fn of_feature(name: &'static str, number: u64) -> Ticket {
        Ticket { owner: TicketOwner::Feature(name), number }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Integer(i64),
    /// A string, simple or bulk.
    Text(Vec<u8>),
    List(Vec<Answer>),
    /// Null.
    Nothing,
    /// Redis refused it: its words, for the log.
    Refused(String),
    /// There is no connection, too much waits for it already, or it broke before the answer came: Redis may have executed it.
    Unavailable,
}

/// The end of a page of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEnd {
    /// The number of entries, those that are no messages too. If it is as many as were asked for, more may come after it.
    pub entries: usize,
    pub first: Option<EntryId>,
    pub last: Option<EntryId>,
    /// Bytes of all entries.
    pub bytes: u64,
    /// Bytes of the largest entry.
    pub largest: u64,
    /// Redis was reachable and did not refuse. If not, what came before the end is not all of the page.
    pub is_available: bool,
}

impl PageEnd {
    /// There is no connection, or it broke.
    pub const UNAVAILABLE: PageEnd =
        PageEnd { entries: 0, first: None, last: None, bytes: 0, largest: 0, is_available: false };

    /// Counts an entry of this size.
    pub(crate) fn add(&mut self, id: EntryId, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
        self.largest = self.largest.max(bytes);
        self.first.get_or_insert(id);
        self.last = Some(id);
    }
}

/// A command of these words, in RESP.
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let (name, arguments) = words.split_first().expect("a command has a name");
    let mut command = redis::Cmd::new();
    command.arg(*name);
    arguments.iter().for_each(|argument| {
        command.arg(*argument);
    });
    command.get_packed_command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_packed_word_by_word() {
        let packed = command(&[b"PUBLISH", b"a", b"\r\n\xff"]);
        assert_eq!(packed, b"*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$3\r\n\r\n\xff\r\n");
    }
}
