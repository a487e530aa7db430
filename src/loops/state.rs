//! The state of the parent, from which a new worker goes on: the history with its numbers, the places in streams, the revocations.

use crate::engine::feature::FeatureEvent;
use crate::engine::pubsub::topic::Subject;
use crate::engine::resume::history::{Record, notes};
use crate::engine::resume::places::ResumePlaces;
use crate::engine::router::Router;
use crate::loops::inputs::{read_entry, read_place, write_entry, write_place};
use crate::loops::kinds::*;
use crate::loops::link::{
    Fields, LinkFrame, MalformedLink, write_bytes, write_frame, write_number, write_option,
};

/// Appends the state.
pub fn write_state(out: &mut Vec<u8>, router: &Router) {
    let resume = &router.server.resume;
    let history = &resume.history;
    write_frame(out, STATE_BEGIN, |out| write_number(out, history.first()));
    let mut scratch = Vec::new();
    for number in history.first()..history.next() {
        match history.get(number, &mut scratch) {
            Record::Message { subject, payload } => write_frame(out, STATE_RECORD, |out| {
                write_subject(out, subject);
                write_bytes(out, payload);
            }),
            Record::Entry { stream, id, subject, payload } => {
                write_frame(out, STATE_ENTRY, |out| {
                    write_place(out, stream, id);
                    write_subject(out, subject);
                    write_bytes(out, payload);
                });
            }
            Record::Gap { from } => write_frame(out, STATE_GAP, |out| write_number(out, from)),
            // Several loops subscribe to all: the mark is from a process before, and keeps its number.
            Record::Mark => write_frame(out, STATE_GAP, |out| write_number(out, number - 1)),
        }
    }
    for (user, before) in router.server.revocations.iter() {
        write_frame(out, STATE_REVOCATION, |out| {
            write_bytes(out, user.as_bytes());
            write_number(out, before);
        });
    }
    write_end(out, router);
}

/// Appends the last frame of the state, the only one for a worker that took the rest over from another one.
pub fn write_end(out: &mut Vec<u8>, router: &Router) {
    let resume = &router.server.resume;
    let (history, places) = (&resume.history, resume.places());
    write_frame(out, STATE_END, |out| {
        write_number(out, history.next());
        write_number(out, router.server.revocations.floor());
        let flags = [places.are_streams_known, places.has_channels];
        out.extend(flags.map(u8::from));
        out.push(u8::from(router.health.no_subscriber));
        out.push(u8::from(router.health.no_streams));
        out.push(u8::from(router.lost_at.is_some()));
        if let Some((number, cursor)) = &router.lost_at {
            write_number(out, *number);
            write_bytes(out, cursor.as_bytes());
        }
        for stream in 0..places.entries.len() {
            write_entry(out, places.entries[stream]);
            write_entry(out, places.begins[stream]);
            write_entry(out, places.covered[stream]);
            write_number(out, places.whole_from[stream]);
        }
    });
}

/// Takes over a frame of the state. Returns `true` after the last one. The router must be as new.
///
/// # Errors
/// The frame is malformed, or none of a state, or the history here came out as another one.
pub fn take_state(router: &mut Router, frame: LinkFrame<'_>) -> Result<bool, MalformedLink> {
    let mut fields = Fields::of(frame.body);
    let streams = router.server.resume.streams.len();
    let history = &mut router.server.resume.history;
    match frame.kind {
        STATE_BEGIN if history.is_empty() => history.begin_at(fields.number()?),
        STATE_RECORD => {
            let subject = read_subject(&mut fields)?;
            history.push(subject, fields.bytes()?);
        }
        STATE_ENTRY => {
            let (stream, id) = read_place(&mut fields, streams)?;
            let subject = read_subject(&mut fields)?;
            history.push_entry(stream, id, subject, fields.bytes()?);
        }
        STATE_GAP => notes::push_gap(history, fields.number()?),
        STATE_REVOCATION => {
            let user = fields.text()?;
            router.server.revocations.add(user, fields.number()?);
        }
        STATE_END => {
            take_rest(router, fields, streams)?;
            return Ok(true);
        }
        _ => return Err(MalformedLink),
    }
    fields.end().map(|()| false)
}

fn take_rest(
    router: &mut Router,
    mut fields: Fields<'_>,
    streams: usize,
) -> Result<(), MalformedLink> {
    if fields.number()? != router.server.resume.history.next() {
        return Err(MalformedLink);
    }
    router.server.revocations.raise_floor(fields.number()?);
    let (are_streams_known, has_channels) = (fields.truth()?, fields.truth()?);
    router.health.no_subscriber = fields.truth()?;
    router.health.no_streams = fields.truth()?;
    if fields.truth()? {
        router.lost_at = Some((fields.number()?, fields.text()?.to_owned()));
    }
    let first = router.server.resume.history.first();
    let mut places =
        ResumePlaces { first, are_streams_known, has_channels, ..ResumePlaces::default() };
    for _ in 0..streams {
        places.entries.push(read_entry(&mut fields)?);
        places.begins.push(read_entry(&mut fields)?);
        places.covered.push(read_entry(&mut fields)?);
        places.whole_from.push(fields.number()?);
    }
    fields.end()?;
    router.server.resume.take_places(places);
    if !router.health.no_subscriber {
        router.notify_features(FeatureEvent::SourceUp);
    }
    Ok(())
}

fn write_subject(out: &mut Vec<u8>, subject: Subject<'_>) {
    write_bytes(out, subject.topic.as_bytes());
    write_option(out, subject.key.map(str::as_bytes));
}

fn read_subject<'a>(fields: &mut Fields<'a>) -> Result<Subject<'a>, MalformedLink> {
    let topic = fields.text()?;
    let key = fields.option()?.map(std::str::from_utf8).transpose().map_err(|_| MalformedLink)?;
    Ok(Subject { topic, key })
}
