//! Counters and gauges in the text format of Prometheus.

mod histogram;
mod labelled;
mod loops;
mod process;
mod snapshot;
mod total;

use std::fmt::{Display, Write};

pub use histogram::Histogram;
pub use labelled::{Label, Labelled};
pub use loops::{LoopReport, render_loops};
pub use process::{Process, Usage};
pub use snapshot::Snapshot;
use total::Total;

/// Declares [`Metrics`]: a row per counter, with its field, the [`Total`] of several processes, and its help. The metric
/// `oneloop_NAME_total` has the field's name.
macro_rules! counters {
    ($($field:ident: $total:ident, $help:literal,)*) => {
        /// Counts since the process started; 64 bits do not overflow in its life.
        #[derive(Clone, Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: u64,)*
            /// Handshakes that a plain response refused.
            pub handshakes_refused: u64,
            /// Handshakes that became a WebSocket only for the close code to be readable.
            pub handshakes_rejected: u64,
            /// Handshakes that ended before they had an answer.
            pub handshakes_abandoned: u64,
            /// Users of this process, waited-for ones included; 0 without `events`.
            pub presence_users: u64,
            /// Plain responses by status.
            pub responses: Labelled,
            /// The ends of certificates in force, as unix seconds, by their first names.
            pub certificate_ends: Labelled,
            /// WebSockets closed by the server, by code.
            pub closes: Labelled,
            /// TLS handshakes by version: full ones, and those that a ticket has shortened.
            pub tls_handshakes: [Labelled; 2],
            /// TLS connections that failed, by reason.
            pub tls_failures: Labelled,
            /// The age of stream entries when they were published: the wall clock here against that of Redis, which numbers them. An
            /// entry from the future counts as 0.
            pub stream_lag_micros: Histogram,
            /// The duration of the loop's turns, from the end of one sleep to the next.
            pub turn_micros: Histogram,
        }

        /// The name and help of each counter without labels, a line each: a fraction of the code that a table takes.
        const COUNTERS: &str = concat!($(stringify!($field), "_total ", $help, "\n",)*);

        /// The total of each.
        const COUNTER_TOTALS: &[Total] = &[$(Total::$total,)*];

        impl Metrics {
            /// The value of each counter without labels.
            fn counters(&self) -> [u64; COUNTER_TOTALS.len()] {
                [$(self.$field,)*]
            }

            /// All values without a label, in the order of [`Metrics::numbers`].
            fn numbers_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                let Metrics {
                    $($field,)*
                    handshakes_refused,
                    handshakes_rejected,
                    handshakes_abandoned,
                    presence_users,
                    turn_micros,
                    stream_lag_micros,
                    ..
                } = self;
                let others =
                    [handshakes_refused, handshakes_rejected, handshakes_abandoned, presence_users];
                let histograms = turn_micros.numbers_mut().chain(stream_lag_micros.numbers_mut());
                [$($field,)*].into_iter().chain(others).chain(histograms)
            }
        }
    };
}

counters! {
    accepted: Sum, "Connections accepted.",
    opened: Sum, "Handshakes that became WebSockets, and requests that became event streams.",
    event_streams: Sum, "Requests that became event streams.",
    deflate_opened: Sum, "Handshakes that agreed on compression.",
    unproxied: Sum, "Connections closed for a missing or invalid PROXY header.",
    forwarded_malformed: Sum, "Requests of trusted proxies whose X-Forwarded-For has no address.",
    identities_refused: Sum, "Handshakes refused for the header that names the user: not of a proxy, or malformed, or from a foreign page.",
    forwarded_missing: Sum, "Handshakes of trusted proxies without X-Forwarded-For, which count as the proxy's own.",
    commands: Sum, "Text messages from clients.",
    messages: Most, "Messages from publishers and Redis.",
    messages_malformed: Most, "Messages dropped: the channel is not a well-formed topic.",
    messages_oversized: Most, "Messages dropped above payload_bytes_max.",
    messages_dropped: Sum, "Messages dropped for slow clients, where a route says so.",
    controls: Most, "Messages on the control channel.",
    control_malformed: Most, "Messages on the control channel that are not a control command.",
    revocations: Most, "Revocations of users' tokens that this process learnt of.",
    revocations_merged: Most, "Revocations above revocations_max that hold for all users since.",
    revocation_retries: Sum, "Exchanges of revocations with Redis that failed and were repeated.",
    tokens_revoked: Sum, "Tokens refused because they were revoked.",
    upstream_sent: Sum, "Sends of clients that Redis accepted.",
    upstream_unavailable: Sum, "Sends of clients that Redis did not accept, or not certainly.",
    upstream_busy: Sum, "Sends of clients refused above a limit.",
    receipts: Sum, "Receipts sent to publishers.",
    receipts_pending: Sum, "Receipts sent before everything was known.",
    deliveries: Sum, "Frames queued for subscribers.",
    deflated: Sum, "Messages compressed, each once for all clients that agreed on it.",
    deflate_saved_bytes: Sum, "Bytes by which these messages became shorter, each counted once.",
    received_bytes: Sum, "Bytes read from clients.",
    sent_bytes: Sum, "Bytes written to clients.",
    writes: Sum, "Writes to clients with pending bytes.",
    tls_truncated: Sum, "WebSockets over TLS whose TCP connection ended without the end of TLS.",
    descriptors_exhausted: Sum, "Accepts that failed for lack of a descriptor.",
    accepts_held_back: Sum, "Turns in which clients waited because of handshakes_max or handshakes_per_second_max.",
    strangers_vacated: Sum, "Connections closed to make room, because they had presented no token or had not answered a ping.",
    accepts_put_off: Sum, "Turns that accepts_per_turn cut short.",
    reads_put_off: Sum, "Reads of a client that used up read_bytes_per_turn.",
    source_reads_put_off: Sum, "Reads of Redis or a publisher that used up their share of source_read_bytes_per_turn.",
    flushes_put_off: Sum, "Turns that flush_clients_per_turn cut short.",
    pings: Sum, "Clients pinged after ping_seconds of silence.",
    topics_refused: Sum, "Subscriptions refused above topics_per_client_max.",
    publishers_refused: Sum, "Publishers refused above publishers_max.",
    publisher_commands_refused: Sum, "Commands that the publishers' port does not know, and requests of HTTP that it refused.",
    subscriber_messages: Sum, "Messages queued for subscribers of the publishers' port.",
    subscribers_cut: Sum, "Subscribers of the publishers' port closed above publisher_backlog_bytes_max.",
    zeromq_messages: Sum, "Messages of the ZeroMQ port that name a channel or a topic.",
    zeromq_malformed: Sum, "Messages of the ZeroMQ port dropped because they name no topic, or have too many parts.",
    zeromq_refused: Sum, "ZeroMQ connections refused above zeromq_connections_max.",
    zeromq_failed: Sum, "ZeroMQ connections closed for a fault of the peer, or because it took too long.",
    reloads: Most, "Reloads of the settings, of renewed certificates, or of a changed JWKS.",
    reloads_refused: Most, "Reloads refused because the settings, a certificate or a JWKS were bad.",
    memory_exceeded: Sum, "Times that memory_max was exceeded.",
    memory_shed: Sum, "Clients closed above memory_max.",
    unfinished_shed: Sum, "Clients closed above unfinished_total_bytes_max.",
    backlogs_shed: Sum, "Clients closed above backlog_total_bytes_max.",
    memberships_shed: Sum, "Clients closed above subscriptions_bytes_max.",
    stalled: Sum, "Clients closed because their sockets took nothing for stalled_seconds.",
    backlog_walks: Most, "Searches of all clients for the slowest, for /clients.",
    resumes: Sum, "Clients that came back in time.",
    resumes_refused: Sum, "Clients that came back too late, or with a foreign cursor.",
    topic_resumes: Sum, "Topics that clients subscribed to from a cursor on.",
    topic_resumes_refused: Sum, "Topics whose messages since the cursor were not held, or not known.",
    replayed: Sum, "Frames queued for clients that came back.",
    superseded: Sum, "Messages left out for clients that came back, since newer ones with the same key are held.",
    source_ups: Most, "Times that the connection to Redis came up.",
    redis_switches: Most, "Connections to Redis given up because Sentinels named another primary.",
    demand_commands: Sum, "Commands to Redis that subscribed or unsubscribed on demand.",
    demand_subscribed: Sum, "Channels that these subscribed to, again after outages too.",
    demand_unsubscribed: Sum, "Channels that these unsubscribed from.",
    demand_late: Sum, "Answers to clients that did not wait longer for Redis to subscribe; a gap followed.",
    stream_entries: Most, "Entries read from streams, including malformed ones.",
    stream_ups: Most, "Times that reading of the streams began.",
    stream_lost: Most, "Times that entries were gone before they were read.",
    pages: Sum, "Pages of streams read for clients that came back.",
    page_entries: Sum, "Messages in these pages.",
    page_bytes: Sum, "Bytes of all entries in these pages.",
    pages_put_off: Sum, "Times that pages waited for replay_bytes_per_second_max, or for a user to rest.",
    requests: Sum, "Commands for Redis, besides subscriptions.",
    requests_unavailable: Sum, "Commands for Redis without a reply.",
    presence_online: Sum, "Events online that this process caused.",
    presence_offline: Sum, "Events offline that this process caused.",
    presence_retries: Sum, "Presence calls that failed and were repeated.",
    presence_renewals: Sum, "Times that all users were announced anew.",
    member_updates: Sum, "Changes among the members of topics, each sent to all clients of this process that watch them.",
    member_retries: Sum, "Reports of members to Redis that failed and were repeated.",
    presence_cut_short: Sum, "Users reported offline early, because clients_max others were waited for.",
}

/// Declares [`Gauges`]: a row per gauge, with its field, the [`Total`] of several processes, and its help. The metric
/// `oneloop_NAME` has the field's name.
macro_rules! gauges {
    ($($field:ident: $total:ident, $help:literal,)*) => {
        /// Values of this moment, beside the counters.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Gauges {
            $(#[doc = $help] pub $field: u64,)*
            /// Bytes of the slots of connections, used or not.
            pub slots_bytes: u64,
            /// Bytes of subscriptions and topics, without names above 23 bytes.
            pub memberships_bytes: u64,
            /// The kernel's view of the process.
            pub process: Usage,
        }

        /// The name and help of each gauge without labels, a line each.
        const GAUGES: &str = concat!($(stringify!($field), " ", $help, "\n",)*);

        /// The total of each.
        const GAUGE_TOTALS: &[Total] = &[$(Total::$total,)*];

        impl Gauges {
            /// The value of each gauge without labels.
            fn gauges(&self) -> [u64; GAUGE_TOTALS.len()] {
                [$(self.$field,)*]
            }

            /// All values, in the order of [`Gauges::numbers`].
            fn numbers_mut(&mut self) -> impl Iterator<Item = &mut u64> {
                let Gauges { $($field,)* slots_bytes, memberships_bytes, .. } = self;
                [$($field,)* slots_bytes, memberships_bytes].into_iter()
            }
        }
    };
}

gauges! {
    clients: Sum, "Open connections of clients.",
    handshakes_under_way: Sum, "Connections without an answer to their handshake.",
    topics: Sum, "Topics with a subscriber.",
    memberships: Sum, "Subscriptions of clients.",
    publishers: Sum, "Open connections of publishers.",
    history_messages: Most, "Messages held for clients that come back.",
    history_bytes: Sum, "Bytes of the messages held for clients that come back.",
    backlog_frames: Sum, "Pending frames.",
    backlog_bytes: Sum, "Bytes of pending frames, each counted once.",
    unfinished_bytes: Sum, "Bytes of messages that clients have begun but not ended.",
    demand_topics: Sum, "Topics that are at Redis on demand, or on their way.",
    demand_pending: Sum, "Channels that Redis has yet to subscribe to or unsubscribe from on demand.",
    demand_waiting: Sum, "Answers to clients that wait for Redis to subscribe.",
    source_up: Least, "1 while messages can come.",
}

impl Metrics {
    /// Renders the text format of Prometheus, version 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        family(&mut out, "oneloop_build_info", "The version that runs.", "gauge");
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(out, "oneloop_build_info{{version=\"{version}\"}} 1");
        samples(&mut out, "gauge", GAUGES, &gauges.gauges());
        let users = "presence_users Users of this process, with events on.";
        samples(&mut out, "gauge", users, &[self.presence_users]);
        self.render_memory(&mut out, gauges);
        samples(&mut out, "counter", COUNTERS, &self.counters());
        samples(&mut out, "counter", "turns_total Turns of the loop.", &[self.turn_micros.count()]);
        self.render_labelled(&mut out);
        let help = "Turns of the loop, without their sleep.";
        self.turn_micros.render(&mut out, "oneloop_turn_seconds", help);
        let help = "Age of stream entries when they were published, by two clocks.";
        self.stream_lag_micros.render(&mut out, "oneloop_stream_lag_seconds", help);
        gauges.process.render(&mut out);
        out
    }

    /// Renders the known parts of memory. The rest belongs to single connections, or is kept by the allocator.
    fn render_memory(&self, out: &mut String, gauges: &Gauges) {
        let parts = [
            ("slots", gauges.slots_bytes),
            ("memberships", gauges.memberships_bytes),
            ("history", gauges.history_bytes),
            ("backlogs", gauges.backlog_bytes),
            ("unfinished", gauges.unfinished_bytes),
        ];
        labelled(out, "memory_bytes", "Memory by known part.", "gauge", "part", parts);
        let name = "oneloop_memory_bytes_per_connection";
        family(out, name, "Resident memory above that at the start, per client.", "gauge");
        // Without clients there is no such number.
        if let Some(grown) = gauges.process.grown_bytes()
            && gauges.clients > 0
        {
            let _ = writeln!(out, "{name} {:.1}", grown as f64 / gauges.clients as f64);
        }
    }

    fn render_labelled(&self, out: &mut String) {
        let by_label = [
            ("http_responses_total", "Plain responses.", "status", &self.responses),
            ("closes_total", "WebSockets closed by the server.", "code", &self.closes),
        ];
        for (name, help, label, values) in by_label {
            labelled(out, name, help, "counter", label, values.iter());
        }
        let help = "The end of the certificate with this first name, in seconds since 1970.";
        let ends = self.certificate_ends.iter();
        labelled(out, "tls_certificate_expiry_time_seconds", help, "gauge", "name", ends);
        let results = [
            ("opened", self.opened),
            ("refused", self.handshakes_refused),
            ("rejected", self.handshakes_rejected),
            ("abandoned", self.handshakes_abandoned),
        ];
        let help = "Handshakes of clients, by result.";
        labelled(out, "handshakes_total", help, "counter", "result", results);
        let name = "oneloop_tls_handshakes_total";
        family(out, name, "TLS handshakes that were completed.", "counter");
        for (is_resumed, versions) in [false, true].into_iter().zip(&self.tls_handshakes) {
            for (version, count) in versions.iter() {
                let labels = format!("version=\"{version}\",resumed=\"{is_resumed}\"");
                let _ = writeln!(out, "{name}{{{labels}}} {count}");
            }
        }
        let failures = self.tls_failures.iter();
        let help = "TLS connections that failed, in the handshake or later.";
        labelled(out, "tls_failures_total", help, "counter", "reason", failures);
    }
}

/// Renders a family with a sample per value of its label.
fn labelled(
    out: &mut String,
    name: &str,
    help: &str,
    kind: &str,
    label: &str,
    values: impl IntoIterator<Item = (impl Display, u64)>,
) {
    family(out, &format!("oneloop_{name}"), help, kind);
    for (key, value) in values {
        let _ = writeln!(out, "oneloop_{name}{{{label}=\"{key}\"}} {value}");
    }
}

fn family(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Renders families without labels: a line of `rows` and a value for each.
fn samples(out: &mut String, kind: &str, rows: &str, values: &[u64]) {
    for (row, value) in rows.lines().zip(values) {
        let (name, help) = row.split_once(' ').expect("a name and its help");
        let name = format!("oneloop_{name}");
        family(out, &name, help, kind);
        let _ = writeln!(out, "{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_family() {
        let mut metrics = Metrics { accepted: 7, ..Metrics::default() };
        (0..3).for_each(|_| metrics.closes.count(4000));
        let text = metrics.render(&Gauges::default());
        assert!(text.contains("\noneloop_accepted_total 7\n"));
        assert!(text.contains("\noneloop_closes_total{code=\"4000\"} 3\n"));
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split([' ', '{']).next().unwrap();
            let parts = ["_bucket", "_sum", "_count"];
            let histograms = ["oneloop_turn_seconds", "oneloop_stream_lag_seconds"];
            let histogram = histograms.into_iter().find(|histogram| {
                name.strip_prefix(histogram).is_some_and(|part| parts.contains(&part))
            });
            let name = histogram.unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {name} ")), "{sample}");
        }
    }

    #[test]
    fn memory_is_divided_among_those_who_are_there() {
        let usage =
            Usage { resident_bytes: Some(5000), start_bytes: Some(2000), ..Usage::default() };
        let gauges = Gauges { process: usage, ..Gauges::default() };
        let name = "\noneloop_memory_bytes_per_connection ";
        assert!(!Metrics::default().render(&gauges).contains(name));
        let text = Metrics::default().render(&Gauges { clients: 40, ..gauges });
        assert!(text.contains(&format!("{name}75.0\n")), "{text}");
    }
}
