//! The extent of a stream, as `XINFO STREAM` reports it.

use redis::{ServerError, Value};

use crate::engine::redis::entries::read_id;
use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::reply_parser::{ReplyHead, ReplyParser};
use crate::engine::redis::resp::Whole;
use crate::engine::resume::cursor::EntryId;

/// The most bytes of a name or number of the reply; a larger value is passed over.
const VALUE_BYTES_MAX: usize = 256;
/// The most bytes of an id; the rest of the first and the last entry streams by.
const ID_BYTES_MAX: usize = 64;

/// The extent of a stream. A stream that does not exist is empty, and has had no entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamInfo {
    /// The oldest entry that is still held.
    pub first: Option<EntryId>,
    /// The latest entry that was ever added, held or not.
    pub last: EntryId,
    /// The highest entry that XDEL removed; unknown before Redis 7. (Trimming removes from the front, and does not count.)
    pub deleted: Option<EntryId>,
    /// The number of entries that were ever added; unknown before Redis 7.
    pub added: Option<u64>,
    /// The number of entries held.
    pub length: u64,
}

impl StreamInfo {
    /// Returns whether every entry that was added after this one is still there; `false` if that cannot be known: trimmed entries lie
    /// before `first`, and no more is known of them.
    pub fn is_complete_after(&self, id: EntryId) -> bool {
        let was_trimmed = self.added.is_none_or(|added| added > self.length);
        let is_held = self.first.is_some_and(|first| first <= id);
        // One that holds all that it was ever given, and not this one, was begun anew since.
        let is_before_all =
            id == EntryId::ZERO || self.first.is_none_or(|first| first.before() == Some(id));
        let is_untrimmed = is_held || (!was_trimmed && is_before_all);
        let is_undeleted = self.deleted.is_none_or(|deleted| deleted <= id);
        // A stream that ends before was begun anew since.
        self.last == id || (self.last > id && is_untrimmed && is_undeleted)
    }
}

/// The outcome of `XINFO STREAM`.
#[derive(Debug, PartialEq)]
pub enum StreamInfoReply {
    Info(StreamInfo),
    /// Redis refused.
    Refused(ServerError),
}

/// A reader of one reply of `XINFO STREAM`.
pub struct StreamInfoReader {
    info: StreamInfo,
    stage: InfoStage,
    /// Names that are still to come.
    left: usize,
}

/// The part of the reply that comes next.
#[derive(Clone, Copy)]
enum InfoStage {
    Reply,
    /// An error.
    Plain,
    Name,
    Value(InfoName),
    /// The first entry, its id, its fields.
    First,
    Id,
    Fields,
    End,
}

#[derive(Clone, Copy)]
enum InfoName {
    Last,
    Deleted,
    Added,
    Length,
    Other,
}

impl StreamInfoReader {
    pub fn new() -> StreamInfoReader {
        StreamInfoReader { info: StreamInfo::default(), stage: InfoStage::Reply, left: 0 }
    }

    /// Takes from `input` until the reply has ended; `None`: the input is used up. Not to be called after the end.
    pub fn next(
        &mut self,
        replies: &mut ReplyParser,
        input: &mut &[u8],
    ) -> Result<Option<StreamInfoReply>, Garbage> {
        loop {
            self.stage = match self.stage {
                InfoStage::Reply => match replies.head(input)? {
                    None => return Ok(None),
                    Some(ReplyHead::Array(count)) if count % 2 == 0 => {
                        self.left = count / 2;
                        self.after_value()
                    }
                    Some(ReplyHead::Other(_)) => InfoStage::Plain,
                    Some(_) => return Err(Garbage::Length),
                },
                InfoStage::Plain => match replies.value(input, VALUE_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => return refused(&value).map(Some),
                },
                InfoStage::Name => match replies.value(input, VALUE_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => name(&value),
                },
                InfoStage::Value(name) => match replies.value(input, VALUE_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => {
                        self.take(name, &value)?;
                        self.after_value()
                    }
                },
                InfoStage::First => match replies.head(input)? {
                    None => return Ok(None),
                    Some(ReplyHead::Array(2)) => InfoStage::Id,
                    Some(ReplyHead::Null) => self.after_value(),
                    // Null again, as RESP2 has it for a string.
                    Some(ReplyHead::Other(_)) => InfoStage::Value(InfoName::Other),
                    Some(ReplyHead::Array(_)) => return Err(Garbage::Length),
                },
                InfoStage::Id => match replies.value(input, ID_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => {
                        self.info.first = Some(read_id(&value)?);
                        InfoStage::Fields
                    }
                },
                InfoStage::Fields => match replies.value(input, 0)? {
                    None => return Ok(None),
                    Some(_) => self.after_value(),
                },
                InfoStage::End => return Ok(Some(StreamInfoReply::Info(self.info))),
            };
        }
    }

    fn after_value(&mut self) -> InfoStage {
        if self.left == 0 {
            return InfoStage::End;
        }
        self.left -= 1;
        InfoStage::Name
    }

    fn take(&mut self, name: InfoName, value: &Whole) -> Result<(), Garbage> {
        match name {
            InfoName::Last => self.info.last = read_id(value)?,
            InfoName::Deleted => self.info.deleted = Some(read_id(value)?),
            InfoName::Added => self.info.added = Some(number(value)?),
            InfoName::Length => self.info.length = number(value)?,
            InfoName::Other => {}
        }
        Ok(())
    }
}

fn name(value: &Whole) -> InfoStage {
    let Whole::Value(value) = value else { return InfoStage::Value(InfoName::Other) };
    InfoStage::Value(match &**value {
        b"$6\r\nlength\r\n" => InfoName::Length,
        b"$17\r\nlast-generated-id\r\n" => InfoName::Last,
        b"$20\r\nmax-deleted-entry-id\r\n" => InfoName::Deleted,
        b"$13\r\nentries-added\r\n" => InfoName::Added,
        b"$11\r\nfirst-entry\r\n" => return InfoStage::First,
        _ => InfoName::Other,
    })
}

fn number(value: &Whole) -> Result<u64, Garbage> {
    match value.parse()? {
        Value::Int(number) => u64::try_from(number).map_err(|_| Garbage::Length),
        _ => Err(Garbage::Length),
    }
}

/// A key that does not exist holds nothing.
fn refused(value: &Whole) -> Result<StreamInfoReply, Garbage> {
    let Whole::Value(value) = value else { return Err(Garbage::Size) };
    match redis::parse_redis_value(value) {
        Ok(Value::ServerError(error)) if error.details() == Some("no such key") => {
            Ok(StreamInfoReply::Info(StreamInfo { added: Some(0), ..StreamInfo::default() }))
        }
        Ok(Value::ServerError(error)) => Ok(StreamInfoReply::Refused(error)),
        _ => Err(Garbage::Type(value.first().copied().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64) -> EntryId {
        EntryId { millis, number: 0 }
    }

    fn read(pieces: &[&[u8]]) -> Result<Option<StreamInfoReply>, Garbage> {
        let (mut reader, mut replies) = (StreamInfoReader::new(), ReplyParser::new());
        for piece in pieces {
            let mut input = *piece;
            let found = reader.next(&mut replies, &mut input)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    const HELD: &str = "*20\r\n$6\r\nlength\r\n:3\r\n$15\r\nradix-tree-keys\r\n:1\r\n\
        $16\r\nradix-tree-nodes\r\n:2\r\n$17\r\nlast-generated-id\r\n$3\r\n9-0\r\n\
        $20\r\nmax-deleted-entry-id\r\n$3\r\n5-0\r\n$13\r\nentries-added\r\n:7\r\n\
        $23\r\nrecorded-first-entry-id\r\n$3\r\n4-0\r\n$6\r\ngroups\r\n:0\r\n\
        $11\r\nfirst-entry\r\n*2\r\n$3\r\n4-0\r\n*2\r\n$1\r\na\r\n$300\r\n";

    fn held() -> String {
        [HELD, &"x".repeat(300), "\r\n$10\r\nlast-entry\r\n*2\r\n$3\r\n9-0\r\n*0\r\n"].concat()
    }

    #[test]
    fn the_extent_of_a_stream_is_read_wherever_the_reply_is_cut() {
        let expected = StreamInfo {
            first: Some(id(4)),
            last: id(9),
            deleted: Some(id(5)),
            added: Some(7),
            length: 3,
        };
        let reply = held();
        assert_eq!(read(&[reply.as_bytes()]), Ok(Some(StreamInfoReply::Info(expected))));
        for cut in 1..reply.len() {
            let (one, other) = reply.as_bytes().split_at(cut);
            assert_eq!(
                read(&[one, other]),
                Ok(Some(StreamInfoReply::Info(expected))),
                "cut at {cut}"
            );
        }
        let bytes: Vec<&[u8]> = reply.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), Ok(Some(StreamInfoReply::Info(expected))));
    }

    #[test]
    fn redis_of_before_version_7_knows_less() {
        let reply = "*8\r\n$6\r\nlength\r\n:0\r\n$17\r\nlast-generated-id\r\n$3\r\n9-0\r\n\
            $11\r\nfirst-entry\r\n$-1\r\n$10\r\nlast-entry\r\n$-1\r\n";
        let expected = StreamInfo { last: id(9), ..StreamInfo::default() };
        assert_eq!(read(&[reply.as_bytes()]), Ok(Some(StreamInfoReply::Info(expected))));
        assert_eq!(
            read(&[reply.replace("$-1", "*-1").as_bytes()]),
            Ok(Some(StreamInfoReply::Info(expected)))
        );
    }

    #[test]
    fn a_key_that_is_not_there_is_empty_and_one_of_another_type_is_refused() {
        let empty = StreamInfo { added: Some(0), ..StreamInfo::default() };
        assert_eq!(read(&[b"-ERR no such key\r\n"]), Ok(Some(StreamInfoReply::Info(empty))));
        let Ok(Some(StreamInfoReply::Refused(error))) =
            read(&[b"-WRONGTYPE Operation against\r\n"])
        else {
            panic!("it is refused")
        };
        assert_eq!(error.code(), "WRONGTYPE");
        for reply in ["+OK\r\n", "*3\r\n", "*-1\r\n", "*2\r\n$6\r\nlength\r\n$1\r\n3\r\n"] {
            assert!(read(&[reply.as_bytes()]).is_err(), "{reply:?}");
        }
    }

    #[test]
    fn a_page_is_complete_only_where_nothing_after_its_start_is_gone() {
        let held = |first, deleted, added, length| StreamInfo {
            first,
            last: id(9),
            deleted: Some(id(deleted)),
            added: Some(added),
            length,
        };
        let before_7 =
            StreamInfo { first: Some(id(4)), last: id(9), length: 3, ..StreamInfo::default() };
        for (info, after, expected) in [
            (held(Some(id(4)), 0, 7, 3), 4, true),
            (held(Some(id(4)), 0, 7, 3), 5, true),
            (held(Some(id(4)), 0, 7, 3), 3, false),
            (held(Some(id(4)), 0, 3, 3), 3, false),
            (held(Some(id(4)), 0, 3, 3), 0, true),
            (held(Some(id(4)), 6, 7, 3), 5, false),
            (held(Some(id(4)), 6, 7, 3), 6, true),
            (held(None, 9, 7, 0), 8, false),
            (held(None, 9, 7, 0), 9, true),
            (before_7, 4, true),
            (before_7, 3, false),
            (StreamInfo { added: Some(0), ..StreamInfo::default() }, 0, true),
            (StreamInfo { added: Some(0), ..StreamInfo::default() }, 3, false),
            (held(Some(id(4)), 0, 3, 3), 10, false),
        ] {
            assert_eq!(info.is_complete_after(id(after)), expected, "{info:?} after {after}");
        }
    }
}
