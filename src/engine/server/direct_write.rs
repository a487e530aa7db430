//! Writing what the fan-out has for a client, directly if nothing else of the client is in flight.

use crate::engine::client::frame::Close;
use crate::engine::client::outbox::{GATHERED_BYTES_MAX, WriteSpace};
use crate::engine::client::queued_frame::QueuedFrame;
use crate::engine::client::sealed::DirectWrite;
use crate::engine::server::Server;
use crate::engine::server::fanout::Audience;
use crate::engine::slots::ConnId;
use crate::engine::timers::tick;

/// The outcome of writing a client's pending messages.
pub(crate) enum WriteOutcome {
    /// Nothing was pending.
    Nothing,
    /// Bytes were written; if they were not the `whole`, the rest is queued.
    Written { bytes: usize, whole: bool },
    /// Frames were queued: other writes are pending, or the messages are too large for one write.
    Queued(usize),
    /// The connection is lost.
    Gone,
}

/// Writes all pending messages to a client reached by the fan-out, directly if nothing else is in flight.
pub(crate) fn offer(server: &mut Server, id: ConnId, space: &mut WriteSpace) -> WriteOutcome {
    let latest = server.fanout.latest();
    let is_much = server.fanout.bytes() > GATHERED_BYTES_MAX;
    let delivered = match server.open_client(id) {
        None => return WriteOutcome::Nothing,
        Some(client) if is_much || !client.is_hibernating() => {
            return offer_queued(server, id);
        }
        Some(client) => client.mark_delivered(latest),
    };
    let encoding = server.clients[id.index].encoding();
    // The walk along the slots also visits clients without a subscription.
    let awaits_all = server.fanout.waiting.front().is_some_and(|first| {
        first.number > delivered && matches!(first.audience, Audience::Topics(_))
    });
    if awaits_all && let Some(all) = server.fanout.gathered(encoding) {
        let (client, tls) = server.clients.wire(id).expect("it was just found");
        let write = client.write(id, all, tls, &mut space.sealed);
        return keep(server, id, delivered, write);
    }
    let WriteSpace { gather, sealed } = space;
    gather.clear();
    server
        .fanout_for(id, delivered)
        .iter()
        .for_each(|frame| gather.extend_from_slice(encoding.of(frame).as_bytes()));
    if gather.is_empty() {
        return WriteOutcome::Nothing;
    }
    if gather.len() > GATHERED_BYTES_MAX {
        // Other encodings may take more bytes than the one by which the fan-out counts.
        server.clients[id.index].mark_delivered(delivered);
        return offer_queued(server, id);
    }
    let (client, tls) = server.clients.wire(id).expect("it was just found");
    let write = client.write(id, gather, tls, sealed);
    keep(server, id, delivered, write)
}

fn offer_queued(server: &mut Server, id: ConnId) -> WriteOutcome {
    match server.catch_up(id) {
        Some(frames) => WriteOutcome::Queued(frames),
        None => {
            server.close(id, Close::SLOW);
            WriteOutcome::Queued(1)
        }
    }
}

/// Queues messages of which a client's socket accepted only a part.
fn keep(
    server: &mut Server,
    id: ConnId,
    delivered: u32,
    write: std::io::Result<DirectWrite>,
) -> WriteOutcome {
    let Ok(write) = write else {
        server.terminate(id);
        return WriteOutcome::Gone;
    };
    let (bytes, whole) = (write.sent, write.is_whole);
    let now = tick(server.now.millis);
    if !whole || server.fanout.are_counted() {
        let frames = server.fanout_for(id, delivered);
        if whole {
            frames.iter().for_each(|frame| QueuedFrame::new(frame).into_written());
        } else {
            let client = server.clients.get_mut(id).expect("it was written to");
            client.keep_unwritten(frames.iter(), write, now);
            server.set_timer(id.index);
        }
    }
    WriteOutcome::Written { bytes, whole }
}
