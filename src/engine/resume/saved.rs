//! Cursors and the history as a state that is handed over.

use super::Resume;
use super::replay::saved::{restored_entries, save_entries};
use crate::upgrade::{StateError, StateReader, StateWriter};

/// Writes the places of this process, and its history.
pub fn save(resume: &Resume, writer: &mut StateWriter<'_>) {
    resume.signer.save(writer);
    save_entries(&resume.entries, writer);
    save_entries(&resume.begins, writer);
    writer.bool(resume.are_streams_known);
    writer.bool(resume.has_channels);
    resume.history.save(writer);
}

/// Goes on where the other process stopped, with the same streams.
///
/// # Errors
/// The state is malformed, or has other streams.
pub fn restore(resume: &mut Resume, reader: &mut StateReader<'_>) -> Result<(), StateError> {
    resume.signer.restore(reader)?;
    let (entries, begins) = (restored_entries(reader)?, restored_entries(reader)?);
    if entries.len() != resume.streams.len() || begins.len() != entries.len() {
        return Err(StateError::Malformed("places in streams"));
    }
    (resume.entries, resume.begins) = (entries, begins);
    resume.are_streams_known = reader.bool()?;
    resume.has_channels |= reader.bool()?;
    resume.history.restore(reader)
}
