//! Counters of what happened, as Prometheus reads them.

mod histogram;
mod process;

use std::collections::BTreeMap;
use std::fmt::Write;

pub use histogram::Histogram;
pub use process::{Process, Usage};

/// Counted since the process started; 64 bits do not overflow in its life.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections accepted.
    pub accepted: u64,
    /// Handshakes that became WebSockets.
    pub opened: u64,
    /// Times that the settings were read again.
    pub reloads: u64,
    /// Times that they were bad and stayed as they were.
    pub reloads_refused: u64,
    /// Handshakes of clients that a plain response refused.
    pub handshakes_refused: u64,
    /// Those that became a WebSocket only for the close code to be read.
    pub handshakes_rejected: u64,
    /// Those that were over before they had an answer.
    pub handshakes_abandoned: u64,
    /// Connections that made room: they had not shown what they came for, or owed the answer to a ping.
    pub strangers_vacated: u64,
    /// Requests answered by a plain response, by its status.
    pub responses: BTreeMap<u16, u64>,
    /// WebSockets that the server closed, by the code.
    pub closes: BTreeMap<u16, u64>,
    /// Connections that were closed because `proxy_protocol` is on and they are none of a proxy, or do not begin like one.
    pub unproxied: u64,
    /// Requests by a proxy of `proxies` whose `X-Forwarded-For` says no address.
    pub forwarded_malformed: u64,
    /// Handshakes that a proxy of `proxies` brought without saying for whom: they count as the proxy's own.
    pub forwarded_missing: u64,
    /// Text messages from clients.
    pub commands: u64,
    /// Messages from publishers and Redis.
    pub messages: u64,
    /// Messages dropped: the channel is no well-formed topic.
    pub messages_malformed: u64,
    /// Messages dropped: above `payload_bytes_max`.
    pub messages_oversized: u64,
    /// Messages dropped for clients that read too slowly, where a route says so.
    pub messages_dropped: u64,
    /// What came on the control channel.
    pub controls: u64,
    /// Of that, what was no order.
    pub control_malformed: u64,
    /// What clients sent, and Redis has.
    pub upstream_sent: u64,
    /// What clients sent, and Redis does not have, or nobody knows.
    pub upstream_unavailable: u64,
    /// What clients sent above the bound of what may wait for Redis.
    pub upstream_busy: u64,
    /// Receipts sent to publishers.
    pub receipts: u64,
    /// Of these, sent before everything was known.
    pub receipts_pending: u64,
    /// Frames queued for clients that listen to a message's topic.
    pub deliveries: u64,
    /// Bytes read from clients.
    pub received_bytes: u64,
    /// Bytes written to clients.
    pub sent_bytes: u64,
    /// Writes to clients that were owed bytes.
    pub writes: u64,
    /// Times that no descriptor was left for a new connection.
    pub descriptors_exhausted: u64,
    /// Turns in which clients waited because of `handshakes_max` or `handshakes_per_second_max`.
    pub accepts_held_back: u64,
    /// Memberships refused above `topics_per_client_max`.
    pub topics_refused: u64,
    /// Clients pinged because nothing was heard of them for `ping_seconds`.
    pub pings: u64,
    /// Reads of a client that took all of `read_bytes_per_turn`.
    pub reads_put_off: u64,
    /// Reads of Redis or a publisher that its share of `source_read_bytes_per_turn` ended.
    pub source_reads_put_off: u64,
    /// Turns that `flush_clients_per_turn` ended before all were written to.
    pub flushes_put_off: u64,
    /// Turns that `accepts_per_turn` ended.
    pub accepts_put_off: u64,
    /// Publishers refused above `publishers_max`.
    pub publishers_refused: u64,
    /// Their commands that the port does not know.
    pub publisher_commands_refused: u64,
    /// Messages queued for subscribers of the publishers' port.
    pub subscriber_messages: u64,
    /// Subscribers of it cut off above `publisher_backlog_bytes_max`.
    pub subscribers_cut: u64,
    /// Times that `memory_max` was exceeded.
    pub memory_exceeded: u64,
    /// Clients closed for it.
    pub memory_shed: u64,
    /// Clients closed above `unfinished_total_bytes_max`.
    pub unfinished_shed: u64,
    /// Clients closed above `subscriptions_bytes_max`.
    pub memberships_shed: u64,
    /// Clients closed because their sockets took nothing for `stalled_seconds`.
    pub stalled: u64,
    /// Clients closed above `backlog_total_bytes_max`.
    pub backlogs_shed: u64,
    /// Times that all clients were looked at, to tell the operator who is owed most.
    pub backlog_walks: u64,
    /// Clients that came back and were given what they missed.
    pub resumes: u64,
    /// Clients that came back too late, or with a cursor of somebody else's.
    pub resumes_refused: u64,
    /// Frames queued for clients that came back.
    pub replayed: u64,
    /// Times the link to Redis came up.
    pub link_ups: u64,
    /// Entries read from streams, malformed ones too.
    pub stream_entries: u64,
    /// Times that the streams began to be read.
    pub stream_ups: u64,
    /// Times that entries were gone before they were read.
    pub stream_lost: u64,
    /// Pages of streams read for clients that came back.
    pub pages: u64,
    /// Messages in them.
    pub page_entries: u64,
    /// Bytes of all their entries.
    pub page_bytes: u64,
    /// Times that pages waited for `replay_bytes_per_second_max`, or a user rested after pages that brought it nothing.
    pub pages_put_off: u64,
    /// What was asked of Redis besides the subscription.
    pub requests: u64,
    /// Of that, what got no answer: no connection, no room, or a connection that broke.
    pub requests_unavailable: u64,
    /// Events `online` that this process caused.
    pub presence_online: u64,
    /// Events `offline` that it caused.
    pub presence_offline: u64,
    /// Calls about who is here that failed and were repeated.
    pub presence_retries: u64,
    /// Times that all of its users were told anew.
    pub presence_renewals: u64,
    /// Users called offline early, because `clients_max` others were waited for.
    pub presence_cut_short: u64,
    /// How old the entries of streams were when they were published: the wall clock here against the one of Redis, which numbers
    /// them. One from before its own time by our clock counts as 0.
    pub stream_lag_micros: Histogram,
    /// How long the turns of the loop took, from the end of their sleep to the next one.
    pub turn_micros: Histogram,
}

/// What is the case now, beside what was counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Connections, in whatever state.
    pub clients: usize,
    /// Topics with a listener.
    pub topics: usize,
    /// Memberships.
    pub memberships: usize,
    /// Connections of publishers.
    pub publishers: usize,
    /// Messages held for clients that come back.
    pub history_messages: usize,
    /// Bytes of them.
    pub history_bytes: usize,
    /// Whether messages can come: the link is up, or there is none.
    pub source_up: bool,
    /// Users of this process, those included who are waited for; 0 without `events`.
    pub presence_users: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// Frames that somebody holds, each counted once: what waits for clients, and the ping that all share.
    pub backlog_frames: usize,
    /// Their bytes, with what each takes besides.
    pub backlog_bytes: usize,
    /// Heads and messages that clients have begun and not ended.
    pub unfinished_bytes: usize,
    /// The slots of connections, taken or not.
    pub slots_bytes: usize,
    /// Memberships and topics, without names above 23 bytes.
    pub memberships_bytes: usize,
    /// What the kernel says.
    pub process: Usage,
}

impl Gauges {
    /// What is known of where the memory is. The rest is what single connections hold, and what the allocator keeps.
    fn memory_parts(&self) -> [(&'static str, usize); 5] {
        [
            ("slots", self.slots_bytes),
            ("memberships", self.memberships_bytes),
            ("history", self.history_bytes),
            ("backlogs", self.backlog_bytes),
            ("unfinished", self.unfinished_bytes),
        ]
    }
}

impl Metrics {
    /// The text format of Prometheus, version 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        family(&mut out, "oneloop_build_info", "What runs here.", "gauge");
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(out, "oneloop_build_info{{version=\"{version}\"}} 1");
        self.render_gauges(&mut out, gauges);
        for (name, help, value) in self.counters() {
            sample(&mut out, name, help, "counter", value);
        }
        self.render_labelled(&mut out);
        self.turn_micros.render(
            &mut out,
            "oneloop_turn_seconds",
            "Turns of the loop, without their sleep.",
        );
        self.stream_lag_micros.render(
            &mut out,
            "oneloop_stream_lag_seconds",
            "Age of stream entries when they were published, by two clocks.",
        );
        gauges.process.render(&mut out);
        out
    }

    fn render_gauges(&self, out: &mut String, gauges: &Gauges) {
        for (name, help, value) in [
            ("clients", "Open connections of clients.", gauges.clients),
            ("handshakes_under_way", "Of them, without an answer yet.", gauges.handshakes),
            ("topics", "Topics with a listener.", gauges.topics),
            ("memberships", "Clients' memberships of topics.", gauges.memberships),
            ("publishers", "Open connections of publishers.", gauges.publishers),
            ("history_messages", "Messages held for a resume.", gauges.history_messages),
            ("history_bytes", "Bytes of them.", gauges.history_bytes),
            ("backlog_frames", "Frames that wait for clients.", gauges.backlog_frames),
            ("backlog_bytes", "Bytes of them, a shared one once.", gauges.backlog_bytes),
            ("unfinished_bytes", "What clients began to say.", gauges.unfinished_bytes),
            ("source_up", "1 while messages can come.", usize::from(gauges.source_up)),
            ("presence_users", "Users here, where events are on.", gauges.presence_users),
        ] {
            sample(out, name, help, "gauge", value as u64);
        }
        family(out, "oneloop_memory_bytes", "Where memory is, as far as counted.", "gauge");
        for (part, bytes) in gauges.memory_parts() {
            let _ = writeln!(out, "oneloop_memory_bytes{{part=\"{part}\"}} {bytes}");
        }
        let name = "oneloop_memory_bytes_per_connection";
        family(out, name, "Resident memory above the start, by client.", "gauge");
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
            family(out, &format!("oneloop_{name}"), help, "counter");
            for (key, value) in values {
                let _ = writeln!(out, "oneloop_{name}{{{label}=\"{key}\"}} {value}");
            }
        }
        family(out, "oneloop_handshakes_total", "Handshakes of clients, by result.", "counter");
        for (result, value) in [
            ("opened", self.opened),
            ("refused", self.handshakes_refused),
            ("rejected", self.handshakes_rejected),
            ("abandoned", self.handshakes_abandoned),
        ] {
            let _ = writeln!(out, "oneloop_handshakes_total{{result=\"{result}\"}} {value}");
        }
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        vec![
            ("accepted_total", "Connections accepted.", self.accepted),
            ("opened_total", "Handshakes that became WebSockets.", self.opened),
            ("unproxied_total", "Closed: no PROXY header of a proxy.", self.unproxied),
            ("forwarded_malformed_total", "X-Forwarded-For: no address.", self.forwarded_malformed),
            ("forwarded_missing_total", "No X-Forwarded-For of a proxy.", self.forwarded_missing),
            ("commands_total", "Text messages from clients.", self.commands),
            ("messages_total", "Messages from publishers.", self.messages),
            ("messages_malformed_total", "Dropped: no topic.", self.messages_malformed),
            ("messages_oversized_total", "Dropped: too large.", self.messages_oversized),
            ("messages_dropped_total", "Dropped for slow clients.", self.messages_dropped),
            ("controls_total", "Orders on the control channel.", self.controls),
            ("control_malformed_total", "Of these, malformed.", self.control_malformed),
            ("upstream_sent_total", "Sends that Redis has.", self.upstream_sent),
            ("upstream_unavailable_total", "Without an answer.", self.upstream_unavailable),
            ("upstream_busy_total", "Refused: too many wait.", self.upstream_busy),
            ("receipts_total", "Receipts sent.", self.receipts),
            ("receipts_pending_total", "Of these, unsettled.", self.receipts_pending),
            ("deliveries_total", "Frames queued for listeners.", self.deliveries),
            ("received_bytes_total", "Bytes read from clients.", self.received_bytes),
            ("sent_bytes_total", "Bytes written to clients.", self.sent_bytes),
            ("writes_total", "Writes to clients.", self.writes),
            ("descriptors_exhausted_total", "Accepts that failed.", self.descriptors_exhausted),
            ("accepts_held_back_total", "Turns in which clients waited.", self.accepts_held_back),
            ("strangers_vacated_total", "Connections that made room.", self.strangers_vacated),
            ("accepts_put_off_total", "Turns that ended an accept.", self.accepts_put_off),
            ("reads_put_off_total", "Reads that the turn's bound cut.", self.reads_put_off),
            ("source_reads_put_off_total", "The same of sources.", self.source_reads_put_off),
            ("flushes_put_off_total", "Turns that wrote to some.", self.flushes_put_off),
            ("pings_total", "Clients pinged after silence.", self.pings),
            ("topics_refused_total", "Topics above a client's bound.", self.topics_refused),
            ("publishers_refused_total", "Publishers refused.", self.publishers_refused),
            (
                "publisher_commands_refused_total",
                "Commands that the port does not know.",
                self.publisher_commands_refused,
            ),
            ("subscriber_messages_total", "For the port's subscribers.", self.subscriber_messages),
            ("subscribers_cut_total", "Of them, cut off behind.", self.subscribers_cut),
            ("reloads_total", "Settings read again.", self.reloads),
            ("reloads_refused_total", "Settings that were bad.", self.reloads_refused),
            ("memory_exceeded_total", "Times above memory_max.", self.memory_exceeded),
            ("memory_shed_total", "Clients closed for memory_max.", self.memory_shed),
            ("unfinished_shed_total", "For unfinished_total_bytes_max.", self.unfinished_shed),
            ("backlogs_shed_total", "For backlog_total_bytes_max.", self.backlogs_shed),
            ("memberships_shed_total", "For subscriptions_bytes_max.", self.memberships_shed),
            ("stalled_total", "For stalled_seconds.", self.stalled),
            ("backlog_walks_total", "Looks at all for /clients.", self.backlog_walks),
            ("resumes_total", "Clients that came back in time.", self.resumes),
            ("resumes_refused_total", "Clients that did not.", self.resumes_refused),
            ("replayed_total", "Frames for clients that came back.", self.replayed),
            ("source_ups_total", "Times the link to Redis came up.", self.link_ups),
            ("stream_entries_total", "Entries read from streams.", self.stream_entries),
            ("stream_ups_total", "Times the streams came up.", self.stream_ups),
            ("stream_lost_total", "Times entries were lost.", self.stream_lost),
            ("pages_total", "Pages of streams for clients.", self.pages),
            ("page_entries_total", "Messages in them.", self.page_entries),
            ("page_bytes_total", "Bytes of all their entries.", self.page_bytes),
            (
                "pages_put_off_total",
                "Times that they waited for replay_bytes_per_second_max, or a user rested.",
                self.pages_put_off,
            ),
            ("requests_total", "Commands for Redis.", self.requests),
            ("requests_unavailable_total", "Of them unanswered.", self.requests_unavailable),
            ("presence_online_total", "Events online of this node.", self.presence_online),
            ("presence_offline_total", "Events offline of this node.", self.presence_offline),
            ("presence_retries_total", "Calls for them that failed.", self.presence_retries),
            ("presence_renewals_total", "Times all were told anew.", self.presence_renewals),
            ("presence_cut_short_total", "Offline before time.", self.presence_cut_short),
            ("turns_total", "Turns of the loop.", self.turn_micros.count()),
        ]
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
