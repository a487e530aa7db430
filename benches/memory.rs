//! User-space memory per idle connection, over a sweep of counts in one server, and what stays behind of them; event streams in
//! another one.
//!
//! Each connection is authenticated, with a user of its own (a `sub` of 8 characters), that user's topic and one shared
//! topic. What counts is the server's anonymous memory against that of the empty server, per connection. The kernel's own
//! memory for a socket is the same for every server, and stands in no process.

mod support;

use serde_json::{Value, json};
use support::chart::{Axis, Chart};
use support::footprint::{Footprint, WARMING};
use support::report::{self, grouped, rounded};
use support::tls::Security;
use support::{Options, connections};

/// Counts just above powers of two are among them: there a table that doubles has just doubled.
const COUNTS: [usize; 12] =
    [1_100, 2_000, 2_100, 3_000, 4_200, 6_000, 8_300, 10_000, 13_000, 16_500, 18_000, 19_900];

/// The counts of `--quick`.
const QUICK_COUNTS: [usize; 3] = [600, 1_100, 8_300];

/// At most so many bytes for each connection, in a sweep from [`BUDGETED_FROM`] connections on: below it the 50 KB that the
/// last handshakes needed, and that the next ones will, are not spread wide enough.
const BUDGET: f64 = 160.0;
const BUDGETED_FROM: usize = 4_000;

/// Event streams, beside as many WebSockets in a server of their own.
const STREAMS: usize = 10_000;

/// At most so many bytes more than at the start may be left when everybody has gone.
const LEFT_MAX: i64 = 2_000_000;

fn main() {
    let options = Options::read();
    let counts = if options.quick { &QUICK_COUNTS[..] } else { &COUNTS[..] };
    let most = connections(*counts.last().expect("there are counts"));
    let mut counts: Vec<usize> = counts.iter().map(|count| *count.min(&most)).collect();
    counts.dedup();
    let mut footprint = Footprint::start(Security::Plain);
    println!(
        "the server has {} bytes of anonymous memory at start, {} after {WARMING} clients came and left\n",
        grouped(footprint.at_start),
        grouped(footprint.empty)
    );
    println!("{:<44}{:>12}{:>16}", "", "bytes more", "per connection");
    let steps: Vec<(usize, f64)> =
        counts.iter().map(|count| (*count, footprint.grow(*count))).collect();
    let stages = footprint.exchange(most);
    let left = footprint.leave_and_return(most);
    let worst = steps.iter().filter(|(clients, _)| *clients >= BUDGETED_FROM);
    let worst = worst.map(|step| step.1).fold(f64::MIN, f64::max);
    footprint.server.stop();
    draw(&options, &steps);
    let streams = STREAMS.min(most);
    let of_streams = Footprint::start(Security::Plain).measure(|it| it.grow_streams(streams));
    let of_websockets = Footprint::start(Security::Plain).measure(|it| it.grow(streams));
    println!("\nworst of the sweep: {worst:.1} bytes per connection, of {BUDGET} at most\n");
    let per_step = |(clients, bytes): &(usize, f64)| json!({"clients": clients, "bytes_per_connection": rounded(*bytes)});
    let per_stage = |(name, bytes): &(String, f64)| json!({"after": name, "bytes_per_connection": rounded(*bytes)});
    report::print(
        "memory",
        &options,
        json!({
            "clients": most,
            "at_start_bytes": footprint.at_start,
            "empty_bytes": footprint.empty,
            "steps": steps.iter().map(per_step).collect::<Vec<Value>>(),
            "worst_bytes_per_connection": rounded(worst),
            "stages": stages.iter().map(per_stage).collect::<Vec<Value>>(),
            "left_bytes": left,
            "event_streams": {
                "clients": streams,
                "bytes_per_connection": of_streams.map(rounded),
                "websocket_bytes_per_connection": rounded(of_websockets),
            },
        }),
    );
    assert!(worst <= BUDGET, "{worst} bytes per connection");
    for bytes in of_streams {
        assert!(streams < BUDGETED_FROM || bytes <= BUDGET, "{bytes} bytes per event stream");
    }
    for (name, bytes) in &stages {
        assert!(*bytes <= BUDGET, "{bytes} bytes per connection {name}");
    }
    assert!(left.iter().all(|left| *left <= LEFT_MAX), "{left:?} bytes are left behind");
}

fn draw(options: &Options, steps: &[(usize, f64)]) {
    let x = Axis::linear("idle connections");
    let y = Axis::linear("bytes per connection, user space");
    let points = steps.iter().map(|(clients, bytes)| (*clients as f64, *bytes)).collect();
    let bound = [steps[0].0, steps[steps.len() - 1].0].map(|count| (count as f64, BUDGET));
    Chart::new("Memory of an idle, authenticated connection with two topics", x, y)
        .with("oneloop", points)
        .with("the bound it must stay below", bound.to_vec())
        .write("memory", options);
}
