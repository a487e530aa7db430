//! Pending writes as a state that is handed over.

use super::Outbox;
use crate::engine::client::frame::Frame;
use crate::engine::client::queued_frame::QueuedFrame;
use crate::engine::client::sealed::Sealed;
use crate::engine::pubsub::topic::Subject;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

const MALFORMED: StateError = StateError::Malformed("pending writes");

impl Outbox {
    /// Writes all frames, each of those that clients share once.
    pub fn save(&self, writer: &mut StateWriter<'_>) {
        writer.len(self.frames.len());
        self.frames.iter().for_each(|frame| save_frame(frame, writer));
        writer.len(self.written);
        if let Some(sealed) = writer.option(self.sealed.as_ref()) {
            writer.bytes(sealed.rest());
            writer.len(sealed.plain);
        }
        let is_notice = |frame: &QueuedFrame| self.notice.as_ref().is_some_and(|one| frame.is(one));
        if let Some(place) = writer.option(self.frames.iter().position(is_notice)) {
            writer.len(place);
        }
    }

    /// The pending writes that were written; `frames` are those that came before, by their numbers.
    ///
    /// # Errors
    /// The state is malformed.
    pub fn restored(
        reader: &mut StateReader<'_>,
        frames: &mut Vec<Frame>,
    ) -> Result<Outbox, StateError> {
        let mut outbox = Outbox::default();
        for _ in 0..reader.len(VALUES_MAX)? {
            outbox.push(&restored_frame(reader, frames)?);
        }
        outbox.written = reader.len(BYTES_MAX)?;
        let first = outbox.frames.front().map_or(1, |frame| frame.as_bytes().len());
        if outbox.written >= first {
            return Err(MALFORMED);
        }
        if let Some((rest, plain)) =
            reader.option(|reader| Ok((reader.bytes(BYTES_MAX)?, reader.len(BYTES_MAX)?)))?
        {
            if rest.is_empty() || outbox.written + plain > outbox.bytes {
                return Err(MALFORMED);
            }
            outbox.push_sealed(Sealed::new(&rest, plain));
        }
        if let Some(place) = reader.option(|reader| reader.len(VALUES_MAX))? {
            outbox.notice = outbox.frames.get(place).map(|frame| (**frame).clone());
        }
        Ok(outbox)
    }
}

fn save_frame(frame: &Frame, writer: &mut StateWriter<'_>) {
    if !writer.shared(frame.address()) {
        return;
    }
    writer.bytes(frame.as_bytes());
    if let Some(message) = writer.option(frame.about_message()) {
        writer.text(&message.topic);
        if let Some(key) = writer.option(message.key.as_ref()) {
            writer.text(key);
        }
        writer.text(&message.before);
    }
}

fn restored_frame(
    reader: &mut StateReader<'_>,
    frames: &mut Vec<Frame>,
) -> Result<Frame, StateError> {
    let number = reader.u32()? as usize;
    if let Some(frame) = frames.get(number) {
        return Ok(frame.clone());
    }
    if number != frames.len() {
        return Err(MALFORMED);
    }
    let bytes = reader.bytes(BYTES_MAX)?;
    if bytes.is_empty() {
        return Err(MALFORMED);
    }
    let mut frame = Frame::ready(bytes);
    if reader.bool()? {
        let topic = reader.text(BYTES_MAX)?;
        let key = reader.option(|reader| reader.text(BYTES_MAX))?;
        let before = reader.text(BYTES_MAX)?;
        frame = frame.about(Subject { topic: &topic, key: key.as_deref() }, &before);
    }
    frames.push(frame.clone());
    Ok(frame)
}
