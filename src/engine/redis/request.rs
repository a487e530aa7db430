//! What is asked of Redis besides the subscription, and what comes back.
//!
//! A request is queued by [`crate::engine::server::Server::ask`]; every one of them is answered, by Redis or by [`Answer::Unavailable`].

use crate::engine::resume::cursor::EntryId;
use crate::engine::slots::ConnId;
pub use crate::features::streams::extent::Extent;

/// Requests that wait for an answer at most; a further one is unavailable at once.
pub const REQUESTS_MAX: usize = 65_536;
/// Bytes of their commands at most.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Entries of a page of a stream at most; one that has as many as were asked for may not be the last.
pub const PAGE_ENTRIES: usize = 128;

/// A command on its way to Redis, and whose it is.
pub struct Request {
    /// As it goes out; see [`command`]. Empty: there was no room for it.
    pub command: Vec<u8>,
    /// What is done with its answer.
    pub purpose: Purpose,
}

/// Whose a request is: what [`crate::engine::router::Router::on_answer`] does with the answer.
#[derive(Debug)]
pub enum Purpose {
    /// Nobody's: it is sent, and a refusal is logged.
    Notice,
    /// A receipt, or the answer to a count: a refusal is logged.
    Report,
    /// What a client sent: its route's handler is told, also when the client is gone.
    Send {
        route: u8,
        client: ConnId,
        /// The user that it is.
        user: Box<str>,
        /// The client's own mark, as it wrote it.
        reference: Option<Box<str>>,
        /// How long what it sent is.
        bytes: usize,
    },
    /// A client's, which is sent what it missed of the stream in this place; see [`crate::features::streams::commands::page`].
    Page {
        /// The client.
        id: ConnId,
        /// The stream, by its place in the setting `streams`.
        stream: usize,
    },
    /// Clients', which wait for what a stream holds; see [`crate::features::streams::commands::info`].
    Extent {
        /// The stream, by its place in the setting `streams`.
        stream: usize,
    },
    /// What tells who is here: its attempt with this number.
    Presence(u64),
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A number.
    Integer(i64),
    /// A string, simple or bulk.
    Text(Vec<u8>),
    /// An array.
    List(Vec<Answer>),
    /// Null.
    Nothing,
    /// Redis refused it: its words, for the log.
    Refused(String),
    /// There is no connection, too much waits for it already, or it broke before the answer came: Redis may have executed it.
    Unavailable,
}

/// How a page of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEnd {
    /// How many entries it had, those that are no messages too. If it is as many as were asked for, more may come after it.
    pub entries: usize,
    /// The first one of them.
    pub first: Option<EntryId>,
    /// The last one of them.
    pub last: Option<EntryId>,
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of the largest one.
    pub largest: u64,
    /// Redis was reachable and did not refuse. If not, what came before the end is not all of the page.
    pub is_available: bool,
}

impl PageEnd {
    /// There is no connection, or it broke.
    pub const UNAVAILABLE: PageEnd =
        PageEnd { entries: 0, first: None, last: None, bytes: 0, largest: 0, is_available: false };
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
