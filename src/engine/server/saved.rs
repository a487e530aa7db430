//! The connections of a loop as a state that is handed over, and the history that they resume from.
//!
//! The loop is at rest then: the fan-out is over, so that no client is behind, and no connection waits to be freed.

use std::net::{IpAddr, Ipv6Addr};

use crate::clock::Millis;
use crate::engine::admission::strangers::Strangers;
use crate::engine::client::Reading;
use crate::engine::client::State;
use crate::engine::client::flight::saved::{self, Shared};
use crate::engine::pending_writes::Lane;
use crate::engine::pubsub::hub::{Hub, Reason};
use crate::engine::pubsub::topic::watched;
use crate::engine::resume;
use crate::engine::resume::cursor::Node;
use crate::engine::resume::replay::ReplayStage;
use crate::engine::server::names::Names;
use crate::engine::server::{ADMIN_ROUTE, Server};
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;
use crate::upgrade::{BYTES_MAX, StateError, StateReader, StateWriter, VALUES_MAX};

const MALFORMED: StateError = StateError::Malformed("the connections");

/// The reasons of subscriptions, by their numbers.
const REASONS: [Reason; 5] =
    [Reason::Own, Reason::Granted, Reason::Asked, Reason::Joined, Reason::Watching];

/// The highest slot of a connection.
const SLOT_MAX: u32 = 1 << 24;

/// Takes the name of the process whose place this one takes.
pub fn take_name(server: &mut Server, node: Node) {
    server.names = Names(node.to_string());
    server.resume.follow(node, 0);
}

/// Writes all connections but those of the operator. `counted`: the address under which a connection is counted.
pub fn save<'a>(
    server: &'a Server,
    counted: impl Fn(ConnId) -> Option<IpAddr>,
    writer: &mut StateWriter<'a>,
) {
    resume::saved::save(&server.resume, writer);
    server.revocations.save(writer);
    writer.u32(server.clients.generation());
    let clients = || server.clients.with_tls().filter(|(_, client, _)| client.route != ADMIN_ROUTE);
    writer.len(clients().count());
    for (id, client, tls) in clients() {
        writer.u32(id.index);
        saved::save(client, tls, writer);
        if let Some(address) = writer.option(counted(id)) {
            save_address(address, writer);
        }
        save_stranger(&server.places.handshakes, id, writer);
        save_stranger(&server.places.unproven, id, writer);
        writer.u64(server.revocations.issued(id));
        let topics: Vec<_> =
            server.hubs[client.route as usize].keys(&client.subscriptions).collect();
        writer.len(topics.len());
        // The latest one is subscribed last again.
        for (key, reason) in topics.into_iter().rev() {
            writer.text(key);
            writer.u8(reason as u8);
        }
    }
}

/// Takes over all connections. Returns those whose input was not read to its end. `count` is called with the address under which a
/// connection counts.
///
/// # Errors
/// The state is malformed.
pub fn restore(
    server: &mut Server,
    reader: &mut StateReader<'_>,
    mut count: impl FnMut(ConnId, IpAddr),
) -> Result<Vec<ConnId>, StateError> {
    resume::saved::restore(&mut server.resume, reader)?;
    server.revocations.restore(reader)?;
    let generation = reader.u32()?;
    let mut frames = Vec::new();
    let mut shared = Shared {
        frames: &mut frames,
        next: server.resume.history.next(),
        now: tick(server.now.millis),
        streams: server.resume.streams.len(),
    };
    let (mut clients, mut ids, mut free) = (Vec::new(), Vec::new(), 0);
    for _ in 0..reader.len(VALUES_MAX)? {
        let index = reader.u32()?;
        if !(free..SLOT_MAX).contains(&index) {
            return Err(MALFORMED);
        }
        free = index + 1;
        let (mut client, tls) = saved::restored(reader, &mut shared)?;
        let id = ConnId { index, generation: client.generation };
        let hub = server.hubs.get_mut(client.route as usize).ok_or(MALFORMED)?;
        if let Some(address) = reader.option(restored_address)? {
            count(id, address);
        }
        restore_stranger(&mut server.places.handshakes, id, reader)?;
        restore_stranger(&mut server.places.unproven, id, reader)?;
        server.revocations.note(id, Some(reader.u64()?).filter(|issued| *issued > 0));
        for _ in 0..reader.len(VALUES_MAX)? {
            let key = reader.text(BYTES_MAX)?;
            let reason = *REASONS.get(usize::from(reader.u8()?)).ok_or(MALFORMED)?;
            if (reason == Reason::Watching) != watched(&key).is_some() {
                return Err(MALFORMED);
            }
            if let Some(topic) = watched(&key)
                && !server.members.resume(client.route, topic)
            {
                continue;
            }
            if client.state() != State::Open
                || !Hub::subscribe(hub, index, &mut client.subscriptions, &key, reason)
            {
                return Err(MALFORMED);
            }
            if reason == Reason::Own && server.users.are_watched() {
                server.users.note(&key, true, (id, client.route));
            }
        }
        server.members.on_restored(&client, hub);
        server.places.ending += usize::from(!matches!(client.state(), State::Head | State::Open));
        if client.state() == State::Lingering {
            server.places.linger(id);
        }
        ids.push(id);
        clients.push((index, client, tls));
    }
    server.clients.restore(generation, clients);
    for id in &ids {
        server.set_timer(id.index);
        server.recount(*id, false);
        let replay = server.client(*id).and_then(|client| client.replay());
        if let Some(replay) = replay.filter(|replay| replay.stage == ReplayStage::Ahead) {
            let entries = replay.entries.clone();
            server.resume.wait_ahead(*id, &entries);
        }
        server.schedule_flush(*id, Lane::Bulk);
    }
    server.costs = 0;
    ids.retain(|id| server.clients[id.index].reading != Reading::Idle);
    Ok(ids)
}

fn save_address(address: IpAddr, writer: &mut StateWriter<'_>) {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    writer.bytes(&octets);
}

fn restored_address(reader: &mut StateReader<'_>) -> Result<IpAddr, StateError> {
    let octets: [u8; 16] = reader.bytes(16)?.try_into().map_err(|_| MALFORMED)?;
    Ok(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

fn save_stranger(strangers: &Strangers<ConnId>, id: ConnId, writer: &mut StateWriter<'_>) {
    if let Some((address, since, has_spoken)) = writer.option(strangers.find(id)) {
        save_address(address, writer);
        writer.u64(since);
        writer.bool(has_spoken);
    }
}

fn restore_stranger(
    strangers: &mut Strangers<ConnId>,
    id: ConnId,
    reader: &mut StateReader<'_>,
) -> Result<(), StateError> {
    let stranger = reader.option(|reader| -> Result<(IpAddr, Millis, bool), StateError> {
        Ok((restored_address(reader)?, reader.u64()?, reader.bool()?))
    })?;
    if let Some((address, since, has_spoken)) = stranger {
        strangers.enter(id, address, since);
        if has_spoken {
            strangers.speak(id);
        }
    }
    Ok(())
}
