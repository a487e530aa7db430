//! The progress of a replay as a state that is handed over.
//!
//! No page and no check is under way then: a client that waits for its turn decides again how it goes on.

use super::{Proof, Replay, ReplayStage, Span, SubscriptionChange};
use crate::engine::resume::cursor::{EntryId, STREAMS_MAX};
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

const MALFORMED: StateError = StateError::Malformed("a replay");

/// Writes ids of entries.
pub fn save_entries(entries: &[EntryId], writer: &mut StateWriter<'_>) {
    writer.len(entries.len());
    entries.iter().for_each(|id| save_id(*id, writer));
}

/// Reads ids of entries.
///
/// # Errors
/// More than there are streams.
pub fn restored_entries(reader: &mut StateReader<'_>) -> Result<Vec<EntryId>, StateError> {
    reader.list(STREAMS_MAX, restored_id)
}

/// Writes the id of an entry.
pub fn save_id(id: EntryId, writer: &mut StateWriter<'_>) {
    writer.u64(id.millis);
    writer.u64(id.number);
}

/// Reads the id of an entry.
///
/// # Errors
/// The state ends.
pub fn restored_id(reader: &mut StateReader<'_>) -> Result<EntryId, StateError> {
    Ok(EntryId { millis: reader.u64()?, number: reader.u64()? })
}

fn save_span(span: &Span, writer: &mut StateWriter<'_>) {
    writer.u64(span.from);
    writer.u64(span.until);
    save_entries(&span.after, writer);
    save_entries(&span.up_to, writer);
}

fn restored_span(reader: &mut StateReader<'_>) -> Result<Span, StateError> {
    Ok(Span {
        from: reader.u64()?,
        until: reader.u64()?,
        after: restored_entries(reader)?,
        up_to: restored_entries(reader)?,
    })
}

impl Replay {
    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.u64(self.next);
        writer.u64(self.live);
        save_entries(&self.entries, writer);
        writer.bool(self.is_portable);
        save_span(&self.others, writer);
        writer.len(self.changes.len());
        for change in &self.changes {
            writer.text(&change.key);
            save_span(&change.span, writer);
        }
        writer.u8(match self.stage {
            ReplayStage::History => 0,
            ReplayStage::Ahead => 1,
            _ => 2,
        });
        writer.u8(self.checked_ahead);
        writer.len(self.page_entries);
        if let Some((stream, proof)) = writer.option(self.proof) {
            writer.len(stream);
            writer.u8(proof as u8);
        }
        if let Some((stream, deleted)) = writer.option(self.reported_gap) {
            writer.len(stream);
            if let Some(id) = writer.option(deleted) {
                save_id(id, writer);
            }
        }
    }

    /// The replay that was written, for a history up to the number `next` and so many `streams`.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        reader: &mut StateReader<'_>,
        next: u64,
        streams: usize,
    ) -> Result<Replay, StateError> {
        let stream = |reader: &mut StateReader<'_>| reader.len(streams.saturating_sub(1));
        let mut replay = Replay::new(reader.u64()?, reader.u64()?, restored_entries(reader)?);
        if !(1..=next).contains(&replay.next) || replay.entries.len() != streams {
            return Err(MALFORMED);
        }
        replay.is_portable = reader.bool()?;
        replay.others = restored_span(reader)?;
        replay.changes = reader.list(VALUES_MAX, |reader| {
            let key = reader.text(BYTES_MAX)?;
            let Span { from, until, after, up_to } = restored_span(reader)?;
            Ok(SubscriptionChange::new(&key, (from, until), after, up_to))
        })?;
        replay.stage = match reader.u8()? {
            0 => ReplayStage::History,
            1 => ReplayStage::Ahead,
            2 => ReplayStage::Undecided,
            _ => return Err(MALFORMED),
        };
        replay.checked_ahead = reader.u8()?;
        replay.page_entries = reader.len(VALUES_MAX)?.max(1);
        replay.proof = reader.option(|reader| {
            let proofs = [Proof::Checked, Proof::Reported, Proof::Paged];
            let stream = stream(reader)?;
            let proof = proofs.get(usize::from(reader.u8()?)).ok_or(MALFORMED)?;
            Ok((stream, *proof))
        })?;
        replay.reported_gap =
            reader.option(|reader| Ok((stream(reader)?, reader.option(restored_id)?)))?;
        Ok(replay)
    }
}
