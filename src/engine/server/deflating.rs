//! The account of compressing: it is metered, and takes its time from the turn's writes.

use crate::engine::client::deflate::deflater::Tally;
use crate::engine::server::Server;

/// The time of a write, in microseconds.
const MICROSECONDS_PER_WRITE: usize = 4;

/// Settles the work since the last call. Returns how many writes it took the time of.
pub(crate) fn settle(server: &mut Server) -> usize {
    let Tally { messages, saved_bytes, microseconds } = server.deflater.take_tally();
    server.metrics.deflated += messages;
    server.metrics.deflate_saved_bytes += saved_bytes;
    microseconds / MICROSECONDS_PER_WRITE
}
