//! Entries of streams, one by one out of a reply of XRANGE, XREVRANGE or XREAD.

use std::borrow::Cow;
use std::ops::Range;

use redis::ServerError;

use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::reply_parser::{ReplyHead, ReplyParser};
use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::engine::resume::cursor::EntryId;

/// The most bytes of an id: two numbers of 20 digits, and what is around them.
const ID_BYTES_MAX: usize = 64;
/// The most bytes of a key: the settings accept no longer one.
const NAME_BYTES_MAX: usize = 1024;
/// The most bytes of an error in place of a reply.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// The content of an entry.
#[derive(Debug)]
pub enum EntryContent<'a> {
    Message(EntryMessage<'a>),
    /// A field `topic` or `data` is missing.
    Malformed,
    /// The data is above `payload_bytes_max`, or all fields together are by far.
    Oversized,
}

/// The fields of an entry, and the places of those that make a message. The topic is not validated here.
#[derive(Debug)]
pub struct EntryMessage<'a> {
    fields: Cow<'a, [u8]>,
    topic: Range<usize>,
    data: Range<usize>,
    key: Option<Range<usize>>,
    receipt: Option<Range<usize>>,
}

impl EntryMessage<'_> {
    pub fn topic(&self) -> &[u8] {
        &self.fields[self.topic.clone()]
    }

    pub fn data(&self) -> &[u8] {
        &self.fields[self.data.clone()]
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.key.clone().map(|key| &self.fields[key])
    }

    pub fn receipt(&self) -> Option<&[u8]> {
        self.receipt.clone().map(|receipt| &self.fields[receipt])
    }
}

/// A piece of a reply.
#[derive(Debug)]
pub enum Piece<'a> {
    /// An entry of the stream with this place among the names; `bytes`: the size of its fields.
    Entry { stream: usize, id: EntryId, bytes: u64, content: EntryContent<'a> },
    /// The reply has ended.
    End,
    /// The reply is an error.
    Refused(ServerError),
}

/// A reader of one reply.
pub struct Entries {
    payload_bytes_max: usize,
    stage: EntriesStage,
    /// Streams of an XREAD that are still to come.
    streams_left: usize,
    /// The stream that is being read.
    stream: usize,
    /// Entries of this stream that are still to come.
    entries_left: usize,
}

/// The part of a reply that comes next.
#[derive(Clone, Copy)]
enum EntriesStage {
    /// The reply of an XRANGE of this stream.
    Range,
    /// The reply of an XREAD.
    Read,
    /// A stream in it, its name, its entries.
    Stream,
    Name,
    Count,
    /// An entry, its id, its fields.
    Entry,
    Id,
    Fields(EntryId),
    /// An error, or null.
    Plain,
    End,
}

impl Entries {
    /// A reader of what XRANGE or XREVRANGE answers about the stream with this number.
    pub fn of_range(stream: usize, payload_bytes_max: usize) -> Entries {
        Entries { stream, ..Entries::new(EntriesStage::Range, payload_bytes_max) }
    }

    /// A reader of what XREAD answers.
    pub fn of_read(payload_bytes_max: usize) -> Entries {
        Entries::new(EntriesStage::Read, payload_bytes_max)
    }

    /// The stream that is being read.
    pub fn stream(&self) -> usize {
        self.stream
    }

    fn new(stage: EntriesStage, payload_bytes_max: usize) -> Entries {
        let (streams_left, stream, entries_left) = (0, 0, 0);
        Entries { payload_bytes_max, stage, streams_left, stream, entries_left }
    }

    /// Takes from `input` up to the next piece; `None`: the input is used up. Not to be called after the end. `names`: the keys that
    /// an XREAD was sent with.
    pub fn next<'a>(
        &mut self,
        replies: &mut ReplyParser,
        input: &mut &'a [u8],
        names: &[String],
    ) -> Result<Option<Piece<'a>>, Garbage> {
        loop {
            self.stage = match self.stage {
                EntriesStage::Range | EntriesStage::Read | EntriesStage::Count => {
                    match replies.head(input)? {
                        None => return Ok(None),
                        Some(head) => self.begin(head)?,
                    }
                }
                EntriesStage::Plain => match replies.value(input, REFUSAL_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => return plain(&value).map(Some),
                },
                EntriesStage::Stream => match replies.array_of(2, input)? {
                    None => return Ok(None),
                    Some(()) => EntriesStage::Name,
                },
                EntriesStage::Name => match replies.value(input, NAME_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => self.name(&value, names)?,
                },
                EntriesStage::Entry => match replies.array_of(2, input)? {
                    None => return Ok(None),
                    Some(()) => EntriesStage::Id,
                },
                EntriesStage::Id => match replies.value(input, ID_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => EntriesStage::Fields(read_id(&value)?),
                },
                EntriesStage::Fields(id) => {
                    let bytes_max = self.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
                    let Some(fields) = replies.value(input, bytes_max)? else { return Ok(None) };
                    let (stream, bytes) = (self.stream, fields.bytes());
                    self.entries_left -= 1;
                    self.stage = self.after_entry();
                    let content = read_content(fields, self.payload_bytes_max);
                    return Ok(Some(Piece::Entry { stream, id, bytes, content }));
                }
                EntriesStage::End => return Ok(Some(Piece::End)),
            };
        }
    }

    fn begin(&mut self, head: ReplyHead) -> Result<EntriesStage, Garbage> {
        match (self.stage, head) {
            (EntriesStage::Read, ReplyHead::Array(streams)) => {
                self.streams_left = streams;
                Ok(if streams > 0 { EntriesStage::Stream } else { EntriesStage::End })
            }
            (EntriesStage::Count, ReplyHead::Other(kind)) => Err(Garbage::Type(kind)),
            (EntriesStage::Count, ReplyHead::Null) => Err(Garbage::Length),
            (_, ReplyHead::Other(_)) => Ok(EntriesStage::Plain),
            (_, ReplyHead::Null) => Ok(EntriesStage::End),
            (_, ReplyHead::Array(entries)) => {
                self.entries_left = entries;
                Ok(self.after_entry())
            }
        }
    }

    fn after_entry(&mut self) -> EntriesStage {
        if self.entries_left > 0 {
            return EntriesStage::Entry;
        }
        self.streams_left = self.streams_left.saturating_sub(1);
        if self.streams_left > 0 { EntriesStage::Stream } else { EntriesStage::End }
    }

    fn name(&mut self, value: &Whole, names: &[String]) -> Result<EntriesStage, Garbage> {
        let name = text(value).ok_or(Garbage::Size)?;
        let stream = names.iter().position(|one| one.as_bytes() == name);
        self.stream = stream.ok_or(Garbage::Size)?;
        Ok(EntriesStage::Count)
    }
}

/// Reads the fields of an entry. If a field occurs twice the first one counts; an unknown one is passed over.
fn read_content(fields: Whole<'_>, payload_bytes_max: usize) -> EntryContent<'_> {
    let Whole::Value(fields) = fields else { return EntryContent::Oversized };
    let Some([topic, data, key, receipt]) = find_fields(&fields) else {
        return EntryContent::Malformed;
    };
    let (Some(topic), Some(data)) = (topic, data) else { return EntryContent::Malformed };
    match data.len() > payload_bytes_max {
        true => EntryContent::Oversized,
        false => EntryContent::Message(EntryMessage { fields, topic, data, key, receipt }),
    }
}

fn find_fields(value: &[u8]) -> Option<[Option<Range<usize>>; 4]> {
    let mut bulks = resp::bulks(value)?;
    let mut found = [None, None, None, None];
    while bulks.left() > 0 {
        let (name, content) = (bulks.next()?, bulks.next()?);
        let place = match &value[name] {
            b"topic" => 0,
            b"data" => 1,
            b"key" => 2,
            b"receipt" => 3,
            _ => continue,
        };
        found[place].get_or_insert(content);
    }
    Some(found)
}

/// An error, or null, which XREAD answers when nothing came.
fn plain(value: &Whole) -> Result<Piece<'static>, Garbage> {
    let Whole::Value(value) = value else { return Err(Garbage::Size) };
    match redis::parse_redis_value(value) {
        Ok(redis::Value::ServerError(error)) => Ok(Piece::Refused(error)),
        Ok(redis::Value::Nil) => Ok(Piece::End),
        _ => Err(Garbage::Type(value.first().copied().unwrap_or_default())),
    }
}

/// The id of an entry.
pub fn read_id(value: &Whole) -> Result<EntryId, Garbage> {
    text(value).and_then(EntryId::parse).ok_or(Garbage::Length)
}

/// The content of a bulk string.
fn text<'a>(value: &'a Whole) -> Option<&'a [u8]> {
    let Whole::Value(value) = value else { return None };
    if value.first() != Some(&b'$') {
        return None;
    }
    let start = value.iter().position(|byte| *byte == b'\n')? + 1;
    value.get(start..value.len().checked_sub(2)?)
}

#[cfg(test)]
mod tests;
