//! The metrics of a process as data, for the process that adds up those of several.

use super::total::Total;
use super::{COUNTER_TOTALS, GAUGE_TOTALS, Gauges, Label, Labelled, Metrics, Usage};

/// The metrics of a process at one moment, or the totals of several processes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub metrics: Metrics,
    pub gauges: Gauges,
}

impl Snapshot {
    /// Takes in the values of one more process.
    pub fn take_in(&mut self, other: &Snapshot) {
        self.metrics.take_in(&other.metrics);
        self.gauges.take_in(&other.gauges);
    }

    /// Encodes the values for a process of the same binary, in about 2 KB.
    pub fn encode(&self) -> Vec<u8> {
        let Snapshot { metrics, gauges } = self;
        let process = gauges.process.values().map(|value| value.unwrap_or(f64::NAN).to_bits());
        let numbers = metrics.numbers().chain(gauges.numbers()).map(|(_, number)| number);
        let mut out: Vec<u8> = numbers.chain(process).flat_map(u64::to_le_bytes).collect();
        for (_, labelled) in metrics.labelled() {
            out.extend((labelled.iter().len() as u32).to_le_bytes());
            for (label, value) in labelled.iter() {
                label.encode(&mut out);
                out.extend(value.to_le_bytes());
            }
        }
        out
    }

    /// Decodes the values of a process of the same binary; `None` if they are not whole. Memory is bounded by the length of `bytes`.
    pub fn decode(mut bytes: &[u8]) -> Option<Snapshot> {
        let input = &mut bytes;
        let mut snapshot = Snapshot::default();
        let Snapshot { metrics, gauges } = &mut snapshot;
        for number in metrics.numbers_mut().chain(gauges.numbers_mut()) {
            *number = take_number(input)?;
        }
        let mut process = gauges.process.values();
        for value in &mut process {
            *value = Some(f64::from_bits(take_number(input)?)).filter(|value| value.is_finite());
        }
        gauges.process = Usage::of(process);
        for labelled in metrics.labelled_mut() {
            let values = (0..u32::from_le_bytes(take(input)?))
                .map(|_| Some((Label::decode(input)?, take_number(input)?)));
            *labelled = values.collect::<Option<Labelled>>()?;
        }
        input.is_empty().then_some(snapshot)
    }
}

impl Metrics {
    /// Takes in the counts of one more process, or of one that has ended: they still belong to the server.
    pub fn take_in(&mut self, other: &Metrics) {
        take_in(self.numbers_mut(), other.numbers());
        for (labelled, (total, other)) in self.labelled_mut().into_iter().zip(other.labelled()) {
            labelled.take_in(total, other);
        }
    }

    /// All values without a label, and their totals.
    fn numbers(&self) -> impl Iterator<Item = (Total, u64)> {
        let others = [
            self.handshakes_refused,
            self.handshakes_rejected,
            self.handshakes_abandoned,
            self.presence_users,
        ];
        let histograms = self.turn_micros.numbers().chain(self.stream_lag_micros.numbers());
        let sums = others.into_iter().chain(histograms).map(|value| (Total::Sum, value));
        COUNTER_TOTALS.iter().copied().zip(self.counters()).chain(sums)
    }

    /// All values by label, and their totals.
    fn labelled(&self) -> [(Total, &Labelled); 6] {
        let [tls_full, tls_resumed] = &self.tls_handshakes;
        [
            (Total::Sum, &self.responses),
            // A process that has not renewed a certificate yet still shows the old one.
            (Total::Least, &self.certificate_ends),
            (Total::Sum, &self.closes),
            (Total::Sum, tls_full),
            (Total::Sum, tls_resumed),
            (Total::Sum, &self.tls_failures),
        ]
    }

    fn labelled_mut(&mut self) -> [&mut Labelled; 6] {
        let [tls_full, tls_resumed] = &mut self.tls_handshakes;
        [
            &mut self.responses,
            &mut self.certificate_ends,
            &mut self.closes,
            tls_full,
            tls_resumed,
            &mut self.tls_failures,
        ]
    }
}

impl Gauges {
    fn take_in(&mut self, other: &Gauges) {
        take_in(self.numbers_mut(), other.numbers());
        self.process.take_in(&other.process);
    }

    /// All values, and their totals.
    fn numbers(&self) -> impl Iterator<Item = (Total, u64)> {
        let bytes = [self.slots_bytes, self.memberships_bytes].map(|value| (Total::Sum, value));
        GAUGE_TOTALS.iter().copied().zip(self.gauges()).chain(bytes)
    }
}

fn take_in<'a>(
    numbers: impl Iterator<Item = &'a mut u64>,
    others: impl Iterator<Item = (Total, u64)>,
) {
    numbers.zip(others).for_each(|(number, (total, other))| total.take_in(number, other));
}

impl Label {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Label::Number(number) => {
                out.push(0);
                out.extend(number.to_le_bytes());
            }
            Label::Name(name) => {
                out.push(1);
                out.extend((name.len() as u32).to_le_bytes());
                out.extend(name.as_bytes());
            }
        }
    }

    fn decode(input: &mut &[u8]) -> Option<Label> {
        if take(input)? == [0] {
            return Some(u16::from_le_bytes(take(input)?).into());
        }
        let len = u32::from_le_bytes(take(input)?) as usize;
        let (name, rest) = input.split_at_checked(len)?;
        *input = rest;
        Some(String::from_utf8(name.to_vec()).ok()?.into())
    }
}

fn take_number(input: &mut &[u8]) -> Option<u64> {
    take(input).map(u64::from_le_bytes)
}

fn take<const LENGTH: usize>(input: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, rest) = input.split_first_chunk()?;
    *input = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot in which no value is 0: the first one is `first`, and each is one more than that before.
    fn counted(first: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let Snapshot { metrics, gauges } = &mut snapshot;
        let numbers = metrics.numbers_mut().chain(gauges.numbers_mut());
        numbers.zip(first..).for_each(|(number, value)| *number = value);
        for labelled in metrics.labelled_mut() {
            *labelled =
                [("both".to_owned(), first), (first.to_string(), first)].into_iter().collect();
            labelled.count(4000);
        }
        gauges.process = Usage::of([7.5, 2e9, 3e9, 4.0, 5.0, 6.0, 1e9].map(Some));
        snapshot
    }

    /// The samples, without those of buckets.
    fn samples(snapshot: &Snapshot) -> Vec<(String, f64)> {
        let text = snapshot.metrics.render(&snapshot.gauges);
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.contains("le="));
        let samples = samples.map(|line| line.rsplit_once(' ').expect("a name and a value"));
        samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_decoded_snapshot_is_the_encoded_one() {
        let snapshot = counted(1);
        let bytes = snapshot.encode();
        assert!(bytes.len() < 3000, "{}", bytes.len());
        let decoded = Snapshot::decode(&bytes).expect("it is whole");
        assert_eq!(decoded.encode(), bytes);
        assert_eq!(samples(&decoded), samples(&snapshot));
        let unknown = Snapshot::decode(&Snapshot::default().encode()).expect("it is whole");
        assert_eq!(unknown.gauges.process, Usage::default());
    }

    #[test]
    fn a_walk_over_the_values_leaves_none_out() {
        let forgotten: Vec<_> =
            samples(&counted(1)).into_iter().filter(|(_, value)| *value == 0.0).collect();
        assert_eq!(forgotten, []);
    }

    #[test]
    fn a_part_of_a_snapshot_is_none() {
        let bytes = counted(1).encode();
        for length in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..length]).is_none(), "{length}");
        }
        assert!(Snapshot::decode(&[&bytes[..], &[0]].concat()).is_none());
        // A count of labels, or a length of a name, that is not there.
        let mut bytes = bytes;
        for at in (0..bytes.len()).rev().step_by(3) {
            bytes[at] = 0xff;
            let _ = Snapshot::decode(&bytes);
        }
    }

    #[test]
    fn several_processes_are_added_up_by_the_rule_of_each_metric() {
        let (mut total, other) = (counted(1000), counted(3000));
        let before = samples(&total);
        total.take_in(&other);
        let after = samples(&total);
        let of = |all: &[(String, f64)], name: &str| {
            let found = all.iter().find(|(series, _)| series == name);
            found.unwrap_or_else(|| panic!("{name}")).1
        };
        for (name, values) in [
            ("oneloop_accepted_total", Total::Sum),
            ("oneloop_clients", Total::Sum),
            ("oneloop_messages_total", Total::Most),
            ("oneloop_history_messages", Total::Most),
            ("oneloop_source_up", Total::Least),
            ("oneloop_handshakes_total{result=\"refused\"}", Total::Sum),
            ("oneloop_presence_users", Total::Sum),
            ("oneloop_turn_seconds_count", Total::Sum),
            ("oneloop_memory_bytes{part=\"slots\"}", Total::Sum),
            ("oneloop_closes_total{code=\"both\"}", Total::Sum),
            ("oneloop_tls_certificate_expiry_time_seconds{name=\"both\"}", Total::Least),
        ] {
            let (own, others) = (of(&before, name), of(&samples(&other), name));
            let expected = match values {
                Total::Sum => own + others,
                Total::Most => others,
                Total::Least => own,
            };
            assert_eq!(of(&after, name), expected, "{name}");
            assert!(own < others, "{name}");
        }
        // Of a label that one of them has.
        for one in ["1000", "3000"] {
            let name = format!("oneloop_http_responses_total{{status=\"{one}\"}}");
            assert_eq!(of(&after, &name).to_string(), one);
        }
        assert_eq!(of(&after, "process_cpu_seconds_total"), 15.0);
        assert_eq!(of(&after, "process_resident_memory_bytes"), 4e9);
        assert_eq!(of(&after, "process_start_time_seconds"), 4.0);
        let grown = of(&after, "oneloop_memory_bytes_per_connection");
        assert!((grown - 2e9 / of(&after, "oneloop_clients")).abs() < 0.1, "{grown}");
    }
}
