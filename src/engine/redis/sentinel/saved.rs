//! The primary that is followed, as a state that is handed over: an older word must not count in the next process either.

use super::SentinelWatch;
use crate::engine::redis::sentinel_reply::NamedPrimary;
use crate::engine::redis::url::Address;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter};

pub fn save(watch: &SentinelWatch, writer: &mut StateWriter<'_>) {
    writer.text(&watch.sentinels().name);
    let followed = watch.followed.as_ref().and_then(|named| match &named.address {
        Address::Tcp { host, port } => Some((host, *port, named.epoch)),
        Address::Unix(_) => None,
    });
    if let Some((host, port, epoch)) = writer.option(followed) {
        writer.text(host);
        writer.u32(u32::from(port));
        writer.u64(epoch);
    }
}

/// Follows the primary that was written, if it has the name of the settings.
///
/// # Errors
/// The state is malformed.
pub fn restore(watch: &mut SentinelWatch, reader: &mut StateReader<'_>) -> Result<(), StateError> {
    let name = reader.text(BYTES_MAX)?;
    let followed = reader.option(|reader| {
        let (host, port) = (reader.text(BYTES_MAX)?, reader.u32()?);
        let port = u16::try_from(port).map_err(|_| StateError::Malformed("a port"))?;
        let (address, epoch) = (Address::Tcp { host, port }, reader.u64()?);
        Ok(NamedPrimary { address, epoch, is_down: false })
    })?;
    if let Some(followed) = followed.filter(|_| name == watch.sentinels().name) {
        let followed = watch.follow(followed);
        return followed.map_err(|_| StateError::Malformed("the host of a primary"));
    }
    Ok(())
}
