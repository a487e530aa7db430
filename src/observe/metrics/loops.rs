//! The metrics of single loops, where several are one server.

use std::fmt::Write;

use super::{Snapshot, family};

/// One of the processes of a server.
pub struct LoopReport<'a> {
    /// The value of its label.
    pub name: String,
    /// It has answered in time.
    pub is_up: bool,
    /// Times that another process took its place.
    pub restarts: u64,
    /// The latest values; `None` if it has not told any.
    pub snapshot: Option<&'a Snapshot>,
}

/// Renders the text format of Prometheus for each loop. The names are others than those of the sums, so that a sum over labels is
/// none of a sum.
pub fn render_loops(out: &mut String, loops: &[LoopReport<'_>]) {
    let help = "1 if the loop has answered now; its other values are the latest known.";
    samples(out, loops, "up", help, "gauge", |of| Some(f64::from(u8::from(of.is_up))));
    let help = "Times that another process took the place of the loop.";
    samples(out, loops, "restarts_total", help, "counter", |of| Some(of.restarts as f64));
    let help = "Open connections of clients, by loop.";
    samples(out, loops, "clients", help, "gauge", |of| Some(of.snapshot?.gauges.clients as f64));
    let help = "Resident memory, by loop.";
    samples(out, loops, "resident_memory_bytes", help, "gauge", |of| {
        of.snapshot?.gauges.process.resident_bytes.map(|bytes| bytes as f64)
    });
    let help = "CPU time, by loop.";
    samples(out, loops, "cpu_seconds_total", help, "counter", |of| {
        of.snapshot?.gauges.process.cpu_seconds
    });
    let name = "oneloop_loop_turn_seconds";
    family(out, name, "Turns of each loop, without their sleep.", "histogram");
    for LoopReport { name: value, snapshot, .. } in loops {
        let label = format!("loop=\"{value}\"");
        let turns = snapshot.map(|snapshot| &snapshot.metrics.turn_micros);
        turns.into_iter().for_each(|turns| turns.render_samples(out, name, &label));
    }
}

/// Renders a family with a sample for each loop that has a value.
fn samples(
    out: &mut String,
    loops: &[LoopReport<'_>],
    name: &str,
    help: &str,
    kind: &str,
    value: fn(&LoopReport<'_>) -> Option<f64>,
) {
    let name = format!("oneloop_loop_{name}");
    family(out, &name, help, kind);
    for of in loops {
        if let Some(value) = value(of) {
            let _ = writeln!(out, "{name}{{loop=\"{}\"}} {value}", of.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loop_has_its_series_as_far_as_it_is_known() {
        let mut snapshot = Snapshot::default();
        snapshot.gauges.clients = 7;
        snapshot.gauges.process.cpu_seconds = Some(1.5);
        snapshot.metrics.turn_micros.record(3);
        let loops = [
            LoopReport {
                name: "0".to_owned(),
                is_up: true,
                restarts: 2,
                snapshot: Some(&snapshot),
            },
            LoopReport { name: "1".to_owned(), is_up: false, restarts: 0, snapshot: None },
        ];
        let mut text = String::new();
        render_loops(&mut text, &loops);
        let samples: Vec<&str> =
            text.lines().filter(|line| !line.starts_with('#') && !line.contains("le=")).collect();
        let expected = [
            "oneloop_loop_up{loop=\"0\"} 1",
            "oneloop_loop_up{loop=\"1\"} 0",
            "oneloop_loop_restarts_total{loop=\"0\"} 2",
            "oneloop_loop_restarts_total{loop=\"1\"} 0",
            "oneloop_loop_clients{loop=\"0\"} 7",
            "oneloop_loop_cpu_seconds_total{loop=\"0\"} 1.5",
            "oneloop_loop_turn_seconds_sum{loop=\"0\"} 0.000003",
            "oneloop_loop_turn_seconds_count{loop=\"0\"} 1",
        ];
        assert_eq!(samples, expected);
        let bucket = "\noneloop_loop_turn_seconds_bucket{loop=\"0\",le=\"0.000004\"} 1\n";
        assert!(text.contains(bucket), "{text}");
        for sample in samples {
            let name = sample.split('{').next().unwrap();
            let name =
                ["_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {name} ")), "{sample}");
        }
    }
}
