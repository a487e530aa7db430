//! The limits that keep the process small: one number each, enforced where its name is used.

/// Limits. Seconds, milliseconds and rates are `u32`; counts and bytes that are compared with lengths are `usize`. If 0 has a
/// special meaning, the field says so. `table` holds the range of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Clients at the same time; 0: what the descriptor limit allows (the program fills the number in). Above: 503.
    pub clients_max: usize,
    /// Clients of one IP address; 0: off. Above: 429.
    pub clients_per_address_max: usize,
    /// Connections of one user; 0: off. Above: closed with 4003.
    pub clients_per_user_max: usize,
    /// Handshakes in progress; others wait in the listen queue.
    pub handshakes_max: usize,
    /// Handshakes begun in a second; 0: off. Others wait in the listen queue.
    pub handshakes_per_second_max: u32,
    /// Bytes of a request head. Above: 431.
    pub head_bytes_max: usize,
    /// From accept to the end of the request head, absolute; then 408.
    pub head_seconds: u32,
    /// From the upgrade to a valid token; then 4501.
    pub auth_seconds: u32,
    /// Bytes of an inbound message, checked by its frame header; above: 1009.
    pub message_bytes_max: usize,
    /// Fragments of an inbound message; above: 1008.
    pub fragments_max: usize,
    /// Commands of one client in a second, token checks included; 0: off. Above: 4003.
    pub commands_per_second_max: u32,
    /// Topics of one client; above: `too_many_topics`.
    pub topics_per_client_max: usize,
    /// Frames queued for one client; above: 4000.
    pub backlog_frames_max: usize,
    /// Bytes queued for one client; above: 4000.
    pub backlog_bytes_max: usize,
    /// Bytes of a frame from which on it is compressed, on routes that do.
    pub deflate_bytes_min: usize,
    /// Bytes that the kernel buffers for one connection; Linux reserves twice as much, for its own overhead.
    pub send_buffer_bytes: usize,
    /// The time for which a client's full socket may accept nothing; then 4000; 0: forever.
    pub stalled_seconds: u32,
    /// Bytes of unfinished input over all clients: heads, frames, fragmented messages. Above it, clients with more than half of
    /// an equal share are closed with 4003, the longest unfinished first.
    pub unfinished_total_bytes_max: usize,
    /// Bytes of all queued frames, each counted once, and of their places in the queues. Above it, the deepest backlogs of
    /// blocked clients are closed with 4000.
    pub backlog_total_bytes_max: usize,
    /// Bytes of all subscriptions, and of messages recorded during replays. Above it, the connections of the most expensive user
    /// are closed with 4003.
    pub subscriptions_bytes_max: usize,
    /// Messages kept for returning clients; the oldest is dropped.
    pub history_messages_max: usize,
    /// Bytes of them; 0: none are kept.
    pub history_bytes_max: usize,
    /// Bytes of streams read in a second for returning clients; further pages wait.
    pub replay_bytes_per_second_max: usize,
    /// Bytes of a published payload; a larger one is dropped and counted.
    pub payload_bytes_max: usize,
    /// Bytes read from one client in a turn; the rest follows in the next.
    pub read_bytes_per_turn: usize,
    /// Bytes read from Redis or from the port in a turn; the rest follows in the next.
    pub source_read_bytes_per_turn: usize,
    /// Clients written to in a turn; the others follow in the next.
    pub flush_clients_per_turn: usize,
    /// Connections accepted in a turn; the others follow in the next.
    pub accepts_per_turn: usize,
    /// Silence of a client before a ping; 0: no pings.
    pub ping_seconds: u32,
    /// Silence of a client before 4001; 0: unlimited.
    pub silence_seconds: u32,
    /// Silence of Redis before a PING.
    pub redis_silence_seconds: u32,
    /// The time that Redis may take to connect or to answer; then the connection is closed.
    pub redis_timeout_seconds: u32,
    /// Approximate number of entries in a stream of client messages; the oldest are trimmed.
    pub upstream_entries_max: usize,
    /// Approximate bytes of the latest entries of one process in such a stream; the oldest are trimmed.
    pub upstream_bytes_max: usize,
    /// Bytes a second that one user may send upstream, over all connections of a route; 0: unlimited. Above: `busy`, as for all
    /// users together above 32 times as much.
    pub upstream_bytes_per_second_max: usize,
    /// The time that a receipt waits for pending writes.
    pub receipt_seconds: u32,
    /// Revocations of users' tokens; above, the earliest hold for all users.
    pub revocations_max: usize,
    /// The longest pause, in milliseconds, between two attempts to reach Redis.
    pub redis_backoff_ms_max: u32,
    /// Approximate number of entries in the stream of `events`.
    pub events_entries_max: usize,
    /// Users in a list of the members of a topic. With 255 bytes each they fit an answer of Redis, of 64 KiB.
    pub members_max: usize,
    /// Bytes of the lists of members that clients watch; beyond it, lists are cut, and a client that asks for another one is
    /// answered `busy`.
    pub members_total_bytes_max: usize,
    /// The time that a user without a connection stays online; 0: not at all.
    pub offline_seconds: u32,
    /// The time that a drain may take; then connections are cut; 0: at once.
    pub drain_seconds: u32,
    /// Clients a second that a drain asks to reconnect elsewhere.
    pub drain_per_second: u32,
    /// Resident memory of the process, in bytes; 0: off. Above it, the deepest backlogs are closed and new connections refused.
    pub memory_max: usize,
}

impl Default for Bounds {
    /// Limits for a machine with 512 MB.
    fn default() -> Bounds {
        Bounds {
            clients_max: 0,
            clients_per_address_max: 0,
            clients_per_user_max: 0,
            handshakes_max: 4096,
            handshakes_per_second_max: 0,
            head_bytes_max: 8192,
            head_seconds: 10,
            auth_seconds: 10,
            message_bytes_max: 64 << 10,
            fragments_max: 1024,
            commands_per_second_max: 50,
            topics_per_client_max: 128,
            backlog_frames_max: 1024,
            backlog_bytes_max: 4 << 20,
            deflate_bytes_min: 256,
            send_buffer_bytes: 128 << 10,
            stalled_seconds: 20,
            unfinished_total_bytes_max: 48 << 20,
            backlog_total_bytes_max: 96 << 20,
            subscriptions_bytes_max: 32 << 20,
            history_messages_max: 65_536,
            history_bytes_max: 8 << 20,
            replay_bytes_per_second_max: 128 << 20,
            payload_bytes_max: 1 << 20,
            read_bytes_per_turn: 64 << 10,
            source_read_bytes_per_turn: 1 << 20,
            flush_clients_per_turn: 512,
            accepts_per_turn: 64,
            ping_seconds: 25,
            silence_seconds: 60,
            redis_silence_seconds: 10,
            redis_timeout_seconds: 5,
            redis_backoff_ms_max: 2000,
            upstream_entries_max: 100_000,
            upstream_bytes_max: 256 << 20,
            upstream_bytes_per_second_max: 128 << 10,
            receipt_seconds: 5,
            revocations_max: 16_384,
            events_entries_max: 100_000,
            members_max: 200,
            members_total_bytes_max: 8 << 20,
            offline_seconds: 10,
            drain_seconds: 10,
            drain_per_second: 1000,
            memory_max: 0,
        }
    }
}
