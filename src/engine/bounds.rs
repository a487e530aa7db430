//! The bounds that keep the program small: one number each, enforced where its name is used.

/// Seconds, milliseconds and rates are `u32`; what is compared with a length (counts, bytes) is `usize`.
/// Where 0 means something else than zero, the field says so. `table` holds the least and the most of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Clients at one time; 0: what the descriptor limit allows (the program fills the number in).
    /// One more gets 503.
    pub clients_max: usize,
    /// Clients of one IP address; 0: off. One more gets 429.
    pub clients_per_address_max: usize,
    /// Connections of one user; 0: off. One more is closed with 4003.
    pub clients_per_user_max: usize,
    /// Handshakes under way; further ones wait in the listen queue.
    pub handshakes_max: usize,
    /// Handshakes begun in a second; 0: off. Further ones wait in the listen queue.
    pub handshakes_per_second_max: u32,
    /// A request's head; a longer one gets 431.
    pub head_bytes_max: usize,
    /// From accept to the end of the request's head, absolute; then 408.
    pub head_seconds: u32,
    /// From the upgrade to a valid token; then 4501.
    pub auth_seconds: u32,
    /// One inbound message, refused from its frame header; then 1009.
    pub message_bytes_max: usize,
    /// Fragments of one inbound message; then 1008.
    pub fragments_max: usize,
    /// Commands of one client, token checks included; 0: off. Then 4003.
    pub commands_per_second_max: u32,
    /// Topics one client listens to; then `too_many_topics`.
    pub topics_per_client_max: usize,
    /// Frames that wait for one client; then 4000.
    pub backlog_frames_max: usize,
    /// Bytes that wait for one client; then 4000.
    pub backlog_bytes_max: usize,
    /// Bytes that the kernel takes for one connection before its peer has; Linux reserves twice as much, for its own overhead.
    pub send_buffer_bytes: usize,
    /// A client's full socket takes nothing for so long: 4000; 0: never.
    pub stalled_seconds: u32,
    /// Bytes that all clients together have left unfinished: heads, frames, messages in fragments. Then those who hold more than
    /// half of an equal share are closed with 4003, the longest unfinished first.
    pub unfinished_bytes_max: usize,
    /// Bytes of all frames that wait, each counted once, and of their places in the queues. Then the deepest backlogs of clients that do not read are closed with
    /// 4000.
    pub backlogs_bytes_max: usize,
    /// Bytes of what all clients listen to, and of what is noted of it for those that are given what they missed. Then the
    /// connections of the user who costs most are closed with 4003.
    pub memberships_bytes_max: usize,
    /// Messages that are held for clients that come back; the oldest leaves.
    pub history_messages_max: usize,
    /// Bytes of them; 0: none are held.
    pub history_bytes_max: usize,
    /// Bytes that are read of streams in a second for clients that came back; their pages wait meanwhile.
    pub replay_bytes_per_second_max: usize,
    /// One published payload; a larger one is dropped and counted.
    pub payload_bytes_max: usize,
    /// Read from one client in one turn; the rest comes in the next.
    pub read_bytes_per_turn: usize,
    /// Read from Redis or from one publisher in one turn; the rest comes in the next.
    pub source_read_bytes_per_turn: usize,
    /// Clients written to in one turn; the others follow in the next.
    pub flush_clients_per_turn: usize,
    /// Connections accepted in one turn; the others follow in the next.
    pub accepts_per_turn: usize,
    /// Publishers connected to us; one more gets `-ERR`.
    pub publishers_max: usize,
    /// Commands that a publisher may send between MULTI and EXEC; then `-ERR`, and `-EXECABORT`.
    pub transaction_commands_max: usize,
    /// Bytes of them.
    pub transaction_bytes_max: usize,
    /// Channels and patterns that one connection of the publishers' port may subscribe to; then `-ERR`.
    pub publisher_subscriptions_max: usize,
    /// Bytes that wait for one subscriber of the publishers' port; then it is cut off, as it is when a quarter of them wait for a
    /// minute.
    pub publisher_backlog_bytes_max: usize,
    /// Nothing heard from a client for so long: a ping; 0: no pings.
    pub ping_seconds: u32,
    /// Nothing heard from a client for so long: 4001; 0: never.
    pub silence_seconds: u32,
    /// Nothing heard from Redis for so long: a PING.
    pub redis_silence_seconds: u32,
    /// How long Redis may take to connect or to answer; then the connection is given up.
    pub redis_timeout_seconds: u32,
    /// Entries that a stream of what clients send keeps, about; the oldest go.
    pub upstream_entries_max: usize,
    /// Bytes that the latest entries of one process take in such a stream, about; the oldest go.
    pub upstream_bytes_max: usize,
    /// Bytes a second that one user may send on, over all connections of a route; 0: any. Then `busy`, as for all users together
    /// from 32 times of it on.
    pub upstream_bytes_per_second_max: usize,
    /// How long a receipt waits for what is still to be written.
    pub receipt_seconds: u32,
    /// The longest wait, in milliseconds, between two attempts to reach Redis.
    pub redis_backoff_ms_max: u32,
    /// Entries that the stream of `events` keeps, about.
    pub events_entries_max: usize,
    /// How long a user without a connection is waited for before it is offline; 0: not at all.
    pub offline_seconds: u32,
    /// How long a drain may take; what has not gone by then is cut; 0: at once.
    pub drain_seconds: u32,
    /// How many clients a second a drain asks to come back elsewhere.
    pub drain_per_second: u32,
    /// All that the process may hold, in bytes of resident memory; 0: off. Then the deepest backlogs are closed, and new
    /// connections refused.
    pub memory_max: usize,
}

impl Default for Bounds {
    /// For a machine with 512 MB.
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
            send_buffer_bytes: 128 << 10,
            stalled_seconds: 20,
            unfinished_bytes_max: 48 << 20,
            backlogs_bytes_max: 96 << 20,
            memberships_bytes_max: 32 << 20,
            history_messages_max: 65_536,
            history_bytes_max: 8 << 20,
            replay_bytes_per_second_max: 128 << 20,
            payload_bytes_max: 1 << 20,
            read_bytes_per_turn: 64 << 10,
            source_read_bytes_per_turn: 1 << 20,
            flush_clients_per_turn: 512,
            accepts_per_turn: 64,
            publishers_max: 64,
            transaction_commands_max: 65_536,
            transaction_bytes_max: 8 << 20,
            publisher_subscriptions_max: 1024,
            publisher_backlog_bytes_max: 32 << 20,
            ping_seconds: 25,
            silence_seconds: 60,
            redis_silence_seconds: 10,
            redis_timeout_seconds: 5,
            redis_backoff_ms_max: 2000,
            upstream_entries_max: 100_000,
            upstream_bytes_max: 256 << 20,
            upstream_bytes_per_second_max: 128 << 10,
            receipt_seconds: 5,
            events_entries_max: 100_000,
            offline_seconds: 10,
            drain_seconds: 10,
            drain_per_second: 1000,
            memory_max: 0,
        }
    }
}
