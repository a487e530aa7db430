//! Counters and gauges in the text format of Prometheus.

mod histogram;
mod process;

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

pub use histogram::Histogram;
pub use process::{Process, Usage};

/// Declares [`Metrics`]: a row per counter, with its field and its help. The metric `oneloop_NAME_total` has the field's name.
macro_rules! counters {
    ($($field:ident: $help:literal,)*) => {
        /// Counts since the process started; 64 bits do not overflow in its life.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: u64,)*
            /// Handshakes that a plain response refused.
            pub handshakes_refused: u64,
            /// Handshakes that became a WebSocket only for the close code to be readable.
            pub handshakes_rejected: u64,
            /// Handshakes that ended before they had an answer.
            pub handshakes_abandoned: u64,
            /// Users of this process, waited-for ones included; 0 without `events`.
            pub presence_users: usize,
            /// Plain responses by status.
            pub responses: BTreeMap<u16, u64>,
            /// The ends of certificates in force, as unix seconds, by their first names.
            pub certificate_ends: BTreeMap<String, u64>,
            /// WebSockets closed by the server, by code.
            pub closes: BTreeMap<u16, u64>,
            /// TLS handshakes by version, and whether a ticket has shortened them.
            pub tls_handshakes: BTreeMap<(&'static str, bool), u64>,
            /// TLS connections that failed, by reason.
            pub tls_failures: BTreeMap<&'static str, u64>,
            /// The age of stream entries when they were published: the wall clock here against that of Redis, which numbers them. An
            /// entry from the future counts as 0.
            pub stream_lag_micros: Histogram,
            /// The duration of the loop's turns, from the end of one sleep to the next.
            pub turn_micros: Histogram,
        }

        impl Metrics {
            /// The name, help and value of each counter without labels.
            fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![
                    $((concat!(stringify!($field), "_total"), $help, self.$field),)*
                    ("turns_total", "Turns of the loop.", self.turn_micros.count()),
                ]
            }
        }
    };
}

counters! {
    accepted: "Connections accepted.",
    opened: "Handshakes that became WebSockets, and requests that became event streams.",
    event_streams: "Requests that became event streams.",
    deflate_opened: "Handshakes that agreed on compression.",
    unproxied: "Connections closed for a missing or invalid PROXY header.",
    forwarded_malformed: "Requests of trusted proxies whose X-Forwarded-For has no address.",
    identities_refused: "Handshakes refused for the header that names the user: not of a proxy, or malformed, or from a foreign page.",
    forwarded_missing: "Handshakes of trusted proxies without X-Forwarded-For, which count as the proxy's own.",
    commands: "Text messages from clients.",
    messages: "Messages from publishers and Redis.",
    messages_malformed: "Messages dropped: the channel is not a well-formed topic.",
    messages_oversized: "Messages dropped above payload_bytes_max.",
    messages_dropped: "Messages dropped for slow clients, where a route says so.",
    controls: "Messages on the control channel.",
    control_malformed: "Messages on the control channel that are not a control command.",
    revocations: "Revocations of users' tokens that this process learnt of.",
    revocations_merged: "Revocations above revocations_max that hold for all users since.",
    revocation_retries: "Exchanges of revocations with Redis that failed and were repeated.",
    tokens_revoked: "Tokens refused because they were revoked.",
    upstream_sent: "Sends of clients that Redis accepted.",
    upstream_unavailable: "Sends of clients that Redis did not accept, or not certainly.",
    upstream_busy: "Sends of clients refused above a limit.",
    receipts: "Receipts sent to publishers.",
    receipts_pending: "Receipts sent before everything was known.",
    deliveries: "Frames queued for subscribers.",
    deflated: "Messages compressed, each once for all clients that agreed on it.",
    deflate_saved_bytes: "Bytes by which these messages became shorter, each counted once.",
    received_bytes: "Bytes read from clients.",
    sent_bytes: "Bytes written to clients.",
    writes: "Writes to clients with pending bytes.",
    tls_truncated: "WebSockets over TLS whose TCP connection ended without the end of TLS.",
    descriptors_exhausted: "Accepts that failed for lack of a descriptor.",
    accepts_held_back: "Turns in which clients waited because of handshakes_max or handshakes_per_second_max.",
    strangers_vacated: "Connections closed to make room, because they had presented no token or had not answered a ping.",
    accepts_put_off: "Turns that accepts_per_turn cut short.",
    reads_put_off: "Reads of a client that used up read_bytes_per_turn.",
    source_reads_put_off: "Reads of Redis or a publisher that used up their share of source_read_bytes_per_turn.",
    flushes_put_off: "Turns that flush_clients_per_turn cut short.",
    pings: "Clients pinged after ping_seconds of silence.",
    topics_refused: "Subscriptions refused above topics_per_client_max.",
    publishers_refused: "Publishers refused above publishers_max.",
    publisher_commands_refused: "Commands that the publishers' port does not know, and requests of HTTP that it refused.",
    subscriber_messages: "Messages queued for subscribers of the publishers' port.",
    subscribers_cut: "Subscribers of the publishers' port closed above publisher_backlog_bytes_max.",
    zeromq_messages: "Messages of the ZeroMQ port that name a channel or a topic.",
    zeromq_malformed: "Messages of the ZeroMQ port dropped because they name no topic, or have too many parts.",
    zeromq_refused: "ZeroMQ connections refused above zeromq_connections_max.",
    zeromq_failed: "ZeroMQ connections closed for a fault of the peer, or because it took too long.",
    reloads: "Reloads of the settings, of renewed certificates, or of a changed JWKS.",
    reloads_refused: "Reloads refused because the settings, a certificate or a JWKS were bad.",
    memory_exceeded: "Times that memory_max was exceeded.",
    memory_shed: "Clients closed above memory_max.",
    unfinished_shed: "Clients closed above unfinished_total_bytes_max.",
    backlogs_shed: "Clients closed above backlog_total_bytes_max.",
    memberships_shed: "Clients closed above subscriptions_bytes_max.",
    stalled: "Clients closed because their sockets took nothing for stalled_seconds.",
    backlog_walks: "Searches of all clients for the slowest, for /clients.",
    resumes: "Clients that came back in time.",
    resumes_refused: "Clients that came back too late, or with a foreign cursor.",
    topic_resumes: "Topics that clients subscribed to from a cursor on.",
    topic_resumes_refused: "Topics whose messages since the cursor were not held, or not known.",
    replayed: "Frames queued for clients that came back.",
    source_ups: "Times that the connection to Redis came up.",
    stream_entries: "Entries read from streams, including malformed ones.",
    stream_ups: "Times that reading of the streams began.",
    stream_lost: "Times that entries were gone before they were read.",
    pages: "Pages of streams read for clients that came back.",
    page_entries: "Messages in these pages.",
    page_bytes: "Bytes of all entries in these pages.",
    pages_put_off: "Times that pages waited for replay_bytes_per_second_max, or for a user to rest.",
    requests: "Commands for Redis, besides subscriptions.",
    requests_unavailable: "Commands for Redis without a reply.",
    presence_online: "Events online that this process caused.",
    presence_offline: "Events offline that this process caused.",
    presence_retries: "Presence calls that failed and were repeated.",
    presence_renewals: "Times that all users were announced anew.",
    presence_cut_short: "Users reported offline early, because clients_max others were waited for.",
}

/// Declares [`Gauges`]: a row per gauge, with its field and its help. The metric `oneloop_NAME` has the field's name.
macro_rules! gauges {
    ($($field:ident: $help:literal,)*) => {
        /// Values of this moment, beside the counters.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Gauges {
            $(#[doc = $help] pub $field: usize,)*
            /// Bytes of the slots of connections, used or not.
            pub slots_bytes: usize,
            /// Bytes of subscriptions and topics, without names above 23 bytes.
            pub memberships_bytes: usize,
            /// The kernel's view of the process.
            pub process: Usage,
        }

        impl Gauges {
            /// The name, help and value of each gauge without labels.
            fn gauges(&self) -> Vec<(&'static str, &'static str, usize)> {
                vec![$((stringify!($field), $help, self.$field),)*]
            }
        }
    };
}

gauges! {
    clients: "Open connections of clients.",
    handshakes_under_way: "Connections without an answer to their handshake.",
    topics: "Topics with a subscriber.",
    memberships: "Subscriptions of clients.",
    publishers: "Open connections of publishers.",
    history_messages: "Messages held for clients that come back.",
    history_bytes: "Bytes of the messages held for clients that come back.",
    backlog_frames: "Pending frames.",
    backlog_bytes: "Bytes of pending frames, each counted once.",
    unfinished_bytes: "Bytes of messages that clients have begun but not ended.",
    source_up: "1 while messages can come.",
}

impl Metrics {
    /// Renders the text format of Prometheus, version 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        family(&mut out, "oneloop_build_info", "The version that runs.", "gauge");
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(out, "oneloop_build_info{{version=\"{version}\"}} 1");
        let users =
            ("presence_users", "Users of this process, with events on.", self.presence_users);
        for (name, help, value) in gauges.gauges().into_iter().chain([users]) {
            sample(&mut out, name, help, "gauge", value as u64);
        }
        self.render_memory(&mut out, gauges);
        for (name, help, value) in self.counters() {
            sample(&mut out, name, help, "counter", value);
        }
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
        let parts = parts.map(|(part, bytes)| (part, bytes as u64));
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
            let values = values.iter().map(|(key, value)| (key, *value));
            labelled(out, name, help, "counter", label, values);
        }
        let help = "The end of the certificate with this first name, in seconds since 1970.";
        let ends = self.certificate_ends.iter().map(|(name, end)| (name.escape_debug(), *end));
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
        for ((version, is_resumed), count) in &self.tls_handshakes {
            let labels = format!("version=\"{version}\",resumed=\"{is_resumed}\"");
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
        let failures = self.tls_failures.iter().map(|(reason, count)| (reason, *count));
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

fn sample(out: &mut String, name: &str, help: &str, kind: &str, value: u64) {
    let name = format!("oneloop_{name}");
    family(out, &name, help, kind);
    let _ = writeln!(out, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_family() {
        let mut metrics = Metrics { accepted: 7, ..Metrics::default() };
        metrics.closes.insert(4000, 3);
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
