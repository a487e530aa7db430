//! The subscription as a state that is handed over together with its socket: messages have no ids, so that one connection cannot go
//! on where another one stopped.

use super::RedisSubscriber;
use crate::clock::Millis;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

/// Returns the beginning of a value that has not come whole, if the connection is up and nothing is asked. Subscriptions on demand
/// begin anew.
pub fn portable(subscriber: &RedisSubscriber) -> Option<&[u8]> {
    let session = &subscriber.session;
    let is_quiet = session.is_ready()
        && subscriber.share.is_none()
        && subscriber.asked.is_empty()
        && subscriber.back_by.is_none()
        && session.output().is_empty();
    is_quiet.then(|| session.replies.held())?
}

/// Writes the identity of the connection, and the state of the probe.
pub fn save(subscriber: &RedisSubscriber, writer: &mut StateWriter<'_>) {
    let config = &subscriber.session.config;
    writer.text(&config.server.address.to_string());
    writer.len(config.patterns.len());
    config.patterns.iter().for_each(|pattern| writer.text(pattern));
    writer.bool(subscriber.looks);
    subscriber.probe.save(writer);
}

/// Goes on with the connection that was written, if it is to one of the servers, for the same patterns. Returns whether it does.
///
/// # Errors
/// The state is malformed.
pub fn restore(
    subscriber: &mut RedisSubscriber,
    reader: &mut StateReader<'_>,
    now: Millis,
    has_socket: bool,
) -> Result<bool, StateError> {
    let address = reader.text(BYTES_MAX)?;
    let patterns = reader.list(VALUES_MAX, |reader| reader.text(BYTES_MAX))?;
    let looks = reader.bool()?;
    let probe = super::Probe::restored(reader)?;
    let config = &mut subscriber.session.config;
    let is_same = config.choose_address(&address) && patterns == config.patterns;
    if is_same && has_socket {
        subscriber.acknowledged.fill(true);
        (subscriber.looks, subscriber.probe) = (looks, probe);
        subscriber.session.ready(now);
    }
    Ok(is_same && has_socket)
}
