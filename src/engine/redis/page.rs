//! A page of a stream: its entries, and their size.

use redis::ServerError;

use crate::engine::redis::entries::{Entries, EntryContent, Piece};
use crate::engine::redis::garbage::Garbage;
use crate::engine::redis::reply_parts::Tokens;
use crate::engine::redis::request::PageEnd;
use crate::engine::resume::cursor::EntryId;

/// A reader of the reply to XRANGE.
pub struct PageReader {
    entries: Entries,
    end: PageEnd,
}

/// A part of a page.
pub enum PagePart<'a> {
    Entry(EntryId, EntryContent<'a>),
    /// The end, and why Redis refused the page.
    End(PageEnd, Option<ServerError>),
}

impl PageReader {
    pub fn new(stream: usize, payload_bytes_max: usize) -> PageReader {
        let entries = Entries::of_range(stream, payload_bytes_max);
        PageReader { entries, end: PageEnd { is_available: true, ..PageEnd::UNAVAILABLE } }
    }

    /// Takes from `input` up to the next entry, or the end; `None`: the input is used up. Not to be called after the end.
    pub fn next<'a>(
        &mut self,
        tokens: &mut Tokens,
        input: &mut &'a [u8],
    ) -> Result<Option<PagePart<'a>>, Garbage> {
        Ok(match self.entries.next(tokens, input, &[])? {
            None => None,
            Some(Piece::Entry { id, bytes, content, .. }) => {
                self.end.entries += 1;
                self.end.bytes += bytes;
                self.end.largest = self.end.largest.max(bytes);
                self.end.first.get_or_insert(id);
                self.end.last = Some(id);
                Some(PagePart::Entry(id, content))
            }
            Some(Piece::End) => Some(PagePart::End(self.end, None)),
            Some(Piece::Refused(error)) => {
                Some(PagePart::End(PageEnd { is_available: false, ..self.end }, Some(error)))
            }
        })
    }
}
