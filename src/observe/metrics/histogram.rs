//! Durations in buckets that double.

use std::fmt::Write;

use super::family;

/// Buckets of a [`Histogram`]: the last one below infinity ends at 2^22 microseconds, 4.2 seconds.
const BUCKETS: usize = 24;

/// Microseconds in buckets that double.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Values of at most 2^n microseconds that are in no earlier bucket; the last one has the rest.
    buckets: [u64; BUCKETS],
    sum: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, micros: u64) {
        let bucket = micros.max(1).next_power_of_two().ilog2() as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        // A peer may be able to cause any value: the sum must not overflow.
        self.sum = self.sum.saturating_add(micros);
    }

    /// The values counted since `earlier`, a former state of this histogram.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = self.clone();
        since.sum -= earlier.sum;
        for (bucket, before) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *bucket -= before;
        }
        since
    }

    /// The numbers that a histogram is made of.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().chain([&self.sum]).copied()
    }

    pub(super) fn numbers_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        self.buckets.iter_mut().chain([&mut self.sum])
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The buckets' upper bounds in microseconds with their counts; the last bound is infinite.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.buckets.iter().enumerate().map(|(power, count)| {
            let is_last = power == BUCKETS - 1;
            (if is_last { f64::INFINITY } else { (1_u64 << power) as f64 }, *count)
        })
    }

    /// Renders the text format of Prometheus, in seconds.
    pub(super) fn render(&self, out: &mut String, name: &str, help: &str) {
        family(out, name, help, "histogram");
        self.render_samples(out, name, "");
    }

    /// Renders the samples alone. `label`: a label with its value, or nothing.
    pub(super) fn render_samples(&self, out: &mut String, name: &str, label: &str) {
        let (comma, braces) = match label {
            "" => ("", String::new()),
            label => (",", format!("{{{label}}}")),
        };
        let mut below = 0;
        for (bound, count) in self.buckets() {
            below += count;
            let bound =
                if bound.is_finite() { (bound / 1e6).to_string() } else { "+Inf".to_owned() };
            let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_sum{braces} {}", self.sum as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{braces} {below}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(text.contains("x_bucket{le=\"0.000004\"} 5\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"+Inf\"} 9\n"), "{text}");
    }
}
