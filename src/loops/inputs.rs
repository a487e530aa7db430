//! The input of sources on the link.

use crate::engine::resume::cursor::EntryId;
use crate::engine::router::sources::SourceInput;
use crate::loops::kinds::*;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number, write_option,
};

/// The most streams there can be.
const STREAMS_END: usize = crate::engine::resume::cursor::STREAMS_MAX;

/// Appends a frame with input. `number`: that of a counted message; 0: it is not counted.
pub fn write_input(out: &mut Vec<u8>, input: SourceInput<'_>, number: u64) {
    match input {
        SourceInput::Message { channel, payload, .. } => write_frame(out, MESSAGE, |out| {
            write_number(out, number);
            write_bytes(out, channel);
            write_bytes(out, payload);
        }),
        SourceInput::Entry { stream, id, topic, key, payload, receipt } => {
            write_frame(out, ENTRY, |out| {
                write_place(out, stream, id);
                write_bytes(out, topic);
                write_option(out, key);
                write_bytes(out, payload);
                write_option(out, receipt);
            });
        }
        SourceInput::Reached { stream, id } => {
            write_frame(out, REACHED, |out| write_place(out, stream, id));
        }
        SourceInput::StreamBegins { stream, covered_from } => {
            write_frame(out, STREAM_BEGINS, |out| write_place(out, stream, covered_from));
        }
        SourceInput::Prefill { stream, id, topic, key, payload } => {
            write_frame(out, PREFILL, |out| {
                write_place(out, stream, id);
                write_bytes(out, topic);
                write_option(out, key);
                write_bytes(out, payload);
            });
        }
        SourceInput::StreamLost { stream, covered_from } => {
            write_frame(out, STREAM_LOST, |out| write_place(out, stream, covered_from));
        }
        SourceInput::Reader { is_up } => {
            write_frame(out, READER, |out| out.push(u8::from(is_up)));
        }
        SourceInput::Subscription { is_up } => {
            write_frame(out, SUBSCRIPTION, |out| out.push(u8::from(is_up)));
        }
    }
}

/// Reads input and the number of a counted message; `None`: the frame is of another kind. `streams`: the number of streams.
///
/// # Errors
/// The frame is malformed.
pub fn read_input<'a>(
    frame: LinkFrame<'a>,
    streams: usize,
) -> Result<Option<(SourceInput<'a>, u64)>, MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let mut number = 0;
    let place = |fields: &mut Fields<'a>| read_place(fields, streams);
    let input = match frame.kind {
        MESSAGE => {
            number = fields.number()?;
            let (channel, payload) = (fields.bytes()?, fields.bytes()?);
            SourceInput::Message { channel, payload, is_counted: number > 0 }
        }
        ENTRY => {
            let (stream, id) = place(&mut fields)?;
            let (topic, key) = (fields.bytes()?, fields.option()?);
            let (payload, receipt) = (fields.bytes()?, fields.option()?);
            SourceInput::Entry { stream, id, topic, key, payload, receipt }
        }
        REACHED => {
            let (stream, id) = place(&mut fields)?;
            SourceInput::Reached { stream, id }
        }
        STREAM_BEGINS => {
            let (stream, covered_from) = place(&mut fields)?;
            SourceInput::StreamBegins { stream, covered_from }
        }
        PREFILL => {
            let (stream, id) = place(&mut fields)?;
            let (topic, key, payload) = (fields.bytes()?, fields.option()?, fields.bytes()?);
            SourceInput::Prefill { stream, id, topic, key, payload }
        }
        STREAM_LOST => {
            let (stream, covered_from) = place(&mut fields)?;
            SourceInput::StreamLost { stream, covered_from }
        }
        READER => SourceInput::Reader { is_up: fields.truth()? },
        SUBSCRIPTION => SourceInput::Subscription { is_up: fields.truth()? },
        _ => return Ok(None),
    };
    fields.end()?;
    Ok(Some((input, number)))
}

/// Appends a stream and an entry of it.
pub fn write_place(out: &mut Vec<u8>, stream: usize, id: EntryId) {
    write_number(out, stream as u64);
    write_entry(out, id);
}

pub fn write_entry(out: &mut Vec<u8>, id: EntryId) {
    write_number(out, id.millis);
    write_number(out, id.number);
}

/// # Errors
/// The stream is none of so many.
pub fn read_place(
    fields: &mut Fields<'_>,
    streams: usize,
) -> Result<(usize, EntryId), MalformedLink> {
    let stream = fields.number_below(streams.min(STREAMS_END))?;
    Ok((stream, read_entry(fields)?))
}

pub fn read_entry(fields: &mut Fields<'_>) -> Result<EntryId, MalformedLink> {
    Ok(EntryId { millis: fields.number()?, number: fields.number()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::random::Random;
    use crate::loops::link::next_frame;

    fn inputs() -> Vec<SourceInput<'static>> {
        let id = EntryId { millis: 1_700_000_000_000, number: 7 };
        vec![
            SourceInput::Message { channel: b"pub.a", payload: b"", is_counted: true },
            SourceInput::Message { channel: b"\xff", payload: b"{}", is_counted: false },
            SourceInput::Entry {
                stream: 1,
                id,
                topic: b"a",
                key: Some(b"k"),
                payload: b"1",
                receipt: None,
            },
            SourceInput::Entry {
                stream: 0,
                id,
                topic: b"",
                key: None,
                payload: b"",
                receipt: Some(b"r"),
            },
            SourceInput::Reached { stream: 0, id },
            SourceInput::StreamBegins { stream: 1, covered_from: EntryId::ZERO },
            SourceInput::Prefill { stream: 0, id, topic: b"a", key: None, payload: b"1" },
            SourceInput::StreamLost { stream: 0, covered_from: EntryId::MAX },
            SourceInput::Reader { is_up: true },
            SourceInput::Subscription { is_up: false },
        ]
    }

    #[test]
    fn all_input_comes_back_as_it_was() {
        for input in inputs() {
            let mut wire = Vec::new();
            let is_counted = matches!(input, SourceInput::Message { is_counted: true, .. });
            let number = if is_counted { 9 } else { 0 };
            write_input(&mut wire, input, number);
            let frame = next_frame(&mut &wire[..]).unwrap().expect("it is whole");
            assert_eq!(read_input(frame, 2), Ok(Some((input, number))));
            for length in 0..frame.body.len() {
                let cut = LinkFrame { body: &frame.body[..length], ..frame };
                assert_eq!(read_input(cut, 2), Err(MalformedLink), "{input:?} {length}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_not_read_and_junk_are_malformed() {
        let mut wire = Vec::new();
        write_input(&mut wire, SourceInput::Reached { stream: 2, id: EntryId::ZERO }, 0);
        let frame = next_frame(&mut &wire[..]).unwrap().expect("it is whole");
        assert_eq!(read_input(frame, 2), Err(MalformedLink));
        assert!(read_input(frame, 3).is_ok());
        for seed in 1..5000 {
            let mut random = Random::new(seed);
            let body: Vec<u8> = (0..random.below(80)).map(|_| random.below(3) as u8).collect();
            let _ = read_input(LinkFrame { kind: random.below(32) as u8, body: &body }, 2);
        }
    }
}
