//! A page of a stream: the entries after one, and how large they were.

use redis::ServerError;

use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::reply_parts::Tokens;
use crate::engine::redis::request::PageEnd;
use crate::engine::redis::resp::Whole;
use crate::engine::resume::cursor::EntryId;
use crate::engine::redis::entries::{Entries, Piece};

/// Reads the answer to the command of [`crate::features::streams::commands::page`].
pub struct Page {
    entries: Entries,
    end: PageEnd,
}

/// What was found.
pub enum Found<'a> {
    Entry(EntryId, Whole<'a>),
    /// If it is not available, why Redis refused it.
    End(PageEnd, Option<ServerError>),
}

impl Page {
    pub fn new(stream: usize, payload_bytes_max: usize) -> Page {
        let entries = Entries::of_range(stream, payload_bytes_max);
        Page { entries, end: PageEnd { is_available: true, ..PageEnd::UNAVAILABLE } }
    }

    /// Takes from `input` up to the next entry, or the end; `None`: it is used up. Not to be called after the end.
    pub fn next<'a>(
        &mut self,
        tokens: &mut Tokens,
        input: &mut &'a [u8],
    ) -> Result<Option<Found<'a>>, Garbage> {
        Ok(match self.entries.next(tokens, input, &[])? {
            None => None,
            Some(Piece::Entry { id, fields, .. }) => {
                let bytes = fields.bytes();
                self.end.entries += 1;
                self.end.bytes += bytes;
                self.end.largest = self.end.largest.max(bytes);
                self.end.first.get_or_insert(id);
                self.end.last = Some(id);
                Some(Found::Entry(id, fields))
            }
            Some(Piece::End) => Some(Found::End(self.end, None)),
            Some(Piece::Refused(error)) => {
                Some(Found::End(PageEnd { is_available: false, ..self.end }, Some(error)))
            }
        })
    }
}
