//! The server, the routes and the features as a state that is handed over.

use super::Router;
use crate::engine::server::saved;
use crate::engine::slots::ConnId;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// Writes everything: the loop is at rest.
pub fn save<'a>(router: &'a Router, writer: &mut StateWriter<'a>) {
    saved::save(&router.server, |id| router.addresses.counted(id), writer);
    if let Some((number, cursor)) = writer.option(router.lost_at.as_ref()) {
        writer.u64(*number);
        writer.text(cursor);
    }
    writer.len(router.routes.len());
    for route in &router.routes {
        writer.blob(|writer| route.handler.save(writer));
    }
    writer.len(router.features.len());
    for feature in &router.features {
        writer.text(feature.name());
        writer.blob(|writer| feature.save(writer));
    }
}

/// Takes over everything. A feature that is new begins as at a start, and one that is gone leaves nothing. Returns the connections whose
/// input was not read to its end.
///
/// # Errors
/// The state is malformed.
pub fn restore(
    router: &mut Router,
    reader: &mut StateReader<'_>,
) -> Result<Vec<ConnId>, StateError> {
    let Router { server, addresses, .. } = &mut *router;
    let unread = saved::restore(server, reader, |id, address| addresses.enter(id, address))?;
    router.lost_at = reader.option(|reader| Ok((reader.u64()?, reader.text(BYTES_MAX)?)))?;
    if reader.len(VALUES_MAX)? != router.routes.len() {
        return Err(StateError::Malformed("routes"));
    }
    for route in &mut router.routes {
        let state = reader.bytes(BYTES_MAX)?;
        route.handler.restore(&mut StateReader::new(state, &mut ()))?;
    }
    for _ in 0..reader.len(VALUES_MAX)? {
        let (name, state) = (reader.text(BYTES_MAX)?, reader.bytes(BYTES_MAX)?);
        let Router { features, server, .. } = &mut *router;
        if let Some(feature) = features.iter_mut().find(|one| one.name() == name) {
            feature.restore(server, &mut StateReader::new(state, &mut ()))?;
        }
    }
    Ok(unread)
}

/// Reports a gap once the subscription is up: that of the other process was not taken over.
pub fn lose_source(router: &mut Router) {
    if router.health.no_subscriber && router.lost_at.is_none() {
        router.lost_at = Some((router.server.resume.history.next() - 1, router.server.cursor()));
    }
}
