//! Entries of streams, one by one out of the reply that brings them: of XRANGE and XREVRANGE, or of XREAD.

use redis::ServerError;

use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::reply_parts::{Head, Tokens};
use crate::engine::redis::resp::{self, ENVELOPE_BYTES_MAX, Whole};
use crate::engine::resume::cursor::EntryId;

/// Two numbers of 20 digits, and what is around them.
const ID_BYTES_MAX: usize = 64;
/// A key is no longer than this: the settings see to it.
const NAME_BYTES_MAX: usize = 1024;
/// An error in the place of a reply.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// What an entry says.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Which topic it is for is not judged here.
    Message { topic: &'a [u8], data: &'a [u8], receipt: Option<&'a [u8]> },
    /// It lacks `topic` or `data`.
    Malformed,
    /// Its data is above `payload_bytes_max`, or all its fields together are by far.
    Oversized,
}

/// What was found in a reply.
#[derive(Debug)]
pub enum Piece<'a> {
    /// `stream`: its place among the names. `fields`: what [`content`] reads.
    Entry { stream: usize, id: EntryId, fields: Whole<'a> },
    /// The reply has ended.
    End,
    /// The reply is an error.
    Refused(ServerError),
}

/// Reads one reply.
pub struct Entries {
    payload_bytes_max: usize,
    stage: Stage,
    /// Of an XREAD: those that are still to come.
    streams_left: usize,
    /// The one that is being read.
    stream: usize,
    /// Of this stream: those that are still to come.
    entries_left: usize,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
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
    /// What is no array: an error, or null.
    Plain,
    End,
}

impl Entries {
    /// What XRANGE or XREVRANGE answers, of the stream with this number.
    pub fn of_range(stream: usize, payload_bytes_max: usize) -> Entries {
        Entries { stream, ..Entries::new(Stage::Range, payload_bytes_max) }
    }

    /// What XREAD answers.
    pub fn of_read(payload_bytes_max: usize) -> Entries {
        Entries::new(Stage::Read, payload_bytes_max)
    }

    /// The one that is being read.
    pub fn stream(&self) -> usize {
        self.stream
    }

    fn new(stage: Stage, payload_bytes_max: usize) -> Entries {
        let (streams_left, stream, entries_left) = (0, 0, 0);
        Entries { payload_bytes_max, stage, streams_left, stream, entries_left }
    }

    /// Takes from `input` up to the next piece; `None`: it is used up. Not to be called after the end. `names` are those that
    /// an XREAD was sent with.
    pub fn next<'a>(
        &mut self,
        tokens: &mut Tokens,
        input: &mut &'a [u8],
        names: &[String],
    ) -> Result<Option<Piece<'a>>, Garbage> {
        loop {
            self.stage = match self.stage {
                Stage::Range | Stage::Read | Stage::Count => match tokens.head(input)? {
                    None => return Ok(None),
                    Some(head) => self.begin(head)?,
                },
                Stage::Plain => match tokens.value(input, REFUSAL_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => return plain(&value).map(Some),
                },
                Stage::Stream => match tokens.array_of(2, input)? {
                    None => return Ok(None),
                    Some(()) => Stage::Name,
                },
                Stage::Name => match tokens.value(input, NAME_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => self.name(&value, names)?,
                },
                Stage::Entry => match tokens.array_of(2, input)? {
                    None => return Ok(None),
                    Some(()) => Stage::Id,
                },
                Stage::Id => match tokens.value(input, ID_BYTES_MAX)? {
                    None => return Ok(None),
                    Some(value) => Stage::Fields(read_id(&value)?),
                },
                Stage::Fields(id) => {
                    let bytes_max = self.payload_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
                    let Some(fields) = tokens.value(input, bytes_max)? else { return Ok(None) };
                    let stream = self.stream;
                    self.entries_left -= 1;
                    self.stage = self.after_entry();
                    return Ok(Some(Piece::Entry { stream, id, fields }));
                }
                Stage::End => return Ok(Some(Piece::End)),
            };
        }
    }

    fn begin(&mut self, head: Head) -> Result<Stage, Garbage> {
        match (self.stage, head) {
            (Stage::Read, Head::Array(streams)) => {
                self.streams_left = streams;
                Ok(if streams > 0 { Stage::Stream } else { Stage::End })
            }
            (Stage::Count, Head::Other(kind)) => Err(Garbage::Type(kind)),
            (Stage::Count, Head::Null) => Err(Garbage::Length),
            (_, Head::Other(_)) => Ok(Stage::Plain),
            (_, Head::Null) => Ok(Stage::End),
            (_, Head::Array(entries)) => {
                self.entries_left = entries;
                Ok(self.after_entry())
            }
        }
    }

    fn after_entry(&mut self) -> Stage {
        if self.entries_left > 0 {
            return Stage::Entry;
        }
        self.streams_left = self.streams_left.saturating_sub(1);
        if self.streams_left > 0 { Stage::Stream } else { Stage::End }
    }

    fn name(&mut self, value: &Whole, names: &[String]) -> Result<Stage, Garbage> {
        let name = text(value).ok_or(Garbage::Size)?;
        let stream = names.iter().position(|one| one.as_bytes() == name);
        self.stream = stream.ok_or(Garbage::Size)?;
        Ok(Stage::Count)
    }
}

/// Reads the fields of an entry.
pub fn content(fields: &[u8], payload_bytes_max: usize) -> Content<'_> {
    match read_fields(fields) {
        None => Content::Malformed,
        Some(Content::Message { data, .. }) if data.len() > payload_bytes_max => Content::Oversized,
        Some(content) => content,
    }
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

/// A field that is there twice counts as it is there first; one that nobody knows is passed over.
fn read_fields(value: &[u8]) -> Option<Content<'_>> {
    let mut bulks = resp::bulks(value)?;
    let (mut topic, mut data, mut receipt) = (None, None, None);
    while bulks.left() > 0 {
        let (name, content) = (bulks.next()?, &value[bulks.next()?]);
        let place = match &value[name] {
            b"topic" => &mut topic,
            b"data" => &mut data,
            b"receipt" => &mut receipt,
            _ => continue,
        };
        place.get_or_insert(content);
    }
    Some(Content::Message { topic: topic?, data: data?, receipt })
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
