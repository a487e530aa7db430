//! Counters of what happened, as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Counted since the process started; 64 bits do not overflow in its life.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections accepted.
    pub accepted: u64,
    /// Handshakes that became WebSockets.
    pub opened: u64,
    /// Requests answered by a plain response, by its status.
    pub responses: BTreeMap<u16, u64>,
    /// WebSockets that the server closed, by the code.
    pub closes: BTreeMap<u16, u64>,
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
    /// Subscriptions refused above `topics_per_client_max`.
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
    /// Times that `memory_max` was exceeded.
    pub memory_exceeded: u64,
    /// Clients closed for it.
    pub memory_shed: u64,
    /// Clients closed above `unfinished_bytes_max`.
    pub unfinished_shed: u64,
    /// Clients closed above `backlogs_bytes_max`.
    pub backlogs_shed: u64,
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
    /// How long the turns of the loop took, from the end of their sleep to the next one.
    pub turn_micros: Histogram,
}

/// Buckets of a [`Histogram`]: the last one below infinity ends at 2^22 microseconds, 4.2 seconds.
const BUCKETS: usize = 24;

/// Microseconds in buckets that double.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Values of at most 2^n microseconds, that are in no bucket before; the last one has all others.
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, micros: u64) {
        let bucket = micros.max(1).next_power_of_two().ilog2() as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.sum += micros;
    }

    /// What was counted since `earlier`, a state of this histogram before.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = self.clone();
        since.sum -= earlier.sum;
        for (bucket, before) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *bucket -= before;
        }
        since
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bounds in microseconds and how many values stand in each bucket; the last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().enumerate().map(|(power, count)| {
            let is_last = power == BUCKETS - 1;
            (if is_last { f64::INFINITY } else { (1_u64 << power) as f64 }, *count)
        })
    }

    /// As Prometheus reads it, in seconds.
    fn render(&self, out: &mut String, name: &str, help: &str) {
        family(out, name, help, "histogram");
        let mut below = 0;
        for (bound, count) in self.buckets() {
            below += count;
            let bound =
                if bound.is_finite() { (bound / 1e6).to_string() } else { "+Inf".to_owned() };
            let _ = writeln!(out, "oneloop_{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "oneloop_{name}_sum {}", self.sum as f64 / 1e6);
        let _ = writeln!(out, "oneloop_{name}_count {below}");
    }
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
}

impl Metrics {
    /// The text format of Prometheus, version 0.0.4.
    pub fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        for (name, help, value) in [
            ("clients", "Open connections of clients.", gauges.clients),
            ("topics", "Topics with a listener.", gauges.topics),
            ("memberships", "Clients' memberships of topics.", gauges.memberships),
            ("publishers", "Open connections of publishers.", gauges.publishers),
            ("history_messages", "Messages held for a resume.", gauges.history_messages),
            ("history_bytes", "Bytes of them.", gauges.history_bytes),
            ("source_up", "1 while messages can come.", usize::from(gauges.source_up)),
            ("presence_users", "Users here, where events are on.", gauges.presence_users),
        ] {
            family(&mut out, name, help, "gauge");
            let _ = writeln!(out, "oneloop_{name} {value}");
        }
        for (name, help, value) in self.counters() {
            family(&mut out, name, help, "counter");
            let _ = writeln!(out, "oneloop_{name} {value}");
        }
        let by_label = [
            ("http_responses_total", "Plain responses.", "status", &self.responses),
            ("closes_total", "WebSockets closed by the server.", "code", &self.closes),
        ];
        for (name, help, label, values) in by_label {
            family(&mut out, name, help, "counter");
            for (key, value) in values {
                let _ = writeln!(out, "oneloop_{name}{{{label}=\"{key}\"}} {value}");
            }
        }
        self.turn_micros.render(
            &mut out,
            "turn_seconds",
            "Turns of the loop, without their sleep.",
        );
        out
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        vec![
            ("accepted_total", "Connections accepted.", self.accepted),
            ("opened_total", "Handshakes that became WebSockets.", self.opened),
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
            ("accepts_put_off_total", "Turns that ended an accept.", self.accepts_put_off),
            ("reads_put_off_total", "Reads that the turn's bound cut.", self.reads_put_off),
            ("source_reads_put_off_total", "The same of sources.", self.source_reads_put_off),
            ("flushes_put_off_total", "Turns that wrote to some.", self.flushes_put_off),
            ("pings_total", "Clients pinged after silence.", self.pings),
            ("topics_refused_total", "Topics above a client's bound.", self.topics_refused),
            ("publishers_refused_total", "Publishers refused.", self.publishers_refused),
            ("memory_exceeded_total", "Times above memory_max.", self.memory_exceeded),
            ("memory_shed_total", "Clients closed for memory_max.", self.memory_shed),
            ("unfinished_shed_total", "For unfinished_bytes_max.", self.unfinished_shed),
            ("backlogs_shed_total", "For backlogs_bytes_max.", self.backlogs_shed),
            ("resumes_total", "Clients that came back in time.", self.resumes),
            ("resumes_refused_total", "Clients that did not.", self.resumes_refused),
            ("replayed_total", "Frames for clients that came back.", self.replayed),
            ("source_ups_total", "Times the link to Redis came up.", self.link_ups),
            ("stream_entries_total", "Entries read from streams.", self.stream_entries),
            ("stream_ups_total", "Times the streams came up.", self.stream_ups),
            ("stream_lost_total", "Times entries were lost.", self.stream_lost),
            ("pages_total", "Pages of streams for clients.", self.pages),
            ("page_entries_total", "Messages in them.", self.page_entries),
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
    let _ = writeln!(out, "# HELP oneloop_{name} {help}\n# TYPE oneloop_{name} {kind}");
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
            let name = match name.strip_prefix("oneloop_turn_seconds") {
                Some(part) if parts.contains(&part) => "oneloop_turn_seconds",
                _ => name,
            };
            assert!(text.contains(&format!("# TYPE {name} ")), "{sample}");
        }
    }

    #[test]
    fn a_histogram_counts_each_value_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for micros in [0, 1, 2, 3, 4, 5, 1 << 22, (1 << 22) + 1, u64::MAX / 2] {
            histogram.record(micros);
        }
        let filled: Vec<(f64, u64)> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        let last = f64::INFINITY;
        assert_eq!(filled, [(1.0, 2), (2.0, 1), (4.0, 2), (8.0, 1), (4_194_304.0, 1), (last, 2)]);
        let mut text = String::new();
        histogram.render(&mut text, "x", "");
        assert!(text.contains("oneloop_x_bucket{le=\"0.000004\"} 5\n"), "{text}");
        assert!(text.contains("oneloop_x_bucket{le=\"+Inf\"} 9\n"), "{text}");
    }
}
