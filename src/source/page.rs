//! A page of a stream: the entries after one, and what the stream holds right after they were read.
//!
//! What is held is asked behind the page: what was trimmed before is seen, and what is trimmed in between is taken for missing.

use redis::ServerError;

use super::entries::{Entries, Piece};
use super::extent::{Extent, ExtentReader, Told};
use super::garbage::Garbage;
use super::request::PageEnd;
use super::resp::Whole;
use super::tokens::Tokens;
use crate::cursor::EntryId;

/// Reads the answers to the two commands of [`super::stream_commands::page_after`].
pub struct Page {
    entries: Entries,
    /// Behind the entries.
    extent: Option<ExtentReader>,
    count: usize,
    last: Option<EntryId>,
    refused: Option<ServerError>,
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
        Page { entries, extent: None, count: 0, last: None, refused: None }
    }

    /// Takes from `input` up to the next entry, or the end; `None`: it is used up. Not to be called after the end.
    pub fn next<'a>(
        &mut self,
        tokens: &mut Tokens,
        input: &mut &'a [u8],
    ) -> Result<Option<Found<'a>>, Garbage> {
        if self.extent.is_none() {
            match self.entries.next(tokens, input, &[])? {
                None => return Ok(None),
                Some(Piece::Entry { id, fields, .. }) => {
                    self.count += 1;
                    self.last = Some(id);
                    return Ok(Some(Found::Entry(id, fields)));
                }
                Some(Piece::Refused(error)) => self.refused = Some(error),
                Some(Piece::End) => {}
            }
        }
        let told = self.extent.get_or_insert_with(ExtentReader::new).next(tokens, input)?;
        let extent = match told {
            None => return Ok(None),
            Some(Told::Extent(extent)) => extent,
            Some(Told::Refused(error)) => {
                self.refused.get_or_insert(error);
                Extent::default()
            }
        };
        let refused = self.refused.take();
        let is_available = refused.is_none();
        let end = PageEnd { entries: self.count, last: self.last, is_available, extent };
        Ok(Some(Found::End(end, refused)))
    }
}
